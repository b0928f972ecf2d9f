"""Panoptic quality (Kirillov et al. 2019, *Panoptic Segmentation*, section 4), counted exactly.

Two rules are in use, which differ in what a prediction leaves void. By COCO's own tool
(panopticapi) such pixels are missed as any others. By torchmetrics, told to allow unknown
categories, they are left out of a true segment's area, and one that is mostly under them is not
missed; where void is given to it as one more class, the others' numbers are COCO's. torchmetrics
knows no crowds, which are void to it; to COCO's tool only segments of a crowd's class may lie on it
unpunished.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import reduce
from operator import add
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy.typing import NDArray
from torch import Tensor

from resnestkit.data.seeding import mix_seed
from resnestkit.data.segmentation.table import Segment, Segments
from resnestkit.tasks.panoptic_evaluation import (
    ClassQuality,
    Example,
    PanopticEvaluation,
    Quality,
    ShownSegment,
    mean_quality,
)
from resnestkit.tasks.segmentation_counts import PICTURE_PIXELS, Kept, lowest
from resnestkit.tasks.segmentation_evaluation import UNKNOWN, encode_mask

Rule = Literal["torchmetrics", "coco"]

Areas = Int64[NDArray[np.int64], "true found"]
"""Pixels by true segment (row) and found segment (column); void is the last of both."""

_HALF = 0.5


@dataclass(frozen=True, slots=True)
class Listed:
    """What the segments of one map are, stuff of one class as one segment."""

    labels: Int64[NDArray[np.int64], " n"]
    crowd: Bool[NDArray[np.bool_], " n"]


@dataclass(frozen=True, slots=True, eq=False)
class Tally:
    """Segments by class, found, missed and wrong, and the sum of the IoU of those found."""

    found: Int64[NDArray[np.int64], " k"]
    missed: Int64[NDArray[np.int64], " k"]
    wrong: Int64[NDArray[np.int64], " k"]
    iou: Float64[NDArray[np.float64], " k"]

    def __add__(self, other: Tally) -> Tally:
        pairs = (getattr(self, one.name) + getattr(other, one.name) for one in fields(Tally))
        return Tally(*pairs)

    def qualities(self) -> list[Quality]:
        """Of each class."""
        rows = zip(self.found, self.missed, self.wrong, self.iou, strict=True)
        return [_quality(int(f), int(m), int(w), float(iou)) for f, m, w, iou in rows]


def _quality(found: int, missed: int, wrong: int, iou: float) -> Quality:
    whole = found + (missed + wrong) / 2
    if not whole:
        return Quality(UNKNOWN, UNKNOWN, UNKNOWN)
    sq, rq = iou / found if found else 0.0, found / whole
    return Quality(sq * rq, sq, rq)


def count_image(found: Segments, true: Segments, classes: int, rule: Rule) -> Tally:
    """The segments of one image against those that are there."""
    rows, there = _place(true)
    columns, said = _place(found)
    height, width = len(there.labels) + 1, len(said.labels) + 1
    areas = np.bincount(rows * width + columns, minlength=height * width).reshape(height, width)
    return tally_areas(areas, there, said, classes, rule)


def tally_areas(areas: Areas, there: Listed, said: Listed, classes: int, rule: Rule) -> Tally:
    """A tally from the overlaps of an image's true and found segments."""
    alike = there.labels[:, None] == said.labels
    nowhere = areas[-1, :-1]  # of each found segment, what is void in the truth
    if rule == "torchmetrics":
        nowhere = nowhere + areas[:-1, :-1][there.crowd].sum(0)
        unsaid = areas[:-1, -1]
        forgiven = nowhere
    else:
        unsaid = np.zeros(len(there.labels), np.int64)
        forgiven = nowhere + (areas[:-1, :-1] * alike)[there.crowd].sum(0)
    shared = areas[:-1, :-1]
    wholes, sides = areas[:-1].sum(1), areas[:, :-1].sum(0)
    union = (wholes - unsaid)[:, None] + (sides - nowhere) - shared
    iou = shared / np.maximum(union, 1)
    matched = (iou > _HALF) & alike & ~there.crowd[:, None]
    lost = ~matched.any(1) & ~there.crowd & (wholes > 0) & (unsaid <= _HALF * wholes)
    idle = ~matched.any(0) & (sides > 0) & (forgiven <= _HALF * sides)
    rows, columns = np.nonzero(matched)
    return Tally(
        found=np.bincount(there.labels[rows], minlength=classes),
        missed=np.bincount(there.labels[lost], minlength=classes),
        wrong=np.bincount(said.labels[idle], minlength=classes),
        iou=np.bincount(there.labels[rows], iou[rows, columns], classes).astype(np.float64),
    )


