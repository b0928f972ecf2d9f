"""What training does to a decoded image at random, up to the net's square, as uint8.

Drawn from torch's generator, which `resnestkit.data.seeding` keys by image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import UInt8
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from resnestkit.data.transforms import EvaluationTransform, ImageTransform, mean_colour
from resnestkit.errors import UserError
from resnestkit.preprocessing import AutoPolicy, Crop, Preprocessing

_MODES = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}

# Principal components of ImageNet's colours (Krizhevsky et al. 2012, section 4.1), for values from
# 0 to 1; a component is a column. The paper prints none: these are the numbers of the authors'
# PyTorch code (resnest/torch/transforms/build.py); Gluon's operator has them times 255.
COLOUR_EIGENVALUES = (0.2175, 0.0188, 0.0045)
COLOUR_EIGENVECTORS = (
    (-0.5675, 0.7192, 0.4009),
    (-0.5808, -0.0045, -0.8140),
    (-0.5836, -0.6948, 0.4203),
)

RAND_LEVELS = 31
"""RandAugment's strengths are 0 to 30, as in the published ResNeSt codes."""


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Which random changes a training image goes through, in this order."""

    crop: Crop = "resized"
    min_area: float = 0.08
    padding: int = 4
    flip: bool = True
    auto_augment: AutoPolicy = "none"
    rand_ops: int = 2
    """Changes that RandAugment makes, one after the other."""
    rand_magnitude: int = 12
    """Their strength, of 30."""
    jitter: float = 0.0
    """Brightness, contrast and saturation are scaled by 1 - jitter to 1 + jitter."""
    lighting: float = 0.0
    """Standard deviation of the shift along ImageNet's colour components."""
    erase: float = 0.0
    """Probability that a rectangle becomes the mean colour."""


class TrainingTransform:
    """Random crop (without one, what evaluation does), flip, policy, colours, erasing.

    Raises UserError for lighting on grey images; jitter leaves out their saturation by itself.
    """

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
        self.steps += _policy(augmentation)
        self.steps += _colours(augmentation, preprocessing.channels)
        if augmentation.erase:
            self.steps.append(
                v2.RandomErasing(augmentation.erase, value=mean_colour(preprocessing))
            )

    def __call__(self, image: UInt8[Tensor, "c h w"]) -> UInt8[Tensor, "c s s"]:
        """A square drawn from torch's generator."""
        for step in self.steps:
            image = step(image)
        return image


class Lighting:
    """AlexNet's noise: shift the colour along its principal components (Krizhevsky et al. 2012).

    Each component is scaled by a draw of N(0, ``deviation``^2); one shift serves the whole image.
    It is rounded, so that whole levels stay whole, and clipped at 0 and 255.
    """

    def __init__(self, deviation: float) -> None:
        self.deviation = deviation

    def __call__(self, image: UInt8[Tensor, "3 h w"]) -> UInt8[Tensor, "3 h w"]:
        """The image, lit otherwise."""
        drawn = torch.randn(3) * self.deviation * torch.tensor(COLOUR_EIGENVALUES)
        shift = 255 * torch.tensor(COLOUR_EIGENVECTORS) @ drawn
        lit = image.short() + shift.round().short().view(3, 1, 1)
        return lit.clamp_(0, 255).byte()


def _policy(augmentation: Augmentation) -> list[ImageTransform]:
    """AutoAugment's policy for ImageNet (Cubuk et al. 2018), or RandAugment (Cubuk et al. 2019).

    Torch's tensors are sheared and turned bilinearly; what comes in from outside is black.
    """
    mode = InterpolationMode.BILINEAR
    if augmentation.auto_augment == "autoaugment":
        return [v2.AutoAugment(v2.AutoAugmentPolicy.IMAGENET, interpolation=mode)]
    if augmentation.auto_augment == "randaugment":
        ops, strength = augmentation.rand_ops, augmentation.rand_magnitude
        return [v2.RandAugment(ops, strength, RAND_LEVELS, interpolation=mode)]
    return []


def _colours(augmentation: Augmentation, channels: int) -> list[ImageTransform]:
    steps: list[ImageTransform] = []
    if augmentation.jitter:
        # Of a grey image torchvision leaves the saturation, which it has none of, alone.
        steps.append(v2.ColorJitter(*3 * (augmentation.jitter,)))
    if augmentation.lighting:
        if channels != 3:
            raise UserError("--lighting shifts colours, and the images are grey; leave it at 0.")
        steps.append(Lighting(augmentation.lighting))
    return steps
