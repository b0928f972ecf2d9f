"""COCO's panoptic form: an annotation file, and colour images whose colours number the segments.

The format: Kirillov et al., *Panoptic Segmentation*, 2019, and https://cocodataset.org/#format-data.
A segment's number is red + 256 green + 65,536 blue; 0 is no segment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int32, Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor

from resnestkit.data.detection.coco import (
    Category,
    load_json,
    read_categories,
    read_file_name,
    read_identity,
    read_part,
)
from resnestkit.data.findings import Finding, find_missing_files, say_count, say_some
from resnestkit.data.images import UnreadableImage
from resnestkit.data.segmentation.legend import IGNORE, Colour
from resnestkit.data.segmentation.masks import NO_MASK, read_colours
from resnestkit.data.segmentation.table import Segment, SegmentedMasks, Segments
from resnestkit.errors import UserError

_LOOKED_AT = 20
_WEIGHTS = np.array([1, 2**8, 2**16], np.int32)

Rows = Int64[NDArray[np.int64], "_ 3"]
"""Number, class and whether it is a crowd, of each segment of a picture, by number."""


@dataclass(frozen=True, eq=False)
class PanopticFile:
    """A file as it is: what is wrong in it is kept, for `check_panoptic` to say.

    Segments are by image, and their classes are places in ``categories``.
    """

    path: Path
    categories: tuple[Category, ...]
    things: tuple[bool, ...]
    palette: tuple[Colour, ...]
    file_names: list[str]
    mask_names: list[str | None]
    """Of each image's mask; None where it has no annotation."""
    rows: list[Rows]
    strangers: list[Any]
    """Ids of images that are annotated and not listed."""
    foreign: list[Any]
    """Numbers of categories that segments have and the file does not list."""


def read_panoptic(path: Path) -> PanopticFile:
    """Read an annotation file. Raises UserError if it is not of the panoptic form."""
    content = load_json(path)
    images, annotations = (read_part(content, name, path) for name in ("images", "annotations"))
    listed = read_part(content, "categories", path)
    if not images:
        raise UserError(f"{path} lists no images.")
    categories = read_categories(listed, path)
    by_number = {one["id"]: one for one in listed}
    places = {category.number: place for place, category in enumerate(categories)}
    ids = [read_identity(image, "id", "image", i, path) for i, image in enumerate(images)]
    by_image = _sort_annotations(annotations, path)
    foreign: list[Any] = []
    rows = [_read_rows(by_image.get(number), places, foreign, path) for number in ids]
    return PanopticFile(
        path=path,
        categories=categories,
        things=tuple(bool(by_number[one.number].get("isthing")) for one in categories),
        palette=_read_palette([by_number[one.number].get("color") for one in categories]),
        file_names=[read_file_name(image, i, path) for i, image in enumerate(images)],
        mask_names=[
            by_image[number]["file_name"] if number in by_image else None for number in ids
        ],
        rows=rows,
        strangers=[number for number in by_image if number not in set(ids)],
        foreign=list(dict.fromkeys(foreign)),
    )


def check_panoptic(
    file: PanopticFile, images: Sequence[Path], masks: Sequence[Path | None]
) -> Iterator[Finding]:
    """Everything that an annotation file and the names of its images and masks tell."""
    if file.strangers:
        yield Finding(
            "wrong",
            f"{file.path} annotates {say_count(file.strangers, 'image')} that it does not list: "
            f"{say_some(file.strangers)}.",
            "List the images, or remove the annotations.",
            refused=True,
        )
    if file.foreign:
        yield Finding(
            "wrong",
            f"{file.path} has segments of categories that it does not list: "
            f"{say_some(file.foreign)}.",
            "List the categories, or remove the segments.",
            refused=True,
        )
    yield from find_missing_files(images)
    lost = [mask for mask in masks if mask is not None and not mask.is_file()]
    if lost:
        text = f"{len(lost)} of {len(masks)} masks cannot be found: {say_some(lost)}."
        yield Finding("wrong", text, "Put them back, or take them out of the file.")
    bare = [name for name, mask in zip(file.file_names, masks, strict=True) if mask is None]
    if bare:
        text = f"{file.path} has no annotation of {say_count(bare, 'image')}: {say_some(bare)}."
        yield Finding("wrong", text, "Annotate them, or take them out of the file.")


