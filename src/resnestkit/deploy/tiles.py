"""Images of any size, labelled tile by tile in bounded memory.

Tiles overlap. Of two neighbours each counts alone up to the middle of what they share, where the
scores of one fade into the other's over a short ramp; what lies beyond, near a tile's cut edge, is
not used. So only the ramps wait for their neighbours: those of a row of tiles are the band of
scores that is held, and all else becomes labels at once.

Where the net sees no farther than from the ramp to the tile's edge, (overlap - ramp) / 2 pixels and
so 96 in tiles of the usual side, probabilities are those of the whole image to 1e-5 in float32, and
labels the same unless two classes are as good as equal: so a U-Net on a small ResNet. A U-Net on
ResNet-18 sees 241 pixels far, so that its answers differ somewhat, as do those of what pools over
all that it sees: ResNeSt's and SE-Net's attention, the image pool of DeepLabV3 and DeepLabV3+, the
pyramids of PSPNet and UPerNet, group norms, and so FPN's blocks. They come near the whole as tiles
grow; docs/results/tiles.md measures how near. Logits that are resized are besides stretched: a
tile's by up to half a stride at its edges where corners are aligned, as the authors of ResNeSt have
them; the whole image's by up to a stride if its sides are no multiples of it.
"""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Integer, UInt8
from numpy.typing import NDArray
from torch import Tensor

from resnestkit.errors import UserError

ALIGN = 32
"""Tiles begin at multiples of every net's stride: their features are the whole image's then."""
SIDE = 1024
"""Of a tile, unless the classes are many."""
WHOLE_PIXELS = 1536**2
"""Up to this size an image is not cut, unless the classes are many: Full HD and Cityscapes fit."""
LEAST_SIDE = 64
_WHOLE_SCORES = 2**28
_TILE_SCORES = 2**26
"""Numbers in the scores of a whole image or of a tile, of which there are up to three copies."""
_BAND_SCORES = 2**26
"""Numbers in the band that is held."""

_C_LIBRARY = ctypes.CDLL(None) if sys.platform == "linux" else None

Read = Callable[[int, int, int, int], UInt8[Tensor, "c h w"]]
"""A part of an image by its top, left, bottom and right."""
Score = Callable[[UInt8[Tensor, "c h w"]], Float[Tensor, "k h w"]]
"""Scores of the classes for a part of an image, in a tensor that may be written to."""
Labels = Integer[NDArray[np.integer], "h w"]
"""The index of each pixel's class."""


