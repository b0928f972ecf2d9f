"""Which detections are right, which objects were missed: what a person looks at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from numpy.typing import NDArray
from torchvision.ops import box_iou

from resnestkit.data.detection.results import Found
from resnestkit.data.detection.rle import to_rle
from resnestkit.data.detection.table import Annotations
from resnestkit.tasks.detection_evaluation import Box, Example, Fault, Miss, Shown

IOU = 0.5
_NEAR = 0.1
"""A detection that overlaps an object by so much, but too little, meant it."""
MOST_EXAMPLES, MOST_MISSES = 4, 18


@dataclass(frozen=True, slots=True, eq=False)
class Matched:
    """One image's detections against its objects, at IoU 0.5; crowds are left out."""

    index: int
    annotations: Annotations
    found: Found
    """The surest first; without what lies on crowds."""
    objects: Int64[NDArray[np.int64], " n"]
    """Places of the single objects among the annotations."""
    overlaps: Float[NDArray[np.float64], "found n"]
    owners: Int64[NDArray[np.int64], " found"]
    """The object that each detection found, by its place in ``objects``; -1 for none."""

    @property
    def right(self) -> Bool[NDArray[np.bool_], " found"]:
        """Whether each detection found an object."""
        return np.asarray(self.owners >= 0)

    def above(self, score: float) -> Matched:
        """As if less sure detections were not there: the surer chose their objects first."""
        shown = int((self.found.scores >= score).sum())
        found = self.found.above(score)
        return Matched(
            self.index,
            self.annotations,
            found,
            self.objects,
            self.overlaps[:shown],
            self.owners[:shown],
        )

    @property
    def missed(self) -> Int64[NDArray[np.int64], " m"]:
        """Objects that no detection found."""
        return np.setdiff1d(np.arange(len(self.objects)), self.owners)

    @property
    def f1(self) -> float:
        """Twice the right over all detections and objects; 1 where there is nothing at all."""
        both = len(self.owners) + len(self.objects)
        return 2 * int(self.right.sum()) / both if both else 1.0


def match(index: int, annotations: Annotations, found: Found) -> Matched:
    """Give each detection, the surest first, the free object of its class that it overlaps most."""
    found = found.take(np.argsort(-found.scores, kind="stable"))
    objects = np.flatnonzero(~annotations.crowd)
    overlaps = _overlaps(found, _corners(annotations)[objects])
    owners = np.full(len(found.scores), -1)
    free = np.ones(len(objects), bool)
    for i, label in enumerate(found.labels):
        fitting = free & (annotations.labels[objects] == label)
        reached = np.where(fitting, overlaps[i], 0.0)
        if reached.size and reached.max() >= IOU:
            owners[i] = reached.argmax()
            free[owners[i]] = False
    on_crowd = (owners < 0) & _lies_on_crowd(found, annotations)
    kept = np.flatnonzero(~on_crowd)
    found = found.take(kept)
    return Matched(index, annotations, found, objects, overlaps[kept], owners[kept])


def best_threshold(matched: Sequence[Matched]) -> float:
    """The score from which on detections give the best F1, over all images and classes."""
    scores = np.concatenate([np.zeros(0, np.float32)] + [one.found.scores for one in matched])
    right = np.concatenate([np.zeros(0, np.bool_)] + [one.right for one in matched])
    objects = sum(len(one.objects) for one in matched)
    if not right.any():
        return 0.5
    order = np.argsort(-scores, kind="stable")
    f1 = 2 * np.cumsum(right[order]) / (np.arange(1, len(order) + 1) + objects)
    return float(scores[order][int(f1.argmax())])


def choose_examples(matched: Sequence[Matched]) -> tuple[Example, ...]:
    """Images from the hardest to the easiest, evenly spread; those that show something."""
    telling = [one for one in matched if len(one.objects) or len(one.owners)]
    ranked = sorted(telling, key=lambda one: (one.f1, one.index))
    places = np.linspace(0, len(ranked) - 1, min(MOST_EXAMPLES, len(ranked))).round().astype(int)
    return tuple(_example(ranked[place]) for place in places)


