"""What a panoptic net does on a set of images, as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt8
from numpy.typing import NDArray

from resnestkit.tasks.segmentation_evaluation import UNKNOWN, decode_mask


@dataclass(frozen=True, slots=True)
class Quality:
    """Panoptic quality and its two parts (Kirillov et al. 2019); -1 where nothing is to measure."""

    pq: float
    """Panoptic quality: segmentation quality times recognition quality, class by class."""
    sq: float
    """Mean IoU of the segments that were found."""
    rq: float
    """F1 of finding them."""


@dataclass(frozen=True, slots=True)
class ClassQuality:
    """One class."""

    quality: Quality
    found: int
    """Segments that were found: their IoU with one of their class is more than a half."""
    missed: int
    wrong: int
    """Segments predicted where there is none of the class."""


@dataclass(frozen=True, slots=True)
class ShownSegment:
    """A segment in the map of an `Example`."""

    number: int
    label: int
    is_thing: bool
    score: float


@dataclass(frozen=True, slots=True)
class Example:
    """One image, and what was predicted on it."""

    index: int
    pq: float
    """Over the classes that are there or predicted in this image."""
    segments: tuple[ShownSegment, ...]
    numbers: str
    """Each pixel's segment, as an index PNG in base64, no larger than a report shows it."""

    def decode(self) -> UInt8[NDArray[np.uint8], "h w"] | Int64[NDArray[np.int64], "h w"]:
        """Each pixel's segment."""
        return decode_mask(self.numbers)


@dataclass(frozen=True, slots=True)
class PanopticEvaluation:
    """What a panoptic net does on a set of images.

    Void in the truth counts nowhere. Void in a prediction is no excuse: that is the rule of COCO's
    own tool, by which published numbers are measured, and under the other one a net that leaves
    void what it does not know would do best (see `resnestkit.tasks.panoptic_counts`).
    """

    count: int
    all: Quality
    """Means over the classes that are there or predicted."""
    things: Quality
    stuff: Quality
    torchmetrics: Quality
    """As ``all``, by torchmetrics' rule for void."""
    per_class: tuple[ClassQuality, ...]
    worst: tuple[Example, ...]
    """The images with the lowest panoptic quality, the worst first."""
    drawn: tuple[Example, ...]
    """Some images as they come, drawn by lot."""

    @property
    def score(self) -> float:
        """Panoptic quality; 0 where there is nothing."""
        return max(0.0, self.all.pq)

    @property
    def metrics(self) -> dict[str, float]:
        """Panoptic quality, of all, things and stuff, and its parts."""
        named = {
            "pq": self.all.pq,
            "sq": self.all.sq,
            "rq": self.all.rq,
            "pq_things": self.things.pq,
            "pq_stuff": self.stuff.pq,
            "pq_torchmetrics": self.torchmetrics.pq,
        }
        return {name: max(0.0, value) for name, value in named.items()}


def mean_quality(classes: Sequence[Quality]) -> Quality:
    """Over the classes that are there or predicted; -1 where there is none."""
    known = [one for one in classes if one.pq != UNKNOWN]
    if not known:
        return Quality(UNKNOWN, UNKNOWN, UNKNOWN)
    total = sum(one.pq for one in known), sum(one.sq for one in known), sum(one.rq for one in known)
    pq, sq, rq = (value / len(known) for value in total)
    return Quality(pq, sq, rq)
