"""Drawings from plain numbers: each function returns the bytes of a PNG and leaves no state behind.

The sheet and its colours are in `canvas`, what panels of lines share in `lines`, the confusion
matrix in `confusion`, several runs in `comparison`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from resnestkit.report import canvas
from resnestkit.report.canvas import (
    INK,
    MUTED,
    TRAIN,
    VAL,
    new_figure,
    plain,
    to_png,
    user_fonts,
)
from resnestkit.report.lines import (
    Line,
    Record,
    draw_pace,
    draw_panel,
    mark_best,
    read_points,
)

PICTURE_INCHES = 1.5
PICTURES_IN_A_ROW = 6
TINY_IMAGE = 64
"""Images up to this many pixels wide and high are enlarged with their pixels kept visible."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of a gallery, with what is written below it.

    ``image`` is (height, width, 3), uint8, RGB.
    """

    image: npt.NDArray[np.uint8]
    caption: str
    sub: str = ""


def draw_curves(records: Sequence[Record]) -> bytes:
    """Draw how a run went: loss, accuracy, learning rate and speed against the epoch.

    Args:
        records: One per epoch, with ``epoch`` and any of ``train_loss``, ``train_top1``,
            ``val_loss``, ``val_top1`` (fractions of 1), ``lr`` and ``images_per_second``.
            Values that are missing or not finite are left out.

    Returns:
        A PNG of four panels.
    """
    figure = new_figure(10.0, 6.2)
    loss, accuracy, rate, speed = figure.subplots(2, 2).flat
    draw_panel(loss, "Loss", records, _train_and_val("loss"))
    draw_panel(accuracy, "Accuracy, %", records, _train_and_val("top1"), 100.0)
    mark_best(accuracy, read_points(records, "val_top1", 100.0))
    draw_pace(rate, speed, records)
    return to_png(figure)


def draw_gallery(pictures: Sequence[Picture]) -> bytes:
    """Draw pictures in a grid, each with its caption below.

    Args:
        pictures: In reading order; none at all gives a picture that says so.

    Returns:
        A PNG.

    Raises:
        ValueError: If an image is not (height, width, 3) of uint8.
    """
    rows = max(1, math.ceil(len(pictures) / PICTURES_IN_A_ROW))
    columns = max(1, math.ceil(len(pictures) / rows))
    side, gap = round(PICTURE_INCHES * canvas.DPI), round(0.12 * canvas.DPI)
    lines = 2 if any(picture.sub for picture in pictures) else 1
    cell_height = side + round((0.14 + 0.17 * lines) * canvas.DPI)
    width, height = columns * (side + gap) + gap, rows * (cell_height + gap) + gap
    figure = Figure(
        figsize=(width / canvas.DPI, height / canvas.DPI), dpi=canvas.DPI, facecolor="white"
    )
    FigureCanvasAgg(figure)  # measures the captions
    if not pictures:
        figure.text(0.5, 0.5, "no pictures", color=MUTED, fontsize=9, ha="center", va="center")
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        left, top = gap + column * (side + gap), height - gap - row * (cell_height + gap)
        image = _resize(picture.image, side)
        pad_x, pad_y = (side - image.shape[1]) // 2, (side - image.shape[0]) // 2
        figure.figimage(image, left + pad_x, top - pad_y - image.shape[0], origin="upper")
        for line, (text, ink) in enumerate(((picture.caption, INK), (picture.sub, MUTED))):
            y = top - side - round((0.07 + 0.17 * line) * canvas.DPI)
            _write_fitting(figure, text, (left, y), side, ink)
    return to_png(figure)


def _train_and_val(name: str) -> list[Line]:
    return [("train", f"train_{name}", TRAIN), ("val", f"val_{name}", VAL)]


def _resize(image: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    """Fit an image into a square; Pillow, unlike matplotlib, averages when it makes one smaller."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(
            f"an image is (height, width, 3) of uint8, not {image.shape} {image.dtype}"
        )
    height, width = image.shape[:2]
    longest = max(height, width)
    tiny = longest <= TINY_IMAGE
    # Whole multiples keep the pixels of a tiny image equally big.
    scale = side // longest if tiny else side / longest
    wanted = (max(1, round(width * scale)), max(1, round(height * scale)))
    method = Image.Resampling.NEAREST if tiny else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(image).resize(wanted, method))


def _write_fitting(
    figure: Figure,
    text: str,
    corner: tuple[int, int],
    width: int,
    ink: str,
) -> None:
    """Write one line below its upper left corner (pixels), shortened until it fits the width."""
    x, y = corner[0] / figure.bbox.width, corner[1] / figure.bbox.height
    drawn = figure.text(
        x, y, plain(text, 60), color=ink, fontsize=8, va="top", fontfamily=user_fonts()[0]
    )
    limit = min(len(text), 60)
    while limit > 3 and (extent := drawn.get_window_extent().width) > width:
        limit = min(limit - 1, int(limit * width / extent))
        drawn.set_text(plain(text, limit))
