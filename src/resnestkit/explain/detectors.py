"""Detectors that are explained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from resnestkit.detection.detector import Detector
from resnestkit.explain.activation import map_activation
from resnestkit.explain.subject import Look, Scores, Subject, draw_on, numbered
from resnestkit.runtime.card import DeployCard
from resnestkit.weights.checkpoint import ModelCard


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
        return Look(name, draw_on(pixels), floats[None], size)

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


def subject_of(
    model: nn.Module, card: ModelCard | DeployCard | None, classes: Sequence[str] | None
) -> DetectorSubject | None:
    """A detector as a subject; None if it is no detector."""
    if not isinstance(model, Detector):
        return None
    names = classes or numbered(model.spec.classes, 1)
    net = card.net if card else ""
    return DetectorSubject(model, model.backbone.body, names, model.preprocessing, net)
