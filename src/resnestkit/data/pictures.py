"""Large images, held once and read by parts.

A picture stays where Pillow decoded it, four bytes a pixel of colour and one of grey, and what is
looked at is cut out of it. As a tensor it would be in memory twice while it is read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from resnestkit.data.decoding import UnreadableImage, lift_guard, load_by_pillow

MOST_MEGAPIXELS = 256.0
"""Larger pictures are refused unless who asks says otherwise: a small file may claim to be huge.

Pillow's own limit, 179, is below what a scanner or a satellite delivers.
"""


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A decoded image, RGB or grey."""

    image: Image.Image

    @property
    def height(self) -> int:
        """In pixels."""
        return self.image.height

    @property
    def width(self) -> int:
        """In pixels."""
        return self.image.width

    def read(self, top: int, left: int, bottom: int, right: int) -> UInt8[Tensor, "c h w"]:
        """A part of it."""
        with lift_guard():  # it is decoded already, and Pillow would count the part's pixels again
            part = self.image.crop((left, top, right, bottom))
        pixels = torch.from_numpy(np.array(part))
        return pixels.unsqueeze(0) if pixels.ndim == 2 else pixels.permute(2, 0, 1)

    def resize(self, height: int, width: int) -> Picture:
        """Another, of this size, smoothed as a training's images are."""
        return Picture(self.image.resize((width, height), Image.Resampling.BILINEAR))

    def shrink(self, longest: int) -> UInt8[NDArray[np.uint8], "h2 w2 3"]:
        """The picture in colour, its longer side at most so many pixels."""
        width, height = fit(self.width, self.height, longest)
        if (width, height) == (self.width, self.height):
            return np.asarray(self.image.convert("RGB"))
        # The gap makes it reduce by a whole number first, which needs no copy of the whole.
        small = self.image.resize((width, height), Image.Resampling.BOX, reducing_gap=2.0)
        return np.asarray(small.convert("RGB"))


def open_picture(
    path: Path, channels: int = 3, most_megapixels: float = MOST_MEGAPIXELS
) -> Picture:
    """Decode a file, RGB for 3 channels or grey for 1.

    Raises UnreadableImage as `read_image`, and for more pixels than ``most_megapixels``.
    """
    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise UnreadableImage(str(path), "the file is empty")
            file.seek(0)
            most = int(most_megapixels * 1e6)
            return Picture(load_by_pillow(file, str(path), channels, most))
    except OSError as error:
        raise UnreadableImage(str(path), error.strerror or str(error)) from error


def fit(width: int, height: int, longest: int) -> tuple[int, int]:
    """Width and height with the longer side at most ``longest``, and no side of nothing."""
    share = min(1.0, longest / max(width, height))
    return max(1, math.floor(width * share + 0.5)), max(1, math.floor(height * share + 0.5))
