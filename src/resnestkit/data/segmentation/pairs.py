"""Folders of images and folders of masks, and which mask is of which image.

A mask has its image's name, but for its ending and a last word such as "_mask". Imports without
torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from resnestkit.data.files import find_images, is_image_file
from resnestkit.data.splits import SPLIT_NAMES
from resnestkit.errors import UserError

SPLITS = ("train", "val", "test")
_IMAGES = ("images", "image", "imgs", "img")
_MASKS = ("labels", "label", "masks", "mask", "annotations", "annotation", "segmentations", "gt")
_BESIDE = ("annot", "_annot", "labels", "_labels", "masks", "_masks", "_mask", "_label")
"""What follows a split's name in that of the folder of its masks."""
_TAIL = re.compile(
    r"[_-](?:image|img|mask|masks|label|labels|l|seg|segmentation|gt|annotation|annot|target)$",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Pair:
    """An image with its mask, if it has one."""

    image: Path
    mask: Path | None


@dataclass(frozen=True, slots=True)
class Folders:
    """Where the images and masks of one split are."""

    images: Path
    masks: Path | None


def find_folders(root: Path) -> dict[str, Folders]:
    """Folders of images and masks by split, "all" where there are none; empty if none are there."""
    children = list_folders(root)
    images, masks = _first(children, _IMAGES), _first(children, _MASKS)
    if images is not None and masks is not None:
        return pair_folders(images, masks) or {"all": Folders(images, masks)}
    found = {split: _find_beside(folder, children) for split, folder in by_split(root).items()}
    return found if any(pair.masks is not None for pair in found.values()) else {}


def pair_folders(images: Path, masks: Path) -> dict[str, Folders]:
    """Two folders that are both divided into splits."""
    truth = by_split(masks)
    return {split: Folders(path, truth.get(split)) for split, path in by_split(images).items()}


def _find_beside(folder: Path, siblings: Mapping[str, Path]) -> Folders:
    """A split's folder with that of its masks: beside it, as trainannot, or both within it."""
    beside = _first(siblings, [folder.name.lower() + tail for tail in _BESIDE])
    below = list_folders(folder)
    within = _first(below, _IMAGES)
    if beside is not None or within is None:
        return Folders(folder, beside)
    return Folders(within, _first(below, _MASKS))


def pair_masks(folders: Folders, lone: list[Path]) -> tuple[Pair, ...]:
    """Images with the masks of their names; masks that are left over are added to ``lone``.

    Raises UserError for two masks of one image.
    """
    masks = [] if folders.masks is None else find_images(folders.masks)
    exact: dict[str, Path] = {}
    short: dict[str, list[Path]] = {}
    for mask in masks:
        assert folders.masks is not None
        name = _name(mask, folders.masks)
        if name in exact:
            raise UserError(f"{exact[name]} and {mask} are masks of one image; remove one.")
        exact[name] = mask
        short.setdefault(_TAIL.sub("", name), []).append(mask)
    images = [(path, _name(path, folders.images)) for path in find_images(folders.images)]
    pairs = tuple(Pair(path, exact.get(name) or _find_short(name, short)) for path, name in images)
    used = {pair.mask for pair in pairs}
    lone += [mask for mask in masks if mask not in used]
    return pairs


def _find_short(name: str, short: Mapping[str, Sequence[Path]]) -> Path | None:
    found = short.get(name) or short.get(_TAIL.sub("", name)) or []
    if len(found) > 1:
        raise UserError(f"{found[0]} and {found[1]} are masks of one image; remove one.")
    return found[0] if found else None


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()


def by_split(folder: Path) -> dict[str, Path]:
    """The folders in a folder that are named as splits, in the order of the splits."""
    named = {SPLIT_NAMES[k]: path for k, path in list_folders(folder).items() if k in SPLIT_NAMES}
    return {split: named[split] for split in SPLITS if split in named}


def list_folders(folder: Path) -> dict[str, Path]:
    """The folders in a folder by their names in small letters. Raises UserError if it is closed."""
    try:
        return {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_dir()}
    except OSError as error:
        raise UserError(f"Cannot list {folder}: {error.strerror}.") from error


def has_images(folder: Path) -> bool:
    """Whether any image file is in or below a folder."""
    return any(is_image_file(path) for path in folder.rglob("*"))


def _first(folders: Mapping[str, Path], names: Sequence[str]) -> Path | None:
    return next((folders[name] for name in names if name in folders), None)
