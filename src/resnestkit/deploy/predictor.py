"""A trained classifier that answers, whatever runs it: images in, classes out.

Imports without torch: so do the files for OpenVINO and ONNX Runtime that it opens.
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from resnestkit.data.decoding import UnreadableImage
from resnestkit.data.files import find_images, is_image_file
from resnestkit.errors import UserError
from resnestkit.runtime.classifier import Classifier, ExportedClassifier, Guess, Prediction, rank
from resnestkit.runtime.loading import SUFFIXES
from resnestkit.runtime.session import Choice

__all__ = ["Guess", "Prediction", "Predictor", "collect_images", "open_classifier", "read_each"]

ImageT = TypeVar("ImageT")


class Predictor:
    """Classifies images with a checkpoint that `resnestkit train` wrote, or what was made of it.

    Preprocessing and class names come from the file.

    >>> predictor = Predictor("runs/mine/best.safetensors")  # doctest: +SKIP
    >>> predictor.predict(["cat.jpg"])[0].label  # doctest: +SKIP
    'cat'

    Args:
        model: a .safetensors of `resnestkit train`, or the .xml (OpenVINO), .onnx (ONNX Runtime) or
            .pt2 (torch.export) that `resnestkit export` and `resnestkit quantise` made of one. An
            .xml or .onnx needs no torch.
        device: where a checkpoint computes: "auto", "cpu", "cuda", ...; exported files compute on
            the processor.
        threads: how many at most; None is as many as the runtime takes by itself. Torch's, for
            a .safetensors or .pt2, are the whole process's.
        precision: "float32", "bfloat16", or "auto", whichever is quicker here; None is what an
            exported file remembers, and else float32.

    Raises:
        UserError: the file holds no trained classifier, or cannot be run so here.
    """

    def __init__(
        self,
        model: str | Path,
        device: str = "auto",
        threads: int | None = None,
        precision: Choice | None = None,
    ) -> None:
        self.classifier = open_classifier(model, device, threads, precision)
        self.card = self.classifier.card

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
        images: list[Any] = []
        for name, image in read_each(paths, self.classifier.read, unreadable):
            names.append(name)
            images.append(image)
            if len(images) == batch_size:
                yield from self._classify(names, images, top)
                names, images = [], []
        if images:
            yield from self._classify(names, images, top)

    def _classify(
        self, names: Sequence[str], images: Sequence[Any], top: int
    ) -> Iterator[Prediction]:
        best = rank(self.classifier.logits(images), self.classifier.classes, top)
        for name, guesses in zip(names, best, strict=True):
            yield Prediction(name, guesses)


def open_classifier(
    model: str | Path,
    device: str = "auto",
    threads: int | None = None,
    precision: Choice | None = None,
) -> Classifier[Any]:
    """What runs a file, as `Predictor` says. Raises UserError likewise."""
    path = Path(model)
    if path.suffix.lower() in SUFFIXES:
        if device not in {"auto", "cpu"}:
            raise UserError(
                f"{path} computes on the processor; --device {device} is for checkpoints."
            )
        return ExportedClassifier(path, threads, precision)
    from resnestkit.deploy.torch_classifier import TorchClassifier  # noqa: PLC0415  (torch loads)

    return TorchClassifier(path, device, threads, precision)


def read_each(
    paths: Iterable[str | Path],
    read: Callable[[Path], ImageT],
    unreadable: list[UnreadableImage] | None = None,
) -> Iterator[tuple[str, ImageT]]:
    """The images with their names, one at a time.

    Those that cannot be read are appended to ``unreadable`` and left out, if it is given.
    Raises UnreadableImage, naming the file, if it is not.
    """
    for path in paths:
        try:
            image = read(Path(path))
        except UnreadableImage as error:
            if unreadable is None:
                raise
            unreadable.append(error)
            continue
        yield str(path), image
        # Nobody holds it while the next is read.
        del image


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
