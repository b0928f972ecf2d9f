"""Batches of images with their objects: lists, for images of one batch differ in size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from jaxtyping import UInt8
from torch import Tensor

from resnestkit.data.detection.table import Annotations, DetectionImages, Target
from resnestkit.data.loaders import ImageDataset

TargetTransform = Callable[
    [UInt8[Tensor, "c h w"], Target], tuple[UInt8[Tensor, "c h2 w2"], Target]
]


@dataclass(frozen=True, slots=True)
class DetectionSample:
    """One image."""

    image: UInt8[Tensor, "c h w"]
    target: Target | None
    """What is learnt of it; nothing for an evaluation."""
    annotations: Annotations | None
    """What an evaluation counts it by; nothing for a training."""
    index: int


@dataclass(frozen=True, slots=True)
class DetectionBatch:
    """Images of several sizes; targets in a training, annotations in an evaluation."""

    images: list[UInt8[Tensor, "c h w"]]
    targets: list[Target]
    annotations: list[Annotations]
    indices: list[int]

    def __len__(self) -> int:
        return len(self.images)

    def pin_memory(self) -> DetectionBatch:
        """Tell torch's loader how to make copies to a GPU run beside the computing."""
        targets = [target.pin_memory() for target in self.targets]
        return replace(self, images=[image.pin_memory() for image in self.images], targets=targets)


class DetectionDataset(ImageDataset[DetectionSample, DetectionBatch]):
    """Images with objects: transformed for a training, or as they are for an evaluation.

    Args:
        images: pictures and annotations.
        transform: random changes, which make it a set to train on; None for an evaluation.
        seed: of the changes; None where nothing is drawn.
        masks: whether objects come with their masks.
    """

    def __init__(
        self,
        images: DetectionImages,
        transform: TargetTransform | None = None,
        seed: int | None = None,
        *,
        masks: bool = False,
    ) -> None:
        self.images, self.transform, self.seed, self.masks = images, transform, seed, masks
        self._annotations = images.annotations

    def make(self, image: UInt8[Tensor, "c h w"], index: int) -> DetectionSample:
        """The image with what is learnt of it, or what it is measured by."""
        annotations = self._annotations(index)
        if self.transform is None:
            return DetectionSample(image, None, annotations, index)
        changed, target = self.transform(image, annotations.target(masks=self.masks))
        return DetectionSample(changed, target, None, index)

    @staticmethod
    def collate(samples: Sequence[DetectionSample]) -> DetectionBatch:
        """Side by side, unstacked."""
        return DetectionBatch(
            [sample.image for sample in samples],
            [sample.target for sample in samples if sample.target is not None],
            [sample.annotations for sample in samples if sample.annotations is not None],
            [sample.index for sample in samples],
        )
