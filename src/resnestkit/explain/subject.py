"""What is explained: classifier, detector or segmenter, behind one face: a score per class.

Detectors and segmenters have modules of their own, which are imported for them alone: their
libraries take seconds to import.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from resnestkit.compute import choose_compute
from resnestkit.data.images import read_image
from resnestkit.data.transforms import EvaluationTransform, normalise
from resnestkit.errors import UserError, nearest
from resnestkit.explain.activation import map_activation
from resnestkit.factory import load_model
from resnestkit.models.backbone import Backbone
from resnestkit.models.headed import Headed
from resnestkit.models.zoo import TABLE
from resnestkit.preprocessing import Preprocessing
from resnestkit.runtime.card import DeployCard
from resnestkit.weights.checkpoint import DETECTOR, PANOPTIC, SEGMENTER, ModelCard, read_kind

Pixels = UInt8[NDArray[np.uint8], "h w 3"]
Scores = Float[Tensor, "b classes"]

EXPORTED = (".xml", ".onnx", ".pt2")
"""Ends of the names of what `resnestkit export` writes."""
NOTHING = "nothing found"
"""In place of a class, where no class has a score."""


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """An image as the net sees it."""

    name: str
    picture: Pixels
    """What is in front of the net, to draw on."""
    image: Float[Tensor, "1 c h w"]
    """What the model is called with."""
    size: tuple[int, int]
    """Height and width of the picture in the net's input, which may be padded below and right."""


class Subject(ABC):
    """A model, its classes, and how it wants its images.

    Args:
        model: the whole model.
        body: its backbone, where the attention is.
        classes: names, in the order of the scores.
        preprocessing: how the backbone wants its images.
        net: the backbone's name; that of the table if not given.
    """

    kind: ClassVar[str]
    answer: ClassVar[str]
    """What a class's score is, in words."""
    batch_size: ClassVar[int] = 1
    """Images that are seen at a time where there are many."""

    def __init__(
        self,
        model: Headed,
        body: Backbone,
        classes: Sequence[str],
        preprocessing: Preprocessing,
        net: str = "",
    ) -> None:
        self.model, self.body, self.classes = model, body, tuple(classes)
        known = (one.name for one in TABLE if one.spec == body.spec)
        self.preprocessing, self.net = preprocessing, net or next(known, "custom net")
        self.first_conv = body.get_submodule(body.first_weight.rpartition(".")[0])

    def read(self, path: str | Path) -> Look:
        """An image file. Raises UnreadableImage, naming the file, if it cannot be read."""
        return self.look(read_image(Path(path), self.preprocessing.channels), str(path))

    @abstractmethod
    def look(self, image: UInt8[Tensor, "c h w"], name: str = "image") -> Look:
        """A decoded image, RGB or grey."""

    @abstractmethod
    def score(self, looks: Sequence[Look]) -> Scores:
        """A score from 0 to 1 for every class, of each image."""

    @abstractmethod
    def activate(self, look: Look, target: int) -> Float32[NDArray[np.float32], "h w"] | None:
        """Where the last stage is active for a class, the largest value 1; None if left out."""

    def find_class(self, name: str) -> int:
        """The index of a class. Raises UserError if there is none of that name."""
        if name not in self.classes:
            raise UserError(
                f"There is no class {name!r} among the {len(self.classes)} of this "
                f"{self.kind}.{nearest(name, self.classes)}"
            )
        return self.classes.index(name)

    @property
    def last_stage(self) -> nn.Module:
        """What puts out the coarsest features."""
        return self.body.get_submodule(self.body.stages[-1].parts[-1])

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.model.parameters()).device

    @contextmanager
    def resting(self) -> Iterator[None]:
        """In evaluation mode for as long as this lasts; then each part as it was."""
        before = {part: part.training for part in self.model.modules()}
        self.model.eval()
        try:
            yield
        finally:
            for part, training in before.items():
                part.training = training


class ClassifierSubject(Subject):
    """A net with a classifier: a class's score is its probability."""

    kind = "classifier"
    answer = "probability"
    batch_size = 16

    def look(self, image: UInt8[Tensor, "c h w"], name: str = "image") -> Look:
        """Resized and cropped as its evaluation does."""
        square = EvaluationTransform(self.preprocessing)(image)
        return see(square, normalise(square[None], self.preprocessing), name, self.device)

    def score(self, looks: Sequence[Look]) -> Scores:
        """Probabilities."""
        return torch.softmax(self.model(stack(looks)).float(), 1)

    def activate(self, look: Look, target: int) -> Float32[NDArray[np.float32], "h w"] | None:
        """Grad-CAM of the class's logit."""
        return map_activation(self.model, self.last_stage, look.image, target)


