"""Where images with masks come from: folders of known layouts, or the scenes that are built in."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from resnestkit.data.detection.coco import unite_categories
from resnestkit.data.detection.layout import find_image_folder
from resnestkit.data.detection.shapes import COUNTS
from resnestkit.data.division import (
    check_known,
    choose_split,
    digest_names,
    divide,
    name_by_data,
)
from resnestkit.data.drawn import count_pictures, is_drawn
from resnestkit.data.findings import (
    Finding,
    find_missing_files,
    find_repeated_images,
    refuse,
    say_count,
    say_some,
)
from resnestkit.data.images import FileImages
from resnestkit.data.packed import CLASS_FILE, read_classes
from resnestkit.data.segmentation import known
from resnestkit.data.segmentation.layout import (
    CITYSCAPES_IDS,
    CITYSCAPES_TRAIN_IDS,
    PASCAL_CONTEXT,
    SCENES,
    VOC,
    Layout,
    find_layout,
    find_panoptic_files,
)
from resnestkit.data.segmentation.legend import Colour, Legend, check_count, name_classes
from resnestkit.data.segmentation.masks import FileMasks
from resnestkit.data.segmentation.panoptic import (
    PanopticMasks,
    check_panoptic,
    find_mask_folder,
    place_rows,
    read_panoptic,
)
from resnestkit.data.segmentation.probe import (
    Probe,
    as_binary,
    find_faults,
    find_unknown,
    infer_legend,
    is_binary,
    probe_masks,
)
from resnestkit.data.segmentation.scenes import make_scenes
from resnestkit.data.segmentation.table import SegmentationImages
from resnestkit.data.sources import Source, TrainedOn
from resnestkit.errors import UserError

_FORMS = {
    CITYSCAPES_IDS: known.CITYSCAPES_IDS,
    CITYSCAPES_TRAIN_IDS: known.CITYSCAPES_TRAIN_IDS,
    PASCAL_CONTEXT: known.PASCAL_CONTEXT,
    VOC: known.VOC,
}
_CAMVID = re.compile(r"(0001TP_|0006R0_f|0016E5_|Seq05VD_f)\d+")
"""What CamVid calls its images, by the films that they were taken from."""
_ADE20K = re.compile(r"ADE_(train|val)_\d{8}")
_LOOKED_AT = 20


@dataclass(frozen=True, slots=True)
class SegmentationSource(Source):
    """Images with masks in splits; ``splits`` are of `SegmentationImages`."""

    splits: Mapping[str, SegmentationImages]
    palette: tuple[Colour, ...] = ()
    """A colour for each class."""
    things: tuple[bool, ...] = ()
    """Which classes can be counted; empty where things are not told apart."""
    named: bool = True
    """Whether somebody named the classes, or they are counted."""
    findings: tuple[Finding, ...] = ()
    """What is wrong with the files, or worth knowing."""
    binary: bool = False
    """Whether the second of two classes is written as 255, which else is void."""


def load_segmentation_source(
    data: str, channels: int = 3, holdout: float = 0.2, seed: int = 0
) -> SegmentationSource:
    """Images with masks by name ("scenes") or folder, divided for training.

    Raises UserError if files are missing or foreign, or hold what cannot be trained on.
    """
    source = _load(data, channels)
    refuse(source.findings)
    return _divide(source, holdout, seed)


def inspect_segmentation_source(
    data: str, channels: int = 3, holdout: float = 0.2, seed: int = 0
) -> SegmentationSource:
    """As `load_segmentation_source`, but what cannot be trained on is among the findings.

    Raises UserError if there are no images with masks, none to train on, or no class to be told.
    """
    return _divide(_load(data, channels), holdout, seed)


@dataclass(frozen=True, slots=True)
class SegmentationSplit:
    """Images to evaluate a segmenter on."""

    images: SegmentationImages
    """With masks that count in the segmenter's classes."""
    words: str
    """Which images these are."""
    findings: tuple[Finding, ...]


