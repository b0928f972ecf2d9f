"""Random changes of a training image, which its boxes and masks follow exactly; uint8 throughout.

Draws come from torch's generator, which `resnestkit.data.seeding` keys by image. Evaluation has no
transform here: the detector itself resizes, as its weights want it. So that nothing is resized
twice, the task tells a detector in training to take images as they come.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import UInt8
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional

from resnestkit.data.detection.table import Target

Picture = UInt8[Tensor, "c h w"]
Sampling = Literal["range", "choice"]

_SMALLEST = 1.0
"""Pixels; what a crop leaves of a box in either direction, or it is no object any more."""


@dataclass(frozen=True, slots=True)
class DetectionAugmentation:
    """Which random changes a training image goes through, in this order."""

    crop: float = 0.0
    """Least share of height and width that a crop keeps, as in Detectron2's relative_range; 0 for
    no crop, 0.9 in the paper's longest schedule."""
    short_sides: tuple[int, ...] = (640, 800)
    """Pixels of the short side, drawn for each image by ``sampling``; one alone is fixed."""
    sampling: Sampling = "range"
    """Whether ``short_sides`` are the ends of a range or a choice."""
    max_side: int = 1333
    """Pixels that the long side has at most, whatever becomes of the short one."""
    flip: bool = True
    jitter: float = 0.0
    """Brightness, contrast and saturation are scaled by 1 - jitter to 1 + jitter."""


class DetectionTransform:
    """Crop, resize, flip, colours."""

    def __init__(self, augmentation: DetectionAugmentation) -> None:
        self.augmentation = augmentation
        jitter = augmentation.jitter
        # Of a grey image torchvision leaves the saturation, which it has none of, alone.
        self._colours = v2.ColorJitter(jitter, jitter, jitter) if jitter else None

    def __call__(self, image: Picture, target: Target) -> tuple[Picture, Target]:
        """The image and its objects, changed as torch's generator draws."""
        chosen = self.augmentation
        if chosen.crop:
            image, target = crop(image, target, draw_crop(image, target, chosen.crop))
        short = _draw_side(chosen.short_sides, chosen.sampling)
        image, target = resize(image, target, fit_size(image.shape[1:], short, chosen.max_side))
        if chosen.flip and torch.rand(()) < 0.5:
            image, target = flip(image, target)
        if self._colours is not None:
            image = self._colours(image)
        return image, target


def fit_size(size: Sequence[int], short: int, longest: int) -> tuple[int, int]:
    """Height and width with the short side so long, unless the long one would exceed its limit.

    A side never falls below one pixel, as that of a strip of 20,000 x 50 otherwise would.
    """
    scale = min(short / min(size), longest / max(size))
    height, width = (max(1, round(side * scale)) for side in size)
    return height, width


def resize(image: Picture, target: Target, size: tuple[int, int]) -> tuple[Picture, Target]:
    """Bilinear, with antialias; of a mask, the pixels nearest."""
    height, width = image.shape[1:]
    if (height, width) == size:
        return image, target
    scale = torch.tensor([size[1] / width, size[0] / height] * 2)
    masks = target.masks
    if masks is not None:
        nearest = InterpolationMode.NEAREST_EXACT  # its pixel centres are those of the image
        masks = functional.resize(masks, list(size), interpolation=nearest)
    resized: Tensor = functional.resize(image, list(size), antialias=True)
    return resized, replace(target, boxes=target.boxes * scale, masks=masks)


def flip(image: Picture, target: Target) -> tuple[Picture, Target]:
    """Left becomes right."""
    left, top, right, bottom = target.boxes.unbind(1)
    width = image.shape[2]
    boxes = torch.stack([width - right, top, width - left, bottom], 1)
    masks = None if target.masks is None else target.masks.flip(2)
    return image.flip(2), replace(target, boxes=boxes, masks=masks)


def draw_crop(image: Picture, target: Target, least: float) -> tuple[int, int, int, int]:
    """Top, left, height and width of a crop that holds the middle of some object, if any is there.

    Each side is from ``least`` to all of the image's (Detectron2's relative_range).
    """
    sides = [
        max(1, round(side * (least + (1 - least) * float(torch.rand(())))))
        for side in image.shape[1:]
    ]
    starts = []
    centre = _draw_centre(target)
    for axis, (side, whole) in enumerate(zip(sides, image.shape[1:], strict=True)):
        first, last = 0, whole - side
        if centre is not None:
            first = max(first, min(last, centre[axis] - side + 1))
            last = min(last, max(first, centre[axis]))
        starts.append(int(torch.randint(first, last + 1, ())))
    return starts[0], starts[1], sides[0], sides[1]


def crop(
    image: Picture, target: Target, window: tuple[int, int, int, int]
) -> tuple[Picture, Target]:
    """The part of the image; objects outside are gone, and the others' boxes end at its edge.

    Of an object with a mask, the box is that of the part to be seen.
    """
    top, left, height, width = window
    cut = image[:, top : top + height, left : left + width]
    shift = torch.tensor([left, top, left, top])
    limits = torch.tensor([width, height, width, height])
    boxes = (target.boxes - shift).clamp(min=torch.zeros(4), max=limits)
    masks = target.masks
    if masks is not None:
        masks = masks[:, top : top + height, left : left + width]
        lessened = (boxes != target.boxes - shift).any(1)
        boxes = torch.where(lessened[:, None], _intersect(boxes, hull(masks)), boxes)
    left_over = (boxes[:, 2:] - boxes[:, :2] >= _SMALLEST).all(1)
    if masks is not None:
        left_over &= masks.flatten(1).any(1).bool()
    whole = (boxes == target.boxes - shift).all(1)
    kept = replace(target, boxes=boxes, masks=masks).keep(left_over | whole)
    return cut, kept


def hull(masks: UInt8[Tensor, "n h w"]) -> Tensor:
    """The box around each mask, from its first pixel's edge to its last one's; none has no size."""
    boxes = torch.zeros(len(masks), 4)
    for axis, sides in ((1, (0, 2)), (2, (1, 3))):
        shown = masks.any(axis).bool()
        places = torch.arange(1, shown.shape[1] + 1)
        last = (shown * places).amax(1)
        first = (shown * places.flip(0)).amax(1)
        boxes[:, sides[1]] = last.float()
        boxes[:, sides[0]] = torch.where(last > 0, shown.shape[1] - first, 0).float()
    return boxes


def _intersect(one: Tensor, other: Tensor) -> Tensor:
    return torch.cat([torch.maximum(one, other)[:, :2], torch.minimum(one, other)[:, 2:]], 1)


def _draw_centre(target: Target) -> tuple[int, int] | None:
    """Row and column of the middle of an object, drawn from all."""
    if not len(target.boxes):
        return None
    left, top, right, bottom = target.boxes[int(torch.randint(len(target.boxes), ()))].tolist()
    return int((top + bottom) / 2), int((left + right) / 2)


def _draw_side(sides: Sequence[int], sampling: Sampling) -> int:
    if sampling == "range":
        return int(torch.randint(min(sides), max(sides) + 1, ()))
    return sides[int(torch.randint(len(sides), ()))]
