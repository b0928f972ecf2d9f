"""Where images with boxes come from: COCO folders and files, or the shapes that are built in.

A folder is one of

* ``annotations/instances_{train,val,test}.json`` with ``images/``, or
* COCO's own: ``annotations/instances_train2017.json`` with ``train2017/``, and so on, or
* ``train/_annotations.coco.json`` beside its images, and so on, or
* one JSON file with ``images/``, of which a seeded share is held out for validation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Int64
from numpy.typing import NDArray

from resnestkit.data.detection.check import check_file, check_splits
from resnestkit.data.detection.coco import (
    CocoFile,
    Identity,
    read_coco,
    unite_categories,
)
from resnestkit.data.detection.layout import (
    SHAPES,
    find_annotation_files,
    find_image_folder,
)
from resnestkit.data.detection.shapes import COUNTS, make_shapes
from resnestkit.data.detection.table import AnnotationTable, DetectionImages
from resnestkit.data.division import (
    check_known,
    choose_split,
    digest_names,
    divide,
    name_by_data,
)
from resnestkit.data.drawn import count_pictures, is_drawn
from resnestkit.data.findings import Finding, refuse
from resnestkit.data.images import FileImages, measure_image
from resnestkit.data.sources import Source, TrainedOn


@dataclass(frozen=True, slots=True)
class DetectionSource(Source):
    """Images with annotations in splits; ``splits`` are of `DetectionImages`."""

    splits: Mapping[str, DetectionImages]
    category_ids: tuple[Identity, ...] = ()
    """The file's number of each class, by which results name it."""
    findings: tuple[Finding, ...] = ()
    """What is wrong with the annotations, or worth knowing."""


def load_detection_source(
    data: str, channels: int = 3, holdout: float = 0.2, seed: int = 0, *, masks: bool = False
) -> DetectionSource:
    """Images with boxes by name ("shapes"), COCO folder or file, divided for training.

    Raises UserError if files are missing or foreign, or hold what cannot be trained on.
    """
    source = _load(data, channels, masks=masks)
    refuse(source.findings)
    return _divide(source, holdout, seed)


def inspect_detection_source(
    data: str, channels: int = 3, holdout: float = 0.2, seed: int = 0, *, masks: bool = False
) -> DetectionSource:
    """As `load_detection_source`, but what cannot be trained on is among the findings.

    Raises UserError if there are no annotation files, none to train on, or one cannot be read.
    """
    return _divide(_load(data, channels, masks=masks), holdout, seed)


@dataclass(frozen=True, slots=True)
class DetectionSplit:
    """Images to evaluate a detector on."""

    images: DetectionImages
    """With labels that count in the detector's classes."""
    words: str
    """Which images these are."""
    category_ids: tuple[Identity, ...]
    """The file's number of each of the detector's classes; a new one where the file has none."""
    findings: tuple[Finding, ...]


def load_detection_for_evaluation(
    data: str,
    channels: int,
    classes: Sequence[str],
    trained: TrainedOn,
    split: str | None = None,
    *,
    masks: bool = False,
) -> DetectionSplit:
    """The images to evaluate a trained detector on, chosen as `load_for_evaluation` chooses.

    Without ``split``: the test split, else the validation split; of the very set that the detector
    was trained on, only what was held out; of another single file, all.
    Raises UserError if there are classes that the detector does not know, or no such split.
    """
    source = _load(data, channels, masks=masks)
    refuse(source.findings)
    classes = name_by_data(classes, source.classes)
    check_known(source.classes, classes, data)
    source, name, words = choose_split(source, trained, split, "annotations")
    places = [list(classes).index(name) + 1 for name in source.classes]
    numbers = _number_classes(source, classes)
    return DetectionSplit(source.splits[name].relabelled(places), words, numbers, source.findings)


def _number_classes(source: DetectionSource, classes: Sequence[str]) -> tuple[Identity, ...]:
    known = dict(zip(source.classes, source.category_ids, strict=True))
    free = max((number for number in known.values() if isinstance(number, int)), default=0)
    lacking = [name for name in classes if name not in known]
    known |= {name: free + place for place, name in enumerate(lacking, 1)}
    return tuple(known[name] for name in classes)


def _load(data: str, channels: int, *, masks: bool) -> DetectionSource:
    """Files as they are, undivided, with what is found in each."""
    if is_drawn(data, SHAPES):
        return _load_shapes(data, channels)
    root = Path(data)
    found: list[Finding] = []
    files = {split: read_coco(path) for split, path in find_annotation_files(root).items()}
    categories = unite_categories(list(files.values()))
    labels = {category.name: label for label, category in enumerate(categories, 1)}
    splits = {}
    top = root.parent if root.is_file() else root
    for split, file in files.items():
        folder = find_image_folder(file.path, top, file.file_names)
        paths = [folder / name for name in file.file_names]
        sizes = _complete_sizes(file, paths)
        found += check_file(file, sizes, paths, masks=masks)
        pictures = FileImages(paths, range(len(paths)), channels)
        splits[split] = DetectionImages(pictures, file.table(labels, sizes))
    classes = tuple(category.name for category in categories)
    numbers = tuple(category.number for category in categories)
    print_of = _fingerprint(splits, classes, top)
    return DetectionSource(data, classes, splits, print_of, None, numbers, tuple(found))


def _load_shapes(data: str, channels: int) -> DetectionSource:
    made = make_shapes(channels, {**COUNTS, "train": count_pictures(data, COUNTS["train"])})
    numbers = tuple(range(1, len(made.classes) + 1))
    digest = _fingerprint(made.splits, made.classes, Path())
    return DetectionSource(data, made.classes, made.splits, digest, None, numbers)


def _complete_sizes(file: CocoFile, paths: Sequence[Path]) -> Int64[NDArray[np.int64], "images 2"]:
    """Height and width of each image; where the file does not say them, the image's own."""
    sizes = file.sizes.copy()
    for row in np.flatnonzero((sizes <= 0).any(1)):
        sizes[row] = measure_image(paths[int(row)])
    return sizes


def _divide(source: DetectionSource, holdout: float, seed: int) -> DetectionSource:
    """With splits, and what only shows beside each other among the findings."""
    source = divide(source, holdout, seed)
    crossing = check_splits(source.splits, source.classes)
    return replace(source, findings=(*source.findings, *crossing))


def _fingerprint(splits: Mapping[str, DetectionImages], classes: Sequence[str], root: Path) -> str:
    """Digest of names, classes and annotations; not of the pixels."""
    digest = hashlib.sha256("\0".join(classes).encode())
    for split, images in sorted(splits.items()):
        digest.update(split.encode())
        digest_names(digest, images.names, root)
        _digest_table(digest, images.table)
    return digest.hexdigest()


def _digest_table(digest: hashlib._Hash, table: AnnotationTable) -> None:
    columns = table.sizes, table.starts, table.boxes, table.labels, table.areas, table.crowd
    for column in columns:
        digest.update(np.ascontiguousarray(column).tobytes())
    for segmentation in table.segmentations:
        digest.update(segmentation + b"\0")
