"""What one process counts of an evaluation, and how several processes' counts become one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from resnestkit.data.seeding import mix_seed
from resnestkit.data.segmentation.legend import IGNORE
from resnestkit.tasks.segmentation_evaluation import (
    UNKNOWN,
    Example,
    Matrix,
    SegmentationEvaluation,
    class_shares,
    encode_mask,
    mean_accuracy,
    mean_iou,
    pixel_accuracy,
)

SHOWN = 6
"""Images that an evaluation keeps of the worst, and as many drawn by lot."""
PICTURE_PIXELS = (460, 400)
"""The most that one picture of a report takes, width and height."""

_Key = tuple[float, int]
ExampleT = TypeVar("ExampleT")


@dataclass
class Kept(Generic[ExampleT]):
    """The few examples with the lowest keys."""

    examples: dict[_Key, ExampleT] = field(default_factory=dict)

    def offer(self, key: _Key, make: Callable[[], ExampleT]) -> None:
        """Keep an example if its key is among the lowest; it is made only then."""
        if len(self.examples) < SHOWN or key < max(self.examples):
            self.examples[key] = make()
            self.examples = dict(sorted(self.examples.items())[:SHOWN])


class Counts:
    """Adds up exactly, in any order.

    Args:
        classes: how many there are.
    """

    def __init__(self, classes: int) -> None:
        self.confusion: Matrix = np.zeros((classes, classes), np.int64)
        self.count = 0
        self.losses: list[float] = []
        self.worst, self.drawn = Kept[Example](), Kept[Example]()

    def add(
        self,
        scores: Float[Tensor, "b k h w"],
        masks: UInt8[Tensor, "b h w"],
        indices: Sequence[int],
    ) -> None:
        """Count some images, from their class scores and true classes."""
        predicted = scores.argmax(1)
        # One by one, so that what is added does not depend on which images came together.
        for one, found, mask, index in zip(scores, predicted, masks.long(), indices, strict=True):
            loss = F.cross_entropy(one[None], mask[None], ignore_index=IGNORE, reduction="sum")
            self.losses.append(float(loss))
            confusion = confuse(found, mask, len(self.confusion))
            self.confusion += confusion
            self.count += 1
            self._keep(found, mean_iou(class_shares(confusion)), index)

    def _keep(self, found: Tensor, miou: float, index: int) -> None:
        def make() -> Example:
            classes: NDArray[np.int64] = found.cpu().numpy()
            return Example(index, miou, encode_mask(classes, PICTURE_PIXELS))

        if miou != UNKNOWN:  # an image without labels is neither good nor bad
            self.worst.offer((miou, index), make)
        self.drawn.offer((mix_seed(index), index), make)


def confuse(found: Tensor, mask: Tensor, classes: int) -> Matrix:
    """Pixels by true class (row) and predicted class (column), without those to ignore."""
    labelled = mask != IGNORE
    pairs = mask[labelled] * classes + found[labelled]
    counted = torch.bincount(pairs, minlength=classes**2)
    matrix: Matrix = counted.view(classes, classes).cpu().numpy()
    return matrix


def merge(parts: Sequence[Counts], protocol: str) -> SegmentationEvaluation:
    """The same numbers, to the bit, however the images were spread over processes."""
    confusion = sum((part.confusion for part in parts), np.zeros_like(parts[0].confusion))
    shares = class_shares(confusion)
    losses = math.fsum(loss for part in parts for loss in part.losses)
    return SegmentationEvaluation(
        count=sum(part.count for part in parts),
        protocol=protocol,
        miou=mean_iou(shares),
        pixel_accuracy=pixel_accuracy(confusion),
        mean_accuracy=mean_accuracy(shares),
        loss=losses / max(1, int(confusion.sum())),
        per_class=shares,
        confusion=confusion.tolist(),
        worst=lowest([part.worst for part in parts]),
        drawn=lowest([part.drawn for part in parts]),
    )


def lowest(parts: Sequence[Kept[ExampleT]]) -> tuple[ExampleT, ...]:
    """The few with the lowest keys of what several processes kept."""
    found = {key: one for part in parts for key, one in part.examples.items()}
    return tuple(found[key] for key in sorted(found)[:SHOWN])
