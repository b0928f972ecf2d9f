"""What is explained: classifier, detector or segmenter, behind one face: a score per class."""

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
from resnestkit.detection.detector import Detector
from resnestkit.detectors import load_detector
from resnestkit.errors import UserError, nearest
from resnestkit.explain.activation import map_activation
from resnestkit.factory import load_model
from resnestkit.models.backbone import Backbone
from resnestkit.models.headed import Headed
from resnestkit.models.zoo import TABLE
from resnestkit.preprocessing import Preprocessing
from resnestkit.runtime.card import DeployCard
from resnestkit.segmentation.scales import known_protocol, resize_images, scale_size
from resnestkit.segmentation.segmenter import Segmenter
from resnestkit.segmenters import load_segmenter
from resnestkit.weights.checkpoint import DETECTOR, PANOPTIC, SEGMENTER, ModelCard, read_kind

Pixels = UInt8[NDArray[np.uint8], "h w 3"]
Scores = Float[Tensor, "b classes"]

EXPORTED = (".xml", ".onnx", ".pt2")
"""Ends of the names of what `resnestkit export` writes."""
NOTHING = "nothing found"
"""In place of a class, where no class has a score."""

MOST_SIDE = 640
"""Longer side, in pixels, to which a segmenter's image is reduced if its training says nothing."""


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
        return _see(square, normalise(square[None], self.preprocessing), name, self.device)

    def score(self, looks: Sequence[Look]) -> Scores:
        """Probabilities."""
        return torch.softmax(self.model(_stack(looks)).float(), 1)

    def activate(self, look: Look, target: int) -> Float32[NDArray[np.float32], "h w"] | None:
        """Grad-CAM of the class's logit."""
        return map_activation(self.model, self.last_stage, look.image, target)


