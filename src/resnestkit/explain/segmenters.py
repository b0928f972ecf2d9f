"""Segmenters that are explained."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from numpy.typing import NDArray
from torch import Tensor, nn

from resnestkit.data.transforms import normalise
from resnestkit.explain.activation import map_activation
from resnestkit.explain.subject import Look, Scores, Subject, numbered, see, stack
from resnestkit.runtime.card import DeployCard
from resnestkit.segmentation.scales import known_protocol, resize_images, scale_size
from resnestkit.segmentation.segmenter import Segmenter
from resnestkit.weights.checkpoint import ModelCard

MOST_SIDE = 640
"""Longer side, in pixels, to which an image is reduced if the training says nothing."""


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
        return see(pixels[0], normalise(pixels, self.preprocessing), name, self.device)

    def score(self, looks: Sequence[Look]) -> Scores:
        """Mean probabilities."""
        return torch.softmax(self.model(stack(looks)), 1).mean((2, 3))

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


def subject_of(
    model: nn.Module, card: ModelCard | DeployCard | None, classes: Sequence[str] | None
) -> SegmenterSubject | None:
    """A segmenter as a subject; None if it is no segmenter."""
    if not isinstance(model, Segmenter):
        return None
    names = classes or numbered(model.spec.classes)
    net = card.net if card else ""
    subject = SegmenterSubject(model, model.body, names, model.preprocessing, net)
    said = card.data if isinstance(card, ModelCard) else {}
    subject.side = known_protocol(said.get("protocol")).side
    return subject
