"""How whole images become class scores: at one scale or several, mirrored, by windows.

Every way but a single pass takes the mean of the passes' probabilities, as OpenMMLab does. (The
authors add up the exponentials of logits: encoding/models/sseg/base.py of PyTorch-Encoding.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, get_type_hints

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from resnestkit.errors import UserError
from resnestkit.values import is_a

Images = Float[Tensor, "b i h w"]
Scores = Float[Tensor, "b k h w"]
Net = Callable[[Tensor], Tensor]
"""Gives logits at the images' size."""

PAPER_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
"""The authors' on ADE20K and Pascal-Context, mirrored too, in windows of the training's crop."""

_OVERLAP = 1 / 3
"""Of neighbouring windows, as a share of their side: the authors' stride is two thirds."""
_LEAST = 1e-30
_MOST_SCALE = 16.0


@dataclass(frozen=True, slots=True)
class Protocol:
    """How images are looked at in an evaluation; the same net scores differently by another."""

    side: int | None = None
    """Pixels to which the longer side is resized; None leaves an image as it is."""
    scales: tuple[float, ...] = (1.0,)
    """Sizes at which it is looked at, as multiples."""
    flip: bool = False
    """Whether it is looked at mirrored too."""
    window: int | None = None
    """Side of the square windows that slide over what is larger; None looks at all of it."""

    def __post_init__(self) -> None:
        """Raise UserError, naming the flag, for a value without sense."""
        for flag, value, holds, wanted in (
            ("side", self.side, self.side is None or self.side >= 1, "1 or more"),
            ("scales", self.scales, bool(self.scales), "one or more"),
            (
                "scales",
                " ".join(f"{scale:g}" for scale in self.scales),
                all(1 / _MOST_SCALE <= scale <= _MOST_SCALE for scale in self.scales),
                f"from {1 / _MOST_SCALE:g} to {_MOST_SCALE:g}",
            ),
            ("windows", self.window, self.window is None or self.window >= 8, "8 or more"),
        ):
            if not holds:
                raise UserError(f"--{flag} is {value}; it must be {wanted}.")

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def but(
        self,
        scales: tuple[float, ...] | None = None,
        flip: bool | None = None,
        windows: int | None = None,
        side: int | None = None,
    ) -> Protocol:
        """Changed where something is asked for, as on a command line; 0 is no window and no side.

        Raises UserError for a value without sense.
        """
        return Protocol(
            self.side if side is None else side or None,
            self.scales if scales is None else scales,
            self.flip if flip is None else flip,
            self.window if windows is None else windows or None,
        )

    @property
    def is_single(self) -> bool:
        """Whether it is one pass over the whole image."""
        return len(self.scales) == 1 and not self.flip and self.window is None

    def __str__(self) -> str:
        """What to write beside a number that was measured so."""
        low, high = min(self.scales), max(self.scales)
        said = ["single scale" if high == 1 else f"scale {high:g}"]
        if len(self.scales) > 1:
            said = [f"{len(self.scales)} scales from {low:g} to {high:g}"]
        said += ["mirrored"] * self.flip
        said += [] if self.window is None else [f"windows of {self.window} pixels"]
        said += [] if self.side is None else [f"longer side of {self.side} pixels"]
        return ", ".join(said)


SINGLE_SCALE = Protocol()


def known_protocol(said: object) -> Protocol:
    """What a checkpoint's data say of it, as `Protocol.to_dict` wrote it; else a single pass."""
    if not isinstance(said, Mapping):
        return SINGLE_SCALE
    values: dict[str, Any] = {
        name: tuple(v) if isinstance(v, list) else v for name, v in said.items()
    }
    kinds = get_type_hints(Protocol)
    if not all(name in kinds and is_a(value, kinds[name]) for name, value in values.items()):
        return SINGLE_SCALE
    return Protocol(**values)


def score_images(model: Net, images: Images, protocol: Protocol = SINGLE_SCALE) -> Scores:
    """Class scores of every pixel, at the images' own size; their softmax is probabilities.

    Args:
        model: in evaluation mode.
        images: of one size, as the model takes them.
        protocol: by which they are looked at.

    Returns:
        The logits of a single pass, or the logarithms of the mean probabilities of several.
    """
    size = images.shape[-2], images.shape[-1]
    if protocol.is_single:
        scaled = scale_size(size, protocol.side, protocol.scales[0])
        return _resize_scores(model(resize_images(images, scaled)).float(), size)
    total: Tensor | None = None
    for scale in protocol.scales:
        resized = resize_images(images, scale_size(size, protocol.side, scale))
        for mirrored in (False, True)[: 1 + protocol.flip]:
            seen = resized.flip(-1) if mirrored else resized
            found = _look_by_windows(model, seen, protocol.window)
            found = _resize_scores(found.flip(-1) if mirrored else found, size)
            total = found if total is None else total.add_(found)
    assert total is not None
    passes = len(protocol.scales) * (1 + protocol.flip)
    return total.div_(passes).clamp_min_(_LEAST).log_()


def scale_size(size: tuple[int, int], side: int | None, scale: float = 1.0) -> tuple[int, int]:
    """Height and width with the longer side so long, times a scale; no side is below one pixel."""
    factor = scale if side is None else scale * side / max(size)
    height, width = (max(1, math.floor(length * factor + 0.5)) for length in size)
    return height, width


def resize_images(images: Images, size: tuple[int, int]) -> Images:
    """Bilinear, with antialias, as a training resizes its images."""
    if images.shape[-2:] == size:
        return images
    return F.interpolate(images, size, mode="bilinear", antialias=True)


def _resize_scores(scores: Scores, size: tuple[int, int]) -> Scores:
    if scores.shape[-2:] == size:
        return scores
    return F.interpolate(scores, size, mode="bilinear")


def _look_by_windows(model: Net, images: Images, window: int | None) -> Scores:
    """Mean probabilities of the windows that cover each pixel."""
    height, width = images.shape[-2:]
    if window is None or max(height, width) <= window:
        return model(images).float().softmax(1)
    total: Tensor | None = None
    count = images.new_zeros((height, width), dtype=torch.float32)
    for place in _windows(height, width, window):
        rows, columns = place
        found = model(images[..., rows, columns]).float().softmax(1)
        if total is None:
            total = found.new_zeros((*found.shape[:2], height, width))
        total[..., rows, columns] += found
        count[rows, columns] += 1
    assert total is not None
    return total.div_(count)


def _windows(height: int, width: int, window: int) -> Iterator[tuple[slice, slice]]:
    for top in _starts(height, window):
        for left in _starts(width, window):
            yield slice(top, top + window), slice(left, left + window)


def _starts(length: int, window: int) -> list[int]:
    """Where windows begin: evenly spread, the last ending at the edge, none with too wide a step.

    An image that is smaller than a window is looked at as it is.
    """
    if length <= window:
        return [0]
    stride = max(1, window - round(window * _OVERLAP))
    steps = math.ceil((length - window) / stride)
    return [round(step * (length - window) / steps) for step in range(steps + 1)]