class SegmenterSubject(Subject):
    """A segmenter: a class's score is the mean of its probability over the pixels."""

    kind = "segmenter"
    answer = "mean probability of a pixel"
    side: int | None = None
    """Pixels to which an image's longer side is resized; None reduces large ones alone."""

    def look(self, image: UInt8[Tensor, "c h w"], name: str = "image") -> Look:
        """Resized as the validation of its training does."""
        height, width = image.shape[1:]
        side = self.side or min(MOST_SIDE, max(height, width))
        resized = resize_images(image[None].float(), scale_size((height, width), side))
        pixels = resized.round().clamp(0, 255).byte()
        return _see(pixels[0], normalise(pixels, self.preprocessing), name, self.device)

    def score(self, looks: Sequence[Look]) -> Scores:
        """Mean probabilities."""
        return torch.softmax(self.model(_stack(looks)), 1).mean((2, 3))

    def activate(self, look: Look, target: int) -> Float32[NDArray[np.float32], "h w"] | None:
        """Grad-CAM of the class's logits, summed over the pixels that are said to be of it.

        So Vinogradova et al. 2020 (Seg-Grad-CAM) have it; where no pixel is, over all of them.
        """

        def summed(images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
            logits: Tensor = self.model(images)
            inside = logits.argmax(1, keepdim=True) == target
            counted = torch.where(inside.any(), inside, torch.ones_like(inside))
            return (logits * counted).sum((2, 3))

        return map_activation(summed, self.last_stage, look.image, target)


class DetectorSubject(Subject):
    """A detector: a class's score is that of its surest object, 0 where there is none."""

    kind = "detector"
    answer = "score of the surest object"

    def look(self, image: UInt8[Tensor, "c h w"], name: str = "image") -> Look:
        """As it is; the detector resizes it itself, and pads it to the right and below."""
        floats = (image.float() / 255).to(self.device)
        with self.resting():  # in training mode it would draw a size, which is not the one seen
            size = self.model.transform([floats])[0].image_sizes[0]  # type: ignore[operator]  # a module
        seen = F.interpolate(floats[None], size, mode="bilinear", antialias=True)[0]
        pixels = (255 * seen).round().clamp(0, 255).byte()  # not the image's own: it may be huge
        return Look(name, _draw_on(pixels), floats[None], size)

    def score(self, looks: Sequence[Look]) -> Scores:
        """The highest score of each class."""
        with _without_masks(self.model):
            outputs = self.model([look.image[0] for look in looks])
        scores = torch.zeros(len(looks), len(self.classes))
        for row, output in zip(scores, outputs, strict=True):
            labels, found = output["labels"].cpu() - 1, output["scores"].float().cpu()
            row.scatter_reduce_(0, labels, found, "amax")
        return scores

    def activate(self, look: Look, target: int) -> Float32[NDArray[np.float32], "h w"] | None:
        """HiResCAM of the score of the class's surest object; None where there is no such object.

        The score is of one region, and other places have no gradient: Grad-CAM, which weighs all
        places alike, lights what lies elsewhere. Boxes are where the detector put them: gradients
        go through the scores alone.
        """
        if not self.score([look])[0, target]:
            return None

        def surest(images: Float[Tensor, "1 c h w"]) -> Float[Tensor, "1 classes"]:
            with _without_masks(self.model):
                (output,) = self.model([images[0]])
            best: Tensor = output["scores"][output["labels"] == target + 1].max()
            place: Tensor = F.one_hot(torch.tensor([target]), len(self.classes)).to(best)
            return best * place

        return map_activation(surest, self.last_stage, look.image, target, by_place=True)


@contextmanager
def _without_masks(model: nn.Module) -> Iterator[None]:
    """Let a detector find boxes alone: no score needs masks, which are as large as the image."""
    heads = getattr(model, "roi_heads", None)
    if heads is None:
        yield
        return
    # An instance's own attribute comes before its class's method, and goes without a trace.
    vars(heads)["has_mask"] = lambda: False
    try:
        yield
    finally:
        vars(heads).pop("has_mask")


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
    loaders = {DETECTOR: load_detector, SEGMENTER: load_segmenter}
    kind = read_kind(path) if path.is_file() else ""
    if kind == PANOPTIC:
        raise UserError(
            f"{path} holds a panoptic net; classifiers, detectors and segmenters are explained."
        )
    loaded, card = loaders[kind](path) if kind in loaders else load_model(path)
    loaded.require_head(str(path))
    choose_compute(device, "float32").place(loaded)
    return subject_of(loaded, card, card.classes)


def subject_of(
    model: nn.Module,
    card: ModelCard | DeployCard | None = None,
    classes: Sequence[str] | None = None,
) -> Subject:
    """As `open_subject`, of a model that was read already, with what its checkpoint says of it."""
    net = card.net if card else ""
    if isinstance(model, Detector):
        names = classes or _numbered(model.spec.classes, 1)
        return DetectorSubject(model, model.backbone.body, names, model.preprocessing, net)
    if isinstance(model, Segmenter):
        names = classes or _numbered(model.spec.classes)
        subject = SegmenterSubject(model, model.body, names, model.preprocessing, net)
        said = card.data if isinstance(card, ModelCard) else {}
        subject.side = known_protocol(said.get("protocol")).side
        return subject
    if isinstance(model, Backbone):
        images = model.preprocessing or Preprocessing.for_images(224, model.in_channels)
        names = classes or _numbered(model.classes)
        return ClassifierSubject(model, model, names, card.preprocessing if card else images, net)
    raise UserError(
        f"A {type(model).__name__} cannot be explained, but nets of create_model, detectors of "
        "create_detector and segmenters of create_segmenter can."
    )


def _numbered(count: int, first: int = 0) -> list[str]:
    return [f"class {number}" for number in range(first, count + first)]


def _see(
    pixels: UInt8[Tensor, "c h w"], image: Float[Tensor, "1 c h w"], name: str, device: torch.device
) -> Look:
    return Look(name, _draw_on(pixels), image.to(device), (pixels.shape[1], pixels.shape[2]))


def _draw_on(pixels: UInt8[Tensor, "c h w"]) -> Pixels:
    """As drawings take it, grey images too."""
    return pixels.expand(3, -1, -1).permute(1, 2, 0).contiguous().cpu().numpy()


def _stack(looks: Sequence[Look]) -> Float[Tensor, "b c h w"]:
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