def best_class(scores: Float[NDArray[np.float32], " classes"]) -> int | None:
    """The class with the highest score; None where all are 0, as a detector that finds nothing."""
    return int(scores.argmax()) if scores.max() > 0 else None


def open_subject(
    model: str | Path | nn.Module | Subject,
    classes: Sequence[str] | None = None,
    device: str = "auto",
) -> Subject:
    """What is to be explained.

    Args:
        model: a checkpoint of a classifier, detector or segmenter, or such a model.
        classes: names of a model's classes; their numbers if not given. A checkpoint has its own.
        device: where a checkpoint computes; a model stays where it is.

    Raises:
        UserError: the file is no such checkpoint, the model none of these, or its classifier was
            never trained.
    """
    if isinstance(model, Subject):
        return model
    if isinstance(model, nn.Module):
        subject = subject_of(model, None, classes)
        subject.model.require_head()
        return subject
    path = Path(model)
    if path.suffix.lower() in EXPORTED:
        raise UserError(
            f"{path} is an exported file, which has no attention to look at: give the checkpoint "
            "that it was made of."
        )
    kind = read_kind(path) if path.is_file() else ""
    if kind == PANOPTIC:
        raise UserError(
            f"{path} holds a panoptic net; classifiers, detectors and segmenters are explained."
        )
    loaded, card = _load(path, kind)
    loaded.require_head(str(path))
    choose_compute(device, "float32").place(loaded)
    return subject_of(loaded, card, card.classes)


def _load(path: Path, kind: str) -> tuple[Headed, ModelCard]:
    if kind == DETECTOR:
        from resnestkit.detectors import load_detector  # noqa: PLC0415  (slow to import)

        return load_detector(path)
    if kind == SEGMENTER:
        from resnestkit.segmenters import load_segmenter  # noqa: PLC0415  (slow to import)

        return load_segmenter(path)
    return load_model(path)


def subject_of(
    model: nn.Module,
    card: ModelCard | DeployCard | None = None,
    classes: Sequence[str] | None = None,
) -> Subject:
    """As `open_subject`, of a model that was read already, with what its checkpoint says of it."""
    if isinstance(model, Backbone):
        images = model.preprocessing or Preprocessing.for_images(224, model.in_channels)
        names = classes or numbered(model.classes)
        preprocessing = card.preprocessing if card else images
        return ClassifierSubject(model, model, names, preprocessing, card.net if card else "")
    from resnestkit.explain import detectors, segmenters  # noqa: PLC0415  (slow to import)

    for room in (detectors, segmenters):
        subject: Subject | None = room.subject_of(model, card, classes)
        if subject is not None:
            return subject
    raise UserError(
        f"A {type(model).__name__} cannot be explained, but nets of create_model, detectors of "
        "create_detector and segmenters of create_segmenter can."
    )


def numbered(count: int, first: int = 0) -> list[str]:
    """Names of classes that have none."""
    return [f"class {number}" for number in range(first, count + first)]


def see(
    pixels: UInt8[Tensor, "c h w"], image: Float[Tensor, "1 c h w"], name: str, device: torch.device
) -> Look:
    """An image of which the net sees all, and nothing else."""
    return Look(name, draw_on(pixels), image.to(device), (pixels.shape[1], pixels.shape[2]))


def draw_on(pixels: UInt8[Tensor, "c h w"]) -> Pixels:
    """As drawings take it, grey images too."""
    return pixels.expand(3, -1, -1).permute(1, 2, 0).contiguous().cpu().numpy()


def stack(looks: Sequence[Look]) -> Float[Tensor, "b c h w"]:
    """What a net is called with for images of one size."""
    stacked = torch.cat([look.image for look in looks])
    return stacked.contiguous(memory_format=torch.channels_last)


def spread(
    values: Float[NDArray[np.float32], "*n h w"], size: tuple[int, int], seen: tuple[float, float]
) -> Float32[NDArray[np.float32], "*n h2 w2"]:
    """Maps of features laid over a picture of a height and a width.

    ``seen`` is the share of the net's input that the picture fills in either direction: what was
    padded is cut off.
    """
    whole = [max(1, round(side / share)) for side, share in zip(size, seen, strict=True)]
    flat = torch.from_numpy(values).reshape(1, -1, *values.shape[-2:]).float()
    large = F.interpolate(flat, whole, mode="bilinear", align_corners=False)
    cut = large[0, :, : size[0], : size[1]]
    return cut.reshape(*values.shape[:-2], *cut.shape[1:]).numpy()
