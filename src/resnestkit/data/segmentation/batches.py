"""Batches of images with their masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import UInt8
from torch import Tensor

from resnestkit.data.loaders import ImageDataset
from resnestkit.data.segmentation.table import SegmentationImages

MaskTransform = Callable[
    [UInt8[Tensor, "c h w"], UInt8[Tensor, "h w"]],
    tuple[UInt8[Tensor, "c h2 w2"], UInt8[Tensor, "h2 w2"]],
]


@dataclass(frozen=True, slots=True)
class SegmentationSample:
    """One image."""

    image: UInt8[Tensor, "c h w"]
    mask: UInt8[Tensor, "h w"]
    index: int


@dataclass(frozen=True, slots=True)
class SegmentationBatch:
    """Images with their masks: stacked where all are of one size, as in training; else lists."""

    images: UInt8[Tensor, "b c h w"] | list[Tensor]
    masks: UInt8[Tensor, "b h w"] | list[Tensor]
    indices: list[int]

    def __len__(self) -> int:
        return len(self.indices)

    def pin_memory(self) -> SegmentationBatch:
        """Tell torch's loader how to make copies to a GPU run beside the computing."""
        return SegmentationBatch(_pin(self.images), _pin(self.masks), self.indices)


class SegmentationDataset(ImageDataset[SegmentationSample, SegmentationBatch]):
    """Images with masks: transformed for a training, or as they are for an evaluation.

    Args:
        images: pictures and masks.
        transform: random changes, which make it a set to train on; None for an evaluation.
        seed: of the changes; None where nothing is drawn.
    """

    def __init__(
        self,
        images: SegmentationImages,
        transform: MaskTransform | None = None,
        seed: int | None = None,
    ) -> None:
        self.images, self.transform, self.seed = images, transform, seed
        self._mask = images.mask

    def make(self, image: UInt8[Tensor, "c h w"], index: int) -> SegmentationSample:
        """The image with its mask."""
        mask = self._mask(index)
        if self.transform is not None:
            image, mask = self.transform(image, mask)
        return SegmentationSample(image, mask, index)

    @staticmethod
    def collate(samples: Sequence[SegmentationSample]) -> SegmentationBatch:
        """Stacked if they are of one size."""
        images, masks = [one.image for one in samples], [one.mask for one in samples]
        indices = [one.index for one in samples]
        if len({mask.shape for mask in masks}) > 1:
            return SegmentationBatch(images, masks, indices)
        # Stacked pixel by pixel, as images lie in memory: a plain copy, and channels_last at once.
        pixels = torch.stack([image.permute(1, 2, 0) for image in images])
        return SegmentationBatch(pixels.permute(0, 3, 1, 2), torch.stack(masks), indices)


def _pin(tensors: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
    if isinstance(tensors, Tensor):
        return tensors.pin_memory()
    return [tensor.pin_memory() for tensor in tensors]
