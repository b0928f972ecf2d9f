"""What is wrong in annotation files: counted, with the first examples, before anything is learnt.

Nothing is mended in silence. What a training leaves out or clips is said; what would make it learn
something else than was meant is refused.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnestkit.data.check import Checked, check_images, describe_unreadable
from resnestkit.data.detection.coco import CocoFile
from resnestkit.data.detection.rle import decode_mask, mask_area, to_rle
from resnestkit.data.detection.table import DetectionImages, clip_boxes, has_area
from resnestkit.data.findings import (
    Finding,
    find_lone_classes,
    find_missing_files,
    find_repeated_images,
    say_count,
    say_some,
)
from resnestkit.data.images import UnreadableImage
from resnestkit.data.survey import Look
from resnestkit.errors import UserError

_NAMED = 3
OVERHANG = 0.5
"""Pixels by which a box may reach over the edge before it is worth a word: tools round."""

_EMPTY = "it covers no pixel"
_SURE_BOXES, _LIKELY_BOXES = 3, 20
_OUTSIDE_SHARE, _CORNER_SHARE = 0.2, 0.98
_FAR = 0.05
"""Share of the image's side by which a box leaves it if it is a corner, and not by carelessness."""


def check_file(
    file: CocoFile, sizes: NDArray[np.int64], paths: Sequence[Path], *, masks: bool
) -> list[Finding]:
    """Everything that one annotation file and the names of its images tell.

    Args:
        file: as it was read.
        sizes: height and width of each image.
        paths: where each image should be.
        masks: whether each object needs one.
    """
    found = [
        *_find_double_ids(file),
        *_find_strangers(file),
        *find_missing_files(paths),
        *_find_bad_boxes(file),
        *_find_corners(file, sizes),
        *_find_overhang(file, sizes),
        *_find_notes(file),
    ]
    return found + (list(_find_bad_masks(file, sizes)) if masks else [])


def check_splits(splits: Mapping[str, DetectionImages], classes: Sequence[str]) -> list[Finding]:
    """What only shows beside each other: classes of one split alone, images in two."""
    seen = {name: set((_shown_labels(images) - 1).tolist()) for name, images in splits.items()}
    names = [name for images in splits.values() for name in images.names]
    return [*find_lone_classes(classes, seen), *find_repeated_images(names)]


def check_detection_images(
    images: DetectionImages,
    *,
    cache_bytes: int,
    advance: Callable[[int], None] = lambda _count: None,
) -> Checked:
    """As `resnestkit.data.check.check_images`, on pictures with annotations.

    Pictures of another size than their annotations are for count as unreadable too, and are left
    out: nobody knows where their boxes lie. The result's images are `DetectionImages` again.
    """
    checked = check_images(images, cache_bytes=cache_bytes, advance=advance, survey=True)
    kept = images.with_pictures(checked.images)
    if isinstance(checked.images, DetectionImages):
        kept = checked.images
    fits: list[bool] = []
    wrong: list[UnreadableImage] = []
    for index, look in enumerate(checked.looks):
        reason = _wrong_size(look, kept.table.sizes[kept.labels[index]])
        fits.append(reason is None)
        if reason is not None:
            wrong.append(UnreadableImage(kept.names[index], reason))
    if not any(fits):
        unread = [*checked.unreadable, *wrong]
        raise UserError(describe_unreadable(unread, len(images), can_skip=False))
    if wrong:
        kept = kept.subset([index for index, good in enumerate(fits) if good])
    return replace(
        checked,
        images=kept,
        stats=replace(checked.stats, count=len(kept)),
        unreadable=(*checked.unreadable, *wrong),
        looks=tuple(compress(checked.looks, fits)),
    )


def _wrong_size(look: Look, said: NDArray[np.int64]) -> str | None:
    height, width = (int(side) for side in said)
    if (look.height, look.width) == (height, width):
        return None
    turned = (look.width, look.height) == (height, width)
    why = ", as if it lay on its side" if turned else ""
    return f"its boxes are for {width}x{height}, and it is {look.width}x{look.height}{why}"


def _shown_labels(images: DetectionImages) -> NDArray[np.int64]:
    """Labels of all that the images of a split show, crowds left out."""
    table = images.table
    shown = np.isin(table.owners, images.labels) & ~table.crowd
    return table.labels[shown]


