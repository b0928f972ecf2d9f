"""Things and stuff as one map without overlaps (Kirillov et al., *Panoptic Segmentation*, 2019)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int32, Int64
from torch import Tensor

from resnestkit.panoptic.spec import PanopticSettings

OTHER = -1
"""In place of a class of stuff, where the branch says that things are."""


@dataclass(frozen=True, slots=True)
class FoundSegment:
    """One thing that was found, or all that was found of one class of stuff."""

    number: int
    """In the map of segments; never 0, which is void."""
    label: int
    """Its class; 0 is the first of all, things and stuff."""
    is_thing: bool
    score: float
    """A thing's own; of stuff, the mean of its probability over its pixels."""


@dataclass(frozen=True, slots=True, eq=False)
class Things:
    """What a detector found in an image."""

    mask: Callable[[int], Bool[Tensor, "h w"]]
    """One's mask by its place: asked for one at a time, for they are as large as the image."""
    labels: Sequence[int]
    """Classes among all, from 0."""
    scores: Sequence[float]


def merge(
    things: Things,
    stuff: Int64[Tensor, "h w"],
    sureness: Float[Tensor, "h w"],
    settings: PanopticSettings,
) -> tuple[Int32[Tensor, "h w"], list[FoundSegment]]:
    """A segment for every pixel, or 0 for void.

    The surest things come first and keep what they cover; one of which surer ones hide more than
    ``settings.overlap`` is left out. Stuff takes what is left, unless it is too little.

    Args:
        things: in any order.
        stuff: each pixel's class among all, or `OTHER`.
        sureness: the probability of that class.
        settings: the limits.
    """
    numbers = torch.zeros_like(stuff, dtype=torch.int32)
    segments: list[FoundSegment] = []
    order = sorted(range(len(things.scores)), key=lambda i: -things.scores[i])
    for i in order:
        if things.scores[i] < settings.score:
            break
        mask = things.mask(i)
        free = mask & (numbers == 0)
        whole, left = torch.stack([mask.sum(), free.sum()]).tolist()
        if not left or whole - left > settings.overlap * whole:
            continue
        number = len(segments) + 1
        numbers[free] = number
        segments.append(FoundSegment(number, things.labels[i], True, things.scores[i]))
    bare = numbers == 0
    for label in torch.unique(stuff[bare]).tolist():
        here = bare & (stuff == label)
        area = int(here.sum())
        if label == OTHER or area < settings.stuff_area:
            continue
        number = len(segments) + 1
        numbers[here] = number
        segments.append(FoundSegment(number, label, False, float(sureness[here].mean())))
    return numbers, segments
