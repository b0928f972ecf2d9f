"""Whether an exported file computes what the model does, on real images, at several shapes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from resnestkit.data.files import is_image_file
from resnestkit.data.images import UnreadableImage, read_image
from resnestkit.data.sources import DIGITS, load_source
from resnestkit.data.transforms import normalise
from resnestkit.errors import UserError
from resnestkit.preprocessing import Preprocessing
from resnestkit.runtime.card import Check, InputForm
from resnestkit.runtime.loading import Run

MOST_DIFFERENCE = 1e-4
"""Largest difference of a float32 file from the model, as a share of the largest output."""

_IMAGES = 8
_ROUNDS = 5
_SEVERAL = 3
"""Images of the larger batch."""


def check(
    runner: Run,
    model: Run,
    form: InputForm,
    images: Sequence[UInt8[Tensor, "c _ _"]],
    preprocessing: Preprocessing,
    *,
    decides: bool,
) -> tuple[Check, ...]:
    """Compare a file with its model at every shape of `check_shapes`, and time both.

    ``decides`` says whether the channels of the output are classes.
    """
    rows = []
    for batch, height, width in check_shapes(form):
        prepared = _prepare(images, preprocessing, batch, height, width)
        ours, reference = _run(runner, prepared, form), model(prepared)
        slow, quick = _time(prepared, model, runner)
        rows.append(
            Check(
                batch,
                height,
                width,
                difference=compare(ours, reference),
                agreement=_agree(ours[0], reference[0]) if decides else 1.0,
                torch_ms=slow / batch,
                runtime_ms=quick / batch,
            )
        )
    return tuple(rows)


def _run(runner: Run, images: NDArray[np.float32], form: InputForm) -> list[NDArray[np.float32]]:
    """What a file gives. Raises UserError if its runtime does not take these images after all."""
    try:
        return runner(images)
    except Exception as error:  # each runtime has kinds of its own
        shape = " x ".join(map(str, images.shape))
        reason = str(error).strip().split("\n", maxsplit=1)[0]
        hint = "; give --static, for it cannot be exported for every size" * form.dynamic
        raise UserError(f"The file was not kept: it fails for {shape}{hint} ({reason}).") from error


def check_shapes(form: InputForm) -> list[tuple[int, int, int]]:
    """Batch, height and width: of all that a file takes, one and several, smaller, larger, odd."""
    counts = (1, _SEVERAL) if form.batch is None else (form.batch,)
    shapes = [(count, form.height, form.width) for count in counts]
    if form.dynamic:
        height, width = (_fit(side * 5 // 7, form) for side in (form.height, form.width))
        shapes.append((counts[-1], height, width))
        height, width = form.height * 3 // 4 | 1, form.width * 9 // 8 | 1
        shapes.append((counts[0], _fit(height, form), _fit(width, form)))
    return shapes


def _fit(side: int, form: InputForm) -> int:
    """A side that the file takes, as large or larger."""
    return -(-max(side, form.least_side) // form.multiple) * form.multiple


def compare(ours: Sequence[NDArray[Any]], reference: Sequence[NDArray[Any]]) -> float:
    """The largest difference of all outputs, each as a share of its largest value.

    It is infinite where shapes differ, or what should be numbers are none.
    """
    worst = 0.0
    for found, expected in zip(ours, reference, strict=True):
        if found.shape != expected.shape or not np.isfinite(found).all():
            return float("inf")
        largest = float(np.abs(expected).max(initial=0.0))
        difference = float(np.abs(found - expected).max(initial=0.0))
        worst = max(worst, difference / largest if largest else difference)
    return worst


def refuse(rows: Sequence[Check], what: str) -> None:
    """Raise UserError if a file differs from its model by more than rounding."""
    for row in rows:
        if not row.difference <= MOST_DIFFERENCE:
            raise UserError(
                f"{what} was not written: for {row.batch} x {row.height} x {row.width} its outputs "
                f"differ from PyTorch's by {row.difference:.1e} of the largest, and "
                f"{MOST_DIFFERENCE:.0e} is the most that rounding explains."
            )


def _agree(ours: NDArray[Any], reference: NDArray[Any]) -> float:
    if ours.shape != reference.shape:
        return 0.0
    return float((ours.argmax(1) == reference.argmax(1)).mean())


def _time(images: NDArray[np.float32], *runners: Run) -> list[float]:
    """Milliseconds of each, once warm: medians of rounds in which they take turns."""
    spent: list[list[float]] = [[] for _ in runners]
    for _ in range(_ROUNDS):
        for run, times in zip(runners, spent, strict=True):
            start = time.perf_counter()
            run(images)
            times.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(times) for times in spent]


def _prepare(
    images: Sequence[Tensor], preprocessing: Preprocessing, batch: int, height: int, width: int
) -> NDArray[np.float32]:
    """Images of a size, normalised; what their sides were to each other does not matter here."""
    chosen = [images[i % len(images)] for i in range(batch)]
    sized = [
        F.interpolate(image[None], (height, width), mode="bilinear", antialias=True)
        for image in chosen
    ]
    prepared: NDArray[np.float32] = normalise(torch.cat(sized), preprocessing).numpy()
    return prepared


def find_check_images(
    origin: str, folder: str | Path | None, channels: int
) -> tuple[list[UInt8[Tensor, "c _ _"]], str]:
    """Real images, and words that say which: the folder's, else those of the model's own data.

    Where these are not at hand, or are of another number of channels than files have, the built-in
    digits stand in. Raises UserError if a folder was given and holds no image that can be read.
    """
    if channels in {1, 3}:
        places = [Path(folder)] if folder else [Path(origin, "images"), Path(origin)]
        for place in places if folder or origin else []:
            found = list(islice(_read_all(place, channels), _IMAGES))
            if found:
                return found, f"images of {place}"
    if folder:
        raise UserError(f"There are no images in {folder} that could be read.")
    digits = load_source(DIGITS, channels).splits["train"]
    why = "" if origin == DIGITS else ", since the images of its training are not at hand"
    return [digits.read(index) for index in range(_IMAGES)], f"the built-in digits{why}"


def _read_all(folder: Path, channels: int) -> Iterator[Tensor]:
    """The images below a folder, as the disk lists them: a large folder is not gone through."""
    for path in folder.rglob("*"):
        if is_image_file(path):
            try:
                yield read_image(path, channels)
            except UnreadableImage:
                continue