def _find_double_ids(file: CocoFile) -> Iterator[Finding]:
    images = [number for number, count in Counter(file.image_ids).items() if count > 1]
    if images:
        yield Finding(
            "wrong",
            f"{file.path} gives {say_count(images, 'image id')} to several images: "
            f"{say_some(images)}.",
            "Give each image its own.",
            refused=True,
        )
    listed = [name for name, count in Counter(file.file_names).items() if count > 1]
    if listed:
        yield Finding(
            "wrong",
            f"{file.path} lists {say_count(listed, 'image')} twice or more: {say_some(listed)}.",
            "Each listing is learnt as an image of its own, which lacks the others' boxes.",
        )
    known = [repr(number) for number in file.ids if number is not None]
    ids = [number for number, count in Counter(known).items() if count > 1]
    if ids:
        yield Finding(
            "wrong",
            f"{file.path} gives {say_count(ids, 'annotation id')} to several annotations: "
            f"{say_some(ids)}.",
            "All are used here; other tools keep the last of each.",
        )
    rows = np.column_stack([file.owners, file.kinds, file.boxes])[~file.crowd]
    repeated = len(rows) - len(np.unique(rows, axis=0))
    if repeated:
        text = f"{file.path} has {repeated} annotations whose box and class are there already."
        yield Finding("wrong", text, "Each copy counts as an object that is missed.")


def _find_strangers(file: CocoFile) -> Iterator[Finding]:
    lost = np.flatnonzero(file.owners < 0)
    if len(lost):
        yield Finding(
            "wrong",
            f"{file.path} has {say_count(lost, 'annotation')} of images that it does not list: "
            f"{_name_annotations(file, lost)}.",
            "List the images, or remove the annotations.",
            refused=True,
        )
    unknown = np.flatnonzero(file.kinds < 0)
    if len(unknown):
        yield Finding(
            "wrong",
            f"{file.path} has {say_count(unknown, 'annotation')} of unknown categories "
            f"({say_some(file.foreign_categories)}); it lists "
            f"{say_some([one.number for one in file.categories])}.",
            "List the categories, or remove the annotations.",
            refused=True,
        )


def _find_bad_boxes(file: CocoFile) -> Iterator[Finding]:
    broken = np.flatnonzero(np.isnan(file.boxes).any(1))
    if len(broken):
        yield Finding(
            "wrong",
            f"{file.path} has {say_count(broken, 'annotation')} whose bbox is not four numbers: "
            f"{_name_annotations(file, broken)}.",
            "Mend or remove them.",
            refused=True,
        )


def _find_corners(file: CocoFile, sizes: NDArray[np.int64]) -> Iterator[Finding]:
    """Boxes that make sense only if their last two numbers are a corner, not a size.

    A box that begins at the image's corner is the same either way, and tells nothing.
    """
    places, limits = _placed_boxes(file, sizes)
    boxes = file.boxes[places]
    telling = (boxes[:, :2] >= 1).all(1)
    boxes, limits = boxes[telling], limits[telling]
    if len(boxes) < _SURE_BOXES:
        return
    corner = ((boxes[:, 2:] > boxes[:, :2]) & (boxes[:, 2:] <= limits + 1)).all(1).mean()
    over = boxes[:, :2] + boxes[:, 2:] - limits
    outside = (over > 1 + _FAR * limits).any(1).mean()
    if corner < _CORNER_SHARE:
        return
    remedy = "Write each bbox as [left, top, width, height]."
    if outside >= _OUTSIDE_SHARE:
        yield Finding(
            "wrong",
            f"{file.path} has boxes as [left, top, right, bottom] where COCO has "
            f"[left, top, width, height]: read by the rule, {outside:.0%} of them leave their "
            f"image, and read as corners {corner:.0%} fit.",
            remedy,
            refused=True,
        )
    elif len(boxes) >= _LIKELY_BOXES:
        yield Finding(
            "wrong",
            f"{file.path} may have boxes as [left, top, right, bottom]: of every box the third "
            "number is larger than the first, and the fourth than the second.",
            f"If so: {remedy[0].lower()}{remedy[1:]}",
        )


def _find_overhang(file: CocoFile, sizes: NDArray[np.int64]) -> Iterator[Finding]:
    places, limits = _placed_boxes(file, sizes)
    boxes = file.boxes[places]
    over = np.maximum(-boxes[:, :2], boxes[:, :2] + boxes[:, 2:] - limits).max(1, initial=0)
    empty = ~has_area(clip_boxes(boxes, limits[:, ::-1]))
    hanging = (over > OVERHANG) & ~empty
    if hanging.any():
        first = places[np.flatnonzero(hanging)]
        yield Finding(
            "wrong",
            f"{file.path} has {say_count(first, 'box', 'boxes')} outside the image by up to "
            f"{over[hanging].max():g} pixels: {_name_annotations(file, first)}.",
            "They are clipped for the training.",
        )
    if empty.any():
        first = places[np.flatnonzero(empty)]
        yield Finding(
            "wrong",
            f"{file.path} has {say_count(first, 'box', 'boxes')} without area inside the image: "
            f"{_name_annotations(file, first)}.",
            "The training leaves them out; an evaluation counts them as objects, as COCO's does.",
        )


