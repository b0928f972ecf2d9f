"""Several runs in one picture: score and loss, against the epoch and against the time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from resnestkit.report.canvas import (
    INK,
    MUTED,
    new_figure,
    plain,
    set_title,
    to_png,
    user_fonts,
)
from resnestkit.report.lines import (
    Record,
    best_text,
    finish_axes,
    limit_percent,
    read_points,
    set_epochs,
    short_marker,
)

RUNS = ("#2563eb", "#d97706", "#059669", "#c026d3", "#dc2626", "#0891b2", "#78716c", "#65a30d")
DASHES = ("-", "--", ":", "-.")
CLOCKS = ((3 * 3600, 3600, "hours"), (180, 60, "minutes"), (0, 1, "seconds"))
"""From so many seconds on, a unit of so many seconds, and its name."""


def draw_comparison(
    runs: Mapping[str, Sequence[Record]],
    score: str = "val_top1",
    words: str = "accuracy",
    *,
    software: str = "resnestkit",
) -> bytes:
    """Draw how several runs did on their validation images, the best run named first.

    Args:
        runs: Records as in `figures.draw_curves`, by the name of the run; ``seconds`` is what an
            epoch took.
        score: Which of the records' numbers counts, a fraction of 1; more is better.
        words: What the score is called.
        software: What the file says it was made by.

    Returns:
        A PNG of four panels, with the best score of each run in its legend.
    """
    clock, unit = _choose_clock(runs)
    timed = {name: _add_time(records, clock) for name, records in runs.items()}
    ranked = sorted(timed, key=lambda name: _best(timed[name], score), reverse=True)
    ordered = {name: timed[name] for name in ranked}
    figure = new_figure(11.0, 6.6 + 0.19 * len(runs))
    panels = figure.subplots(2, 2)
    titles = {score: (f"Validation {words}, %", 100.0), **_choose_loss(runs)}
    for row, (key, (title, scale)) in zip(panels, titles.items(), strict=True):
        for axes, against in zip(row, ("epoch", "time"), strict=True):
            _draw_runs(axes, ordered, key, scale, against)
            set_title(axes, f"{title}, by {against}")
            if key == score:
                limit_percent(axes)
    for axes, label in zip(panels[1], ("epoch", f"{unit} of training"), strict=True):
        axes.set_xlabel(label, color=MUTED, fontsize=9)
    _name_runs(figure, panels[0][0], ordered, score)
    return to_png(figure, software)


def _choose_loss(runs: Mapping[str, Sequence[Record]]) -> dict[str, tuple[str, float]]:
    """That of the validation; detectors have one in training alone."""
    trained = any("train_loss" in record for records in runs.values() for record in records)
    if trained and not any("val_loss" in one for records in runs.values() for one in records):
        return {"train_loss": ("Training loss", 1.0)}
    return {"val_loss": ("Validation loss", 1.0)}


def _choose_clock(runs: Mapping[str, Sequence[Record]]) -> tuple[int, str]:
    """The unit that suits the longest run: how many seconds it has, and its name."""
    totals = [sum(record.get("seconds", 0.0) for record in records) for records in runs.values()]
    longest = max(totals, default=0.0)
    return next((size, name) for least, size, name in CLOCKS if longest >= least)


def _add_time(records: Sequence[Record], clock: int) -> list[Record]:
    """The records, each with the training time up to its end, as far as it is known."""
    took = [record.get("seconds", math.nan) for record in records]
    ends = itertools.accumulate(took)
    return [
        {**record, "time": end / clock} if math.isfinite(end) else record
        for record, end in zip(records, ends, strict=True)
    ]


def _best(records: Sequence[Record], score: str) -> float:
    return max(read_points(records, score)[1], default=-math.inf)


def _draw_runs(
    axes: Axes, runs: Mapping[str, Sequence[Record]], key: str, scale: float, against: str
) -> None:
    drawn: list[float] = []
    for index, records in enumerate(runs.values()):
        places, values = read_points(records, key, scale, against)
        drawn += places
        style = DASHES[index // len(RUNS) % len(DASHES)]
        axes.plot(
            *(places, values), style, color=RUNS[index % len(RUNS)], lw=1.8,
            marker=short_marker(values), ms=4,
        )  # fmt: skip
    finish_axes(axes, empty=not drawn)
    if against == "epoch":
        set_epochs(axes, drawn)
    elif drawn:
        axes.set_xlim(0, 1.02 * max(drawn))


def _name_runs(
    figure: Figure, axes: Axes, runs: Mapping[str, Sequence[Record]], score: str
) -> None:
    """One legend for all panels, below them, where it can hide no line."""
    labels = [
        f"{best_text(read_points(records, score, 100.0))}   {plain(name, 80)}"
        for name, records in runs.items()
    ]
    if labels:
        figure.legend(
            axes.lines, labels, loc="outside lower left", frameon=False, labelcolor=INK,
            prop={"family": user_fonts()[0], "size": 9},
        )  # fmt: skip
