"""The tables that the command line prints, as text."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from resnestkit.models.zoo import Net

if TYPE_CHECKING:
    from resnestkit.bench.results import Benchmark, Heat, Row
    from resnestkit.data.detection.voc import VocConversion
    from resnestkit.deploy.detection_predictor import Detections
    from resnestkit.deploy.quantise import Quantised
    from resnestkit.runtime.card import DeployCard
    from resnestkit.runtime.classifier import Prediction
    from resnestkit.tasks.detection_evaluation import DetectionEvaluation, Measured
    from resnestkit.tasks.evaluation import Evaluation
    from resnestkit.tasks.panoptic_evaluation import PanopticEvaluation, Quality
    from resnestkit.tasks.segmentation_evaluation import SegmentationEvaluation


_MOSTLY = 4
"""Classes that are named of an image."""


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


def segmentation_evaluation_table(
    evaluation: SegmentationEvaluation, classes: Sequence[str]
) -> str:
    """Every class's numbers, then the summary, and how it was measured."""
    rows = [["class", "of pixels", "IoU", "recognised", "precision"]]
    total = max(1, sum(one.pixels for one in evaluation.per_class))
    for name, one in zip(classes, evaluation.per_class, strict=True):
        shares = (one.iou, one.accuracy, one.precision)
        rows.append([name, f"{one.pixels / total:.2%}", *map(_percent, shares)])
    summary = (
        f"mIoU        {evaluation.miou:.2%}\npixels      {evaluation.pixel_accuracy:.2%}\n"
        f"classes     {evaluation.mean_accuracy:.2%}, the mean of what was recognised of each\n"
        f"protocol    {evaluation.protocol}"
    )
    return f"{columns(rows, frozenset(range(1, 5)))}\n\n{summary}"


def panoptic_evaluation_table(evaluation: PanopticEvaluation, classes: Sequence[str]) -> str:
    """Every class's numbers, then the summary."""
    rows = [["class", "PQ", "SQ", "RQ", "found", "missed", "wrong"]]
    for name, one in zip(classes, evaluation.per_class, strict=True):
        counts = (one.found, one.missed, one.wrong)
        rows.append([name, *_qualities(one.quality), *map(str, counts)])
    means = [
        ["", "PQ", "SQ", "RQ"],
        *(
            [name, *_qualities(getattr(evaluation, name))]
            for name in ("all", "things", "stuff", "torchmetrics")
        ),
    ]
    return (
        f"{columns(rows, frozenset(range(1, 7)))}\n\n{columns(means, frozenset(range(1, 4)))}\n\n"
        "torchmetrics is as all, but does not mind what is left void."
    )


def _qualities(quality: Quality) -> list[str]:
    return [_percent(value) for value in (quality.pq, quality.sq, quality.rq)]


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
    """Shares are -1 where there is nothing to measure."""
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


def segmentation_table(said: Sequence[Mapping[str, Any]]) -> str:
    """A line per image: its size, how it was seen, and what most of it is."""
    rows = [["image", "size", "seen", "mostly"]]
    for one in said:
        largest = list(one["shares"].items())[:_MOSTLY]
        mostly = ", ".join(f"{name} {share:.0%}" for name, share in largest)
        rows.append([one["image"], f"{one['width']}x{one['height']}", one["seen"], mostly])
    return columns(rows)


def segmentation_csv(said: Sequence[Mapping[str, Any]]) -> str:
    """A line per image and class that is there, for other programs."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "class", "share"])
    for one in said:
        for name, share in one["shares"].items():
            writer.writerow([one["image"], name, f"{share:.6f}"])
    return text.getvalue()


def panoptic_table(
    found: Sequence[tuple[str, Mapping[str, int], Mapping[str, float]]],
) -> str:
    """A line per image: its things, and what of the rest is what."""
    rows = [["image", "things", "stuff"]]
    for image, counts, shares in found:
        things = ", ".join(f"{number} {name}" for name, number in counts.items())
        stuff = ", ".join(f"{name} {share:.0%}" for name, share in list(shares.items())[:_MOSTLY])
        rows.append([image, things or "-", stuff or "-"])
    return columns(rows)


def panoptic_csv(content: Mapping[str, Any]) -> str:
    """A line per segment, of what COCO's panoptic form says, for other programs."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "segment", "class", "thing", "score", "pixels"])
    names = {one["id"]: one for one in content["categories"]}
    for image, annotation in zip(content["images"], content["annotations"], strict=True):
        for one in annotation["segments_info"]:
            kind = names[one["category_id"]]
            row = [one["id"], kind["name"], kind["isthing"], f"{one['score']:.4f}", one["area"]]
            writer.writerow([image["file_name"], *row])
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


