"""Models as the service asks them: an upload is prepared, then computed in a batch of its kind.

Imports without torch: so does serving an .xml or .onnx.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from PIL import Image
from pydantic import BaseModel

from resnestkit.deploy.predictor import open_classifier
from resnestkit.runtime.classifier import Classifier, rank
from resnestkit.runtime.session import Choice
from resnestkit.serve.batching import Task
from resnestkit.serve.schemas import Classified, Explained, Guess
from resnestkit.serve.uploads import Upload

Kind = Literal["classifier", "detector", "segmenter"]

EXPORTED = "An exported file has no attention to look at: serve the checkpoint that it was made of."


@dataclass(frozen=True, slots=True)
class Options:
    """What a request asks for beside its images."""

    top: int = 5
    """Guesses of a classifier."""
    target: str | None = None
    """The class that is explained; the likeliest if None."""
    seconds: float | None = None
    """After which an explanation begins nothing that can be left out; None is no end."""


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """A prepared image, and what is asked of it."""

    name: str
    image: Any
    options: Options


class ServedModel(ABC):
    """A trained model that answers uploads.

    `prepare` is called in several threads, `compute` and `explain` in one.

    Args:
        path: the file it was read from.
        card: what the file says of itself.
    """

    kind: ClassVar[Kind]
    answer: ClassVar[type[BaseModel]]
    """A result for one image."""
    why_not: str = ""
    """Why it does not explain; empty if it does."""
    size: int | None = None

    def __init__(self, path: Path, card: Any) -> None:
        self.file, self.net, self.classes = path.name, str(card.net), tuple(card.classes)
        self._watched = [p for p in (path, path.with_suffix(".bin")) if p.suffix and p.is_file()]
        self._stamps = [_stamp(p) for p in self._watched]

    @property
    def changed(self) -> bool:
        """Whether the file is another by now. What was read at the start serves all the same."""
        return [_stamp(path) for path in self._watched] != self._stamps

    def warm(self, batch_size: int) -> None:
        """Do what is slow when it is done for the first time, for batches of up to so many."""
        del batch_size  # where images come one by one and in any size, there is nothing to plan for

    @abstractmethod
    def prepare(self, upload: Upload) -> Any:
        """What can be done for an image beside the computing of others. Raises UnreadableImage."""

    @abstractmethod
    def compute(self, works: Sequence[Work]) -> Sequence[BaseModel | Exception]:
        """A result for each, or why there is none."""

    def explain(self, works: Sequence[Work]) -> Sequence[Explained | Exception]:
        """What the attention does on each; the image is an `Upload`, as it came."""
        raise NotImplementedError

    def tasks(self, batch_size: int) -> tuple[Task[Work, Any], Task[Work, Any]]:
        """Computing and explaining, for a batcher."""
        return Task(self.compute, batch_size), Task(self.explain, 1)


class ClassifierModel(ServedModel):
    """A classifier, whatever runs it."""

    kind = "classifier"
    answer = Classified
    why_not = EXPORTED

    def __init__(self, path: Path, classifier: Classifier[Any]) -> None:
        super().__init__(path, classifier.card)
        self._classifier = classifier
        self.size = classifier.preprocessing.size

    def warm(self, batch_size: int) -> None:
        """Plan for one image and for a whole batch: memory is then what it will be under load."""
        square = io.BytesIO()
        Image.new("RGB", (self._classifier.preprocessing.size,) * 2).save(square, "PNG")
        image = self._classifier.decode(square.getvalue(), "a black square")
        for count in (1, batch_size):
            self._classifier.logits([image] * count)

    def prepare(self, upload: Upload) -> Any:
        """The square that the net sees."""
        return self._classifier.decode(upload.content, upload.name)

    def compute(self, works: Sequence[Work]) -> Sequence[Classified]:
        """The best guesses for each."""
        logits = self._classifier.logits([work.image for work in works])
        best = rank(logits, self._classifier.classes, max(work.options.top for work in works))
        return [
            Classified(
                image=work.name,
                guesses=[Guess(label=g.label, score=g.score) for g in guesses[: work.options.top]],
            )
            for work, guesses in zip(works, best, strict=True)
        ]


def open_model(
    path: Path,
    device: str = "auto",
    threads: int | None = None,
    precision: Choice | None = None,
) -> ServedModel:
    """Read a model to serve: a checkpoint, or a classifier that `resnestkit export` made of one.

    Raises UserError if the file holds none, or cannot be run so here.
    """
    if path.suffix.lower() in {".xml", ".onnx", ".pt2"}:
        return ClassifierModel(path, open_classifier(path, device, threads, precision))
    from resnestkit.serve.torch_models import open_checkpoint  # noqa: PLC0415  (torch loads here)

    return open_checkpoint(path, device, threads, precision)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
