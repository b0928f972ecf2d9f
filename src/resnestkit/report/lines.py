"""What every panel of lines shares: the points of a record, and axes that keep out of their way."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from resnestkit.report.canvas import BEST, FAINT, LINE, MUTED, OTHER, set_title

Record = Mapping[str, float]
Points = tuple[list[float], list[float]]
Line = tuple[str, str, str]
"""A label, the key of the records, and a colour."""

_BESIDE_TITLE = 3


def draw_panel(
    axes: Axes, title: str, records: Sequence[Record], lines: Sequence[Line], scale: float = 1.0
) -> None:
    """Some numbers of the records against the epoch, with their names."""
    set_title(axes, title)
    found = False
    for label, key, colour in lines:
        epochs, values = read_points(records, key, scale)
        found = found or bool(values)
        if values:
            marker = short_marker(values)
            axes.plot(epochs, values, color=colour, label=label, lw=1.8, marker=marker, ms=4)
    finish_axes(axes, empty=not found)
    set_epochs(axes, [record["epoch"] for record in records])
    add_legend(axes)


def draw_pace(rate: Axes, speed: Axes, records: Sequence[Record]) -> None:
    """The learning rate and the speed: the lower two panels of every training."""
    draw_panel(rate, "Learning rate", records, [("", "lr", OTHER)])
    draw_panel(speed, "Images per second", records, [("", "images_per_second", OTHER)])
    for axes in (rate, speed):
        start_at_zero(axes)
        axes.set_xlabel("epoch", color=MUTED, fontsize=9)


def mark_best(axes: Axes, points: Points) -> None:
    """A ring around the highest percentage, and what it is."""
    limit_percent(axes)
    epochs, values = points
    if values:
        best = max(values)
        axes.plot(
            [epochs[values.index(best)]], [best], "o", ms=8, mfc="none", mec=BEST, mew=1.8,
            label=f"best {best_text(points)}", zorder=5,
        )  # fmt: skip
        add_legend(axes)


def read_points(
    records: Sequence[Record], key: str, scale: float = 1.0, against: str = "epoch"
) -> Points:
    """Where a number is known and finite: what it is set against, and the number itself."""
    known = [
        (record[against], record[key] * scale)
        for record in records
        if key in record and against in record and math.isfinite(record[key])
    ]
    return [place for place, _ in known], [value for _, value in known]


def short_marker(values: Sequence[float]) -> str:
    """Points for a short run: a single epoch makes no line."""
    return "o" if len(values) <= 12 else ""


def best_text(points: Points) -> str:
    """The highest value, a percentage, and the first epoch that reached it."""
    epochs, values = points
    if not values:
        return "not measured"
    best = max(values)
    return f"{best:.2f} % (epoch {epochs[values.index(best)]:g})"


def finish_axes(axes: Axes, *, empty: bool) -> None:
    """The quiet look of all panels; one without any line says so."""
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


def limit_percent(axes: Axes) -> None:
    """Keep the margins of the axis from promising more than 100 % or less than none."""
    bottom, top = axes.get_ylim()
    axes.set_ylim(max(bottom, -1.0), min(top, 101.0))


def start_at_zero(axes: Axes) -> None:
    """From 0 to a little above the highest value, so that a level line is not cut."""
    highest = axes.dataLim.y1 if axes.lines else 0.0
    axes.set_ylim(0, 1.08 * highest or 1.0)


def add_legend(axes: Axes) -> None:
    """Beside the title, where it hides no data, or above the lines if the names are too many."""
    names = [name for name in axes.get_legend_handles_labels()[1] if name]
    if not names:
        return
    options = {
        "frameon": False, "labelcolor": MUTED, "borderaxespad": 0.1, "handlelength": 1.2,
        "columnspacing": 1.0, "handletextpad": 0.5,
    }  # fmt: skip
    if len(names) <= _BESIDE_TITLE:
        axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, fontsize=8.5, **options)
        return
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom, top + (top - bottom) * 0.11 * math.ceil(len(names) / 2))
    axes.legend(loc="upper right", ncols=2, fontsize=8, **options)


def set_epochs(axes: Axes, epochs: Sequence[float]) -> None:
    """Whole epochs, from the first to the last of them."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
    first, last = min(epochs, default=0), max(epochs, default=1)
    margin = min(0.5, 0.02 * (last - first)) or 0.5
    axes.set_xlim(first - margin, last + margin)
