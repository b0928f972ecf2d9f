"""What comes in: images normalised, resized and padded, and bad input told in one sentence."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from resnestkit.detection.parts import GeneralizedRCNNTransform, paste_masks_in_image
from resnestkit.detection.spec import DetectorSpec, has_masks
from resnestkit.errors import UserError
from resnestkit.preprocessing import Preprocessing

Target = dict[str, Tensor]
_STRIDE = 32
_FINEST = 1e-6
"""The least side of a box that 32 bits tell apart, in units of its distance from 0."""


class Resize(GeneralizedRCNNTransform):
    """torchvision's, in the backbone's order of colours, and for images of any shape.

    torchvision rounds a side down, which leaves nothing of an image that is 400 times as long as
    wide; here a pixel is left of the short side.
    """

    _pastes = True

    def __init__(self, spec: DetectorSpec, preprocessing: Preprocessing) -> None:
        super().__init__(
            spec.min_sizes,
            spec.max_size,
            list(preprocessing.mean),
            list(preprocessing.std),
            size_divisible=_STRIDE,
        )
        self.flips_colours = preprocessing.channel_order == "BGR"
        self.aligned = spec.settings.aligned

    def normalize(self, image: Float[Tensor, "c h w"]) -> Float[Tensor, "c h w"]:
        """Colours in the backbone's order, mean and deviation taken off."""
        normalised: Tensor = super().normalize(image.flip(0) if self.flips_colours else image)
        return normalised

    def resize(
        self, image: Float[Tensor, "c h w"], target: Target | None = None
    ) -> tuple[Tensor, Target | None]:
        """The image and its boxes and masks at the size that the net sees."""
        height, width = image.shape[1:]
        short, long = sorted((height, width))
        if math.floor(short * (self.max_size / long)) < 1:
            size = (self.max_size, 1) if height > width else (1, self.max_size)
            image, target = _thin(image, target, size)
        resized: tuple[Tensor, Target | None] = super().resize(image, target)
        return resized

    @contextmanager
    def leaving_masks(self) -> Iterator[None]:
        """Give masks as the heads do meanwhile, for `paste`, and not at the image's size."""
        self._pastes = False
        try:
            yield
        finally:
            self._pastes = True

    def postprocess(
        self,
        result: list[dict[str, Tensor]],
        image_shapes: list[tuple[int, int]],
        original_image_sizes: list[tuple[int, int]],
    ) -> list[dict[str, Tensor]]:
        """Boxes and masks in the images' own pixels."""
        left = [one.pop("masks", None) for one in result]
        placed: list[dict[str, Tensor]] = super().postprocess(
            result, image_shapes, original_image_sizes
        )
        # In training nothing was found, though there are images.
        for one, masks, size in zip(placed, left, original_image_sizes, strict=False):
            if masks is not None:
                one["masks"] = self._paste_all(masks, one["boxes"], size) if self._pastes else masks
        return placed

    def _paste_all(
        self, masks: Float[Tensor, "n 1 m m"], boxes: Float[Tensor, "n 4"], size: tuple[int, int]
    ) -> Float[Tensor, "n 1 h w"]:
        pasted = [self.paste(*pair, size) for pair in zip(masks, boxes, strict=True)]
        return torch.stack(pasted)[:, None] if pasted else masks.new_zeros(0, 1, *size)

    def paste(
        self, mask: Float[Tensor, "1 m m"], box: Float[Tensor, " 4"], size: tuple[int, int]
    ) -> Float[Tensor, "h w"]:
        """One object's mask in an image of a height and a width, by the heads' alignment.

        Where regions are aligned, each pixel takes what the mask has at its centre, as Detectron2
        does (layers/mask_ops.py). torchvision, whose regions are not, moves boxes to whole pixels,
        which costs the masks of small objects a part of their overlap.
        """
        if self.aligned:
            return _paste_aligned(mask, box, size)
        pasted: Tensor = paste_masks_in_image(mask[None], box[None], size)
        return pasted[0, 0]


def _paste_aligned(
    mask: Float[Tensor, "1 m m"], box: Float[Tensor, " 4"], size: tuple[int, int]
) -> Float[Tensor, "h w"]:
    """Bilinear between the centres of the mask's cells, which fade to nothing beyond the box."""
    pasted = mask.new_zeros(size)
    left, top, right, bottom = box.tolist()
    spans = []
    for start, stop, length in ((top, bottom, size[0]), (left, right, size[1])):
        first, last = max(0, math.floor(start)), min(length, math.ceil(stop))
        centres = torch.arange(first, max(first, last), device=mask.device, dtype=mask.dtype) + 0.5
        spans.append((first, 2 * (centres - start) / max(stop - start, _FINEST) - 1))
    (row, y), (column, x) = spans
    if len(y) and len(x):
        grid = torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))], -1)
        found = F.grid_sample(mask[None], grid[None], align_corners=False)[0, 0]
        pasted[row : row + len(y), column : column + len(x)] = found
    return pasted


