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
import torch
from jaxtyping import Int64
from numpy.typing import NDArray
from PIL import ExifTags, Image

from resnestkit.data.detection.check import check_file, check_splits
from resnestkit.data.detection.coco import Category, CocoFile, Identity, read_coco
from resnestkit.data.detection.layout import SHAPES, find_annotation_files, find_image_folder
from resnestkit.data.detection.shapes import make_shapes
from resnestkit.data.detection.table import AnnotationTable, DetectionImages
from resnestkit.data.findings import Finding, refuse
from resnestkit.data.images import FileImages
from resnestkit.data.sources import Source, TrainedOn
from resnestkit.errors import UserError

_TURNED = range(5, 9)
"""EXIF orientations that exchange height and width."""


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
    foreign = sorted(set(source.classes) - set(classes))
    if foreign:
        raise UserError(
            f"{data} has classes that the checkpoint does not know: {', '.join(foreign)}. "
            f"It was trained on {', '.join(classes)}."
        )
    chosen, words = _choose(source, trained, split)
    places = [list(classes).index(name) + 1 for name in source.classes]
    numbers = _number_classes(source, classes)
    return DetectionSplit(chosen.relabelled(places), words, numbers, source.findings)


def _choose(
    source: DetectionSource, trained: TrainedOn, split: str | None
) -> tuple[DetectionImages, str]:
    data = source.origin
    if "all" not in source.splits:
        order = [split] if split else ["test", "val", "train"]
        found = [name for name in order if name in source.splits]
        if not found:
            raise UserError(f"{data} has no {split} split; it has {', '.join(source.splits)}.")
        return source.splits[found[0]], f"{found[0]} split of {data}"
    if split == "all":
        return source.splits["all"], f"all images of {data}"
    if trained.held_out is not None and source.fingerprint == trained.fingerprint:
        divided = _hold_out(source, trained.held_out, trained.seed)
        name = split or "val"
        if name not in divided.splits:
            raise UserError(f"{data} has no {name} split; it was divided into train and val.")
        words = "held-out images" if name == "val" else "training images"
        return divided.splits[name], f"{words} of {data}"
    if split is not None:
        raise UserError(f"{data} is a single set without a {split} split; leave --split out.")
    if trained.held_out is not None and Path(data).resolve() == Path(trained.origin).resolve():
        raise UserError(
            f"The annotations of {data} changed since the training, so that what was held out can "
            "no longer be told from what was learnt. Give new images, or measure all by "
            "--split all."
        )
    return source.splits["all"], f"all images of {data}"


def _number_classes(source: DetectionSource, classes: Sequence[str]) -> tuple[Identity, ...]:
    known = dict(zip(source.classes, source.category_ids, strict=True))
    free = max((number for number in known.values() if isinstance(number, int)), default=0)
    lacking = [name for name in classes if name not in known]
    known |= {name: free + place for place, name in enumerate(lacking, 1)}
    return tuple(known[name] for name in classes)


def _load(data: str, channels: int, *, masks: bool) -> DetectionSource:
    """Files as they are, undivided, with what is found in each."""
    if data == SHAPES:
        return _load_shapes(channels)
    root = Path(data)
    found: list[Finding] = []
    files = {split: read_coco(path) for split, path in find_annotation_files(root).items()}
    categories = _unite(list(files.values()))
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


def _load_shapes(channels: int) -> DetectionSource:
    made = make_shapes(channels)
    numbers = tuple(range(1, len(made.classes) + 1))
    digest = _fingerprint(made.splits, made.classes, Path())
    return DetectionSource(SHAPES, made.classes, made.splits, digest, None, numbers)


def _unite(files: Sequence[CocoFile]) -> tuple[Category, ...]:
    """The categories of all files, by number. Raises UserError where files disagree."""
    by_number: dict[Identity, Category] = {}
    by_name: dict[str, Category] = {}
    for file in files:
        for category in file.categories:
            other = by_number.setdefault(category.number, category)
            same = by_name.setdefault(category.name, category)
            if other != category or same != category:
                known = other if other != category else same
                raise UserError(
                    f"{file.path} calls category {category.number!r} {category.name!r}, and "
                    f"another file calls {known.number!r} {known.name!r}. Give all files the same "
                    "categories."
                )
    return tuple(sorted(by_number.values(), key=lambda c: (isinstance(c.number, str), c.number)))


def _complete_sizes(file: CocoFile, paths: Sequence[Path]) -> Int64[NDArray[np.int64], "images 2"]:
    """Height and width of each image; where the file does not say them, the image's own."""
    sizes = file.sizes.copy()
    for row in np.flatnonzero((sizes <= 0).any(1)):
        sizes[row] = _measure(paths[int(row)])
    return sizes


def _measure(path: Path) -> tuple[int, int]:
    """Height and width from an image's header, as it is read: turned by EXIF."""
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation) in _TURNED
            return (image.width, image.height) if turned else (image.height, image.width)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return 0, 0  # it cannot be read, and will be named when all are


def _divide(source: DetectionSource, holdout: float, seed: int) -> DetectionSource:
    """With splits, and what only shows beside each other among the findings."""
    if "all" in source.splits:
        source = _hold_out(source, holdout, seed)
    if "train" not in source.splits:
        named = " and ".join(source.splits)
        raise UserError(f"{source.origin} has {named} but no train split to train on.")
    crossing = check_splits(source.splits, source.classes)
    return replace(source, findings=(*source.findings, *crossing))


def _hold_out(source: DetectionSource, share: float, seed: int) -> DetectionSource:
    """Divide a single set: a share of the images is held out, drawn by the seed."""
    whole = source.splits["all"]
    if len(whole) < 2:
        raise UserError(
            f"{source.origin} has one image; two are needed, one to train on and one to hold out."
        )
    take = min(max(1, round(len(whole) * share)), len(whole) - 1)
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(seed)).tolist()
    held, train = sorted(order[:take]), sorted(order[take:])
    splits = {"train": whole.subset(train), "val": whole.subset(held)}
    return replace(source, splits=splits, held_out=share)


def _fingerprint(splits: Mapping[str, DetectionImages], classes: Sequence[str], root: Path) -> str:
    """Digest of names, classes and annotations; not of the pixels."""
    digest = hashlib.sha256("\0".join(classes).encode())
    for split, images in sorted(splits.items()):
        digest.update(split.encode())
        for name in images.names:
            known = root != Path() and Path(name).is_relative_to(root)
            digest.update(f"{Path(name).relative_to(root) if known else name}\0".encode())
        _digest_table(digest, images.table)
    return digest.hexdigest()


def _digest_table(digest: hashlib._Hash, table: AnnotationTable) -> None:
    columns = table.sizes, table.starts, table.boxes, table.labels, table.areas, table.crowd
    for column in columns:
        digest.update(np.ascontiguousarray(column).tobytes())
    for segmentation in table.segmentations:
        digest.update(segmentation + b"\0")
