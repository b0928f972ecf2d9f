"""The tables that the command line prints, as text."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

from resnestkit.models.zoo import Net

if TYPE_CHECKING:
    from resnestkit.data.detection.voc import VocConversion
    from resnestkit.deploy.detection_predictor import Detections
    from resnestkit.deploy.predictor import Prediction
    from resnestkit.tasks.detection_evaluation import DetectionEvaluation, Measured
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


def detection_evaluation_table(evaluation: DetectionEvaluation, classes: Sequence[str]) -> str:
    """Every class's precision, then COCO's twelve numbers; of masks first, where there are any."""
    parts = {} if evaluation.masks is None else {"masks": evaluation.masks}
    parts["boxes"] = evaluation.boxes
    tables = [_class_table(kind, measured, classes) for kind, measured in parts.items()]
    tables.append(_coco_table(parts))
    summary = (
        f"with a score of {evaluation.threshold:.2f} or more, {evaluation.precision:.1%} of the "
        f"boxes are right, and {evaluation.recall:.1%} of the objects are found"
    )
    return "\n\n".join([*tables, summary])


def _class_table(kind: str, measured: Measured, classes: Sequence[str]) -> str:
    rows = [[f"class, by {kind}", "objects", "AP", "AP50", "AP75", "AR"]]
    for name, one in zip(classes, measured.per_class, strict=True):
        shares = (one.ap, one.ap50, one.ap75, one.ar100)
        rows.append([name, str(one.objects), *map(_percent, shares)])
    return columns(rows, frozenset(range(1, 6)))


def _coco_table(parts: dict[str, Measured]) -> str:
    """The twelve numbers, a line each: the usual order."""
    rows = [["COCO", *parts]]
    for name in (field.name for field in fields(next(iter(parts.values())).all)):
        shares = (_percent(getattr(measured.all, name)) for measured in parts.values())
        rows.append([name[:2].upper() + name[2:].replace("_", " "), *shares])
    return columns(rows, frozenset(range(1, len(parts) + 1)))


def _percent(share: float) -> str:
    """COCO's numbers are -1 where there is nothing to measure."""
    return f"{share:.1%}" if share >= 0 else "-"


def detection_table(detections: Sequence[Detections]) -> str:
    """A line per image: how many objects, and of what."""
    rows = [["image", "objects", "of which"]]
    for one in detections:
        named = ", ".join(f"{number} {name}" for name, number in one.counts.items())
        rows.append([one.image, str(len(one.found.scores)), named])
    return columns(rows, frozenset({1}))


def detection_csv(detections: Sequence[Detections]) -> str:
    """A line per object, for other programs."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "class", "score", "left", "top", "right", "bottom"])
    for one in detections:
        for thing in one.objects:
            sides = (f"{side:.2f}" for side in thing.box)
            writer.writerow([one.image, thing.label, f"{thing.score:.6f}", *sides])
    return text.getvalue()


def conversion_table(made: VocConversion) -> str:
    """What a converted data set holds, and what was left out of it."""
    images = ", ".join(f"{number} {split}" for split, number in made.images.items())
    difficult = f", {made.difficult} of them difficult: now crowd regions" * bool(made.difficult)
    lines = [
        f"images      {images}",
        f"objects     {made.objects} of {len(made.classes)} classes{difficult}",
        f"classes     {', '.join(made.classes)}",
        *(f"left out    {what}" for what in made.left_out),
        f"folder      {made.folder}",
    ]
    return "\n".join(lines)


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
