"""What one pass over the images tells of them: sizes, colours, and which are the same.

`look_at` runs in the threads that decode, on every image; it sees a thinned-out image where that
is enough. Nothing here keeps pixels: an image leaves about 300 bytes.
"""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

_LONGEST = 96
"""Means and thumbnails are taken from a grid of at most about so many points a side."""

_THUMB = 8
_NEAR = 1.5
"""Thumbnails that differ by no more levels of 255 on average show the same picture."""

_NEIGHBOURS = 8
"""Where many thumbnails are alike, each is compared with so many that are next in brightness."""


@dataclass(frozen=True, slots=True)
class Look:
    """What one image told."""

    height: int
    width: int
    digest: bytes
    """Of the decoded pixels and their size: the same bytes, or the same picture losslessly."""
    mean: tuple[float, ...]
    """Of each channel, in the range 0 to 1."""
    square: tuple[float, ...]
    """Mean square of each channel."""
    is_grey: bool
    """Whether the channels are equal everywhere."""
    thumb: NDArray[np.uint8]
    sketch: int
    """64 bits: where the thumbnail brightens from left to right."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of many images, in pixels."""

    count: int
    smallest: tuple[int, int]
    """Height and width of the one of least area."""
    median: tuple[int, int]
    largest: tuple[int, int]
    aspects: tuple[float, float, float]
    """Width over height: least, median, largest."""


@dataclass(frozen=True, slots=True)
class Twin:
    """Two images that show the same, by their splits, names and labels."""

    kind: Literal["same", "alike"]
    """Equal pixels, or a nearly equal thumbnail."""
    splits: tuple[str, str]
    names: tuple[str, str]
    labels: tuple[int, int]


def look_at(image: UInt8[Tensor, "c h w"]) -> Look:
    """The facts of one decoded image."""
    height, width = image.shape[1:]
    pixels = image.permute(1, 2, 0).contiguous().numpy()
    digest = hashlib.blake2b(f"{tuple(image.shape)}".encode(), digest_size=16)
    digest.update(pixels.data)
    step = max(1, math.ceil(max(height, width) / _LONGEST))
    thin = image[:, ::step, ::step].float()
    unit = thin / 255
    return Look(
        height=height,
        width=width,
        digest=digest.digest(),
        mean=tuple(unit.mean((1, 2)).tolist()),
        square=tuple(unit.square().mean((1, 2)).tolist()),
        is_grey=bool((thin == thin[:1]).all()),
        thumb=F.adaptive_avg_pool2d(thin, _THUMB).round().byte().numpy(),
        sketch=_sketch(thin),
    )


def _sketch(thin: Tensor) -> int:
    grid = F.adaptive_avg_pool2d(thin.mean(0, keepdim=True), (_THUMB, _THUMB + 1))[0]
    bits = np.packbits((grid[:, 1:] > grid[:, :-1]).numpy())
    return int.from_bytes(bits.tobytes(), "big")


def describe_shapes(looks: Sequence[Look]) -> Shape:
    """Smallest, median and largest."""
    by_area = sorted((look.height * look.width, look.height, look.width) for look in looks)
    aspects = [look.width / look.height for look in looks]
    return Shape(
        count=len(looks),
        smallest=by_area[0][1:],
        median=by_area[len(by_area) // 2][1:],
        largest=by_area[-1][1:],
        aspects=(min(aspects), statistics.median(aspects), max(aspects)),
    )


def mean_and_std(looks: Sequence[Look]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Of each channel over all images, each image counting alike, in the range 0 to 1."""
    means = torch.tensor([look.mean for look in looks], dtype=torch.float64).mean(0)
    squares = torch.tensor([look.square for look in looks], dtype=torch.float64).mean(0)
    deviations = (squares - means.square()).clamp(min=0).sqrt()
    return tuple(means.tolist()), tuple(deviations.tolist())


def find_twins(
    looks: Mapping[str, Sequence[Look]],
    names: Mapping[str, Sequence[str]],
    labels: Mapping[str, Sequence[int]],
) -> list[Twin]:
    """Images with equal pixels anywhere, and images nearly alike under two labels."""
    places = [(split, index) for split, those in looks.items() for index in range(len(those))]

    def twin(kind: Literal["same", "alike"], one: int, two: int) -> Twin:
        (s1, i1), (s2, i2) = places[one], places[two]
        pairs = (s1, s2), (names[s1][i1], names[s2][i2]), (labels[s1][i1], labels[s2][i2])
        return Twin(kind, *pairs)

    every = [look for those in looks.values() for look in those]
    found = [twin("same", one, two) for one, two in _equal(every)]
    alike = (twin("alike", one, two) for one, two in _alike(every))
    return found + [pair for pair in alike if pair.labels[0] != pair.labels[1]]


def _equal(looks: Sequence[Look]) -> Iterator[tuple[int, int]]:
    """Every image with the first that it repeats; of many copies, each is named once."""
    first: dict[bytes, int] = {}
    for index, look in enumerate(looks):
        if look.digest in first:
            yield first[look.digest], index
        first.setdefault(look.digest, index)


def _alike(looks: Sequence[Look]) -> list[tuple[int, int]]:
    """Pairs of unequal images whose sketches share a quarter and whose thumbnails nearly agree."""
    found: set[tuple[int, int]] = set()
    for shift in range(0, 64, 16):
        buckets: dict[int, list[int]] = {}
        for index, look in enumerate(looks):
            buckets.setdefault(look.sketch >> shift & 0xFFFF, []).append(index)
        for bucket in buckets.values():
            found.update(_near(looks, bucket))
    return sorted(found)


def _near(looks: Sequence[Look], bucket: list[int]) -> Iterator[tuple[int, int]]:
    ordered = sorted(bucket, key=lambda index: sum(looks[index].mean))
    for position, one in enumerate(ordered):
        for two in ordered[position + 1 : position + 1 + _NEIGHBOURS]:
            apart = looks[one].thumb.astype(np.int16) - looks[two].thumb
            if np.abs(apart).mean() <= _NEAR and looks[one].digest != looks[two].digest:
                yield min(one, two), max(one, two)
