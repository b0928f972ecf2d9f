"""From a decoded image to the net's square, as uint8; normalisation waits for the device.

Evaluation follows the weights' `Preprocessing`; training changes the image at random, drawing from
torch's generator, which `resnestkit.data.seeding` keys by image.
"""

from __future__ import annotations

from collections.abc import Callable
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


@dataclass(frozen=True, slots=True)
class EvaluationTransform:
    """Resize the short side, then crop the centre."""

    preprocessing: Preprocessing

    def __call__(self, image: UInt8[Tensor, "c h w"]) -> UInt8[Tensor, "c s s"]:
        """The square that the net is evaluated on."""
        short, size = self.preprocessing.short_side, self.preprocessing.size
        image = _limit_aspect(image)
        if min(image.shape[1:]) != short:
            mode = _MODES[self.preprocessing.interpolation]
            image = functional.resize(image, [short], interpolation=mode, antialias=True)
        cropped: Tensor = functional.center_crop(image, [size, size])
        return cropped


class TrainingTransform:
    """Random crop and flip; without a crop, what evaluation does."""

    def __init__(self, preprocessing: Preprocessing, augmentation: Augmentation) -> None:
        size, mode = preprocessing.size, _MODES[preprocessing.interpolation]
        self.steps: list[ImageTransform] = []
        if augmentation.crop == "resized":
            area = (augmentation.min_area, 1.0)
            self.steps.append(
                v2.RandomResizedCrop(size, scale=area, interpolation=mode, antialias=True)
            )
        else:
            self.steps.append(EvaluationTransform(preprocessing))
        if augmentation.crop == "pad":
            self.steps.append(v2.RandomCrop(size, padding=augmentation.padding))
        if augmentation.flip:
            self.steps.append(v2.RandomHorizontalFlip())

    def __call__(self, image: UInt8[Tensor, "c h w"]) -> UInt8[Tensor, "c s s"]:
        """A square drawn from torch's generator."""
        for step in self.steps:
            image = step(image)
        return image


def normalise(
    images: UInt8[Tensor, "b c s s"], preprocessing: Preprocessing
) -> Float[Tensor, "b c s s"]:
    """To float32, minus the mean, over the standard deviation, in one multiply-add.

    Images come in as RGB; a net that reads BGR gets its channels turned.
    """
    if preprocessing.channel_order == "BGR":
        images = images.flip(1)
    mean = torch.tensor(preprocessing.mean, device=images.device).view(1, -1, 1, 1)
    std = torch.tensor(preprocessing.std, device=images.device).view(1, -1, 1, 1)
    return images.float().mul_(1 / (255 * std)).sub_(mean / std)


def _limit_aspect(image: UInt8[Tensor, "c h w"]) -> UInt8[Tensor, "c h2 w2"]:
    height, width = image.shape[1:]
    longest = LONGEST_ASPECT * min(height, width)
    if max(height, width) <= longest:
        return image
    cut: Tensor = functional.center_crop(image, [min(height, longest), min(width, longest)])
    return cut
