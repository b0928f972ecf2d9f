"""Evaluate a segmenter's checkpoint on images with masks, and say by which protocol."""

from __future__ import annotations

from resnestkit.compute import choose_compute, explain_memory
from resnestkit.data.loaders import Batches, InOrder, choose_workers
from resnestkit.data.segmentation.batches import SegmentationDataset
from resnestkit.data.segmentation.check import check_segmentation_images
from resnestkit.data.segmentation.sources import load_segmentation_for_evaluation
from resnestkit.ops.fused import use_kernels
from resnestkit.ops.kernels import has_kernels
from resnestkit.progress import Reporter
from resnestkit.segmentation.scales import known_protocol
from resnestkit.segmenters import load_segmenter
from resnestkit.tasks.segmentation import SegmentationTask
from resnestkit.tasks.segmentation_evaluation import SegmentationEvaluation
from resnestkit.training.measuring import Asked, read_all, trained_on
from resnestkit.training.segmentation_build import segmentation_images


def evaluate_segmenter(
    asked: Asked, reporter: Reporter
) -> tuple[SegmentationEvaluation, tuple[str, ...]]:
    """Mean IoU, accuracies and each class's numbers. Raises UserError for what a user can mend."""
    model, card = load_segmenter(asked.checkpoint)
    trained = trained_on(card)
    binary = card.data.get("binary")
    chosen = load_segmentation_for_evaluation(
        asked.origin(trained),
        card.preprocessing.channels,
        card.classes,
        trained,
        asked.split,
        binary=binary if isinstance(binary, bool) else None,
    )
    for finding in chosen.findings:
        if finding.severity != "note":
            reporter.say(f"{finding.severity:<11} {finding}")
    usual = known_protocol(card.data.get("protocol"))
    protocol = usual.but(asked.scales, asked.flip, asked.windows, asked.side)
    reporter.say(f"protocol    {protocol}")
    checked = read_all(check_segmentation_images, chosen.images, chosen.words, asked, reporter)
    images = segmentation_images(checked)
    compute = choose_compute(asked.device, asked.precision)
    batches = Batches(
        SegmentationDataset(images),
        InOrder(len(images), asked.batch_size),
        choose_workers(None, checked.in_memory),
    )
    task = SegmentationTask(card.classes, card.preprocessing, protocol=protocol)
    with (
        explain_memory(f"Halve --batch-size {asked.batch_size}, or look by --windows."),
        use_kernels(enabled=has_kernels(compute.device)),
        reporter.track("evaluating", len(images)) as advance,
    ):
        evaluation = task.evaluate(
            compute.place(model), batches, compute, advance=lambda done: advance(done, "")
        )
    return evaluation, card.classes
