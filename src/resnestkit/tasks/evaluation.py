"""What a classifier does on a set of images, as numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mistake:
    """An image that was taken for another class."""

    index: int
    label: int
    predicted: int
    confidence: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a classifier does on a set of images."""

    count: int
    loss: float
    """Mean cross-entropy, without smoothing."""
    top1: float
    """Share of images whose first guess is right."""
    top5: float
    """Share of images with the label among the first five guesses (or all, if fewer classes)."""
    confusion: list[list[int]]
    """Images by true class (row) and predicted class (column)."""
    mistakes: tuple[Mistake, ...]
    """The most confident wrong guesses, the worst first."""

    @property
    def per_class(self) -> list[float]:
        """Share of each class's images that were recognised; 0 for a class without images."""
        return [row[i] / sum(row) if sum(row) else 0.0 for i, row in enumerate(self.confusion)]

    @property
    def score(self) -> float:
        """The first guess counts."""
        return self.top1

    @property
    def metrics(self) -> dict[str, float]:
        """Loss, top-1 and top-5."""
        return {"loss": self.loss, "top1": self.top1, "top5": self.top5}