@dataclass(frozen=True, slots=True)
class Tiling:
    """How images are cut.

    Raises ValueError for lengths that do not fit each other.
    """

    side: int = SIDE
    """The most of a tile's; a multiple of `ALIGN`."""
    overlap: int = SIDE // 4
    """What neighbours share at least; a multiple too."""
    ramp: int = SIDE // 16
    """Over how many pixels of it one becomes the other."""

    def __post_init__(self) -> None:
        step = self.side - self.overlap
        aligned = self.side % ALIGN == 0 and self.overlap % ALIGN == 0
        if not (aligned and self.overlap >= 0 and step > 0):
            raise ValueError(f"tiles of {self.side} cannot share {self.overlap} pixels")
        # A tile's two ramps must not meet, and tiles of an image may be smaller than the side.
        if not 0 <= self.ramp <= min(self.overlap, max(ALIGN, step // 2 // ALIGN * ALIGN)):
            raise ValueError(
                f"tiles that share {self.overlap} of {self.side} pixels cannot be "
                f"blended over {self.ramp}"
            )


def choose_tiling(
    height: int, width: int, classes: int, side: int | None = None, growth: float = 1.0
) -> Tiling | None:
    """How to cut an image; None if it is to be seen whole.

    Args:
        height: of the image.
        width: of the image.
        classes: that are scored.
        side: of a tile, rounded up to a multiple of `ALIGN`; 0 for none, whatever the size. If not
            given, images of more than `WHOLE_PIXELS`, or fewer where the classes are many, are cut
            into tiles of `SIDE`, or smaller where the classes are many.
        growth: by how much what the net sees at most is larger than the image, or smaller.

    Raises UserError if the tiles would be too small.
    """
    if side is None:
        pixels, grown = height * width, max(1.0, growth)
        if pixels * growth**2 <= WHOLE_PIXELS and pixels * grown**2 * classes <= _WHOLE_SCORES:
            return None
        side = int(min(SIDE, math.sqrt(_TILE_SCORES / classes)) / grown)
        side = max(LEAST_SIDE, side // ALIGN * ALIGN)
    check_side(side)
    side = _align(side)
    if side == 0 or max(height, width) <= side:
        return None
    overlap = max(ALIGN, side // 4 // ALIGN * ALIGN)
    return Tiling(side, overlap, min(overlap // 4, _BAND_SCORES // (classes * width)))


def check_side(side: int) -> None:
    """Raise UserError unless tiles may have this side, or 0 says that there are to be none."""
    if side and side < LEAST_SIDE:
        raise UserError(f"--tile is {side}; it must be {LEAST_SIDE} or more, or 0 for no tiles.")


@dataclass(frozen=True, slots=True)
class Span:
    """What a tile sees in one direction, and what of that it counts for."""

    start: int
    stop: int
    first: int
    last: int
    """Where it counts from and to, ramps and all."""
    rise: int
    fall: int
    """Lengths of its ramps; 0 at the image's edges."""

    def __len__(self) -> int:
        return self.last - self.first


def cut(length: int, tiling: Tiling) -> list[Span]:
    """The tiles along a side of an image: as few as will do, and of one size that is enough."""
    if length <= tiling.side:
        return [Span(0, length, 0, length, 0, 0)]
    count = math.ceil((length - tiling.overlap) / (tiling.side - tiling.overlap))
    side = _align((length + (count - 1) * tiling.overlap) / count)
    last = _align(length - side)
    starts = [number * last // (count - 1) // ALIGN * ALIGN for number in range(count)]
    stops = [*(start + side for start in starts[:-1]), length]
    shared = zip(starts[1:], stops, strict=False)
    ramps = [(start + stop - tiling.ramp) // 2 for start, stop in shared]
    firsts, lasts = [0, *ramps], [*(ramp + tiling.ramp for ramp in ramps), length]
    rises, falls = [0, *len(ramps) * [tiling.ramp]], [*len(ramps) * [tiling.ramp], 0]
    return [Span(*one) for one in zip(starts, stops, firsts, lasts, rises, falls, strict=True)]


def _align(length: float) -> int:
    return math.ceil(length / ALIGN) * ALIGN


def count_tiles(size: tuple[int, int], tiling: Tiling) -> int:
    """How many tiles cover an image of this height and width."""
    return math.prod(len(cut(length, tiling)) for length in size)


@torch.inference_mode()
def label_in_tiles(
    read: Read,
    score: Score,
    size: tuple[int, int],
    classes: int,
    tiling: Tiling,
    advance: Callable[[int], object] = lambda _done: None,
) -> Labels:
    """The class of every pixel, by its blended scores.

    Args:
        read: gives the parts of the image that are asked for.
        score: is the net. Scores are blended as they come, so they ought to be probabilities.
        size: height and width of the image.
        classes: that are scored.
        tiling: how to cut the image.
        advance: is told of every tile that is done.

    Returns:
        Indices of classes, as `label_type` says.
    """
    rows, columns = (cut(length, tiling) for length in size)
    labels = np.empty(size, label_type(classes))
    above: list[Tensor | None] = [None] * len(columns)
    for row in rows:
        beside: Tensor | None = None
        for number, column in enumerate(columns):
            tile = score(read(row.start, column.start, row.stop, column.stop))
            tile = _fade(_fade(tile, row, 1), column, 2)
            tile, beside = _join(tile, beside, column.fall, 2)
            tile, above[number] = _join(tile, above[number], row.fall, 1)
            bottom, right = row.first + tile.shape[1], column.first + tile.shape[2]
            labels[row.first : bottom, column.first : right] = best_class(tile)
            del tile  # before the net needs the memory
            _return_memory()
            advance(1)
    return labels


def _return_memory() -> None:
    """What tiles of other sizes left in pieces, glibc keeps: it was seen to grow with the image."""
    trim = getattr(_C_LIBRARY, "malloc_trim", None)
    if trim is not None:
        trim(0)


def best_class(scores: Float[Tensor, "k h w"]) -> Labels:
    """The class of the highest score at every pixel."""
    # The device's own indices take eight bytes each; it has no bytes in pairs.
    wanted = label_type(len(scores))
    small = scores.argmax(0).to(torch.uint8 if wanted is np.uint8 else torch.int32)
    return np.asarray(small.cpu().numpy(), wanted)


def resize_labels(labels: Labels, height: int, width: int) -> Labels:
    """Each pixel is of the class that was at its middle."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.intp)
        for new, old in zip((height, width), labels.shape, strict=True)
    )
    resized: Labels = labels[rows[:, None], columns]
    return resized


def label_type(classes: int) -> type[np.uint8 | np.uint16]:
    """A byte for each pixel, unless the classes and the index to ignore, 255, need more."""
    return np.uint8 if classes < 256 else np.uint16


def _fade(tile: Tensor, span: Span, dim: int) -> Tensor:
    """What a tile counts for, its scores weighed on the ramps; a neighbour's weights add to 1."""
    tile = tile.narrow(dim, span.first - span.start, len(span))
    shape = [1, -1, 1] if dim == 1 else [1, 1, -1]
    for ramp, begin in ((span.rise, 0), (-span.fall, len(span) - span.fall)):
        if ramp:
            weights = (torch.arange(abs(ramp), device=tile.device) + 0.5) / ramp + (ramp < 0)
            tile.narrow(dim, begin, abs(ramp)).mul_(weights.view(shape))
    return tile


def _join(tile: Tensor, before: Tensor | None, fall: int, dim: int) -> tuple[Tensor, Tensor | None]:
    """Add what the tile before kept back on their ramp; keep back what the next will add to."""
    if before is not None:
        tile.narrow(dim, 0, before.shape[dim]).add_(before)
    done = tile.shape[dim] - fall
    # A copy: the tile itself would stay in memory with it.
    kept = tile.narrow(dim, done, fall).clone() if fall else None
    return tile.narrow(dim, 0, done), kept
