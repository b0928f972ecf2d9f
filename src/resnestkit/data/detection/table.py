"""What annotation files say, in columns: half a million boxes stay arrays, not objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor

from resnestkit.data.detection.rle import decode_mask
from resnestkit.data.images import ImageSet

THIN = 0.01
"""Pixels; a box that is no wider or no higher has no area to learn from."""


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """The objects of one image, as a detector learns them."""

    boxes: Float[Tensor, "n 4"]
    """Left, top, right, bottom, in pixels."""
    labels: Int64[Tensor, " n"]
    """1 is the first class; 0 is the background."""
    masks: UInt8[Tensor, "n h w"] | None = None

    def keep(self, chosen: Tensor) -> Target:
        """The objects at these places, or where this is true."""
        masks = None if self.masks is None else self.masks[chosen]
        return Target(self.boxes[chosen], self.labels[chosen], masks)

    def pin_memory(self) -> Target:
        """For the loader."""
        masks = None if self.masks is None else self.masks.pin_memory()
        return Target(self.boxes.pin_memory(), self.labels.pin_memory(), masks)

    def to_dict(self, device: torch.device) -> dict[str, Tensor]:
        """As torchvision's detectors take it."""
        named = {"boxes": self.boxes, "labels": self.labels}
        if self.masks is not None:
            named["masks"] = self.masks
        return {name: tensor.to(device, non_blocking=True) for name, tensor in named.items()}


@dataclass(frozen=True, slots=True, eq=False)
class Annotations:
    """What a file says of one image, unchanged: by this an evaluation counts."""

    image_id: int | str
    height: int
    width: int
    boxes: Float64[NDArray[np.float64], "n 4"]
    """Left, top, width, height, in pixels."""
    labels: Int64[NDArray[np.int64], " n"]
    """1 is the first class."""
    areas: Float64[NDArray[np.float64], " n"]
    crowd: Bool[NDArray[np.bool_], " n"]
    """Regions of uncounted objects: not learnt from, and neither right nor wrong to find."""
    segmentations: tuple[bytes, ...]
    """JSON of polygons or run lengths; empty where there is none."""

    def target(self, *, masks: bool) -> Target:
        """What can be learnt: boxes clipped to the image, without crowds and empty boxes or masks.

        Raises ValueError if ``masks`` are wanted and one is not a mask of this image.
        """
        corners = clip_boxes(self.boxes, np.array([[self.height, self.width]]))
        chosen = np.flatnonzero(~self.crowd & has_area(corners))
        target = Target(
            torch.from_numpy(corners[chosen].astype(np.float32)),
            torch.from_numpy(self.labels[chosen]),
        )
        if not masks:
            return target
        drawn = [decode_mask(self.segmentations[i], self.height, self.width) for i in chosen]
        stacked = np.stack(drawn) if drawn else np.zeros((0, self.height, self.width), np.uint8)
        target = replace(target, masks=torch.from_numpy(stacked))
        return target.keep(torch.from_numpy(stacked.any((1, 2))))


@dataclass(frozen=True, eq=False)
class AnnotationTable:
    """The annotations of many images; those of image i lie from ``starts[i]`` to ``starts[i+1]``.

    ``sizes`` are height and width; all else is as in `Annotations`.
    """

    image_ids: Sequence[int | str]
    sizes: Int64[NDArray[np.int64], "images 2"]
    starts: Int64[NDArray[np.int64], " images_and_one"]
    boxes: Float64[NDArray[np.float64], "n 4"]
    labels: Int64[NDArray[np.int64], " n"]
    areas: Float64[NDArray[np.float64], " n"]
    crowd: Bool[NDArray[np.bool_], " n"]
    segmentations: Sequence[bytes]

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, row: int) -> Annotations:
        those = slice(int(self.starts[row]), int(self.starts[row + 1]))
        height, width = (int(side) for side in self.sizes[row])
        return Annotations(
            self.image_ids[row],
            height,
            width,
            self.boxes[those],
            self.labels[those],
            self.areas[those],
            self.crowd[those],
            tuple(self.segmentations[those]),
        )

    @cached_property
    def owners(self) -> Int64[NDArray[np.int64], " n"]:
        """Each annotation's image."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    @cached_property
    def corners(self) -> Float64[NDArray[np.float64], "n 4"]:
        """Left, top, right, bottom, clipped to the image."""
        return clip_boxes(self.boxes, self.sizes[self.owners])

    def relabelled(self, labels: Sequence[int]) -> AnnotationTable:
        """The same with label i + 1 become ``labels[i]``."""
        return replace(self, labels=np.array([0, *labels], np.int64)[self.labels])


class DetectionImages(ImageSet):
    """Images with their annotations. A picture's label is its row in the table.

    So the pictures may be left out, reordered or kept in memory by what knows of labels alone.
    """

    def __init__(self, pictures: ImageSet, table: AnnotationTable) -> None:
        self.pictures, self.table = pictures, table
        self.names, self.labels = pictures.names, pictures.labels

    def read(self, index: int) -> UInt8[Tensor, "c h w"]:
        """The picture."""
        return self.pictures.read(index)

    def subset(self, indices: Sequence[int]) -> DetectionImages:
        """Fewer images; the table is shared."""
        return DetectionImages(self.pictures.subset(indices), self.table)

    def with_pictures(self, pictures: ImageSet) -> DetectionImages:
        """The same table for what became of the pictures, such as decoded ones."""
        return DetectionImages(pictures, self.table)

    def relabelled(self, labels: Sequence[int]) -> DetectionImages:
        """As `AnnotationTable.relabelled`."""
        return DetectionImages(self.pictures, self.table.relabelled(labels))

    def annotations(self, index: int) -> Annotations:
        """What the file says of an image."""
        return self.table[self.labels[index]]

    @property
    def orientations(self) -> list[int]:
        """1 for each image that is wider than high, else 0: like images waste the least padding."""
        sizes = self.table.sizes[self.labels]
        return [int(wide) for wide in sizes[:, 1] > sizes[:, 0]]


def clip_boxes(
    boxes: Float64[NDArray[np.float64], "n 4"], sizes: Int64[NDArray[np.int64], "n 2"]
) -> Float64[NDArray[np.float64], "n 4"]:
    """Left, top, width, height to left, top, right, bottom, within images of so many pixels."""
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
    limits = np.tile(sizes[:, ::-1], 2)
    return np.asarray(np.clip(corners, 0, limits), np.float64)


def has_area(corners: Float64[NDArray[np.float64], "n 4"]) -> Bool[NDArray[np.bool_], " n"]:
    """Which boxes are neither empty nor turned inside out."""
    return np.asarray(((corners[:, 2:] - corners[:, :2]) > THIN).all(1))
