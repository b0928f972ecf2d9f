"""Drawings from plain numbers: each function returns the bytes of a PNG and leaves no state behind.

Only matplotlib's object interface is used: pyplot keeps figures alive and may look for a display.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure, FigureBase
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter
from PIL import Image

Record = Mapping[str, float]
Points = tuple[list[float], list[float]]

DPI = 192
"""Two pixels of the drawing per CSS pixel, so that 9 points look like 12 pixels on a page."""

INK, MUTED, FAINT, LINE = "#1f2937", "#6b7280", "#c3c9d2", "#e5e7eb"
TRAIN, VAL, BEST, OTHER = "#94a3b8", "#2563eb", "#dc2626", "#0f766e"
RUNS = ("#2563eb", "#d97706", "#059669", "#c026d3", "#dc2626", "#0891b2", "#78716c", "#65a30d")
DASHES = ("-", "--", ":", "-.")
SHARES = LinearSegmentedColormap.from_list("shares", ["#ffffff", "#93c5fd", "#2563eb", "#172554"])

COUNTED_CLASSES = 20
"""With more classes than this, cells hold no counts; the worst confusions are listed instead."""
NAMED_CLASSES = 60
"""With more classes than this, only every so many is named on the axes."""
DRAWN_CELLS = 250
"""With more classes than this, neighbours share a cell: a smaller one could not be seen."""
LISTED_CONFUSIONS = 12

PICTURE_INCHES = 1.5
PICTURES_IN_A_ROW = 6
TINY_IMAGE = 64
"""Images up to this many pixels wide and high are enlarged with their pixels kept visible."""

_WORLD_FONTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Zen Hei",
    "PingFang SC", "Hiragino Sans", "Apple SD Gothic Neo", "Microsoft YaHei", "Yu Gothic",
    "Malgun Gothic", "SimHei", "Noto Sans Devanagari", "Noto Sans Thai", "Arial Unicode MS",
)  # fmt: skip


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
    figure = _figure(10.0, 6.2)
    loss, accuracy, rate, speed = figure.subplots(2, 2).flat
    _draw_lines(loss, "Loss", _train_and_val(records, "loss"))
    _draw_lines(accuracy, "Accuracy, %", _train_and_val(records, "top1", 100.0))
    _mark_best(accuracy, _points(records, "val_top1", 100.0))
    _draw_lines(rate, "Learning rate", {"": (_points(records, "lr"), OTHER)})
    _draw_lines(speed, "Images per second", {"": (_points(records, "images_per_second"), OTHER)})
    for axes in (rate, speed):
        axes.set_ylim(bottom=0)
    for axes in (loss, accuracy, rate, speed):
        _set_epochs(axes, [record["epoch"] for record in records])
    for axes in (rate, speed):
        axes.set_xlabel("epoch", color=MUTED, fontsize=9)
    return _png(figure)


def draw_comparison(runs: Mapping[str, Sequence[Record]]) -> bytes:
    """Draw validation accuracy against the epoch of several runs, the best run named first.

    Args:
        runs: Records as in `draw_curves`, by the name of the run.

    Returns:
        A PNG of one panel, with the best accuracy of each run in its legend.
    """
    curves = {name: _points(records, "val_top1", 100.0) for name, records in runs.items()}
    order = sorted(curves, key=lambda name: max(curves[name][1], default=-math.inf), reverse=True)
    figure = _figure(10.0, 4.6 + 0.21 * len(runs))
    axes = figure.add_subplot()
    _set_title(axes, "Validation accuracy, %")
    for place, name in enumerate(order):
        epochs, values = curves[name]
        style = DASHES[place // len(RUNS) % len(DASHES)]
        label = f"{_best_text(curves[name])}   {_plain(name, 60)}"
        axes.plot(
            *(epochs, values), style, color=RUNS[place % len(RUNS)], label=label, lw=1.8,
            marker=_marker(values), ms=4,
        )  # fmt: skip
    _finish(axes, empty=not any(values for _, values in curves.values()))
    _limit_percent(axes)
    _set_epochs(axes, [record["epoch"] for records in runs.values() for record in records])
    axes.set_xlabel("epoch", color=MUTED, fontsize=9)
    if runs:
        figure.legend(
            loc="outside lower left", frameon=False, labelcolor=INK,
            prop={"family": _fonts()[0], "size": 9},
        )  # fmt: skip
    return _png(figure)


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
    names = [_plain(name, 24) for name in classes]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    if size <= COUNTED_CLASSES:
        side = max(3.4, 0.42 * size)
        room = 0.5 + 0.075 * max(map(len, names))
        figure = _figure(side + room + 1.0, side + 0.7 * room + 0.9)
        axes = figure.add_subplot()
        _draw_shares(figure, axes, shares, names)
        _write_counts(axes, counts, shares, 72 * side / size)
    else:
        figure = _figure(10.0, 12.2)
        # Two figures in one, as the bars have long labels that would push the matrix aside.
        grid = figure.add_gridspec(2, 1, height_ratios=(3.6, 1))
        above, below = figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])
        _draw_shares(above, above.add_subplot(), shares, names)
        full = [_plain(name, 36) for name in classes]
        _list_confusions(below.add_subplot(), counts, shares, full)
    return _png(figure)


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
    side, gap = round(PICTURE_INCHES * DPI), round(0.12 * DPI)
    lines = 2 if any(picture.sub for picture in pictures) else 1
    cell_height = side + round((0.14 + 0.17 * lines) * DPI)
    width, height = columns * (side + gap) + gap, rows * (cell_height + gap) + gap
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
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
            y = top - side - round((0.07 + 0.17 * line) * DPI)
            _write_fitting(figure, text, (left, y), side, ink)
    return _png(figure)


def _figure(width: float, height: float) -> Figure:
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1, wspace=0.03, hspace=0.03)
    return Figure(figsize=(width, height), dpi=DPI, layout=layout, facecolor="white")


def _png(figure: Figure) -> bytes:
    # Not savefig: it draws everything twice, and the user's matplotlibrc may crop what it writes.
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]  # the stubs do not type it
    buffer = io.BytesIO()
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    Image.fromarray(pixels[..., :3]).save(buffer, "PNG")
    return buffer.getvalue()


@functools.cache
def _fonts() -> tuple[list[str], frozenset[int]]:
    """Fonts for names that users chose, and the code points that these fonts can write.

    DejaVu Sans comes with matplotlib; fonts for the scripts it lacks are used where installed.
    """
    installed = {entry.name for entry in font_manager.fontManager.ttflist}
    families = ["DejaVu Sans", *(name for name in _WORLD_FONTS if name in installed)]
    covered: set[int] = set()
    for family in families:
        covered.update(font_manager.get_font(font_manager.findfont(family)).get_charmap())
    return families, frozenset(covered)


def _plain(text: str, limit: int) -> str:
    """Make a user's text safe to draw: one line, known glyphs, no mathtext, not too long.

    The middle is left out of a long text, as names of classes often differ at their ends.
    """
    text = " ".join(text.split())
    if len(text) > limit:
        head = limit // 2
        text = f"{text[:head]}…{text[len(text) - (limit - 1 - head) :]}"
    covered = _fonts()[1]
    return "".join(char if ord(char) in covered else "□" for char in text).replace("$", r"\$")


def _points(records: Sequence[Record], key: str, scale: float = 1.0) -> Points:
    known = [
        (record["epoch"], record[key] * scale)
        for record in records
        if key in record and math.isfinite(record[key])
    ]
    return [epoch for epoch, _ in known], [value for _, value in known]


def _train_and_val(
    records: Sequence[Record], name: str, scale: float = 1.0
) -> dict[str, tuple[Points, str]]:
    return {
        split: (_points(records, f"{split}_{name}", scale), colour)
        for split, colour in (("train", TRAIN), ("val", VAL))
    }


def _marker(values: Sequence[float]) -> str:
    """Points for a short run: a single epoch makes no line."""
    return "o" if len(values) <= 12 else ""


def _draw_lines(axes: Axes, title: str, lines: Mapping[str, tuple[Points, str]]) -> None:
    _set_title(axes, title)
    for label, ((epochs, values), colour) in lines.items():
        if values:
            marker = _marker(values)
            axes.plot(epochs, values, color=colour, label=label, lw=1.8, marker=marker, ms=4)
    _finish(axes, empty=not any(values for (_, values), _ in lines.values()))
    _add_legend(axes)


def _mark_best(axes: Axes, points: Points) -> None:
    epochs, values = points
    _limit_percent(axes)
    if values:
        best = max(values)
        axes.plot(
            [epochs[values.index(best)]], [best], "o", ms=8, mfc="none", mec=BEST, mew=1.8,
            label=f"best {_best_text(points)}", zorder=5,
        )  # fmt: skip
        _add_legend(axes)


def _best_text(points: Points) -> str:
    epochs, values = points
    if not values:
        return "not measured"
    best = max(values)
    return f"{best:.2f} % (epoch {epochs[values.index(best)]:g})"


def _set_title(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", color=INK, fontsize=10, fontweight="bold", pad=8)


def _add_legend(axes: Axes) -> None:
    """Put the legend beside the title, where it can hide no data."""
    if any(axes.get_legend_handles_labels()[1]):
        axes.legend(
            loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, frameon=False, fontsize=8.5,
            labelcolor=MUTED, borderaxespad=0.1, handlelength=1.2, columnspacing=1.0,
            handletextpad=0.5,
        )  # fmt: skip


def _finish(axes: Axes, *, empty: bool) -> None:
    axes.tick_params(colors=MUTED, labelsize=8.5, length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.grid(axis="y", color=LINE, lw=0.8)
    axes.set_axisbelow(True)
    if empty:
        axes.set_yticks([])
        axes.text(
            0.5, 0.5, "not recorded", transform=axes.transAxes, color=MUTED, fontsize=9,
            ha="center", va="center",
        )  # fmt: skip


def _limit_percent(axes: Axes) -> None:
    """Keep the margins of the axis from promising more than 100 % or less than none."""
    bottom, top = axes.get_ylim()
    axes.set_ylim(max(bottom, -1.0), min(top, 101.0))


def _set_epochs(axes: Axes, epochs: Sequence[float]) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
    first, last = min(epochs, default=0), max(epochs, default=1)
    margin = min(0.5, 0.02 * (last - first)) or 0.5
    axes.set_xlim(first - margin, last + margin)


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
    style: dict[str, Any] = {"fontfamily": _fonts()[0], "fontsize": 9 if few else 6.5}
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
    _set_title(axes, "Most frequent confusions (true → predicted)")
    axes.spines[:].set_visible(False)
    axes.tick_params(colors=INK, length=0)
    axes.set_xticks([])
    axes.set_yticks(
        range(len(pairs)),
        [f"{names[row]} → {names[column]}" for row, column in pairs],
        fontfamily=_fonts()[0], fontsize=8.5,
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
        x, y, _plain(text, 60), color=ink, fontsize=8, va="top", fontfamily=_fonts()[0]
    )
    limit = min(len(text), 60)
    while limit > 3 and (extent := drawn.get_window_extent().width) > width:
        limit = min(limit - 1, int(limit * width / extent))
        drawn.set_text(_plain(text, limit))
