"""Which images and masks make a data set, told from their names. Imports without torch.

A folder is one of

* ``images/{train,val,test}/`` with ``labels/{train,val,test}/`` (or masks, annotations: ADE20K), or
* ``train/`` with ``trainannot/`` (or train_labels, train_masks), as the SegNet tutorial has it, or
* ``train/images/`` with ``train/masks/``, and so on, or
* ``images/`` with ``masks/``, of which a share is held out, or
* ``leftImg8bit/`` with ``gtFine/``: Cityscapes, or
* ``JPEGImages/`` with ``SegmentationClassContext/`` or ``SegmentationClass/``: Pascal's, or
* ``annotations/panoptic_train2017.json`` and its kin: COCO's panoptic form.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from resnestkit.data.detection.layout import list_json_files, looks_like_detection
from resnestkit.data.drawn import is_drawn
from resnestkit.data.files import find_images
from resnestkit.data.segmentation.pairs import (
    SPLITS,
    Folders,
    Pair,
    find_folders,
    has_images,
    pair_folders,
    pair_masks,
)
from resnestkit.data.splits import SPLIT_NAMES
from resnestkit.errors import UserError

SCENES = "scenes"
"""Name of the data set that is made on the fly."""

CITYSCAPES_IDS, CITYSCAPES_TRAIN_IDS = "Cityscapes", "Cityscapes by train ids"
PASCAL_CONTEXT, VOC = "Pascal-Context", "Pascal VOC"

_PANOPTIC = re.compile(
    r"panoptic(?:_(train|training|val|valid|validation|test))?_?(?:\d{4})?", re.IGNORECASE
)
_ADE_FOLDER = "ADEChallengeData2016"


@dataclass(frozen=True, slots=True)
class Layout:
    """The files of a data set of index masks."""

    root: Path
    form: str
    """The data set whose layout it is; nothing for plain folders."""
    splits: Mapping[str, tuple[Pair, ...]]
    """By split; "all" where there are none."""
    lone_masks: tuple[Path, ...] = ()
    """Masks of which there is no image."""
    maskless: tuple[str, ...] = ()
    """Splits that are left out since they have no masks."""


def looks_like_segmentation(data: str | Path) -> bool:
    """Whether data is of masks: the built-in scenes, or a folder or file of a layout known here.

    False for what is of boxes as well, which Pascal's and COCO's folders may be.
    """
    if is_drawn(data, SCENES):
        return True
    path = Path(data)
    try:
        if path.is_file():
            return path.suffix == ".json" and _is_panoptic(path)
        return path.is_dir() and _is_folder_of_masks(path)
    except OSError:  # no name of a file at all
        return False


def _is_folder_of_masks(root: Path) -> bool:
    pascal = _find_pascal(root)
    if pascal is not None and pascal[1] == PASCAL_CONTEXT:
        return True
    folders = _find_cityscapes(root) or find_folders(_enter(root))
    masks = [pair.masks for pair in folders.values() if pair.masks is not None]
    known = pascal is not None or find_panoptic_files(root) or any(map(has_images, masks))
    return bool(known) and not looks_like_detection(root)


def find_panoptic_files(root: Path) -> dict[str, Path]:
    """Panoptic annotation files by split; none if it is no data set of that form.

    Raises UserError if there are two for one split.
    """
    if root.is_file():
        return {"all": root} if root.suffix == ".json" else {}
    found: dict[str, Path] = {}
    for path in list_json_files(root / "annotations") or list_json_files(root):
        match = _PANOPTIC.fullmatch(path.stem)
        if match is None:
            continue
        split = SPLIT_NAMES[match.group(1).lower()] if match.group(1) else "all"
        if split in found:
            raise UserError(
                f"{root} has two annotation files for {split}: {found[split].name} and "
                f"{path.name}. Give one of them, or remove the other."
            )
        found[split] = path
    if len(found) > 1 and "all" in found:
        raise UserError(
            f"{root} has {found['all'].name}, which names no split, beside others; give one file."
        )
    return {"all": found["train"]} if set(found) == {"train"} else found


def find_layout(root: Path) -> Layout:
    """The images and masks of a folder. Raises UserError if it is none of the layouts."""
    try:
        is_folder = root.is_dir()
        there = is_folder or root.exists()
    except OSError as error:
        raise UserError(f"Cannot look at {root}: {error.strerror}.") from error
    if not is_folder:
        what = f"{root} is a file" if there else f"There is no folder {root}"
        raise UserError(f"{what}. Give a folder of images and masks, or '{SCENES}'.")
    cityscapes, pascal = _find_cityscapes(root), _find_pascal(root)
    if cityscapes:
        return _pair_cityscapes(root, cityscapes)
    if pascal is not None:
        return _pair_pascal(*pascal)
    root = _enter(root)
    folders = find_folders(root)
    if not folders:
        raise UserError(_say_missing(root))
    lone: list[Path] = []
    splits = {split: pair_masks(pair, lone) for split, pair in folders.items()}
    return _lay_out(root, "", splits, lone)


def _lay_out(
    root: Path, form: str, splits: Mapping[str, tuple[Pair, ...]], lone: Sequence[Path] = ()
) -> Layout:
    """Leave out splits without a mask, and say it. Raises UserError if nothing is left to learn."""
    kept = {k: pairs for k, pairs in splits.items() if any(pair.mask for pair in pairs)}
    first = next(iter(splits))  # the train split, if there is one
    if first not in kept:
        if not splits[first]:
            raise UserError(f"{root} holds no images of its {first} split; it needs some.")
        raise UserError(
            f"None of the {len(splits[first])} images of {root} has a mask of its name, such as "
            f"{splits[first][0].image.name}."
        )
    maskless = tuple(split for split in splits if split not in kept and splits[split])
    if set(kept) == {"train"}:
        kept = {"all": kept["train"]}
    return Layout(root, form, kept, tuple(lone), maskless)


def _enter(root: Path) -> Path:
    """The folder that ADE20K's archive makes, if it is in the one that was given."""
    return root / _ADE_FOLDER if (root / _ADE_FOLDER).is_dir() else root