def find_mask_folder(file: PanopticFile, root: Path) -> Path:
    """The folder of a file's masks, named as it is. Raises UserError if it is not there."""
    stem = file.path.stem
    folders = [file.path.with_suffix(""), root / stem, root / "annotations" / stem]
    names = [name for name in file.mask_names if name is not None]
    looked = names[:: max(1, len(names) // _LOOKED_AT)]
    for folder in folders:
        if any((folder / name).is_file() for name in looked):
            return folder
    such = f", such as {looked[0]}" if looked else ""
    raise UserError(
        f"None of the masks of {file.path} was found{such}. They belong into {folders[0]}."
    )


class PanopticMasks(SegmentedMasks):
    """The masks of a panoptic file.

    Args:
        paths: of each mask; None where an image has none.
        images: names of the images, for what is said of those.
        rows: the segments of each; their classes are memory's.
        things: which classes can be counted.
    """

    def __init__(
        self,
        paths: Sequence[Path | None],
        images: Sequence[str],
        rows: Sequence[Rows],
        things: Sequence[bool],
    ) -> None:
        self.paths, self.images, self.rows = list(paths), list(images), list(rows)
        self.things = tuple(things)

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def classes(self) -> int:
        """How many classes they may show."""
        return len(self.things)

    def read(self, row: int) -> UInt8[Tensor, "h w"]:
        """The class of each pixel; of a crowd, that of its things."""
        _, places = self._decode(row)
        labels = np.append(self.rows[row][:, 1], IGNORE).astype(np.uint8)
        return torch.from_numpy(labels[places])

    def segments(self, row: int) -> Segments:
        """The segments that the file lists and the mask shows."""
        numbers, places = self._decode(row)
        shown = np.bincount(places.ravel(), minlength=len(self.rows[row]) + 1) > 0
        listed = [
            Segment(int(number), int(label), self.things[label], bool(crowd))
            for (number, label, crowd), seen in zip(self.rows[row], shown, strict=False)
            if seen
        ]
        return Segments(torch.from_numpy(numbers), tuple(listed))

    def _decode(
        self, row: int
    ) -> tuple[Int32[NDArray[np.int32], "h w"], Int64[NDArray[np.int64], "h w"]]:
        """Each pixel's number, and its place among the segments, one past the last for none."""
        path = self.paths[row]
        if path is None:
            raise UnreadableImage(self.images[row], NO_MASK)
        numbers = (read_colours(path) * _WEIGHTS).sum(2, dtype=np.int32)
        known = self.rows[row][:, 0]
        places = np.searchsorted(known, numbers)
        none = len(known)
        lost = (places == none) | (np.append(known, 0)[places] != numbers)
        strange = lost & (numbers != 0)
        if strange.any():
            number = int(numbers[strange][0])
            raise UnreadableImage(str(path), f"its segment {number} is not in the annotation file")
        places[lost] = none
        return numbers, places


def place_rows(file: PanopticFile, labels: Mapping[str, int]) -> list[Rows]:
    """A file's segments with the classes of a set of files; those of no category are left out."""
    table = np.array([labels[category.name] for category in file.categories], np.int64)
    placed = []
    for rows in file.rows:
        known = rows[rows[:, 1] >= 0]
        placed.append(np.column_stack([known[:, 0], table[known[:, 1]], known[:, 2]]))
    return placed


def _sort_annotations(annotations: Sequence[dict[str, Any]], path: Path) -> dict[Any, Any]:
    """Annotations by their image. Raises UserError for what is none of a panoptic mask."""
    found: dict[Any, Any] = {}
    for place, one in enumerate(annotations):
        if not isinstance(one.get("segments_info"), list):
            raise UserError(
                f"{path} is not of the panoptic form: annotation {place + 1} of the list has no "
                "segments_info. Give a file such as COCO's panoptic_*.json."
            )
        read_file_name(one, place, path)
        number = read_identity(one, "image_id", "annotation", place, path)
        if number in found:
            raise UserError(f"{path} annotates the image {number} twice; remove one.")
        found[number] = one
    return found


def _read_rows(
    annotation: dict[str, Any] | None, places: Mapping[Any, int], foreign: list[Any], path: Path
) -> Rows:
    rows: list[tuple[int, int, bool]] = []
    annotation = annotation or {"segments_info": []}
    for segment in annotation["segments_info"]:
        number, kind = segment.get("id"), segment.get("category_id")
        if not isinstance(number, int) or not 0 < number < 2**24:
            raise UserError(f"{path} has a segment of the id {number!r}, which no colour can show.")
        place = places.get(kind, -1) if isinstance(kind, int | str) else -1
        if place < 0:
            foreign.append(repr(kind))
        rows.append((number, place, bool(segment.get("iscrowd"))))
    if len({number for number, *_ in rows}) < len(rows):
        raise UserError(f"{path} has two segments of one id in {annotation['file_name']}.")
    return np.array(sorted(rows), np.int64).reshape(-1, 3)


def _read_palette(colours: Sequence[Any]) -> tuple[Colour, ...]:
    """The colours of all categories, or none where one lacks them."""
    found: list[Colour] = []
    for colour in colours:
        good = isinstance(colour, list) and len(colour) == 3
        if not good or not all(isinstance(part, int) and 0 <= part <= 255 for part in colour):
            return ()
        found.append((colour[0], colour[1], colour[2]))
    return tuple(found)
