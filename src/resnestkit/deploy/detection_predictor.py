"""A detector's checkpoint that answers: images in, objects out, as numbers and as pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor

from resnestkit.compute import Compute, choose_compute
from resnestkit.data.detection.coco import Identity
from resnestkit.data.detection.results import MASK_THRESHOLD, Found, results_json
from resnestkit.data.detection.rle import decode_rle, encode_mask
from resnestkit.data.images import UnreadableImage, read_image
from resnestkit.deploy.predictor import read_each
from resnestkit.detection.spec import has_masks
from resnestkit.detectors import load_detector
from resnestkit.errors import UserError
from resnestkit.ops.fused import use_kernels
from resnestkit.ops.kernels import has_kernels
from resnestkit.tasks.detection import prepare_images
from resnestkit.values import is_a
from resnestkit.weights.checkpoint import ModelCard

DEFAULT_SCORE = 0.5


@dataclass(frozen=True, slots=True)
class DetectedObject:
    """One object, in the image's own pixels."""

    label: str
    """Its class."""
    score: float
    """0 to 1."""
    box: tuple[float, float, float, float]
    """Left, top, right, bottom."""
    mask: dict[str, Any] | None = None
    """Compressed run lengths, of a detector that finds masks."""


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """The objects found in one image, the surest first."""

    image: str
    found: Found
    classes: tuple[str, ...]

    @property
    def objects(self) -> list[DetectedObject]:
        """One by one."""
        boxes, scores = self.found.boxes.tolist(), self.found.scores.tolist()
        masks = self.found.masks or [None] * len(scores)
        names = [self.classes[label - 1] for label in self.found.labels]
        return [
            DetectedObject(name, score, (left, top, right, bottom), mask)
            for name, score, (left, top, right, bottom), mask in zip(
                names, scores, boxes, masks, strict=True
            )
        ]

    @property
    def counts(self) -> dict[str, int]:
        """Objects of each class that is there, in the order of the classes."""
        numbers = np.bincount(self.found.labels, minlength=len(self.classes) + 1)[1:]
        return {
            name: int(number) for name, number in zip(self.classes, numbers, strict=True) if number
        }

    def draw(self, image: UInt8[Tensor, "c h w"]) -> UInt8[NDArray[np.uint8], "h2 w2 3"]:
        """The image with boxes, masks and names on it; a small one is enlarged."""
        # Drawing needs matplotlib's fonts, which predicting alone does not.
        from resnestkit.report.boxes import draw_detections  # noqa: PLC0415  (as said)

        pixels = image.permute(1, 2, 0).cpu().numpy()
        if pixels.shape[2] == 1:
            pixels = np.repeat(pixels, 3, axis=2)
        found = self.found
        masks = None if found.masks is None else [decode_rle(m).astype(bool) for m in found.masks]
        boxes = [(x0, y0, x1, y1) for x0, y0, x1, y1 in found.boxes.tolist()]
        labels, scores = found.labels.tolist(), found.scores.tolist()
        return draw_detections(pixels, boxes, labels, scores, masks, self.classes)


class DetectionPredictor:
    """Finds objects with a checkpoint of a detector, one image at a time.

    Preprocessing, class names and the score from which on objects are shown come from the file.

    >>> predictor = DetectionPredictor("runs/mine/best.safetensors")  # doctest: +SKIP
    >>> predictor.predict(["street.jpg"])[0].objects[0].label  # doctest: +SKIP
    'car'

    Args:
        checkpoint: a file that `resnestkit train` or `save_detector` wrote.
        device: "auto", "cpu", "cuda", ...
        score: objects below it are left out; None is where the detector did best on its
            validation images, else 0.5.

    Raises:
        UserError: the file holds no trained detector, or ``score`` is not from 0 to 1.
    """

    def __init__(
        self, checkpoint: str | Path, device: str = "auto", score: float | None = None
    ) -> None:
        if score is not None and not 0 <= score <= 1:
            raise UserError(f"--score is {score:g}; it must be from 0 to 1.")
        self.model, self.card = load_detector(checkpoint)
        self.model.require_head(str(checkpoint))
        self.compute: Compute = choose_compute(device, "float32")
        self.compute.place(self.model)
        self.kernels = has_kernels(self.compute.device)
        self.score = _usual_score(self.card) if score is None else score
        self.masks = has_masks(self.model.spec.kind)
        self.category_ids = _category_ids(self.card)

    def predict(self, paths: Iterable[str | Path]) -> list[Detections]:
        """The objects in each image file, in the files' order.

        Raises UnreadableImage, naming the file, for one that cannot be read.
        """
        return [detections for detections, _ in self.iterate(paths)]

    def iterate(
        self, paths: Iterable[str | Path], unreadable: list[UnreadableImage] | None = None
    ) -> Iterator[tuple[Detections, UInt8[Tensor, "c h w"]]]:
        """As `predict`, image by image, with the image.

        Images that cannot be read are appended to ``unreadable`` and left out, if it is given.
        """
        channels = self.card.preprocessing.channels
        for name, image in read_each(paths, lambda path: read_image(path, channels), unreadable):
            yield Detections(name, self.find(image), self.card.classes), image

    @torch.inference_mode()
    def find(self, image: UInt8[Tensor, "c h w"]) -> Found:
        """The objects in an image, the surest first."""
        with use_kernels(enabled=self.kernels), self.model.transform.leaving_masks():
            (output,) = self.model(prepare_images([image], self.compute))
        found = Found.read(output, masks=False)
        order = np.argsort(-found.scores, kind="stable")
        shown = order[found.scores[order] >= self.score]
        masks = self._draw_masks(output, shown, image) if self.masks else None
        return replace(found.take(shown), masks=masks)

    def results(self, detections: Sequence[Detections]) -> list[dict[str, Any]]:
        """COCO's list of results, ready for JSON: images by name, categories by the file's number.

        With masks, an object has both its box and its segmentation.
        """
        pairs = [(one.image, one.found) for one in detections]
        boxes = results_json(pairs, self.category_ids)
        if not self.masks:
            return boxes
        masks = results_json(pairs, self.category_ids, masks=True)
        return [{**box, **mask} for box, mask in zip(boxes, masks, strict=True)]

    def _draw_masks(
        self, output: Mapping[str, Tensor], shown: NDArray[np.intp], image: UInt8[Tensor, "c h w"]
    ) -> tuple[dict[str, Any], ...]:
        """The masks of some objects as run lengths; one at a time, for each fills the image."""
        size, paste = (image.shape[1], image.shape[2]), self.model.transform.paste
        pairs = [(output["masks"][place], output["boxes"][place]) for place in shown.tolist()]
        return tuple(
            encode_mask((paste(*pair, size) > MASK_THRESHOLD).byte().cpu().numpy())
            for pair in pairs
        )


def _usual_score(card: ModelCard) -> float:
    said: Mapping[str, float] = card.metrics
    return said.get("threshold", DEFAULT_SCORE)


def _category_ids(card: ModelCard) -> tuple[Identity, ...]:
    """What the annotations that it was trained on call its classes; 1, 2, ... if that is lost."""
    said = card.data.get("category_ids")
    numbers = tuple(said) if isinstance(said, list) else ()
    if is_a(numbers, tuple[int | str, ...]) and len(numbers) == len(card.classes):
        return numbers
    return tuple(range(1, len(card.classes) + 1))