def load_segmentation_for_evaluation(
    data: str,
    channels: int,
    classes: Sequence[str],
    trained: TrainedOn,
    split: str | None = None,
    *,
    binary: bool | None = None,
) -> SegmentationSplit:
    """The images to evaluate a trained segmenter on, chosen as `load_for_evaluation` chooses.

    Without ``split``: the test split, else the validation split; of the very set that the segmenter
    was trained on, only what was held out; of another single set, all. Classes without names are
    the segmenter's by their numbers. ``binary`` is what the segmenter's own masks were, if that is
    known: where they had void, masks of 0 and 255 alone have it too.
    Raises UserError if there are classes that the segmenter does not know, or no such split.
    """
    source = _load(data, channels, may_be_binary=binary is not False)
    refuse(source.findings)
    if source.named:
        classes = name_by_data(classes, source.classes)
        check_known(source.classes, classes, data)
        places = [list(classes).index(name) for name in source.classes]
    else:
        _check_fewer(source, classes)
        places = list(range(len(source.classes)))
    source, name, words = choose_split(source, trained, split, "masks")
    images = source.splits[name]
    if places != list(range(len(places))):
        images = images.relabelled(places)
    return SegmentationSplit(images, words, source.findings)


def _check_fewer(source: SegmentationSource, classes: Sequence[str]) -> None:
    if len(source.classes) > len(classes):
        raise UserError(
            f"The masks of {source.origin} have numbers up to {len(source.classes) - 1}, and the "
            f"checkpoint knows {len(classes)} classes, 0 to {len(classes) - 1}."
        )


def _load(data: str, channels: int, *, may_be_binary: bool = True) -> SegmentationSource:
    """Files as they are, undivided, with what is found in them."""
    if is_drawn(data, SCENES):
        return _load_scenes(data, channels)
    root = Path(data)
    try:
        files = find_panoptic_files(root)
    except OSError as error:
        raise UserError(f"Cannot look at {data}: {error.strerror}.") from error
    if files:
        return _load_panoptic(data, files, channels)
    return _load_folders(data, find_layout(root), channels, may_be_binary=may_be_binary)


def _load_scenes(data: str, channels: int) -> SegmentationSource:
    made = make_scenes(channels, {**COUNTS, "train": count_pictures(data, COUNTS["train"])})
    legend = Legend(made.classes, tuple(range(len(made.classes))))
    digest = _fingerprint(made.splits, legend.classes, Path(), {})
    return SegmentationSource(
        data, made.classes, made.splits, digest, None, legend.colours, made.things
    )


def _load_panoptic(data: str, files: Mapping[str, Path], channels: int) -> SegmentationSource:
    read = {split: read_panoptic(path) for split, path in files.items()}
    categories = unite_categories(list(read.values()))
    classes = tuple(category.name for category in categories)
    check_count(len(classes), data)
    labels = {name: place for place, name in enumerate(classes)}
    things, colours = dict.fromkeys(classes, False), dict.fromkeys(classes, (0, 0, 0))
    found: list[Finding] = []
    splits: dict[str, SegmentationImages] = {}
    for split, file in read.items():
        names = [category.name for category in file.categories]
        things |= dict(zip(names, file.things, strict=True))
        colours |= dict(zip(names, file.palette, strict=False))
        above = file.path.parent
        top = above.parent if above.name == "annotations" else above
        folder = find_image_folder(file.path, top, file.file_names, "panoptic_")
        paths = [folder / name for name in file.file_names]
        truth = find_mask_folder(file, top)
        masks = [None if name is None else truth / name for name in file.mask_names]
        found += check_panoptic(file, paths, masks)
        pictures = FileImages(paths, range(len(paths)), channels)
        rows = place_rows(file, labels)
        told = tuple(things[name] for name in classes)
        splits[split] = SegmentationImages(
            pictures, PanopticMasks(masks, pictures.names, rows, told)
        )
    legend = Legend(classes, tuple(range(len(classes))))
    palette = tuple(colours.values()) if all(file.palette for file in read.values()) else ()
    digest = _fingerprint(splits, classes, top, {})
    return SegmentationSource(
        data,
        classes,
        splits,
        digest,
        palette=palette or legend.colours,
        things=tuple(things.values()),
        findings=tuple(found),
    )