def find_missed(matched: Sequence[Matched]) -> tuple[Miss, ...]:
    """The objects not found, the largest for their images first."""
    ranked: list[tuple[float, Miss]] = []
    for one in matched:
        pixels = max(1, one.annotations.height * one.annotations.width)
        for place in one.missed:
            i = int(one.objects[place])
            box = _box(_corners(one.annotations)[i])
            share = (box[2] - box[0]) * (box[3] - box[1]) / pixels
            label = int(one.annotations.labels[i])
            ranked.append(
                (-share, Miss(one.index, "missed", label, box, 0.0, _taken_for(one, place)))
            )
    ranked.sort(key=lambda pair: (pair[0], pair[1].index, pair[1].box))
    return tuple(miss for _, miss in ranked[:MOST_MISSES])


def find_mistaken(matched: Sequence[Matched]) -> tuple[Miss, ...]:
    """The wrong detections, the surest first."""
    found = [
        Miss(
            one.index,
            fault,
            int(one.found.labels[i]),
            _box(one.found.boxes[i]),
            float(one.found.scores[i]),
            instead,
        )
        for one in matched
        for i in np.flatnonzero(~one.right)
        for fault, instead in [_explain(one, int(i))]
    ]
    found.sort(key=lambda miss: (-miss.score, miss.index, miss.box))
    return tuple(found[:MOST_MISSES])


def _taken_for(one: Matched, place: int) -> int | None:
    """The class of the surest detection that is where an object was missed."""
    there = np.flatnonzero(one.overlaps[:, place] >= IOU)
    return int(one.found.labels[there[0]]) if len(there) else None


def _explain(one: Matched, i: int) -> tuple[Fault, int | None]:
    """How a detection is wrong, and the class of what is there."""
    labels = one.annotations.labels[one.objects]
    if not len(labels) or one.overlaps[i].max() < _NEAR:
        return "nothing there", None
    nearest = int(one.overlaps[i].argmax())
    there = int(labels[nearest])
    if one.overlaps[i, nearest] < IOU:
        return "badly placed", there
    same = there == one.found.labels[i]
    return ("found twice" if same else "another class"), there


def _example(one: Matched) -> Example:
    annotations, found = one.annotations, one.found
    corners = _corners(annotations)[one.objects]
    masks = None
    if found.masks is not None:
        masks = [
            to_rle(annotations.segmentations[i], annotations.height, annotations.width)
            for i in one.objects
        ]
    true = Shown(
        [_box(box) for box in corners],
        [int(label) for label in annotations.labels[one.objects]],
        [],
        [bool(place in one.owners) for place in range(len(one.objects))],
        masks,
    )
    shown = Shown(
        [_box(box) for box in found.boxes],
        [int(label) for label in found.labels],
        [float(score) for score in found.scores],
        [bool(right) for right in one.right],
        None if found.masks is None else list(found.masks),
    )
    return Example(one.index, true, shown)


def _box(corners: NDArray[np.floating]) -> Box:
    left, top, right, bottom = (float(value) for value in corners)
    return left, top, right, bottom


def _corners(annotations: Annotations) -> NDArray[np.float64]:
    boxes = annotations.boxes
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)


def _overlaps(found: Found, corners: NDArray[np.float64]) -> NDArray[np.float64]:
    there = torch.from_numpy(np.asarray(found.boxes, np.float64))
    iou = box_iou(there, torch.from_numpy(corners)).nan_to_num_(0)
    return np.asarray(iou.numpy())


def _lies_on_crowd(found: Found, annotations: Annotations) -> NDArray[np.bool_]:
    """Whether half of a detection lies on a crowd region of its class, as COCO forgives."""
    crowds = np.flatnonzero(annotations.crowd)
    regions = _corners(annotations)[crowds]
    start = np.maximum(found.boxes[:, None, :2], regions[None, :, :2])
    end = np.minimum(found.boxes[:, None, 2:], regions[None, :, 2:])
    shared = np.clip(end - start, 0, None).prod(2)
    areas = np.clip(found.boxes[:, 2:] - found.boxes[:, :2], 1e-9, None).prod(1)
    same = found.labels[:, None] == annotations.labels[crowds][None]
    return np.asarray(((shared >= IOU * areas[:, None]) & same).any(1))
