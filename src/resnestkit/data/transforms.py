"""From a decoded image to the net's square, as uint8; normalisation waits for the device.

Evaluation follows the weights' `Preprocessing`. Augmentation is keyed by (seed, epoch, image): an
image meets the same crop whatever worker reads it, and after a resume.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional

from resnestkit.preprocessing import Crop, Preprocessing

ImageTransform = Callable[[UInt8[Tensor, "c h w"]], UInt8[Tensor, "c s s"]]

_MODES = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}

LONGEST_ASPECT = 8
"""A longer image is cut to this aspect first: a strip of 20,000 x 50 must not become 100 MB."""


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Which random changes a training image goes through."""

    crop: Crop = "resized"
    min_area: float = 0.08
    padding: int = 4
    flip: bool = True


def evaluation_transform(preprocessing: Preprocessing) -> ImageTransform:
    """Resize the short side, then crop the centre."""
    mode = _MODES[preprocessing.interpolation]
    short, size = preprocessing.short_side, preprocessing.size

    def transform(image: UInt8[Tensor, "c h w"]) -> UInt8[Tensor, "c s s"]:
        image = _limit_aspect(image)
        if min(image.shape[1:]) != short:
            image = functional.resize(image, [short], interpolation=mode, antialias=True)
        cropped: Tensor = functional.center_crop(image, [size, size])
        return cropped

    return transform


def training_transform(preprocessing: Preprocessing, augmentation: Augmentation) -> ImageTransform:
    """Random crop and flip; without a crop, what evaluation does."""
    size, mode = preprocessing.size, _MODES[preprocessing.interpolation]
    steps: list[ImageTransform] = []
    if augmentation.crop == "resized":
        steps.append(
            v2.RandomResizedCrop(
                size, scale=(augmentation.min_area, 1.0), interpolation=mode, antialias=True
            )
        )
    else:
        steps.append(evaluation_transform(preprocessing))
    if augmentation.crop == "pad":
        steps.append(v2.RandomCrop(size, padding=augmentation.padding))
    if augmentation.flip:
        steps.append(v2.RandomHorizontalFlip())

    def transform(image: UInt8[Tensor, "c h w"]) -> UInt8[Tensor, "c s s"]:
        for step in steps:
            image = step(image)
        return image

    return transform


def normalise(
    images: UInt8[Tensor, "b c s s"], preprocessing: Preprocessing
) -> Float[Tensor, "b c s s"]:
    """To float32, minus the mean, over the standard deviation, in one multiply-add."""
    mean = torch.tensor(preprocessing.mean, device=images.device).view(1, -1, 1, 1)
    std = torch.tensor(preprocessing.std, device=images.device).view(1, -1, 1, 1)
    return images.float().mul_(1 / (255 * std)).sub_(mean / std)


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Draw from torch's generator as if seeded by this key, and leave its state as it was."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(mix_seed(*key))
    try:
        yield
    finally:
        torch.set_rng_state(state)


def mix_seed(*key: int) -> int:
    """One 63-bit seed from several numbers (the finaliser of splitmix64, folded over the key)."""
    mask, mixed = (1 << 64) - 1, 0
    for part in key:
        mixed = (mixed + (part & mask) + 0x9E3779B97F4A7C15) & mask
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & mask
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & mask
        mixed ^= mixed >> 31
    return mixed >> 1


def _limit_aspect(image: UInt8[Tensor, "c h w"]) -> UInt8[Tensor, "c h2 w2"]:
    height, width = image.shape[1:]
    longest = LONGEST_ASPECT * min(height, width)
    if max(height, width) <= longest:
        return image
    cut: Tensor = functional.center_crop(image, [min(height, longest), min(width, longest)])
    return cut


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Batches of an epoch; the uneven rest is left out, but a small set is one batch."""
    return max(1, math.floor(images / batch_size))
