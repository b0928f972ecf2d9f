"""COCO's annotation files, read into columns.

The format: Lin et al., *Microsoft COCO*, 2014, and https://cocodataset.org/#format-data.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float64, Int64
from numpy.typing import NDArray

from resnestkit.data.detection.table import AnnotationTable
from resnestkit.errors import UserError

Identity = int | str
_OTHER_TASKS = {
    "caption": "captions",
    "segments_info": "panoptic segmentation",
    "keypoints": "keypoints alone",
}
"""What the annotations of another task hold, where they have no box."""


_LONGEST_NAME, _LONGEST_PATH = 255, 2048
"""Bytes that file systems allow a name, and half of what they allow a whole path."""


@dataclass(frozen=True, slots=True)
class Category:
    """A class, and the number by which a file calls it."""

    number: Identity
    name: str


@dataclass(frozen=True, eq=False)
class CocoFile:
    """A file as it is: what is wrong in it is kept, for `resnestkit.data.detection.check` to say.

    Annotations lie in the file's order. ``owners`` are rows of images, -1 for an unknown image;
    ``kinds`` are places in ``categories``, -1 for an unknown one; a box that is not four numbers
    is of nan.
    """

    path: Path
    categories: tuple[Category, ...]
    image_ids: list[Identity]
    file_names: list[str]
    sizes: Int64[NDArray[np.int64], "images 2"]
    ids: list[Any]
    owners: Int64[NDArray[np.int64], " n"]
    kinds: Int64[NDArray[np.int64], " n"]
    foreign_categories: tuple[Identity, ...]
    boxes: Float64[NDArray[np.float64], "n 4"]
    areas: Float64[NDArray[np.float64], " n"]
    crowd: NDArray[np.bool_]
    segmentations: list[bytes]
    has_keypoints: bool

    def table(
        self, labels: Mapping[str, int], sizes: Int64[NDArray[np.int64], "images 2"]
    ) -> AnnotationTable:
        """The annotations of known images and classes, sorted by image; labels by class name."""
        known = np.flatnonzero((self.owners >= 0) & (self.kinds >= 0))
        order = known[np.argsort(self.owners[known], kind="stable")]
        counts = np.bincount(self.owners[order], minlength=len(self.image_ids))
        by_kind = np.array([labels[category.name] for category in self.categories], np.int64)
        return AnnotationTable(
            image_ids=self.image_ids,
            sizes=sizes,
            starts=np.concatenate([[0], np.cumsum(counts)]),
            boxes=self.boxes[order],
            labels=by_kind[self.kinds[order]],
            areas=self.areas[order],
            crowd=self.crowd[order],
            segmentations=[self.segmentations[i] for i in order],
        )


def read_coco(path: Path) -> CocoFile:
    """Read an annotation file of object detection.

    Raises UserError if it is not JSON, is of another task, or lacks what it cannot do without.
    """
    content = load_json(path)
    images, annotations, categories = _parts(content, path)
    _refuse_other_tasks(annotations, path)
    known = read_categories(categories, path)
    places = {category.number: place for place, category in enumerate(known)}
    image_ids = [read_identity(image, "id", "image", i, path) for i, image in enumerate(images)]
    rows = {number: row for row, number in enumerate(image_ids)}
    numbered = list(enumerate(annotations))
    named = [read_identity(one, "category_id", "annotation", i, path) for i, one in numbered]
    shown = [read_identity(one, "image_id", "annotation", i, path) for i, one in numbered]
    boxes = np.array([_box(one) for one in annotations], np.float64).reshape(-1, 4)
    areas = [_number(one.get("area")) for one in annotations]
    return CocoFile(
        path=path,
        categories=known,
        image_ids=image_ids,
        file_names=[read_file_name(image, i, path) for i, image in enumerate(images)],
        sizes=np.array([_size(image) for image in images], np.int64).reshape(-1, 2),
        ids=[one.get("id") for one in annotations],
        owners=np.array([rows.get(number, -1) for number in shown], np.int64),
        kinds=np.array([places.get(number, -1) for number in named], np.int64),
        foreign_categories=tuple(dict.fromkeys(n for n in named if n not in places)),
        boxes=boxes,
        areas=np.where(np.isnan(areas), boxes[:, 2] * boxes[:, 3], areas),
        crowd=np.array([bool(one.get("iscrowd")) for one in annotations], np.bool_),
        segmentations=[_pack(one.get("segmentation")) for one in annotations],
        has_keypoints=any("keypoints" in one for one in annotations[:1]),
    )


def load_json(path: Path) -> Any:
    """What a JSON file holds. Raises UserError if it is none."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}.") from error


def _parts(content: Any, path: Path) -> tuple[list[Any], list[Any], list[Any]]:
    first = content[0] if isinstance(content, list) and content else None
    if isinstance(first, dict) and "score" in first:
        raise UserError(f"{path} holds results, not annotations: what a detector found.")
    images, annotations = (read_part(content, name, path) for name in ("images", "annotations"))
    if content.get("categories") is None:
        _refuse_other_tasks(annotations, path)
    categories = read_part(content, "categories", path)
    if not images:
        raise UserError(f"{path} lists no images.")
    return images, annotations, categories