def _load_folders(
    data: str, layout: Layout, channels: int, *, may_be_binary: bool
) -> SegmentationSource:
    legend = _recognise(layout)
    # Of two classes, one mask with a 1 decides whether 255 is the second of them or void.
    probe = probe_masks(layout.splits, every=legend is None or len(legend.classes) == 2)
    found = [*find_faults(probe, data), *_find_in_layout(layout, data)]
    if legend is None and not probe.present and not probe.wide:
        refuse(found)
        raise UserError(f"None of the masks of {data} can be read.")
    binary = may_be_binary and is_binary(probe)
    legend, notes = _complete(legend, probe, data, binary=binary)
    found += [*notes, *find_unknown(probe, legend, data)]
    splits: dict[str, SegmentationImages] = {}
    for split, pairs in layout.splits.items():
        pictures = FileImages([pair.image for pair in pairs], range(len(pairs)), channels)
        masks = FileMasks([pair.mask for pair in pairs], pictures.names, legend)
        splits[split] = SegmentationImages(pictures, masks)
    sizes = {split: [_size(pair.mask) for pair in pairs] for split, pairs in layout.splits.items()}
    digest = _fingerprint(splits, legend.classes, layout.root, sizes)
    return SegmentationSource(
        data,
        legend.classes,
        splits,
        digest,
        palette=legend.colours,
        named=legend.named,
        findings=tuple(found),
        binary=binary and len(legend.classes) == 2,
    )


def _recognise(layout: Layout) -> Legend | None:
    """What the numbers stand for: as the user says, or as a known data set has it."""
    names = read_classes(layout.root)
    if names is not None:
        return name_classes(names, str(layout.root / CLASS_FILE))
    if layout.form:
        return _FORMS[layout.form]
    pairs = [pair for pairs in layout.splits.values() for pair in pairs]
    stems = [pair.image.stem for pair in pairs[:: max(1, len(pairs) // _LOOKED_AT)]]
    if all(_ADE20K.fullmatch(stem) for stem in stems):
        return known.read_ade20k(layout.root)
    if all(_CAMVID.fullmatch(stem) for stem in stems):
        return known.CAMVID
    return None


def _complete(
    legend: Legend | None, probe: Probe, data: str, *, binary: bool
) -> tuple[Legend, list[Finding]]:
    """The legend, from the numbers where nobody says it; and what there is to say of it."""
    told = infer_legend(probe, data, binary=binary) if legend is None else legend
    notes = []
    if binary and len(told.classes) == 2:
        told = as_binary(told)
        text = f"The masks of {data} hold 0 and 255 alone; 255 is read as the second class."
        notes.append(Finding("note", text))
    elif not told.named:
        text = f"The masks of {data} have {len(told.classes)} classes, by their numbers."
        notes.append(Finding("note", text, f"Name them in {CLASS_FILE}, one a line."))
    return told, notes


def _find_in_layout(layout: Layout, data: str) -> Iterator[Finding]:
    for split in layout.maskless:
        yield Finding("note", f"The {split} images of {data} have no masks; they are left out.")
    for split, pairs in layout.splits.items():
        bare = [pair.image for pair in pairs if pair.mask is None]
        if bare:
            yield Finding(
                "wrong",
                f"{len(bare):,} of the {len(pairs):,} {split} images of {data} without a mask: "
                f"{say_some(bare)}.",
                "Add their masks, or remove them.",
            )
        yield from find_missing_files([pair.image for pair in pairs])
    if layout.lone_masks:
        said = f"{say_count(layout.lone_masks, 'mask')} of {data} without an image"
        yield Finding("note", f"{said}: {say_some(layout.lone_masks)}; they are not used.")


def _size(path: Path | None) -> int:
    """Bytes of a file; a mask that was painted anew seldom keeps them."""
    try:
        return path.stat().st_size if path is not None else 0
    except OSError:
        return 0


def _divide(source: SegmentationSource, holdout: float, seed: int) -> SegmentationSource:
    """With splits, and what only shows beside each other among the findings."""
    source = divide(source, holdout, seed)
    names = [name for images in source.splits.values() for name in images.names]
    return replace(source, findings=(*source.findings, *find_repeated_images(names)))


def _fingerprint(
    splits: Mapping[str, SegmentationImages],
    classes: Sequence[str],
    root: Path,
    sizes: Mapping[str, Sequence[int]],
) -> str:
    """Digest of names, classes and the masks' sizes in bytes or their segments."""
    digest = hashlib.sha256("\0".join(classes).encode())
    for split, images in sorted(splits.items()):
        digest.update(split.encode())
        digest_names(digest, images.names, root)
        digest.update(repr(list(sizes.get(split, ()))).encode())
        if isinstance(images.masks, PanopticMasks):
            for rows in images.masks.rows:
                digest.update(rows.tobytes())
    return digest.hexdigest()
