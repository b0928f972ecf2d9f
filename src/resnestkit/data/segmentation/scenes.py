"""The built-in shapes as masks: their ground is a class too, and each shape is a segment.

Pictures are those of `resnestkit.data.detection.shapes`, number for number, so that a detector of
shapes and a segmenter of scenes see the same ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from resnestkit.data.detection.shapes import CLASSES as SHAPES
from resnestkit.data.detection.shapes import COUNTS, Drawing, draw_splits
from resnestkit.data.segmentation.table import (
    Segment,
    SegmentationImages,
    SegmentedMasks,
    Segments,
)

CLASSES = ("background", *SHAPES)
THINGS = (False, True, True, True)
"""Which classes can be counted."""


@dataclass(frozen=True, slots=True)
class Scenes:
    """The pictures, by split."""

    classes: tuple[str, ...]
    things: tuple[bool, ...]
    splits: Mapping[str, SegmentationImages]


class DrawnMasks(SegmentedMasks):
    """Masks of drawings, held as bytes: the ground is 0, and shapes count from 1."""

    def __init__(self, drawings: Sequence[Drawing]) -> None:
        self.labels, self.things = [one.labels for one in drawings], THINGS
        self._numbers = [_number(one) for one in drawings]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def classes(self) -> int:
        """How many classes they may show."""
        return len(CLASSES)

    def read(self, row: int) -> UInt8[Tensor, "h w"]:
        """The class of each pixel."""
        classes = torch.tensor([0, *self.labels[row]], dtype=torch.uint8)
        return classes[self._numbers[row].int()]

    def segments(self, row: int) -> Segments:
        """Each shape by its number, and the ground after them."""
        labels = self.labels[row]
        shapes = [Segment(number, label, is_thing=True) for number, label in enumerate(labels, 1)]
        ground = Segment(len(labels) + 1, 0, is_thing=False)
        numbers = self._numbers[row].int()
        return Segments(torch.where(numbers == 0, ground.number, numbers), (*shapes, ground))


def make_scenes(channels: int = 3, counts: Mapping[str, int] = COUNTS, seed: int = 0) -> Scenes:
    """So many pictures for each split; channels 1 are grey."""
    made = draw_splits(channels, counts, seed)
    splits = {
        split: SegmentationImages(pictures, DrawnMasks(drawings))
        for split, (drawings, pictures) in made.items()
    }
    return Scenes(CLASSES, THINGS, splits)


def _number(drawing: Drawing) -> UInt8[Tensor, "h w"]:
    numbers = np.zeros(drawing.pixels.shape[:2], np.uint8)
    for number, mask in enumerate(drawing.masks, 1):
        numbers[mask] = number
    return torch.from_numpy(numbers)
