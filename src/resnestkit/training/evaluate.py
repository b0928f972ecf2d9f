"""Evaluate a checkpoint on labelled images: nothing is needed but the file and the images."""

from __future__ import annotations

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
from resnestkit.training.measuring import Asked, read_all, trained_on
from resnestkit.training.recipe import Precision
from resnestkit.weights.checkpoint import DETECTOR, read_kind

BATCH_SIZE = 128
DETECTOR_BATCH_SIZE = 4


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
    reporter: Reporter | None = None,
) -> tuple[Any, tuple[str, ...]]:
    """Measure a classifier on a folder of images by class, or a detector on images with boxes.

    Args:
        checkpoint: a file that `train` wrote.
        data: a folder, "digits" or "shapes"; None is what the checkpoint was trained on.
        split: "train", "val", "test" or "all"; None takes the test split, else the validation
            split, else what was held out of the training data, else all images.
        batch_size: images per step; None is 128, and 4 for a detector.
        precision: "float32", "bfloat16" or "auto".
        device: "auto", "cpu", "cuda", ...
        skip_unreadable: leave out images that cannot be read, instead of stopping.
        results: a file for a detector's boxes in COCO's form of results; its masks, if it finds
            any, go to a file of the same name with ".masks" before its ending.
        reporter: where progress goes; None prints to standard output.

    Returns:
        The `Evaluation` of a classifier or the `DetectionEvaluation` of a detector, and the names
        of the classes in its order.

    Raises:
        UserError: for anything the user can mend.
    """
    path, detects = Path(checkpoint), read_kind(Path(checkpoint)) == DETECTOR
    if batch_size is None:
        batch_size = DETECTOR_BATCH_SIZE if detects else BATCH_SIZE
    if batch_size < 1:
        raise UserError(f"--batch-size is {batch_size}; it must be more than 0.")
    if results is not None and not detects:
        raise UserError(f"--results are the boxes of a detector, and {checkpoint} holds none.")
    asked = Asked(
        path,
        None if data is None else str(data),
        split,
        batch_size,
        precision,
        device,
        skip_unreadable,
        None if results is None else Path(results),
    )
    measure = evaluate_detector if detects else evaluate_classifier
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
