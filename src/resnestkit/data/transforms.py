"""From a decoded image to the net's square, as uint8; normalisation waits for the device.

Evaluation follows the weights' `Preprocessing`. `resnestkit.data.augmentation` is what training
does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from resnestkit.preprocessing import LONGEST_ASPECT, Interpolation, Preprocessing

ImageTransform = Callable[[UInt8[Tensor, "c h w"]], UInt8[Tensor, "c s s"]]


@dataclass(frozen=True, slots=True)
class EvaluationTransform:
    """Resize the short side, then crop the centre."""

    preprocessing: Preprocessing

    def __call__(self, image: UInt8[Tensor, "c h w"]) -> UInt8[Tensor, "c s s"]:
        """The square that the net is evaluated on."""
        short, size = self.preprocessing.short_side, self.preprocessing.size
        image = _limit_aspect(image)
        if min(image.shape[1:]) != short:
            image = _resize(image, short, self.preprocessing.interpolation)
        return _crop_centre(image, size, size)


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


def mean_colour(preprocessing: Preprocessing) -> list[int]:
    """The mean of the images that a net was made for, as a pixel of theirs.

    Images are RGB until they are normalised; the mean is in the order that the net reads.
    """
    turn = -1 if preprocessing.channel_order == "BGR" else 1
    return [round(255 * value) for value in preprocessing.mean[::turn]]


def _limit_aspect(image: UInt8[Tensor, "c h w"]) -> UInt8[Tensor, "c h2 w2"]:
    height, width = image.shape[1:]
    longest = LONGEST_ASPECT * min(height, width)
    return _crop_centre(image, min(height, longest), min(width, longest))


def _resize(
    image: UInt8[Tensor, "c h w"], short: int, interpolation: Interpolation
) -> UInt8[Tensor, "c h2 w2"]:
    """As torchvision, whose import takes seconds, does it to a tensor: the same call of torch.

    (Where x86 lacks AVX2 it goes by float32, which may differ by a level.)
    """
    least = min(image.shape[1:])
    size = [short * side // least for side in image.shape[1:]]
    # As if there were more images: of a single one torch does not see that it is channels_last, and
    # would lay the result out plane by plane.
    batch = image.as_strided((1, *image.shape), (image.numel(), *image.stride()))
    return F.interpolate(batch, size, mode=interpolation, antialias=True)[0]


def _crop_centre(
    image: UInt8[Tensor, "c h w"], height: int, width: int
) -> UInt8[Tensor, "c h2 w2"]:
    top, left = round((image.shape[1] - height) / 2), round((image.shape[2] - width) / 2)
    return image[:, top : top + height, left : left + width]