def _find_cityscapes(root: Path) -> dict[str, Folders]:
    """Folders by split; those of its test images have no class, and do not count as masks."""
    images, masks = root / "leftImg8bit", root / "gtFine"
    if not images.is_dir() or not masks.is_dir():
        return {}
    found = pair_folders(images, masks)
    return {k: Folders(pair.images, None) if k == "test" else pair for k, pair in found.items()}


def _pair_cityscapes(root: Path, folders: Mapping[str, Folders]) -> Layout:
    """Masks of train ids if all images have them, else of ids; the form says which."""
    splits = {split: _pair_city(pair, "labelTrainIds") for split, pair in folders.items()}
    masked = (splits[split] for split, pair in folders.items() if pair.masks is not None)
    if all(pair.mask for pairs in masked for pair in pairs):
        return _lay_out(root, CITYSCAPES_TRAIN_IDS, splits)
    splits = {split: _pair_city(pair, "labelIds") for split, pair in folders.items()}
    return _lay_out(root, CITYSCAPES_IDS, splits)


def _pair_city(folders: Folders, ids: str) -> tuple[Pair, ...]:
    pairs = []
    for image in find_images(folders.images):
        mask = None
        if folders.masks is not None:
            name = f"{image.stem.removesuffix('_leftImg8bit')}_gtFine_{ids}.png"
            mask = folders.masks / image.relative_to(folders.images).parent / name
        pairs.append(Pair(image, mask if mask is not None and mask.is_file() else None))
    return tuple(pairs)


def _find_pascal(root: Path) -> tuple[Path, str] | None:
    """The folder of Pascal's form in or below a folder, and which of its data sets it is."""
    below = [root, *sorted(root.glob("VOC[0-9]*")), *sorted(root.glob("VOCdevkit/VOC[0-9]*"))]
    for form, masks in ((PASCAL_CONTEXT, "SegmentationClassContext"), (VOC, "SegmentationClass")):
        for folder in below:
            if (folder / masks).is_dir() and (folder / "JPEGImages").is_dir():
                return folder, form
    return None


def _pair_pascal(root: Path, form: str) -> Layout:
    """Images by the lists that come with the masks, or all that have masks."""
    context = form == PASCAL_CONTEXT
    masks = root / ("SegmentationClassContext" if context else "SegmentationClass")
    lists = root / "ImageSets" / ("SegmentationContext" if context else "Segmentation")
    there = {path.stem: path for path in find_images(masks)}
    named = {split: _read_list(lists / f"{split}.txt") for split in SPLITS}
    named = {split: stems for split, stems in named.items() if stems} or {"all": list(there)}
    images = root / "JPEGImages"
    splits = {
        split: tuple(Pair(images / f"{stem}.jpg", there.get(stem)) for stem in stems)
        for split, stems in named.items()
    }
    return _lay_out(root, form, splits)


def _read_list(path: Path) -> list[str]:
    """Names of images without their endings, one a line; none if there is no list."""
    if not path.is_file():
        return []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise UserError(f"Cannot read {path}: {error}.") from error
    return list(dict.fromkeys(Path(line.split()[0]).stem for line in lines if line.strip()))


def _is_panoptic(path: Path) -> bool:
    """Whether a file is of COCO's panoptic form: by its name, or by what is in it."""
    if _PANOPTIC.fullmatch(path.stem):
        return True
    try:
        annotations = json.loads(path.read_bytes()).get("annotations")
        return bool(annotations) and "segments_info" in annotations[0]
    except (OSError, ValueError, RecursionError, AttributeError, TypeError, KeyError):
        return False


def _say_missing(root: Path) -> str:
    if not has_images(root):
        return f"{root} holds no images. It needs images and their masks."
    return (
        f"{root} has images, but no folder of masks beside them. It needs images/ and labels/ (or "
        "masks/, annotations/), each with train/ and val/ or without."
    )
