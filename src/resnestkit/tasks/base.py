"""What a task is: the one loop trains any of them and knows none."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Generic, Protocol, TypeVar

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor, nn

from resnestkit.compute import Compute
from resnestkit.data.images import ImageSet
from resnestkit.data.loaders import Batched
from resnestkit.report.page import Figure, Headline, Section

Advance = Callable[[int], None]
"""Told the number of images done, for a progress bar."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one batch gave."""

    loss: Tensor
    """Scalar to differentiate, in float32."""
    images: int
    sums: dict[str, float]
    """Metrics summed over the images, "loss" among them; the loop divides by the images."""


class Result(Protocol):
    """What an evaluation gave."""

    @property
    def count(self) -> int:
        """Images evaluated."""

    @property
    def score(self) -> float:
        """The number by which the best epoch is chosen; more is better."""

    @property
    def metrics(self) -> dict[str, float]:
        """Every number worth a curve; the first that is no loss is the score."""


def score_name(metrics: Mapping[str, float]) -> str:
    """The metric that is the score: the first that is no loss, or the loss where it is alone."""
    return next((name for name in metrics if name != "loss"), "loss")


@dataclass(frozen=True, slots=True)
class TaskReport:
    """A task's part of a run's report."""

    headlines: list[Headline]
    sections: list[Section]
    pictures: dict[str, bytes] = field(default_factory=dict)
    """PNG files to be written beside the report, by name."""


BatchT = TypeVar("BatchT", bound=Batched)
ResultT = TypeVar("ResultT", bound=Result)


class Task(ABC, Generic[BatchT, ResultT]):
    """How a batch becomes a loss, a model an evaluation, and an evaluation a report."""

    drawn: ClassVar[str]
    """What `report` shows, in words."""

    def start_epoch(self, left: int) -> None:
        """Told before an epoch how many there are still to train, this one among them."""

    @abstractmethod
    def step(self, model: nn.Module, batch: BatchT, compute: Compute) -> Step:
        """The training loss of a batch."""

    @abstractmethod
    def evaluate(
        self,
        model: nn.Module,
        batches: Iterable[BatchT],
        compute: Compute,
        *,
        advance: Advance = lambda _done: None,
    ) -> ResultT:
        """Run a model over labelled images; every image counts once."""

    @abstractmethod
    def words(self, metrics: Mapping[str, float]) -> str:
        """The metrics that a person watches, in a few words."""

    def notes(self, result: ResultT) -> dict[str, float]:  # noqa: ARG002  (most have none)
        """Numbers of an evaluation that a checkpoint keeps besides the metrics."""
        return {}

    @abstractmethod
    def draw_curves(self, records: Sequence[Mapping[str, float]]) -> Figure:
        """How a training went, from a record for each epoch."""

    @abstractmethod
    def report(self, result: ResultT, images: ImageSet, split: str) -> TaskReport:
        """What to show of an evaluation of the images of a split."""


def read_picture(images: ImageSet, index: int) -> UInt8[NDArray[np.uint8], "h w 3"]:
    """An image as drawings take it, grey ones too."""
    pixels = images.read(index).permute(1, 2, 0).numpy()
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels


def short_name(images: ImageSet, index: int) -> str:
    """An image's name without the folders."""
    return images.names[index].replace("\\", "/").rsplit("/", 1)[-1]
