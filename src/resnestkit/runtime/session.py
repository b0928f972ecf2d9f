"""An exported file that answers: normalised images in, logits out."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float32
from numpy.typing import NDArray

from resnestkit.errors import UserError
from resnestkit.runtime.card import DeployCard, read_card, write_card
from resnestkit.runtime.loading import (
    Arithmetic,
    Run,
    has_bfloat16,
    load,
    name_processor,
)

Choice = Literal["auto", "float32", "bfloat16"]
"""A precision, or whichever is quicker on this processor."""

_WARM, _ROUNDS = 2, 9
_GAIN = 1.05
"""So many times quicker bfloat16 must be, to be worth its rounding."""


@dataclass(frozen=True, slots=True)
class Session:
    """A loaded file. Threads of a program may share one."""

    card: DeployCard
    precision: Arithmetic
    """In what its layers compute; those that were quantised compute in int8."""
    _run: Run

    def run(self, images: Float32[NDArray[np.float32], "b c h w"]) -> NDArray[np.float32]:
        """The first output: of a classifier or a segmenter, the logits.

        Raises UserError for images that the file does not take.
        """
        return self._checked(images)[0]

    def run_all(
        self, images: Float32[NDArray[np.float32], "b c h w"]
    ) -> dict[str, NDArray[np.float32]]:
        """All outputs by name: of a backbone, the features of its stages.

        Raises UserError for images that the file does not take.
        """
        return dict(zip(self.card.outputs, self._checked(images), strict=True))

    def _checked(self, images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        form = self.card.input
        batch, channels, height, width = images.shape
        fixed = (height, width) == (form.height, form.width)
        if (
            channels != form.channels
            or batch != (form.batch or batch)
            or not (form.dynamic or fixed)
        ):
            sides = "any size" if form.dynamic else f"{form.height} x {form.width}"
            raise UserError(
                f"The {self.card.net} takes {form.batch or 'any number of'} images of "
                f"{form.channels} channels and {sides}, not {' x '.join(map(str, images.shape))}."
            )
        return self._run(images)


def open_session(
    path: str | Path,
    threads: int | None = None,
    precision: Choice | None = None,
    size: tuple[int, int] | None = None,
) -> Session:
    """Load an exported file, .xml or .onnx, in its runtime.

    Args:
        path: a file that `resnestkit export` or `resnestkit quantise` wrote.
        threads: how many at most; None is one for each core.
        precision: "float32"; "bfloat16"; "auto", which measures both where the processor has both,
            and writes the quicker into the file's card, for the next time; or None, which is what
            the card remembers of this processor, else float32.
        size: height and width of all images to come, where they are known; OpenVINO plans for it.

    Raises:
        UserError: the file is missing, damaged or not ours, its library is not installed, or it
            cannot compute so here.
    """
    path = Path(path)
    card = read_card(path)
    shape = _fix(card, size)
    chosen = _recall(path, card) if precision in {None, "auto"} else precision
    if chosen is None and precision == "auto":
        chosen, card = _measure_and_remember(path, card, threads)
    arithmetic: Arithmetic = "bfloat16" if chosen == "bfloat16" else "float32"
    return Session(card, arithmetic, load(path, arithmetic, threads, shape))


def measure_precisions(path: str | Path, threads: int | None = None) -> dict[Arithmetic, float]:
    """Milliseconds for one image in each precision that this processor has for a file.

    They take turns, after a warm-up; each is a median.
    """
    path = Path(path)
    card = read_card(path)
    form = card.input
    kinds: tuple[Arithmetic, ...] = ("float32", "bfloat16") if _may_choose(path) else ("float32",)
    shape = _fix(card, (form.height, form.width))
    runs = {kind: load(path, kind, threads, shape) for kind in kinds}
    images = np.zeros((form.batch or 1, form.channels, form.height, form.width), np.float32)
    spent: Mapping[Arithmetic, list[float]] = {kind: [] for kind in kinds}
    for _ in range(_WARM + _ROUNDS):
        for kind, run in runs.items():
            start = time.perf_counter()
            run(images)
            spent[kind].append(1e3 * (time.perf_counter() - start) / len(images))
    return {kind: statistics.median(times[_WARM:]) for kind, times in spent.items()}


def _fix(card: DeployCard, size: tuple[int, int] | None) -> tuple[int, ...] | None:
    """The shape to plan for; the batch stays free, which costs OpenVINO nothing that measures."""
    if size is None or not card.input.dynamic:
        return None
    return (card.input.batch or -1, card.input.channels, *size)


def _may_choose(path: Path) -> bool:
    return path.suffix.lower() == ".xml" and has_bfloat16()


def _recall(path: Path, card: DeployCard) -> str | None:
    """What was measured on this processor before; None if nothing was."""
    if not card.quickest or not _may_choose(path):
        return None
    return card.quickest.get(name_processor())


def _measure_and_remember(
    path: Path, card: DeployCard, threads: int | None
) -> tuple[Arithmetic, DeployCard]:
    if not _may_choose(path):
        return "float32", card
    spent = measure_precisions(path, threads)
    chosen: Arithmetic = "bfloat16" if spent["bfloat16"] * _GAIN < spent["float32"] else "float32"
    card = replace(card, quickest={**card.quickest, name_processor(): chosen})
    with suppress(UserError):  # in a folder that cannot be written, it is measured each time
        write_card(path, card)
    return chosen, card