def _thin(
    image: Float[Tensor, "c h w"], target: Target | None, size: tuple[int, int]
) -> tuple[Tensor, Target | None]:
    """A strip as long as the net sees it, and its boxes and masks with it."""
    height, width = image.shape[1:]
    thin = F.interpolate(image[None], size, mode="bilinear", align_corners=False)[0]
    if target is None:
        return thin, None
    scale = target["boxes"].new_tensor([size[1] / width, size[0] / height] * 2)
    scaled = {**target, "boxes": target["boxes"] * scale}
    if "masks" in target:
        masks = target["masks"][:, None].float()
        scaled["masks"] = F.interpolate(masks, size)[:, 0].to(target["masks"].dtype)
    return thin, scaled


def check_images(images: Sequence[Tensor], channels: int) -> None:
    """Raise UserError unless these are images (channels, h, w) of numbers from 0 to 1."""
    if not len(images):
        raise UserError("There is no image to look at: the list of images is empty.")
    for number, image in enumerate(images):
        if image.ndim != 3 or image.shape[0] != channels or not image.numel():
            raise UserError(
                f"Image {number} is of shape {tuple(image.shape)}; it must be ({channels}, height, "
                "width)."
            )
        if not image.is_floating_point():
            raise UserError(
                f"Image {number} holds whole numbers ({image.dtype}); give numbers from 0 to 1."
            )


def check_targets(
    images: Sequence[Tensor], targets: Sequence[Target] | None, spec: DetectorSpec
) -> None:
    """Raise UserError unless there is a target for each image, with what the detector learns."""
    if targets is None:
        raise UserError("Training needs targets: boxes and labels of each image.")
    if len(targets) != len(images):
        raise UserError(f"There are {len(images)} images, but {len(targets)} targets.")
    for number, (image, target) in enumerate(zip(images, targets, strict=True)):
        said = _find_fault(image, target, spec)
        if said:
            raise UserError(f"Target {number} {said}")


def _find_fault(image: Tensor, target: Target, spec: DetectorSpec) -> str:
    """What is wrong with a target, or nothing."""
    lacks = [name for name in _needed(spec) if not isinstance(target.get(name), Tensor)]
    if lacks:
        return f"has no {lacks[0]}, which a {spec.kind} learns from."
    boxes, labels = target["boxes"], target["labels"]
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not boxes.is_floating_point():
        return f"has boxes of shape {tuple(boxes.shape)} and {boxes.dtype}; give floats (n, 4)."
    if labels.dtype != torch.int64 or labels.shape != boxes.shape[:1]:
        return f"has labels of shape {tuple(labels.shape)} and {labels.dtype}; give an int64 a box."
    if has_masks(spec.kind):
        wanted = (len(boxes), *image.shape[1:])
        if tuple(target["masks"].shape) != wanted:
            return f"has masks of shape {tuple(target['masks'].shape)}; they must be {wanted}."
    return _find_bad_box(boxes, labels, spec.classes) if len(boxes) else ""


def _needed(spec: DetectorSpec) -> tuple[str, ...]:
    return ("boxes", "labels", "masks") if has_masks(spec.kind) else ("boxes", "labels")


def _find_bad_box(boxes: Tensor, labels: Tensor, classes: int) -> str:
    # Not a number is flat too; and so is what scaling to the net's size could round to nothing.
    flat = ~(boxes[:, 2:] - boxes[:, :2] > _FINEST * boxes[:, 2:].abs()).all(1)
    wrong = (labels < 1) | (labels > classes)
    bad = flat | ~boxes.isfinite().all(1) | wrong
    if not bad.any():  # the one time that the device is waited for
        return ""
    number = int(bad.nonzero()[0])
    box = [round(value, 2) for value in boxes[number].tolist()]
    if not boxes[number].isfinite().all():
        return f"has a box {box}, which is not all numbers."
    if flat[number]:
        return f"has a box {box} without area: boxes are x1, y1, x2, y2 with x1 < x2 and y1 < y2."
    return (
        f"has the label {int(labels[number])}; labels are 1 to {classes}, and 0 is the background."
    )
