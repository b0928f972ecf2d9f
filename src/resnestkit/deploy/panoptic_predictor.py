"""A panoptic net's checkpoint that answers: images in, a segment for every pixel out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int32, UInt8
from numpy.typing import NDArray
from torch import Tensor

from resnestkit.compute import Compute, choose_compute
from resnestkit.data.images import UnreadableImage, read_image
from resnestkit.data.segmentation.legend import Colour
from resnestkit.deploy.predictor import read_each
from resnestkit.errors import UserError
from resnestkit.ops.fused import use_kernels
from resnestkit.ops.kernels import has_kernels
from resnestkit.panoptic.merge import FoundSegment
from resnestkit.panoptics import load_panoptic
from resnestkit.tasks.detection import prepare_images


@dataclass(frozen=True, slots=True, eq=False)
class PanopticPrediction:
    """The segments of one image."""

    image: str
    numbers: Int32[NDArray[np.int32], "h w"]
    """Each pixel's segment; 0 is void."""
    segments: tuple[FoundSegment, ...]
    classes: tuple[str, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Things of each class that is there, in the order of the classes."""
        found = Counter(one.label for one in self.segments if one.is_thing)
        return {self.classes[label]: found[label] for label in sorted(found)}

    @property
    def shares(self) -> dict[str, float]:
        """Share of the pixels of each class of stuff that is there, the largest first."""
        areas = self._areas()
        found = {one.label: areas[one.number] for one in self.segments if not one.is_thing}
        order = sorted(found, key=lambda label: -found[label])
        return {self.classes[label]: found[label] / self.numbers.size for label in order}

    def describe(self) -> list[dict[str, Any]]:
        """Each segment as COCO's ``segments_info`` has it, with its score; classes from 1."""
        areas = self._areas()
        return [
            {
                "id": one.number,
                "category_id": one.label + 1,
                "area": areas[one.number],
                "bbox": _hull(self.numbers == one.number),
                "iscrowd": 0,
                "score": round(one.score, 6),
            }
            for one in self.segments
        ]

    def _areas(self) -> list[int]:
        counted: list[int] = np.bincount(
            self.numbers.ravel(), minlength=len(self.segments) + 1
        ).tolist()
        return counted


class PanopticPredictor:
    """Tells the segments of images with a checkpoint of a panoptic net, one image at a time.

    Preprocessing, class names and their colours come from the file.

    >>> predictor = PanopticPredictor("runs/mine/best.safetensors")  # doctest: +SKIP
    >>> predictor.predict(["street.jpg"])[0].counts  # doctest: +SKIP
    {'person': 3, 'car': 1}

    Args:
        checkpoint: a file that `resnestkit train` or `save_panoptic` wrote.
        device: "auto", "cpu", "cuda", ...
        score: things below it are left out; None is as the net was measured in its training.

    Raises:
        UserError: the file holds no trained panoptic net, or ``score`` is not from 0 to 1.
    """

    def __init__(
        self, checkpoint: str | Path, device: str = "auto", score: float | None = None
    ) -> None:
        if score is not None and not 0 <= score <= 1:
            raise UserError(f"--score is {score:g}; it must be from 0 to 1.")
        self.model, self.card = load_panoptic(checkpoint)
        self.model.require_head(str(checkpoint))
        self.compute: Compute = choose_compute(device, "float32")
        self.compute.place(self.model)
        self.kernels = has_kernels(self.compute.device)
        if score is not None:
            spec = self.model.spec
            self.model.spec = replace(spec, settings=replace(spec.settings, score=score))

    @property
    def score(self) -> float:
        """From which on things are told."""
        return self.model.spec.settings.score

    @property
    def things(self) -> tuple[bool, ...]:
        """Which classes can be counted."""
        return self.model.spec.things

    @cached_property
    def colours(self) -> tuple[Colour, ...]:
        """Of the classes: the data's own, or ours."""
        if self.card.palette:
            return tuple((red, green, blue) for red, green, blue in self.card.palette)
        # Colours need matplotlib's room, which predicting alone does not.
        from resnestkit.report.masks import class_colours  # noqa: PLC0415  (as said)

        return class_colours(len(self.card.classes))

    def predict(self, paths: Iterable[str | Path]) -> list[PanopticPrediction]:
        """The segments of each image file, in the files' order.

        Raises UnreadableImage, naming the file, for one that cannot be read.
        """
        return [prediction for prediction, _ in self.iterate(paths)]

    def iterate(
        self, paths: Iterable[str | Path], unreadable: list[UnreadableImage] | None = None
    ) -> Iterator[tuple[PanopticPrediction, UInt8[Tensor, "c h w"]]]:
        """As `predict`, image by image, with the image.

        Images that cannot be read are appended to ``unreadable`` and left out, if it is given.
        """
        channels = self.card.preprocessing.channels
        for name, image in read_each(paths, lambda path: read_image(path, channels), unreadable):
            numbers, segments = self.find(image)
            yield PanopticPrediction(name, numbers, segments, self.card.classes), image

    @torch.inference_mode()
    def find(
        self, image: UInt8[Tensor, "c h w"]
    ) -> tuple[Int32[NDArray[np.int32], "h w"], tuple[FoundSegment, ...]]:
        """Each pixel's segment, and what the segments are."""
        with use_kernels(enabled=self.kernels):
            (output,) = self.model(prepare_images([image], self.compute))
        return output["segments"].cpu().numpy(), tuple(output["segments_info"])


def _hull(mask: NDArray[np.bool_]) -> list[int]:
    """Left, top, width and height of what is true."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, left = int(rows[0]), int(columns[0])
    return [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1]
