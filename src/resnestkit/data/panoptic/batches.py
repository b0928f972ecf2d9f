"""Batches of images with their segments: lists, for images of one batch differ in size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import UInt8
from torch import Tensor

from resnestkit.data.detection.table import Target
from resnestkit.data.detection.transforms import DetectionTransform, crop, draw_crop, hull
from resnestkit.data.loaders import ImageDataset
from resnestkit.data.segmentation.legend import IGNORE
from resnestkit.data.segmentation.table import Segment, SegmentationImages, Segments

MOST_SEGMENTS = 255
"""A map of segments travels through a training's changes as bytes, and 0 is void."""


@dataclass(frozen=True, slots=True, eq=False)
class PanopticTarget:
    """One image, as a panoptic net learns it."""

    things: Target
    """With their masks, and labels that count things alone from 1."""
    semantic: UInt8[Tensor, "h w"]
    """Each pixel's class among all, or `IGNORE`."""

    def to_dict(self, device: torch.device) -> dict[str, Tensor]:
        """As the net takes it."""
        moved = self.semantic.to(device, non_blocking=True)
        return {**self.things.to_dict(device), "semantic": moved}

    def pin_memory(self) -> PanopticTarget:
        """For the loader."""
        return PanopticTarget(self.things.pin_memory(), self.semantic.pin_memory())


@dataclass(frozen=True, slots=True)
class PanopticSample:
    """One image."""

    image: UInt8[Tensor, "c h w"]
    target: PanopticTarget | None
    """What is learnt of it; nothing for an evaluation."""
    segments: Segments | None
    """What an evaluation counts it by; nothing for a training."""
    index: int


@dataclass(frozen=True, slots=True)
class PanopticBatch:
    """Images of several sizes; targets in a training, segments in an evaluation."""

    images: list[UInt8[Tensor, "c h w"]]
    targets: list[PanopticTarget]
    segments: list[Segments]
    indices: list[int]

    def __len__(self) -> int:
        return len(self.images)

    def pin_memory(self) -> PanopticBatch:
        """Tell torch's loader how to make copies to a GPU run beside the computing."""
        targets = [target.pin_memory() for target in self.targets]
        return replace(self, images=[image.pin_memory() for image in self.images], targets=targets)


class PanopticDataset(ImageDataset[PanopticSample, PanopticBatch]):
    """Images with segments: transformed for a training, or as they are for an evaluation.

    Args:
        images: pictures whose masks tell things of one class apart.
        things: which classes can be counted.
        transform: random changes, which make it a set to train on; None for an evaluation.
        seed: of the changes; None where nothing is drawn.
    """

    def __init__(
        self,
        images: SegmentationImages,
        things: Sequence[bool],
        transform: DetectionTransform | None = None,
        seed: int | None = None,
    ) -> None:
        self.images, self.transform, self.seed = images, transform, seed
        self.labels = [sum(things[: place + 1]) for place in range(len(things))]
        self._segments = images.segments

    def make(self, image: UInt8[Tensor, "c h w"], index: int) -> PanopticSample:
        """The image with what is learnt of it, or what it is measured by."""
        segments = self._segments(index)
        if self.transform is None:
            return PanopticSample(image, None, segments, index)
        places = place_segments(segments)
        things = find_things(places, segments.segments)
        image, places = change_together(self.transform, image, places, things)
        target = make_target(places, segments.segments, self.labels)
        return PanopticSample(image, target, None, index)

    @staticmethod
    def collate(samples: Sequence[PanopticSample]) -> PanopticBatch:
        """Side by side, unstacked."""
        return PanopticBatch(
            [sample.image for sample in samples],
            [sample.target for sample in samples if sample.target is not None],
            [sample.segments for sample in samples if sample.segments is not None],
            [sample.index for sample in samples],
        )


def place_segments(segments: Segments) -> UInt8[Tensor, "h w"]:
    """Each pixel's segment by its place in the list, from 1; 0 is void.

    Of a picture with more than 255 segments, those beyond are void.
    """
    places = torch.zeros_like(segments.numbers, dtype=torch.uint8)
    numbers = [one.number for one in segments.segments[:MOST_SEGMENTS]]
    if not numbers:
        return places
    known, order = torch.tensor(numbers, dtype=torch.int32).sort()
    near = torch.searchsorted(known, segments.numbers).clamp(max=len(known) - 1)
    return torch.where(known[near] == segments.numbers, (order[near] + 1).byte(), places)


def find_things(places: UInt8[Tensor, "h w"], segments: Sequence[Segment]) -> list[int]:
    """The places of things that a map of segments shows; crowds are none."""
    shown = set(torch.unique(places).tolist())
    return [
        place
        for place, one in enumerate(segments[:MOST_SEGMENTS], 1)
        if place in shown and one.is_thing and not one.is_crowd
    ]


def change_together(
    transform: DetectionTransform,
    image: UInt8[Tensor, "c h w"],
    places: UInt8[Tensor, "h w"],
    things: Sequence[int] = (),
) -> tuple[UInt8[Tensor, "c h2 w2"], UInt8[Tensor, "h2 w2"]]:
    """An image and its map of segments, changed alike.

    The map goes as the mask of one object that is the whole image: so the changes are the
    detectors' own, and boxes and masks, which are told from the map afterwards, fit exactly. Only
    where to crop is told from a thing, as the detectors do, or a crop would always hold the middle.

    Args:
        transform: the changes.
        image: to be changed.
        places: each pixel's segment by its place, from 1; 0 is void.
        things: places of which a crop holds the middle of one, if there are any.
    """
    height, width = places.shape
    box = torch.tensor([[0.0, 0.0, width, height]])
    whole = Target(box, torch.ones(1, dtype=torch.int64), places[None])
    chosen = transform.augmentation
    if chosen.crop:
        window = draw_crop(image, _draw_thing(places, things), chosen.crop)
        image, whole = crop(image, whole, window)
        transform = DetectionTransform(replace(chosen, crop=0.0))
    image, changed = transform(image, whole)
    masks = changed.masks
    if masks is None or not len(masks):  # a crop in which there is no segment
        return image, torch.zeros(image.shape[1:], dtype=torch.uint8)
    return image, masks[0]


def _draw_thing(places: UInt8[Tensor, "h w"], things: Sequence[int]) -> Target:
    """The box of one of the things; none if there are none."""
    drawn = [things[int(torch.randint(len(things), ()))]] if things else []
    boxes = hull((places == torch.tensor(drawn, dtype=torch.uint8)[:, None, None]).byte())
    return Target(boxes, torch.ones(len(drawn), dtype=torch.int64))


def make_target(
    places: UInt8[Tensor, "h w"], segments: Sequence[Segment], labels: Sequence[int]
) -> PanopticTarget:
    """What is learnt of a map of segments.

    Crowds are no objects, and their pixels are of their class all the same.

    Args:
        places: each pixel's segment by its place, from 1; 0 is void.
        segments: of the whole picture, of which a part may be gone.
        labels: of each class that can be counted, its label among things.
    """
    table = torch.full((MOST_SEGMENTS + 1,), IGNORE, dtype=torch.uint8)
    kept = segments[:MOST_SEGMENTS]
    table[1 : len(kept) + 1] = torch.tensor([one.label for one in kept], dtype=torch.uint8)
    found = find_things(places, kept)
    masks = (places == torch.tensor(found, dtype=torch.uint8)[:, None, None]).byte()
    known = torch.tensor([labels[kept[place - 1].label] for place in found], dtype=torch.int64)
    return PanopticTarget(Target(hull(masks), known, masks), table[places.int()])
