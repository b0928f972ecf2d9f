"""Resizing as torch does it, to the bit, in NumPy.

Torch weighs pixels by numbers of 16 bits, widths first, then heights, and rounds to 8 bits after
each (ATen/native/cpu/UpSampleKernelAVXAntialias.h). Pillow does the same by finer weights, so where
a value lies in the middle between two levels, the two may choose differently: in every hundredth
value at a ratio such as 5 to 4. Here are torch's weights, and no choice is left.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64, UInt8
from numpy.typing import NDArray
from PIL import Image

from resnestkit.preprocessing import Interpolation

_BITS = 15
"""Of a weight, beside its sign."""
_MOST_PRECISE = 22
"""Bits behind the point, at most."""
_TAPER = -0.5
"""Keys's parameter of the bicubic filter, as Pillow has it."""
_ROWS = 8
"""Rows of a result at a time."""
_PRODUCT = 2**18
"""Multiplications at a time: above, OpenBLAS starts threads, which then spin while a net needs the
cores."""


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a resized side: so many pixels from the first on."""

    first: int
    count: int


def resize(
    image: Image.Image, width: int, height: int, columns: Span, rows: Span, kind: Interpolation
) -> UInt8[NDArray[np.uint8], "h w c"]:
    """A part of a resized image, RGB or grey: what is not looked at is not computed."""
    turned = np.asarray(image.transpose(Image.Transpose.TRANSPOSE))
    turned = turned.reshape(image.width, image.height, -1)
    narrow = _resample(turned, width, columns, kind)
    return _resample(np.ascontiguousarray(narrow.swapaxes(0, 1)), height, rows, kind)


def _resample(
    pixels: UInt8[NDArray[np.uint8], "n m c"], length: int, part: Span, kind: Interpolation
) -> UInt8[NDArray[np.uint8], "k m c"]:
    """A part of what resizing the first side to a length gives."""
    if length == len(pixels):
        return pixels[part.first : part.first + part.count]
    weights = Weights(len(pixels), length, kind)
    flat = pixels.reshape(len(pixels), -1)
    made = np.empty((part.count, flat.shape[1]), np.uint8)
    for start in range(0, part.count, _ROWS):
        stop = min(start + _ROWS, part.count)
        low, block = weights.block(part.first + start, part.first + stop)
        width = max(1, _PRODUCT // block.size)
        for left in range(0, flat.shape[1], width):
            seen = flat[low : low + block.shape[1], left : left + width]
            # Whole numbers, which float64 adds up without rounding.
            sums = block @ seen.astype(np.float64)
            levels = np.floor((sums + weights.one / 2) / weights.one)
            made[start:stop, left : left + width] = np.clip(levels, 0, 255)
    return made.reshape(part.count, *pixels.shape[1:])


class Weights:
    """By how much each pixel of a side counts for each pixel of the resized one, whole numbers.

    Args:
        count: pixels of the side.
        length: of the resized one.
        kind: "bilinear" or "bicubic".
    """

    one: int
    """What the weights of a pixel add up to, but for rounding."""

    def __init__(self, count: int, length: int, kind: Interpolation) -> None:
        reach, weigh = {"bilinear": (1, _triangle), "bicubic": (2, _cubic)}[kind]
        scale = count / length
        stretch = max(scale, 1.0)
        centre = scale * (np.arange(length) + 0.5)
        self.count = count
        self.first = np.maximum((centre - reach * stretch + 0.5).astype(np.int64), 0)
        last = np.minimum((centre + reach * stretch + 0.5).astype(np.int64), count)
        self.place: Int64[NDArray[np.int64], "length taps"]
        self.place = self.first[:, np.newaxis] + np.arange((last - self.first).max())
        exact = weigh((self.place - centre[:, np.newaxis] + 0.5) / stretch)
        exact[self.place >= last[:, np.newaxis]] = 0
        exact /= exact.sum(1, keepdims=True)
        precision = _choose_precision(float(exact.max()))
        self.one = 2**precision
        self.values = np.trunc(exact * self.one + np.copysign(0.5, exact))

    def block(self, start: int, stop: int) -> tuple[int, Float64[NDArray[np.float64], "k taken"]]:
        """The first pixel that some of the resized ones are made of, and their weights from it."""
        low = int(self.first[start])
        place = self.place[start:stop] - low
        block = np.zeros((stop - start, int(place.max()) + 1))
        np.put_along_axis(block, place, self.values[start:stop], axis=1)
        return low, block[:, : self.count - low]


def _choose_precision(largest: float) -> int:
    """Bits behind the point with which the largest weight still has 16 bits."""
    for precision in range(_MOST_PRECISE):
        if math.floor(0.5 + largest * 2 ** (precision + 1)) >= 2**_BITS:
            return precision
    return _MOST_PRECISE


def _triangle(x: NDArray[np.float64]) -> NDArray[np.float64]:
    weights: NDArray[np.float64] = np.maximum(1 - np.abs(x), 0.0)
    return weights


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys 1981, equation 10."""
    x, a = np.abs(x), _TAPER
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    weights: NDArray[np.float64] = np.where(x < 1, near, np.where(x < 2, far, 0.0))
    return weights