def read_part(content: Any, name: str, path: Path) -> list[dict[str, Any]]:
    """One of the lists that a file of COCO's form holds. Raises UserError if it has none."""
    if not isinstance(content, dict):
        raise UserError(f"{path} is JSON, but no COCO file: it must hold one object.")
    part = content.get(name)
    if not isinstance(part, list) or not all(isinstance(one, dict) for one in part):
        raise UserError(f"{path} is JSON, but no COCO file: it lacks a list of {name}.")
    return part


def _refuse_other_tasks(annotations: Sequence[Any], path: Path) -> None:
    """Raise UserError if the annotations have neither boxes nor masks."""
    if not annotations or not isinstance(annotations[0], dict):
        return
    if any("bbox" in one for one in annotations if isinstance(one, dict)):
        return
    first = annotations[0]
    task = next((words for key, words in _OTHER_TASKS.items() if key in first), None)
    if task is None:
        task = "segmentation without boxes" if "segmentation" in first else "classification"
    raise UserError(
        f"{path} is of another task, {task}: no annotation has a bbox. Give a file of object "
        "detection, such as COCO's instances_*.json."
    )


def read_categories(categories: Sequence[dict[str, Any]], path: Path) -> tuple[Category, ...]:
    """Sorted by their numbers, as COCO's own tools count classes. Raises UserError for doubles."""
    found = [
        Category(read_identity(one, "id", "category", i, path), str(one.get("name", "")))
        for i, one in enumerate(categories)
    ]
    if not found:
        raise UserError(f"{path} lists no categories.")
    for what, values in (
        ("number", [category.number for category in found]),
        ("name", [category.name for category in found]),
    ):
        twice = _first_double(values)
        if twice is not None:
            raise UserError(f"{path} has two categories of the {what} {twice!r}.")
    nameless = [category.number for category in found if not category.name]
    if nameless:
        raise UserError(f"{path} has a category without a name, number {nameless[0]!r}.")
    garbled = [category for category in found if not _is_text(category.name)]
    if garbled:
        raise UserError(
            f"{path} has a category whose name {garbled[0].name!r} holds half a character, number "
            f"{garbled[0].number!r}; write it anew."
        )
    return tuple(sorted(found, key=lambda one: (isinstance(one.number, str), one.number)))


class Categorised(Protocol):
    """A file that says what its categories are."""

    @property
    def path(self) -> Path:
        """Where it is."""

    @property
    def categories(self) -> tuple[Category, ...]:
        """By number."""


def unite_categories(files: Sequence[Categorised]) -> tuple[Category, ...]:
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


def _first_double(values: Iterable[Any]) -> Any:
    seen = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None


def read_identity(one: dict[str, Any], key: str, what: str, place: int, path: Path) -> Identity:
    """The number of the thing at a place of a list. Raises UserError if it has none."""
    value = one.get(key)
    if isinstance(value, float) and value.is_integer():  # as tables of numbers write them
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise UserError(f"{path}: {what} {place + 1} of the list has {key} {value!r}, no number.")
    return value


def read_file_name(image: dict[str, Any], place: int, path: Path) -> str:
    """The name of the image at a place of a list. Raises UserError if it has none."""
    name = image.get("file_name")
    if not isinstance(name, str) or not name:
        raise UserError(f"{path}: image {place + 1} of the list has no file_name.")
    if not _can_name_a_file(name):
        raise UserError(
            f"{path}: image {place + 1} of the list has a file_name that no file can have, "
            f"{name[:40]!r}."
        )
    return name


def _can_name_a_file(name: str) -> bool:
    """Whether a file system could hold it: no null, and no part or whole that is too long."""
    if "\0" in name or not _is_text(name):
        return False
    parts = [part.encode() for part in name.split("/")]
    return len(name.encode()) <= _LONGEST_PATH and max(map(len, parts)) <= _LONGEST_NAME


def _is_text(words: str) -> bool:
    """Whether it is of whole characters: JSON can write half of one, a lone surrogate."""
    try:
        words.encode()
    except UnicodeEncodeError:
        return False
    return True


def _size(image: dict[str, Any]) -> tuple[int, int]:
    """Height and width; nothing where the file does not say them."""
    height, width = (_number(image.get(side)) for side in ("height", "width"))
    good = height.is_integer() and width.is_integer()  # which nan is not
    return (int(height), int(width)) if good else (0, 0)


def _box(annotation: dict[str, Any]) -> list[float]:
    box = annotation.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        return [np.nan] * 4
    return [_number(value) for value in box]


def _number(value: Any) -> float:
    """A finite number, or nan."""
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e9:
        return math.nan
    return float(value)


def _pack(segmentation: Any) -> bytes:
    """JSON again, which takes a fifth of the memory; nothing for none."""
    return json.dumps(segmentation).encode() if segmentation else b""
