"""A segmenter's checkpoint that answers: images in, a class for every pixel out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from resnestkit.compute import Compute, choose_compute, explain_memory
from resnestkit.data.images import UnreadableImage
from resnestkit.data.pictures import MOST_MEGAPIXELS, Picture, open_picture
from resnestkit.data.segmentation.legend import Colour
from resnestkit.data.transforms import normalise
from resnestkit.deploy.predictor import read_each
from resnestkit.deploy.tiles import (
    Labels,
    Tiling,
    best_class,
    check_side,
    choose_tiling,
    count_tiles,
    label_in_tiles,
    resize_labels,
)
from resnestkit.errors import UserError
from resnestkit.ops.fused import use_kernels
from resnestkit.ops.kernels import has_kernels
from resnestkit.progress import error_reporter
from resnestkit.segmentation.scales import (
    Protocol,
    known_protocol,
    scale_size,
    score_images,
)
from resnestkit.segmenters import load_segmenter

_ADVICE = "Give a smaller --tile, such as 512."


@dataclass(frozen=True, slots=True, eq=False)
class Segmentation:
    """The class of every pixel of one image."""

    image: str
    labels: Labels
    """Indices of classes, (height, width), from 0."""
    classes: tuple[str, ...]
    tiling: Tiling | None = None
    """How the image was cut; None if it was seen whole."""

    @property
    def shares(self) -> dict[str, float]:
        """Share of the pixels of each class that is there, the largest first."""
        count = len(self.classes)
        pixels = np.zeros(count, np.int64)
        for row in self.labels:  # numpy counts numbers of eight bytes: all at once were too many
            pixels += np.bincount(row, minlength=count)
        order = sorted(range(count), key=lambda k: -int(pixels[k]))
        return {self.classes[k]: float(pixels[k]) / self.labels.size for k in order if pixels[k]}

    @property
    def seen(self) -> str:
        """How the image was seen, in words."""
        return f"tiles of {self.tiling.side}" if self.tiling else "whole"

    def to_dict(self) -> dict[str, Any]:
        """What there is to say without the mask itself."""
        height, width = self.labels.shape
        size = {"width": width, "height": height}
        return {"image": self.image, **size, "seen": self.seen, "shares": self.shares}


class SegmentationPredictor:
    """Says the class of every pixel with a checkpoint of a segmenter, one image at a time.

    Preprocessing, class names and their colours come from the file.

    >>> predictor = SegmentationPredictor("runs/mine/best.safetensors")  # doctest: +SKIP
    >>> predictor.predict(["street.jpg"])[0].shares  # doctest: +SKIP
    {'road': 0.41, 'sky': 0.2, ...}

    Args:
        checkpoint: a file that `resnestkit train` or `save_segmenter` wrote.
        device: "auto", "cpu", "cuda", ...
        scales: at which sizes, as multiples, an image is looked at.
        flip: whether it is looked at mirrored too.
        windows: side of the windows that slide over what is larger; 0 for none.
        side: pixels to which its longer side is resized first; 0 leaves it as it is. What is None
            of these four is as the segmenter was measured in its training.
        tile: side of the tiles that images are cut into, in the pixels that the net sees; 0 for
            none; None cuts large images alone, as `resnestkit.deploy.tiles.choose_tiling` says.
        max_megapixels: larger images are refused.
        precision: "float32", "bfloat16", or "auto": bfloat16 where the processor multiplies in it.

    Raises:
        UserError: the file holds no trained segmenter, or a setting has no sense.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        device: str = "auto",
        scales: tuple[float, ...] | None = None,
        flip: bool | None = None,
        windows: int | None = None,
        side: int | None = None,
        tile: int | None = None,
        max_megapixels: float = MOST_MEGAPIXELS,
        precision: Literal["auto", "float32", "bfloat16"] = "float32",
    ) -> None:
        check_side(tile or 0)
        if not 0 < max_megapixels < math.inf:
            raise UserError(f"--max-megapixels is {max_megapixels:g}; it must be above 0.")
        self.model, self.card = load_segmenter(checkpoint)
        self.model.require_head(str(checkpoint))
        self.compute: Compute = choose_compute(device, precision)
        self.compute.place(self.model)
        self.kernels = has_kernels(self.compute.device)
        usual = known_protocol(self.card.data.get("protocol"))
        self.protocol = usual.but(scales, flip, windows, side)
        self.tile, self.max_megapixels = tile, max_megapixels

    @cached_property
    def colours(self) -> tuple[Colour, ...]:
        """Of the classes: the data's own, or ours."""
        if self.card.palette:
            return tuple((red, green, blue) for red, green, blue in self.card.palette)
        # Colours need matplotlib's room, which predicting alone does not.
        from resnestkit.report.masks import class_colours  # noqa: PLC0415  (as said)

        return class_colours(len(self.card.classes))

    def predict(self, paths: Iterable[str | Path]) -> list[Segmentation]:
        """The classes in each image file, in the files' order.

        Raises UnreadableImage, naming the file, for one that cannot be read.
        """
        return [segmentation for segmentation, _ in self.iterate(paths)]

    def iterate(
        self, paths: Iterable[str | Path], unreadable: list[UnreadableImage] | None = None
    ) -> Iterator[tuple[Segmentation, Picture]]:
        """As `predict`, image by image, with the image.

        Images that cannot be read are appended to ``unreadable`` and left out, if it is given.
        """
        channels = self.card.preprocessing.channels
        most = self.max_megapixels
        for name, picture in read_each(
            paths, lambda p: open_picture(p, channels, most), unreadable
        ):
            labels, tiling = self.segment(picture, Path(name).name)
            yield Segmentation(name, labels, self.card.classes, tiling), picture
            del labels, picture  # before the next is read

    def segment(self, picture: Picture, name: str = "image") -> tuple[Labels, Tiling | None]:
        """The class of every pixel, and how the picture was cut. ``name`` is for the progress."""
        with explain_memory(_ADVICE):
            return self._segment(picture, self.protocol, name)

    def _segment(
        self, picture: Picture, protocol: Protocol, name: str
    ) -> tuple[Labels, Tiling | None]:
        size = picture.height, picture.width
        grown = max(protocol.scales) * (protocol.side / max(size) if protocol.side else 1)
        classes = len(self.card.classes)
        tiling = choose_tiling(*size, classes, self.tile, grown)
        if tiling is None:
            return best_class(self._score(picture.read(0, 0, *size), protocol)), None
        if protocol.side:
            # Once for all tiles; what it then sees may fit into one.
            resized = picture.resize(*scale_size(size, protocol.side))
            labels, tiling = self._segment(resized, replace(protocol, side=None), name)
            return resize_labels(labels, *size), tiling
        return self.label_tiles(picture, tiling, name), tiling

    def label_tiles(self, picture: Picture, tiling: Tiling, name: str = "image") -> Labels:
        """The class of every pixel of a picture that is cut so, seen at its own size."""
        protocol = replace(self.protocol, side=None)
        size = picture.height, picture.width
        with error_reporter().track(name, count_tiles(size, tiling)) as advance:
            return label_in_tiles(
                picture.read,
                lambda part: probabilities_(self._score(part, protocol)),
                size,
                len(self.card.classes),
                tiling,
                lambda done: advance(done, "tiles"),
            )

    @torch.inference_mode()
    def _score(self, part: UInt8[Tensor, "c h w"], protocol: Protocol) -> Float[Tensor, "k h w"]:
        moved = part.unsqueeze(0).to(self.compute.device, memory_format=self.compute.layout)
        images = normalise(moved, self.card.preprocessing)
        with use_kernels(enabled=self.kernels), self.compute.autocast():
            return score_images(self.model, images, protocol)[0]


def probabilities_(scores: Float[Tensor, "k h w"]) -> Float[Tensor, "k h w"]:
    """Softmax over the classes, in the scores' own memory."""
    scores.sub_(scores.amax(0)).exp_()
    return scores.div_(scores.sum(0))
