"""How an image becomes a net's input. It travels with the weights, so no user has to guess it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Interpolation = Literal["bilinear", "bicubic"]
Crop = Literal["resized", "pad", "none"]
"""Training crops: a random part resized, a random shift of the padded image, or none."""
AutoPolicy = Literal["none", "autoaugment", "randaugment"]
"""Ready-made policies of random changes: none, AutoAugment's for ImageNet, or RandAugment."""

ChannelOrder = Literal["RGB", "BGR"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
INCEPTION_MEAN = INCEPTION_STD = (0.5, 0.5, 0.5)

LONGEST_ASPECT = 8
"""A longer image is cut to this aspect first: a strip of 20,000 x 50 must not become 100 MB."""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """The evaluation protocol of a net: resize, centre crop, normalise.

    ``mean`` and ``std`` are per channel, in units of the range 0 to 1, in the order that the net
    reads; their length is the number of input channels (3 for colour, 1 for grey).
    """

    size: int = 224
    """Side of the square input, in pixels."""
    crop_ratio: float = 0.875
    """The short side is resized to size / crop_ratio before the centre crop."""
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    channel_order: ChannelOrder = "RGB"
    """Order in which the net reads colours; BGR is that of nets trained with Caffe and OpenCV."""

    @classmethod
    def for_images(cls, size: int, channels: int) -> Preprocessing:
        """What to assume where nobody says: ImageNet's for colour, the middle of the range else."""
        if channels == len(IMAGENET_MEAN):
            return cls(size)
        return cls(size, mean=(0.5,) * channels, std=(0.25,) * channels)

    @property
    def channels(self) -> int:
        """Number of input channels."""
        return len(self.mean)

    @property
    def short_side(self) -> int:
        """Length in pixels to which the short side is resized (rounded up, as the authors do)."""
        return math.ceil(self.size / self.crop_ratio)
