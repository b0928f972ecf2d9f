"""Evaluate a detector's checkpoint on images with boxes, and write what it found for others."""

from __future__ import annotations

from pathlib import Path

from resnestkit.compute import choose_compute, explain_memory
from resnestkit.data.detection.batches import DetectionDataset
from resnestkit.data.detection.check import check_detection_images
from resnestkit.data.detection.results import write_results
from resnestkit.data.detection.sources import DetectionSplit, load_detection_for_evaluation
from resnestkit.data.detection.table import DetectionImages
from resnestkit.data.loaders import Batches, InOrder, choose_workers
from resnestkit.detection.spec import has_masks
from resnestkit.detectors import load_detector
from resnestkit.errors import UserError
from resnestkit.ops.fused import use_kernels
from resnestkit.ops.kernels import has_kernels
from resnestkit.progress import Reporter
from resnestkit.tasks.detection import DetectionTask, Seen
from resnestkit.tasks.detection_evaluation import DetectionEvaluation
from resnestkit.training.measuring import Asked, read_all, trained_on


def evaluate_detector(
    asked: Asked, reporter: Reporter
) -> tuple[DetectionEvaluation, tuple[str, ...]]:
    """COCO's numbers of all classes and of each. Raises UserError for what the user can mend."""
    model, card = load_detector(asked.checkpoint)
    masks, trained = has_masks(model.spec.kind), trained_on(card)
    chosen = load_detection_for_evaluation(
        asked.origin(trained),
        card.preprocessing.channels,
        card.classes,
        trained,
        asked.split,
        masks=masks,
    )
    if asked.results is not None:
        _check_results(asked.results)
    for finding in chosen.findings:
        if finding.severity != "note":
            reporter.say(f"{finding.severity:<11} {finding}")
    checked = read_all(check_detection_images, chosen.images, chosen.words, asked, reporter)
    assert isinstance(checked.images, DetectionImages)
    compute = choose_compute(asked.device, asked.precision)
    batches = Batches(
        DetectionDataset(checked.images, masks=masks),
        InOrder(len(checked.images), asked.batch_size),
        choose_workers(None, checked.in_memory),
    )
    task = DetectionTask(card.classes, masks=masks)
    with (
        explain_memory(f"Halve --batch-size {asked.batch_size}."),
        use_kernels(enabled=has_kernels(compute.device)),
        reporter.track("evaluating", len(checked.images)) as advance,
    ):
        seen = task.find(
            compute.place(model), batches, compute, advance=lambda done: advance(done, "")
        )
    if asked.results is not None:
        for path in _write(asked.results, seen, chosen, masks=masks):
            reporter.say(f"results     {path}")
    return task.judge(seen), card.classes


def _check_results(path: Path) -> None:
    """Raise UserError if there is no such folder, before time is spent on what it is for."""
    if not path.parent.is_dir() or path.is_dir():
        raise UserError(f"Cannot write {path}: give a file in a folder that is there.")


def _write(path: Path, seen: list[Seen], chosen: DetectionSplit, *, masks: bool) -> list[Path]:
    """Boxes in one file and masks in another: COCO's tools measure masks rightly without boxes."""
    found = [(annotations.image_id, one) for _, annotations, one in seen]
    paths = [path, path.with_suffix(f".masks{path.suffix}")] if masks else [path]
    for place, kind in zip(paths, (False, True), strict=False):
        try:
            write_results(place, found, chosen.category_ids, masks=kind)
        except OSError as error:
            raise UserError(f"Cannot write {place}: {error.strerror}.") from error
    return paths
