"""The tables that the command line prints, as text."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from resnestkit.models.zoo import Net

if TYPE_CHECKING:
    from resnestkit.deploy.predictor import Prediction
    from resnestkit.tasks.evaluation import Evaluation


def columns(rows: Sequence[Sequence[str]], right: frozenset[int] = frozenset()) -> str:
    """Rows of text in aligned columns; those in ``right`` are aligned to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = (
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def score_word(metrics: Mapping[str, float]) -> str:
    """What people call the score of an evaluation."""
    return "AP" if "ap" in metrics else "accuracy"


def net_table(nets: Sequence[Net]) -> str:
    """Nets with what they cost."""
    rows = [["net", "parameters", "G multiply-adds", "size", "also known as"]]
    for net in nets:
        macs = f"{net.gmacs:.3f}"
        rows.append([net.name, f"{net.params:,}", macs, str(net.size), ", ".join(net.aliases)])
    return columns(rows, frozenset({1, 2, 3}))


def evaluation_table(evaluation: Evaluation, classes: Sequence[str]) -> str:
    """Every class's share that was recognised, then the summary."""
    rows = [["class", "images", "recognised"]]
    for name, counts, share in zip(
        classes, evaluation.confusion, evaluation.per_class, strict=True
    ):
        rows.append([name, str(sum(counts)), f"{share:.2%}" if sum(counts) else "-"])
    summary = (
        f"accuracy    {evaluation.top1:.2%}\ntop 5       {evaluation.top5:.2%}\n"
        f"loss        {evaluation.loss:.4f}"
    )
    return f"{columns(rows, frozenset({1, 2}))}\n\n{summary}"


def prediction_table(predictions: Sequence[Prediction]) -> str:
    """A line per image: the best guess, then the others."""
    rows = [["image", "class", "score", "then"]]
    for prediction in predictions:
        others = ", ".join(f"{g.label} {g.score:.1%}" for g in prediction.guesses[1:])
        rows.append([prediction.image, prediction.label, f"{prediction.score:.1%}", others])
    return columns(rows, frozenset({2}))


def prediction_csv(predictions: Sequence[Prediction]) -> str:
    """A line per guess, for other programs."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "rank", "class", "score"])
    for prediction in predictions:
        for rank, guess in enumerate(prediction.guesses, 1):
            writer.writerow([prediction.image, rank, guess.label, f"{guess.score:.6f}"])
    return text.getvalue()
