"""What a segmenter does on a set of images, as numbers: all of them from one confusion matrix."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt8
from numpy.typing import NDArray
from PIL import Image

Matrix = Int64[NDArray[np.int64], "k k"]
"""Pixels by true class (row) and predicted class (column)."""

UNKNOWN = -1.0
"""In place of a share of nothing."""


@dataclass(frozen=True, slots=True)
class ClassShares:
    """One class; -1 where there is nothing to measure."""

    pixels: int
    """That are of this class."""
    iou: float
    """Pixels both true and predicted over pixels that are either."""
    accuracy: float
    """Share of its pixels that were recognised."""
    precision: float
    """Share of the pixels predicted so that are."""


@dataclass(frozen=True, slots=True)
class Example:
    """One image, and what was predicted on it."""

    index: int
    miou: float
    """Over the classes that are there or predicted in this image."""
    mask: str
    """The predicted classes, as an index PNG in base64, no larger than a report shows it."""

    def decode(self) -> UInt8[NDArray[np.uint8], "h w"] | Int64[NDArray[np.int64], "h w"]:
        """The predicted classes."""
        return decode_mask(self.mask)


def encode_mask(mask: NDArray[np.int64], most: tuple[int, int]) -> str:
    """Classes as an index PNG in base64, thinned out to fit a width and a height."""
    step = max(1, -(-mask.shape[1] // most[0]), -(-mask.shape[0] // most[1]))
    kind = np.uint8 if mask.max(initial=0) < 256 else np.uint16
    written = io.BytesIO()
    thin = np.ascontiguousarray(mask[step // 2 :: step, step // 2 :: step].astype(kind))
    Image.fromarray(thin).save(written, "PNG")
    return base64.b64encode(written.getvalue()).decode("ascii")


def decode_mask(
    mask: str,
) -> UInt8[NDArray[np.uint8], "h w"] | Int64[NDArray[np.int64], "h w"]:
    """What `encode_mask` wrote."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(mask))))


@dataclass(frozen=True, slots=True)
class SegmentationEvaluation:
    """What a segmenter does on a set of images. Ignored pixels count nowhere."""

    count: int
    protocol: str
    """How the images were looked at, in words."""
    miou: float
    """Mean of the classes' IoU, over those that are there or predicted."""
    pixel_accuracy: float
    """Share of all pixels whose class was recognised."""
    mean_accuracy: float
    """Mean of the classes' accuracy, over those that are there."""
    loss: float
    """Mean cross-entropy of a pixel, without weights."""
    per_class: tuple[ClassShares, ...]
    confusion: list[list[int]]
    """Pixels by true class (row) and predicted class (column), over all images."""
    worst: tuple[Example, ...]
    """The images with the lowest mean IoU, the worst first."""
    drawn: tuple[Example, ...]
    """Some images as they come, drawn by lot."""

    @property
    def score(self) -> float:
        """Mean IoU; 0 where nothing is labelled."""
        return max(0.0, self.miou)

    @property
    def metrics(self) -> dict[str, float]:
        """Mean IoU, accuracies and loss."""
        return {
            "miou": self.score,
            "pixel_accuracy": max(0.0, self.pixel_accuracy),
            "mean_accuracy": max(0.0, self.mean_accuracy),
            "loss": self.loss,
        }


def class_shares(confusion: Matrix) -> tuple[ClassShares, ...]:
    """Each class's numbers."""
    right = confusion.diagonal()
    true, predicted = confusion.sum(1), confusion.sum(0)
    columns = (
        _shares(right, true + predicted - right),
        _shares(right, true),
        _shares(right, predicted),
    )
    rows = zip(true.tolist(), *columns, strict=True)
    return tuple(ClassShares(*row) for row in rows)


def mean_iou(shares: Sequence[ClassShares]) -> float:
    """Over the classes that are there or predicted; -1 where there is none."""
    return _mean([one.iou for one in shares])


def mean_accuracy(shares: Sequence[ClassShares]) -> float:
    """Over the classes that are there; -1 where there is none."""
    return _mean([one.accuracy for one in shares])


def pixel_accuracy(confusion: Matrix) -> float:
    """Share of all labelled pixels; -1 where there is none."""
    return _shares(confusion.trace(), confusion.sum())[0]


def _shares(parts: NDArray[np.int64], wholes: NDArray[np.int64]) -> list[float]:
    wholes = np.atleast_1d(wholes)
    shares = np.atleast_1d(parts) / np.maximum(wholes, 1)
    return [float(share) for share in np.where(wholes > 0, shares, UNKNOWN)]


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if value != UNKNOWN]
    return float(np.mean(known)) if known else UNKNOWN