def _find_notes(file: CocoFile) -> Iterator[Finding]:
    bare = len(file.image_ids) - len(np.unique(file.owners[file.owners >= 0]))
    if bare == len(file.image_ids):
        text = f"{file.path} has no annotation of any image."
        yield Finding("wrong", text, "Give a file with boxes.", refused=True)
    elif bare:
        total = f"{file.path} has {bare} of {len(file.image_ids)} images without annotation;"
        yield Finding("note", f"{total} they are kept as background.")
    if file.crowd.any():
        text = f"{file.path} has {say_count(np.flatnonzero(file.crowd), 'crowd region')};"
        yield Finding("note", f"{text} they are not learnt from, nor counted in an evaluation.")
    if file.has_keypoints:
        yield Finding("note", f"{file.path} has keypoints; its boxes are used, and they are not.")


def _find_bad_masks(file: CocoFile, sizes: NDArray[np.int64]) -> Iterator[Finding]:
    single = np.flatnonzero(~file.crowd & (file.owners >= 0))
    lacking = np.array([i for i in single if not file.segmentations[i]], np.int64)
    if len(lacking):
        yield Finding(
            "wrong",
            f"{file.path} has no segmentation for {len(lacking)} of {len(single)} objects: "
            f"{_name_annotations(file, lacking)}.",
            "Masks cannot be learnt from it; train a detector of boxes.",
            refused=True,
        )
    reasons = {
        int(i): _wrong_mask(file.segmentations[i], *sizes[file.owners[i]])
        for i in np.flatnonzero(file.owners >= 0)
        if file.segmentations[i]
    }
    broken = np.array([i for i, r in reasons.items() if r not in (None, _EMPTY)], np.int64)
    if len(broken):
        yield Finding(
            "wrong",
            f"{file.path} has {say_count(broken, 'segmentation')} that cannot be drawn: "
            f"{_name_annotations(file, broken)} ({reasons[int(broken[0])]}).",
            "Mend or remove them.",
            refused=True,
        )
    hollow = [i for i, r in reasons.items() if r == _EMPTY and not file.crowd[i]]
    empty = np.array(hollow, np.int64)
    if len(empty):
        yield Finding(
            "wrong",
            f"{file.path} has {say_count(empty, 'segmentation')} without a single pixel: "
            f"{_name_annotations(file, empty)}.",
            "The training leaves the objects out.",
        )


def _wrong_mask(segmentation: bytes, height: int, width: int) -> str | None:
    """Why a segmentation cannot be used, if it cannot."""
    shape = json.loads(segmentation)
    if isinstance(shape, list):
        for polygon in shape:
            if not isinstance(polygon, list) or not all(map(_is_number, polygon)):
                return "a polygon is a list of numbers"
            if len(polygon) < 6 or len(polygon) % 2:
                return f"a polygon of {len(polygon)} numbers"
    try:
        if isinstance(shape, list):
            shown = mask_area(to_rle(segmentation, int(height), int(width))) > 0
        else:  # only drawing tells whether run lengths end where the image does
            shown = bool(decode_mask(segmentation, int(height), int(width)).any())
    except ValueError as error:
        return str(error)
    return None if shown else _EMPTY


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _placed_boxes(
    file: CocoFile, sizes: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places of whole boxes of known images, crowds left out, with their images' width, height."""
    good = (file.owners >= 0) & ~np.isnan(file.boxes).any(1) & ~file.crowd
    places = np.flatnonzero(good)
    return places, sizes[file.owners[places]][:, ::-1]


def _name_annotations(file: CocoFile, places: NDArray[np.int64]) -> str:
    """Annotations by their numbers and images."""
    named = []
    for place in places[:_NAMED]:
        owner = int(file.owners[place])
        where = f" of {file.file_names[owner]}" if owner >= 0 else ""
        named.append(f"annotation {file.ids[place]}{where}")
    more = f" and {len(places) - _NAMED} more" if len(places) > _NAMED else ""
    return ", ".join(named) + more
