"""Evaluate a checkpoint on labelled images: nothing is needed but the file and the images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from resnestkit.compute import choose_compute, explain_memory
from resnestkit.data.check import check_images
from resnestkit.data.loaders import Batches, InOrder, TransformedImages, choose_workers
from resnestkit.data.sources import load_for_evaluation
from resnestkit.data.transforms import EvaluationTransform
from resnestkit.errors import UserError
from resnestkit.factory import load_model
from resnestkit.progress import Reporter
from resnestkit.tasks.classification import ClassificationTask
from resnestkit.tasks.evaluation import Evaluation
from resnestkit.training.evaluate_detector import evaluate_detector
from resnestkit.training.evaluate_panoptic import evaluate_panoptic
from resnestkit.training.evaluate_segmenter import evaluate_segmenter
from resnestkit.training.measuring import Asked, read_all, trained_on
from resnestkit.training.recipe import Precision
from resnestkit.weights.checkpoint import DETECTOR, PANOPTIC, SEGMENTER, read_kind

Measure = Callable[[Asked, Reporter], tuple[Any, tuple[str, ...]]]

BATCH_SIZE = 128
DETECTOR_BATCH_SIZE = SEGMENTER_BATCH_SIZE = 4


def evaluate(
    checkpoint: str | Path,
    data: str | Path | None = None,
    *,
    split: str | None = None,
    batch_size: int | None = None,
    precision: Precision = "float32",
    device: str = "auto",
    skip_unreadable: bool = False,
    results: str | Path | None = None,
    scales: Sequence[float] | None = None,
    flip: bool | None = None,
    windows: int | None = None,
    side: int | None = None,
    reporter: Reporter | None = None,
) -> tuple[Any, tuple[str, ...]]:
    """Measure a classifier on images by class, a detector on boxes, a segmenter on masks.

    A panoptic net is measured on segments.

    Args:
        checkpoint: a file that `train` wrote.
        data: a folder, "digits", "shapes" or "scenes"; None is what the checkpoint was trained on.
        split: "train", "val", "test" or "all"; None takes the test split, else the validation
            split, else what was held out of the training data, else all images.
        batch_size: images per step; None is 128, and 4 for all others.
        precision: "float32", "bfloat16" or "auto".
        device: "auto", "cpu", "cuda", ...
        skip_unreadable: leave out images that cannot be read, instead of stopping.
        results: a file for a detector's boxes in COCO's form of results; its masks, if it finds
            any, go to a file of the same name with ".masks" before its ending.
        scales: sizes at which a segmenter looks at each image, as multiples of its usual one.
        flip: whether it looks at it mirrored too.
        windows: side of the windows by which it looks at it; 0 for the whole image at once.
        side: pixels to which the image's longer side is resized first; 0 leaves it as it is. Of all
            four, None is what the validation of its training did.
        reporter: where progress goes; None prints to standard output.

    Returns:
        The `Evaluation` of a classifier, the `DetectionEvaluation` of a detector, the
        `SegmentationEvaluation` of a segmenter or the `PanopticEvaluation` of a panoptic net, and
        the names of the classes in its order.

    Raises:
        UserError: for anything the user can mend.
    """
    path = Path(checkpoint)
    kind = read_kind(path)
    measure, usual = _MEASURES.get(kind, (evaluate_classifier, BATCH_SIZE))
    if batch_size is None:
        batch_size = usual
    if batch_size < 1:
        raise UserError(f"--batch-size is {batch_size}; it must be more than 0.")
    if results is not None and kind != DETECTOR:
        raise UserError(f"--results are the boxes of a detector, and {checkpoint} holds none.")
    looking = {"scales": scales, "flip": flip, "windows": windows, "side": side}
    for name, value in looking.items():
        if value is not None and kind != SEGMENTER:
            raise UserError(f"--{name} is for segmenters, and {checkpoint} holds none.")
    asked = Asked(
        path,
        None if data is None else str(data),
        split,
        batch_size,
        precision,
        device,
        skip_unreadable,
        None if results is None else Path(results),
        None if scales is None else tuple(scales),
        flip,
        windows,
        side,
    )
    return measure(asked, reporter or Reporter())


def evaluate_classifier(asked: Asked, reporter: Reporter) -> tuple[Evaluation, tuple[str, ...]]:
    """Accuracy, loss and confusion. Raises UserError for anything the user can mend."""
    model, card = load_model(asked.checkpoint)
    preprocessing, trained = card.preprocessing, trained_on(card)
    images, words = load_for_evaluation(
        asked.origin(trained), preprocessing.channels, card.classes, trained, asked.split
    )
    checked = read_all(check_images, images, words, asked, reporter)
    compute = choose_compute(asked.device, asked.precision)
    batches = Batches(
        TransformedImages(checked.images, EvaluationTransform(preprocessing), None),
        InOrder(len(checked.images), asked.batch_size),
        choose_workers(None, checked.in_memory),
    )
    task = ClassificationTask(card.classes, preprocessing)
    with (
        explain_memory(f"Halve --batch-size {asked.batch_size}."),
        reporter.track("evaluating", len(checked.images)) as advance,
    ):
        evaluation = task.evaluate(
            compute.place(model), batches, compute, advance=lambda done: advance(done, "")
        )
    return evaluation, card.classes


_MEASURES: dict[str, tuple[Measure, int]] = {
    DETECTOR: (evaluate_detector, DETECTOR_BATCH_SIZE),
    PANOPTIC: (evaluate_panoptic, DETECTOR_BATCH_SIZE),
    SEGMENTER: (evaluate_segmenter, SEGMENTER_BATCH_SIZE),
}
"""How a kind of checkpoint is measured, and how many images at a time; all others are classifiers.
"""
