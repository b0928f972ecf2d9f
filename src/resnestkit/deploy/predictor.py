"""A checkpoint that answers: images in, classes out."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from resnestkit.compute import choose_device
from resnestkit.data.images import UnreadableImage, is_image_file, read_image
from resnestkit.data.sources import find_images
from resnestkit.data.transforms import EvaluationTransform, normalise
from resnestkit.errors import UserError
from resnestkit.factory import load_model


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


class Predictor:
    """Classifies images with a checkpoint that `resnestkit train` wrote.

    Preprocessing and class names come from the file.

    >>> predictor = Predictor("runs/mine/best.safetensors")  # doctest: +SKIP
    >>> predictor.predict(["cat.jpg"])[0].label  # doctest: +SKIP
    'cat'
    """

    def __init__(self, checkpoint: str | Path, device: str = "auto") -> None:
        self.model, self.card = load_model(checkpoint)
        self.model.require_head(str(checkpoint))
        self.device = choose_device(device)
        self.model.to(self.device)
        self._transform = EvaluationTransform(self.card.preprocessing)

    def predict(self, paths: Iterable[str | Path], top: int = 5) -> list[Prediction]:
        """The ``top`` best guesses for each image file, in the files' order.

        Raises UnreadableImage, naming the file, for one that cannot be read.
        """
        return list(self.iterate(paths, top))

    def iterate(
        self,
        paths: Iterable[str | Path],
        top: int = 5,
        batch_size: int = 32,
        unreadable: list[UnreadableImage] | None = None,
    ) -> Iterator[Prediction]:
        """As `predict`, one batch at a time.

        Images that cannot be read are appended to ``unreadable`` and left out, if it is given.
        """
        names: list[str] = []
        images: list[Tensor] = []
        for name, image in read_images(paths, self.card.preprocessing.channels, unreadable):
            names.append(name)
            images.append(self._transform(image))
            if len(images) == batch_size:
                yield from self._classify(names, images, top)
                names, images = [], []
        if images:
            yield from self._classify(names, images, top)

    @torch.inference_mode()
    def _classify(
        self, names: Sequence[str], images: Sequence[Tensor], top: int
    ) -> Iterator[Prediction]:
        batch = normalise(torch.stack(list(images)).to(self.device), self.card.preprocessing)
        scores = self.model(batch).softmax(1).cpu()
        best, indices = scores.topk(min(top, len(self.card.classes)))
        for name, row, places in zip(names, best.tolist(), indices.tolist(), strict=True):
            guesses = (
                Guess(self.card.classes[i], score) for i, score in zip(places, row, strict=True)
            )
            yield Prediction(name, tuple(guesses))


def read_images(
    paths: Iterable[str | Path], channels: int, unreadable: list[UnreadableImage] | None = None
) -> Iterator[tuple[str, UInt8[Tensor, "c h w"]]]:
    """The images with their names, one at a time.

    Those that cannot be read are appended to ``unreadable`` and left out, if it is given.
    Raises UnreadableImage, naming the file, if it is not.
    """
    for path in paths:
        try:
            image = read_image(Path(path), channels)
        except UnreadableImage as error:
            if unreadable is None:
                raise
            unreadable.append(error)
            continue
        yield str(path), image


def collect_images(patterns: Sequence[str]) -> list[Path]:
    """Image files named by files, folders (searched through) and globs, each once, in order.

    Raises UserError for a name that matches nothing, or a folder without images.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        path = Path(pattern)
        try:
            is_folder, is_file = path.is_dir(), path.exists()
        except OSError as error:
            raise UserError(f"Cannot look at {pattern}: {error.strerror}.") from error
        if is_folder:
            matches = find_images(path)
        elif is_file:
            matches = [path]
        else:
            names = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207  (takes any pattern)
            matches = [Path(n) for n in names if is_image_file(Path(n))]
        if not matches:
            what = "no images in" if is_folder else "nothing at"
            raise UserError(f"There is {what} {pattern}. Give image files, folders or globs.")
        found |= dict.fromkeys(matches)
    return list(found)
