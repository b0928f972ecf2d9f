"""Speed against cost, or against accuracy where every net is a checkpoint that knows its own."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.typing import FillStyleType

from resnestkit.bench.contenders import Precision
from resnestkit.bench.results import Benchmark, Heat, Row
from resnestkit.report.canvas import INK, MUTED, new_figure, plain, set_title, to_png, user_fonts
from resnestkit.report.lines import finish_axes

_COLOURS = {
    "resnestkit": "#dc2626",
    "timm": "#2563eb",
    "torchvision resnet50": "#78716c",
}
_MARKERS = {"OpenVINO": "o", "ONNX Runtime": "s", "torch.compile": "^", "eager": "v"}
_DASHES: dict[Precision, str] = {"int8": "-", "bfloat16": "--", "float32": ":"}
_FILLS: dict[Precision, FillStyleType] = {"int8": "full", "bfloat16": "left", "float32": "none"}


def draw(result: Benchmark) -> bytes:
    """A panel for each batch size; a line for each contender, a point for each net.

    Returns:
        A PNG. A colour is a library, a marker its runtime, and its fill and dash a precision.
    """
    batches = sorted({heat.batch for heat in result.heats})
    figure = new_figure(4.6 * len(batches) + 2.6, 4.6)
    panels = figure.subplots(1, len(batches), squeeze=False)[0]
    for axes, batch in zip(panels, batches, strict=True):
        heats = [heat for heat in result.heats if heat.batch == batch]
        _draw_panel(axes, f"Batch {batch}", heats)
    panels[0].set_ylabel("images per second", color=MUTED, fontsize=9)
    named: dict[str, Artist] = {}
    for axes in panels:
        lines, labels = axes.get_legend_handles_labels()
        named |= dict(zip(labels, lines, strict=True))
    figure.legend(
        named.values(),
        named.keys(),
        loc="outside right upper",
        fontsize=7.5,
        frameon=False,
        labelcolor=INK,
    )
    return to_png(figure)


def _draw_panel(axes: Axes, title: str, heats: Sequence[Heat]) -> None:
    set_title(axes, title)
    by_accuracy = all(heat.accuracy is not None for heat in heats)
    points = [
        (_place(heat, row, by_accuracy), row)
        for heat in heats
        for row in heat.rows
        if not by_accuracy or row.plan.library != "torchvision"
    ]
    for name in dict.fromkeys(row.plan.name for _, row in points):
        known = sorted((p for p in points if p[1].plan.name == name), key=lambda p: p[0])
        _draw_line(axes, [place for place, _ in known], [row for _, row in known])
    for heat in heats:
        own = [row for row in heat.rows if row.plan.library != "torchvision"]
        if own:
            best = max(own, key=lambda row: row.images_per_second)
            axes.annotate(
                plain(heat.net, 24), (_place(heat, best, by_accuracy), best.images_per_second),
                xytext=(0, 6), textcoords="offset points", ha="center", color=MUTED, fontsize=7.5,
                fontfamily=user_fonts()[0],
            )  # fmt: skip
    finish_axes(axes, empty=not heats)
    axes.margins(x=0.15, y=0.12)
    axes.set_ylim(bottom=0)
    words = "accuracy, %" if by_accuracy else "G multiply-adds of an image"
    axes.set_xlabel(words, color=MUTED, fontsize=9)


def _place(heat: Heat, row: Row, by_accuracy: bool) -> float:
    return 100 * heat.accuracy if by_accuracy and heat.accuracy is not None else row.gmacs


def _draw_line(axes: Axes, places: Sequence[float], rows: Sequence[Row]) -> None:
    """One contender, with bars from quartile to quartile."""
    plan = rows[0].plan
    speeds = [row.images_per_second for row in rows]
    bounds = [[1e3 / side for side in reversed(row.quartiles)] for row in rows]
    reach = [
        [max(0.0, speed - low) for speed, (low, _) in zip(speeds, bounds, strict=True)],
        [max(0.0, high - speed) for speed, (_, high) in zip(speeds, bounds, strict=True)],
    ]
    axes.errorbar(
        places, speeds, yerr=reach, label=plan.name, lw=1.4, ms=5, elinewidth=0.8,
        color=_COLOURS[plan.who.rsplit(", ", 1)[0]], marker=_MARKERS[plan.runtime],
        linestyle=_DASHES[plan.precision], fillstyle=_FILLS[plan.precision], markeredgewidth=1.2,
    )  # fmt: skip