def benchmark_table(result: Benchmark) -> str:
    """A table of every net and batch size, then who is how much faster, and on what machine."""
    parts = [_heat_table(heat) for heat in result.heats]
    if result.ratios:
        rows = [["net", "batch", "ours", "beside", "times as fast", "by round"]]
        rows += [
            [r.net, str(r.batch), r.ours, r.peer, f"{r.ratio:.2f}", f"{r.low:.2f} to {r.high:.2f}"]
            for r in result.ratios
        ]
        parts.append(columns(rows, frozenset({1, 4})))
    lines = [f"{name:<15} {value}" for name, value in result.machine.items()]
    lines += [f"{'left out':<15} {line}" for line in result.left_out]
    return "\n\n".join([*parts, "\n".join(lines)])


def _heat_table(heat: Heat) -> str:
    """Everybody, the fastest first; the floors last."""
    rows = [["", "precision", "ms an image", "quartiles", "images/s", "of floor", "MB"]]
    rows += [_bench_row(row) for row in sorted(heat.rows, key=lambda row: row.milliseconds)]
    title = f"{heat.net}, {heat.size}x{heat.size}, batch {heat.batch}"
    floors = ", ".join(f"{floor.rate / 1e9:.0f} in {floor.precision}" for floor in heat.floors)
    end = f"\nfloor: products of matrices, G operations a second: {floors}" if floors else ""
    return f"{title}\n{columns(rows, frozenset({2, 4, 5, 6}))}{end}"


def _bench_row(row: Row) -> list[str]:
    low, high = row.quartiles
    share = "-" if row.share is None else f"{row.share:.0%}"
    memory = "-" if row.memory is None else f"{row.memory:.0f}"
    speed = f"{row.images_per_second:.1f}"
    times = [f"{row.milliseconds:.2f}", f"{low:.2f} to {high:.2f}"]
    return [row.plan.who, row.plan.precision, *times, speed, share, memory]


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


def check_table(card: DeployCard) -> str:
    """How an exported file compares with its model: a line per shape."""
    runtime = {"openvino": "OpenVINO", "onnx": "ONNX Runtime"}.get(card.format, card.format)
    rows = [["images", "difference", "decisions", "PyTorch ms", f"{runtime} ms", "times"]]
    rows += [
        [
            f"{one.batch} x {one.height} x {one.width}",
            f"{one.difference:.1e}",
            f"{one.agreement:.2%}" if card.classes else "-",
            f"{one.torch_ms:.2f}",
            f"{one.runtime_ms:.2f}",
            f"{one.torch_ms / one.runtime_ms:.2f}",
        ]
        for one in card.checked
    ]
    notes = (
        "difference  the largest, as a share of the largest output\n"
        f"ms          per image, {card.versions.get('machine', 'on this machine')}, float32\n"
        f"compared    on {card.checked_on}"
    )
    return f"{columns(rows, frozenset(range(1, 6)))}\n\n{notes}"


def cost_table(quantised: Quantised) -> str:
    """What int8 costs, and which layers were spared it."""
    cost, said = quantised.cost, quantised.card.quantised or {}
    rows = [
        ["", "float32", "int8", "loss"],
        ["accuracy", f"{cost.float32:.2%}", f"{cost.int8:.2%}", f"{100 * cost.drop:.2f} points"],
    ]
    kept = ", ".join(said["kept"])
    notes = (
        f"equal       {cost.agreement:.2%} of decisions\n"
        f"measured    {cost.images} images, {said['measured_on']}\n"
        f"layers      {said['layers'] - len(said['kept'])} of {said['layers']} in int8"
    )
    return f"{columns(rows, frozenset({1, 2, 3}))}\n\n{notes}" + f"\nin float32  {kept}" * bool(
        kept
    )
