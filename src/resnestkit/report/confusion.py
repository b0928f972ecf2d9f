"""The confusion matrix, for any number of classes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import FigureBase
from matplotlib.ticker import PercentFormatter

from resnestkit.report.canvas import (
    FAINT,
    INK,
    MUTED,
    VAL,
    new_figure,
    plain,
    set_title,
    to_png,
    user_fonts,
)

SHARES = LinearSegmentedColormap.from_list("shares", ["#ffffff", "#93c5fd", "#2563eb", "#172554"])

COUNTED_CLASSES = 20
"""With more classes than this, cells hold no counts; the worst confusions are listed instead."""
NAMED_CLASSES = 60
"""With more classes than this, only every so many is named on the axes."""
DRAWN_CELLS = 250
"""With more classes than this, neighbours share a cell: a smaller one could not be seen."""
LISTED_CONFUSIONS = 12


def draw_confusion(matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> bytes:
    """Draw a confusion matrix, coloured by the share of each true class.

    Few classes get counts in their cells; with many, the most frequent confusions follow below.

    Args:
        matrix: Counts; a row is a true class, a column a predicted one.
        classes: Names, in the order of the rows.

    Returns:
        A PNG.

    Raises:
        ValueError: If the matrix is not square or does not fit the names.
    """
    counts = np.asarray(matrix, dtype=np.int64)
    size = len(classes)
    if not size or counts.shape != (size, size):
        raise ValueError(f"{size} class names but a confusion matrix of shape {counts.shape}")
    names = [plain(name, 24) for name in classes]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    if size <= COUNTED_CLASSES:
        side = max(3.4, 0.42 * size)
        room = 0.5 + 0.075 * max(map(len, names))
        figure = new_figure(side + room + 1.0, side + 0.7 * room + 0.9)
        axes = figure.add_subplot()
        _draw_shares(figure, axes, shares, names)
        _write_counts(axes, counts, shares, 72 * side / size)
    else:
        figure = new_figure(10.0, 12.2)
        # Two figures in one, as the bars have long labels that would push the matrix aside.
        grid = figure.add_gridspec(2, 1, height_ratios=(3.6, 1))
        above, below = figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])
        _draw_shares(above, above.add_subplot(), shares, names)
        full = [plain(name, 36) for name in classes]
        _list_confusions(below.add_subplot(), counts, shares, full)
    return to_png(figure)


def _draw_shares(
    figure: FigureBase, axes: Axes, shares: npt.NDArray[np.float64], names: Sequence[str]
) -> None:
    size = len(names)
    # The square root lets rare confusions show beside a diagonal that is nearly full.
    cells, block = _pool(shares)
    edge = len(cells) * block - 0.5
    image = axes.imshow(
        cells, cmap=SHARES, norm=PowerNorm(0.5, 0.0, 1.0), extent=(-0.5, edge, edge, -0.5)
    )
    step = 1 if size <= NAMED_CLASSES else math.ceil(size / 50)
    places, shown = range(0, size, step), list(names[::step])
    few = size <= COUNTED_CLASSES
    style: dict[str, Any] = {"fontfamily": user_fonts()[0], "fontsize": 9 if few else 6.5}
    turn: dict[str, Any] = {}
    if size > 6 or max(map(len, names)) > 8:
        turn = {"rotation": 45 if few else 90, "rotation_mode": "anchor"}
        turn |= {"ha": "right", "va": "center"}
    axes.set_xticks(places, shown, **style, **turn)
    axes.set_yticks(places, shown, **style)
    axes.tick_params(colors=INK, length=0 if few else 2, color=FAINT)
    note = f" (a cell shows the highest of {block} by {block} classes)" if block > 1 else ""
    axes.set_xlabel(f"predicted{note}", color=MUTED, fontsize=9)
    axes.set_ylabel("true", color=MUTED, fontsize=9)
    axes.spines[:].set_color(FAINT)
    if few:
        for index in range(1, size):
            axes.axhline(index - 0.5, color="white", lw=1)
            axes.axvline(index - 0.5, color="white", lw=1)
    bar = figure.colorbar(image, ax=axes, shrink=0.6, aspect=30, pad=0.02)
    bar.set_ticks([0, 0.01, 0.05, 0.1, 0.25, 0.5, 1])
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    bar.ax.tick_params(colors=MUTED, labelsize=8, length=0)
    bar.set_label("share of the true class", color=MUTED, fontsize=8)
    bar.outline.set_edgecolor(FAINT)


def _pool(shares: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], int]:
    """Take the highest of each block of cells, and say how many cells wide a block is."""
    block = math.ceil(len(shares) / DRAWN_CELLS)
    missing = -len(shares) % block
    padded = np.pad(shares, (0, missing))
    count = len(padded) // block
    return padded.reshape(count, block, count, block).max(axis=(1, 3)), block


def _write_counts(
    axes: Axes,
    counts: npt.NDArray[np.int64],
    shares: npt.NDArray[np.float64],
    cell_points: float,
) -> None:
    """Write every count into its cell, small enough for the longest one."""
    font = min(10.0, cell_points / (0.75 * max(2, len(str(counts.max())))))
    for (row, column), count in np.ndenumerate(counts):
        ink = FAINT if count == 0 else "white" if shares[row, column] > 0.2 else INK
        axes.text(column, row, str(count), color=ink, fontsize=font, ha="center", va="center")


def _list_confusions(
    axes: Axes,
    counts: npt.NDArray[np.int64],
    shares: npt.NDArray[np.float64],
    names: Sequence[str],
) -> None:
    """Draw the most frequent confusions as bars: a big matrix has cells too small to read."""
    pairs = list(_worst_confusions(counts))
    set_title(axes, "Most frequent confusions (true → predicted)")
    axes.spines[:].set_visible(False)
    axes.tick_params(colors=INK, length=0)
    axes.set_xticks([])
    axes.set_yticks(
        range(len(pairs)),
        [f"{names[row]} → {names[column]}" for row, column in pairs],
        fontfamily=user_fonts()[0], fontsize=8.5,
    )  # fmt: skip
    if not pairs:
        axes.text(
            0, 0.9, "none: every image was recognised", transform=axes.transAxes, color=MUTED,
            fontsize=9, va="top",
        )  # fmt: skip
        return
    values = [int(counts[pair]) for pair in pairs]
    axes.barh(range(len(pairs)), values, color=VAL, height=0.62)
    for place, (pair, value) in enumerate(zip(pairs, values, strict=True)):
        text = f" {value:,} ({shares[pair]:.0%} of the class)"
        axes.text(value, place, text, color=MUTED, fontsize=8.5, va="center")
    axes.set_xlim(0, max(values) * 1.3)
    axes.set_ylim(LISTED_CONFUSIONS - 0.5, -0.5)


def _worst_confusions(counts: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    for flat in np.argsort(-wrong, axis=None, kind="stable")[:LISTED_CONFUSIONS]:
        row, column = divmod(int(flat), len(wrong))
        if wrong[row, column] > 0:
            yield row, column
