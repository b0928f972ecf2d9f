"""Speed net by net, in the order of cost, or of accuracy where all are checkpoints that know it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from matplotlib.typing import FillStyleType

from resnestkit.bench.contenders import Precision
from resnestkit.bench.results import Benchmark, Heat, Row
from resnestkit.report.canvas import (
    INK,
    LINE,
    MUTED,
    new_figure,
    plain,
    set_title,
    to_png,
    user_fonts,
)

_COLOURS = {"resnestkit": "#dc2626", "timm": "#2563eb", "torchvision": "#78716c"}
_MARKERS = {"OpenVINO": "o", "ONNX Runtime": "s", "torch.compile": "^", "eager": "v"}
_FILLS: dict[Precision, FillStyleType] = {"int8": "full", "bfloat16": "left", "float32": "none"}
_LANES: dict[Precision, float] = {"int8": -0.24, "bfloat16": 0.0, "float32": 0.24}
"""Where a precision lies within the row of its net, which is 1 high."""


@dataclass(frozen=True, slots=True)
class _Net:
    """A row of the drawing: whose it is, its place among the rows, and what was measured."""

    name: str
    place: float
    rows: tuple[Row, ...]


def draw(result: Benchmark) -> bytes:
    """A panel for each batch size; a row for each net, a point for each contender.

    Speeds are on a logarithmic scale, on which a ratio is a distance, the same everywhere; bars go
    from quartile to quartile. Torchvision's net, which runs beside every other, is drawn as it ran
    beside the first.

    Returns:
        A PNG. A colour is a library, a marker its runtime, and its fill and lane a precision.
    """
    batches = sorted({heat.batch for heat in result.heats})
    by_accuracy = all(heat.accuracy is not None for heat in result.heats)
    panels = [
        _list_nets([heat for heat in result.heats if heat.batch == batch], by_accuracy)
        for batch in batches
    ]
    tallest = max((len(nets) for nets in panels), default=1)
    figure = new_figure(4.0 * len(batches) + 3.6, max(3.4, 1.3 + 0.55 * tallest))
    drawn = figure.subplots(1, len(batches), squeeze=False)[0]
    named: dict[str, Artist] = {}
    for axes, batch, nets in zip(drawn, batches, panels, strict=True):
        _draw_panel(axes, f"Batch {batch}", nets)
        points, labels = axes.get_legend_handles_labels()
        named |= dict(zip(labels, points, strict=True))
    figure.legend(
        named.values(),
        named.keys(),
        loc="outside right upper",
        fontsize=7.5,
        frameon=False,
        labelcolor=INK,
    )
    return to_png(figure)


def _list_nets(heats: Sequence[Heat], by_accuracy: bool) -> list[_Net]:
    """The nets from the cheapest, or the most accurate, on."""
    nets = []
    for heat in heats:
        rows = tuple(row for row in heat.rows if row.plan.library != "torchvision")
        if not rows:
            continue
        name = plain(heat.net, 24)
        if by_accuracy and heat.accuracy is not None:
            nets.append(_Net(f"{name}\n{heat.accuracy:.1%}", -heat.accuracy, rows))
        else:
            nets.append(_Net(f"{name}\n{rows[0].gmacs:.2f} GMACs", rows[0].gmacs, rows))
    first = next(iter(heats))
    others = tuple(row for row in first.rows if row.plan.library == "torchvision")
    if others and not by_accuracy:
        words = f"torchvision {others[0].net}\n{others[0].gmacs:.2f} GMACs"
        nets.append(_Net(words, others[0].gmacs, others))
    return sorted(nets, key=lambda net: net.place)


def _draw_panel(axes: Axes, title: str, nets: Sequence[_Net]) -> None:
    set_title(axes, title)
    for place, net in enumerate(nets):
        for row in net.rows:
            _draw_point(axes, place + _LANES[row.plan.precision], row)
    names = [net.name for net in nets]
    axes.set_yticks(range(len(nets)), names, fontfamily=user_fonts()[0], fontsize=8)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.set_ylim(len(nets) - 0.45, -0.55)
    for place in range(1, len(nets)):
        axes.axhline(place - 0.5, color=LINE, lw=0.8, zorder=0)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", which="both", length=0, colors=MUTED, labelsize=8)
    axes.grid(axis="x", color=LINE, lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.margins(x=0.06)
    axes.set_xlabel("images per second", color=MUTED, fontsize=9)


def _draw_point(axes: Axes, place: float, row: Row) -> None:
    """One contender, with a bar from quartile to quartile."""
    plan, speed = row.plan, row.images_per_second
    high, low = (1e3 / side for side in row.quartiles)
    drawn = axes.get_legend_handles_labels()[1]
    axes.errorbar(
        [speed], [place], xerr=[[max(0.0, speed - low)], [max(0.0, high - speed)]],
        label=None if plan.name in drawn else plan.name, ms=5.5, elinewidth=0.8,
        color=_COLOURS[plan.library], marker=_MARKERS[plan.runtime], linestyle="none",
        fillstyle=_FILLS[plan.precision], markeredgewidth=1.2, zorder=3 if plan.is_ours else 2,
    )  # fmt: skip
