"""Pictures in rows, each with a line above it, and what their colours mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from resnestkit.report import canvas
from resnestkit.report.canvas import FAINT, INK, MUTED, plain, to_png, user_fonts

_GAP, _TEXT = 30, 52
_SWATCH, _LINE = 22, 40
_NAME_LENGTH = 26


@dataclass(frozen=True, slots=True)
class Titled:
    """A picture, (h, w, 3) of uint8, with a line of text above it."""

    image: npt.NDArray[np.uint8]
    title: str = ""


@dataclass(frozen=True, slots=True)
class Swatch:
    """A colour, and what it stands for."""

    colour: tuple[int, int, int]
    name: str


def draw_rows(rows: Sequence[Sequence[Titled]], legend: Sequence[Swatch] = ()) -> bytes:
    """Draw rows of as many pictures each, at the size that they have, below a legend.

    Returns:
        A PNG; without any row, it says so.
    """
    columns = max((len(row) for row in rows), default=2)
    heights = [max(one.image.shape[0] for one in row) + _TEXT + _GAP for row in rows]
    widest = max([300, *(one.image.shape[1] for row in rows for one in row)])
    width = columns * widest + (columns + 1) * _GAP
    places, named = _place_legend(legend, width)
    height = max(120, sum(heights) + _GAP + named)
    figure = _new_sheet(width, height)
    _draw_legend(figure, legend, places)
    top = height - _GAP - named
    for row, taken in zip(rows, heights, strict=True):
        for column, one in enumerate(row):
            x = _GAP + column * (widest + _GAP)
            _write(figure, plain(one.title, 70), (x, top - 6), va="top")
            figure.figimage(one.image, x, top - _TEXT - one.image.shape[0], origin="upper")
        top -= taken
    if not rows:
        figure.text(0.5, 0.5, "no pictures", color=MUTED, fontsize=9, ha="center", va="center")
    return to_png(figure)


def _new_sheet(width: int, height: int) -> Figure:
    size = (width / canvas.DPI, height / canvas.DPI)
    figure = Figure(figsize=size, dpi=canvas.DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _write(figure: Figure, text: str, at: tuple[float, float], va: str) -> None:
    x, y = at[0] / figure.bbox.width, at[1] / figure.bbox.height
    figure.text(x, y, text, color=INK, fontsize=9, va=va, fontfamily=user_fonts()[0])


def _place_legend(legend: Sequence[Swatch], width: int) -> tuple[list[tuple[float, int]], int]:
    """Left edge and line of each swatch, in reading order, and the height of all lines."""
    measure = _new_sheet(width, 100)
    places: list[tuple[float, int]] = []
    x, line = float(_GAP), 0
    for swatch in legend:
        words = measure.text(
            0, 0, plain(swatch.name, _NAME_LENGTH), fontsize=9, fontfamily=user_fonts()[0]
        )
        taken = _SWATCH + 12 + words.get_window_extent().width + _GAP
        if x + taken > width and x > _GAP:
            x, line = float(_GAP), line + 1
        places.append((x, line))
        x += taken
    return places, (line + 1) * _LINE + _GAP // 2 if legend else 0


def _draw_legend(
    figure: Figure, legend: Sequence[Swatch], places: Sequence[tuple[float, int]]
) -> None:
    width, height = figure.bbox.width, figure.bbox.height
    for swatch, (x, line) in zip(legend, places, strict=True):
        y = height - _GAP - line * _LINE - _SWATCH
        figure.add_artist(
            Rectangle(
                (x / width, y / height), _SWATCH / width, _SWATCH / height,
                facecolor=[part / 255 for part in swatch.colour], edgecolor=FAINT, lw=0.5,
                transform=figure.transFigure,
            )
        )  # fmt: skip
        at = (x + _SWATCH + 12, y + _SWATCH / 2)
        _write(figure, plain(swatch.name, _NAME_LENGTH), at, va="center")