def _place(segments: Segments) -> tuple[Int64[NDArray[np.int64], " pixels"], Listed]:
    """Each pixel's segment by its place, one past the last for void, and what is listed there."""
    keys: dict[tuple[int, int, bool], int] = {}
    places = [keys.setdefault(_key(one), len(keys)) for one in segments.segments]
    numbers = np.array([one.number for one in segments.segments], np.int64)
    order = np.argsort(numbers)
    known = np.append(numbers[order], 0)  # 0 is no segment's number
    targets = np.append(np.array(places, np.int64)[order], len(keys))
    pixels = segments.numbers.numpy().ravel()
    near = np.searchsorted(known[:-1], pixels)
    listed = Listed(
        np.array([label for label, *_ in keys], np.int64),
        np.array([crowd for *_, crowd in keys], np.bool_),
    )
    return np.where(known[near] == pixels, targets[near], len(keys)), listed


def _key(one: Segment) -> tuple[int, int, bool]:
    """What makes segments one: all stuff of a class is."""
    return one.label, one.number if one.is_thing else 0, one.is_crowd


class PanopticCounts:
    """Adds up what one process sees of an evaluation.

    Args:
        things: which classes can be counted.
    """

    def __init__(self, things: Sequence[bool]) -> None:
        self.things, self.count = tuple(things), 0
        self.tallies: dict[int, tuple[Tally, Tally]] = {}
        self.worst, self.drawn = Kept[Example](), Kept[Example]()

    def add(self, index: int, found: Segments, scores: Sequence[float], true: Segments) -> None:
        """Count one image, from the segments found, their scores and those that are there."""
        classes = len(self.things)
        tally = count_image(found, true, classes, "coco")
        self.tallies[index] = tally, count_image(found, true, classes, "torchmetrics")
        pq = mean_quality(tally.qualities()).pq

        def make() -> Example:
            segments = zip(found.segments, scores, strict=True)
            shown = [ShownSegment(o.number, o.label, o.is_thing, s) for o, s in segments]
            numbers: Tensor = found.numbers
            return Example(
                index, pq, tuple(shown), encode_mask(numbers.long().numpy(), PICTURE_PIXELS)
            )

        if pq != UNKNOWN:
            self.worst.offer((pq, index), make)
        self.drawn.offer((mix_seed(index), index), make)


def merge_counts(parts: Sequence[PanopticCounts]) -> PanopticEvaluation:
    """The same numbers, to the bit, however the images were spread over processes."""
    things = np.array(parts[0].things)
    every = {index: pair for part in parts for index, pair in part.tallies.items()}
    ordered = [every[index] for index in sorted(every)]
    tally, lenient = (reduce(add, column) for column in zip(*ordered, strict=True))
    qualities = tally.qualities()
    rows = zip(qualities, tally.found, tally.missed, tally.wrong, strict=True)
    return PanopticEvaluation(
        count=len(every),
        all=mean_quality(qualities),
        things=mean_quality([one for one, thing in zip(qualities, things, strict=True) if thing]),
        stuff=mean_quality(
            [one for one, thing in zip(qualities, things, strict=True) if not thing]
        ),
        torchmetrics=mean_quality(lenient.qualities()),
        per_class=tuple(ClassQuality(q, int(f), int(m), int(w)) for q, f, m, w in rows),
        worst=lowest([part.worst for part in parts]),
        drawn=lowest([part.drawn for part in parts]),
    )
