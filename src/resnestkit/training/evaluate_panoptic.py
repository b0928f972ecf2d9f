"""Evaluate a panoptic net's checkpoint on images with segments."""

from __future__ import annotations

from resnestkit.compute import choose_compute, explain_memory
from resnestkit.data.loaders import Batches, InOrder, choose_workers
from resnestkit.data.panoptic.batches import PanopticDataset
from resnestkit.data.panoptic.sources import check_segments
from resnestkit.data.segmentation.check import check_segmentation_images
from resnestkit.data.segmentation.sources import load_segmentation_for_evaluation
from resnestkit.ops.fused import use_kernels
from resnestkit.ops.kernels import has_kernels
from resnestkit.panoptics import load_panoptic
from resnestkit.progress import Reporter
from resnestkit.tasks.panoptic import PanopticTask
from resnestkit.tasks.panoptic_evaluation import PanopticEvaluation
from resnestkit.training.measuring import Asked, read_all, trained_on
from resnestkit.training.segmentation_build import segmentation_images


def evaluate_panoptic(
    asked: Asked, reporter: Reporter
) -> tuple[PanopticEvaluation, tuple[str, ...]]:
    """Panoptic quality of all classes and of each. Raises UserError for what a user can mend."""
    model, card = load_panoptic(asked.checkpoint)
    trained = trained_on(card)
    origin = asked.origin(trained)
    chosen = load_segmentation_for_evaluation(
        origin, card.preprocessing.channels, card.classes, trained, asked.split
    )
    check_segments(chosen.images, origin, card.classes, model.spec.things)
    for finding in chosen.findings:
        if finding.severity != "note":
            reporter.say(f"{finding.severity:<11} {finding}")
    checked = read_all(check_segmentation_images, chosen.images, chosen.words, asked, reporter)
    images = segmentation_images(checked)
    compute = choose_compute(asked.device, asked.precision)
    batches = Batches(
        PanopticDataset(images, model.spec.things),
        InOrder(len(images), asked.batch_size),
        choose_workers(None, checked.in_memory),
    )
    task = PanopticTask(card.classes, model.spec.things)
    with (
        explain_memory(f"Halve --batch-size {asked.batch_size}."),
        use_kernels(enabled=has_kernels(compute.device)),
        reporter.track("evaluating", len(images)) as advance,
    ):
        evaluation = task.evaluate(
            compute.place(model), batches, compute, advance=lambda done: advance(done, "")
        )
    return evaluation, card.classes
