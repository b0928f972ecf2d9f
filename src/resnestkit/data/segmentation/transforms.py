"""Random changes of a training image, which its mask follows exactly; uint8 throughout.

Draws come from torch's generator, which `resnestkit.data.seeding` keys by image. Evaluation has no
transform here: it measures at the mask's own size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional

from resnestkit.data.segmentation.legend import IGNORE
from resnestkit.data.transforms import mean_colour
from resnestkit.preprocessing import Preprocessing

Picture = UInt8[Tensor, "c h w"]
Mask = UInt8[Tensor, "h w"]
Changed = tuple[UInt8[Tensor, "c h2 w2"], UInt8[Tensor, "h2 w2"]]


@dataclass(frozen=True, slots=True)
class SegmentationAugmentation:
    """Which random changes a training image goes through, in this order."""

    base_side: int = 520
    """Pixels of the longer side, before it is scaled."""
    scale: tuple[float, float] = (0.5, 2.0)
    """Ends of the range from which the scale is drawn."""
    crop: int = 480
    """Side of the square that is cut out."""
    flip: bool = True
    jitter: float = 0.0
    """Brightness, contrast and saturation are scaled by 1 - jitter to 1 + jitter."""


class SegmentationTransform:
    """Scale and crop at once, flip, colours, and what the image lacks of the square.

    That is the authors' transform (PyTorch-Encoding, encoding/datasets/base.py): the longer side is
    drawn from a range, and a crop of a fixed size from the resized image. Here only what the crop
    shows is resized, which gives the same images in a fraction of the time. What is missing is of
    the mean colour, as in no place of an image, and of no class.
    """

    def __init__(
        self, augmentation: SegmentationAugmentation, preprocessing: Preprocessing
    ) -> None:
        self.augmentation = augmentation
        self.fill = torch.tensor(mean_colour(preprocessing), dtype=torch.uint8)
        jitter = augmentation.jitter
        # Of a grey image torchvision leaves the saturation, which it has none of, alone.
        self._colours = v2.ColorJitter(jitter, jitter, jitter) if jitter else None

    def __call__(self, image: Picture, mask: Mask) -> Changed:
        """A square of the image and of its mask, as torch's generator draws."""
        chosen = self.augmentation
        whole = draw_size(image.shape[1:], chosen.base_side, chosen.scale)
        image, mask = crop_resized(image, mask, whole, chosen.crop)
        if chosen.flip and torch.rand(()) < 0.5:
            image, mask = image.flip(2), mask.flip(1)
        if self._colours is not None:
            image = self._colours(image)
        return pad(image, mask, chosen.crop, self.fill)


def draw_size(size: Sequence[int], base: int, scale: tuple[float, float]) -> tuple[int, int]:
    """Height and width with a longer side drawn evenly from the range of scales of ``base``."""
    low, high = (max(1, int(base * end)) for end in scale)
    longer = int(torch.randint(low, high + 1, ()))
    height, width = (max(1, int(side * longer / max(size) + 0.5)) for side in size)
    return height, width


def crop_resized(image: Picture, mask: Mask, whole: tuple[int, int], side: int) -> Changed:
    """A square of the image resized to ``whole``; all of a side that is shorter than the square."""
    starts, taken, sizes = zip(
        *(_draw_window(have, want, side) for have, want in zip(mask.shape, whole, strict=True)),
        strict=True,
    )
    (top, left), (height, width) = starts, taken
    image = image[:, top : top + height, left : left + width]
    mask = mask[top : top + height, left : left + width]
    return resize(image, mask, sizes)


def _draw_window(have: int, want: int, side: int) -> tuple[int, int, int]:
    """Of ``have`` pixels that become ``want``: where the window starts, its size, its new size."""
    if want <= side:
        return 0, have, want
    taken = max(1, min(have, round(have * side / want)))
    return int(torch.randint(have - taken + 1, ())), taken, side


def resize(image: Picture, mask: Mask, size: Sequence[int]) -> Changed:
    """Bilinear, with antialias; of the mask, the pixels nearest."""
    if tuple(size) == tuple(mask.shape):
        return image, mask
    resized: Tensor = functional.resize(image, list(size), antialias=True)
    nearest = InterpolationMode.NEAREST_EXACT  # its pixel centres are those of the image
    masks: Tensor = functional.resize(mask[None], list(size), interpolation=nearest)
    return resized, masks[0]


def pad(image: Picture, mask: Mask, side: int, fill: UInt8[Tensor, " c"]) -> Changed:
    """A square: what is missing, right and below, is of the colour ``fill`` and of no class."""
    height, width = mask.shape
    if height >= side and width >= side:
        return image, mask
    square = fill[:, None, None].repeat(1, side, side)
    square[:, :height, :width] = image
    return square, F.pad(mask, (0, side - width, 0, side - height), value=IGNORE)
