"""Classes for images: what is common to all that computes them, and the exported files' form."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from jaxtyping import Float32, UInt8
from numpy.typing import NDArray

from resnestkit.data.decoding import read_content
from resnestkit.errors import UserError
from resnestkit.preprocessing import Preprocessing
from resnestkit.runtime.card import DeployCard, read_card
from resnestkit.runtime.images import decode_square, normalise
from resnestkit.runtime.session import Choice, open_session

ImageT = TypeVar("ImageT")


@dataclass(frozen=True, slots=True)
class Guess:
    """A class and how sure the net is of it."""

    label: str
    score: float
    """Softmax, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """The best guesses for one image, the best first."""

    image: str
    guesses: tuple[Guess, ...]

    @property
    def label(self) -> str:
        """The best guess's class."""
        return self.guesses[0].label

    @property
    def score(self) -> float:
        """The best guess's score."""
        return self.guesses[0].score


class Classifier(ABC, Generic[ImageT]):
    """A trained net, whatever runs it: image files in, logits out."""

    card: Any
    """What the file says of itself: a checkpoint's `ModelCard`, an exported file's `DeployCard`."""
    classes: tuple[str, ...]
    """Names, in the order of the logits."""
    preprocessing: Preprocessing

    def read(self, path: Path) -> ImageT:
        """A file's image as the net looks at it. Raises UnreadableImage."""
        return self.decode(read_content(path), str(path))

    @abstractmethod
    def decode(self, content: bytes, name: str) -> ImageT:
        """As `read`, from the bytes of a file. ``name`` is for the message only."""

    @abstractmethod
    def logits(self, images: Sequence[ImageT]) -> Float32[NDArray[np.float32], "b k"]:
        """One for each class."""


class ExportedClassifier(Classifier[UInt8[NDArray[np.uint8], "s s c"]]):
    """A file for OpenVINO or ONNX Runtime, which needs no torch.

    Args:
        path: an .xml or .onnx that `resnestkit export` or `resnestkit quantise` wrote.
        threads: as for `open_session`.
        precision: as for `open_session`.

    Raises:
        UserError: as `open_session`, or the file holds no classifier.
    """

    def __init__(
        self, path: str | Path, threads: int | None = None, precision: Choice | None = None
    ) -> None:
        self.card = read_classifier_card(path)
        form = self.card.input
        self.session = open_session(path, threads, precision, (form.height, form.width))
        self.classes, self.preprocessing = self.card.classes, self.card.preprocessing

    def decode(self, content: bytes, name: str) -> UInt8[NDArray[np.uint8], "s s c"]:
        """As `Classifier.decode`."""
        return decode_square(content, name, self.preprocessing)

    def logits(
        self, images: Sequence[UInt8[NDArray[np.uint8], "s s c"]]
    ) -> Float32[NDArray[np.float32], "b k"]:
        """As `Classifier.logits`."""
        return run_in_batches(
            self.session.run, normalise(images, self.preprocessing), self.card.input.batch
        )


def read_classifier_card(path: str | Path) -> DeployCard:
    """The card of an exported classifier. Raises UserError if the file is none."""
    card = read_card(path)
    if card.kind != "classifier":
        raise UserError(
            f"{path} holds a {card.kind}, which names no images: "
            "resnestkit.runtime.session.open_session runs it on arrays."
        )
    return card


def run_in_batches(
    run: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    images: Float32[NDArray[np.float32], "b c h w"],
    size: int | None,
) -> Float32[NDArray[np.float32], "b k"]:
    """Run what takes batches of one ``size`` alone, the last filled up; None takes any."""
    if size is None:
        return run(images)
    lacking = -len(images) % size
    filled = np.concatenate([images, np.repeat(images[-1:], lacking, axis=0)])
    parts = [run(filled[i : i + size]) for i in range(0, len(filled), size)]
    return np.concatenate(parts)[: len(images)]


def rank(
    logits: Float32[NDArray[np.float32], "b k"], classes: Sequence[str], top: int
) -> list[tuple[Guess, ...]]:
    """The ``top`` classes of each image with their softmax, the best first."""
    powers = np.exp(logits - logits.max(1, keepdims=True))
    scores = powers / powers.sum(1, keepdims=True)
    orders = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    return [
        tuple(Guess(classes[k], float(row[k])) for k in order)
        for row, order in zip(scores, orders, strict=True)
    ]
