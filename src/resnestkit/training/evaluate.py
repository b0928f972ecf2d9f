"""Evaluate a checkpoint on labelled images: nothing is needed but the file and the images."""

from __future__ import annotations

from pathlib import Path

from resnestkit.compute import choose_compute, explain_memory
from resnestkit.data.check import check_images, refuse_unreadable
from resnestkit.data.loaders import Batches, InOrder, TransformedImages, choose_workers
from resnestkit.data.sources import TrainedOn, load_for_evaluation
from resnestkit.data.transforms import EvaluationTransform
from resnestkit.errors import UserError
from resnestkit.factory import load_model
from resnestkit.progress import Reporter
from resnestkit.tasks.classification import ClassificationTask
from resnestkit.tasks.evaluation import Evaluation
from resnestkit.training.recipe import Precision
from resnestkit.values import is_a
from resnestkit.weights.checkpoint import ModelCard


def evaluate(
    checkpoint: str | Path,
    data: str | Path | None = None,
    *,
    split: str | None = None,
    batch_size: int = 128,
    precision: Precision = "float32",
    device: str = "auto",
    skip_unreadable: bool = False,
    reporter: Reporter | None = None,
) -> tuple[Evaluation, tuple[str, ...]]:
    """Accuracy, loss and confusion of a checkpoint on a folder of images by class.

    Args:
        checkpoint: a file that `train` wrote.
        data: a folder, or "digits"; None is what the checkpoint was trained on.
        split: "train", "val", "test" or "all"; None takes the test split, else the validation
            split, else what was held out of the training data, else all images.
        batch_size: images per step.
        precision: "float32", "bfloat16" or "auto".
        device: "auto", "cpu", "cuda", ...
        skip_unreadable: leave out images that cannot be read, instead of stopping.
        reporter: where progress goes; None prints to standard output.

    Returns:
        The evaluation, and the names of the classes in the order of its rows.

    Raises:
        UserError: for anything the user can mend.
    """
    if batch_size < 1:
        raise UserError(f"--batch-size is {batch_size}; it must be more than 0.")
    reporter = reporter or Reporter()
    model, card = load_model(checkpoint)
    preprocessing = card.preprocessing
    trained = _trained_on(card)
    if data is None and not trained.fingerprint:
        raise UserError(f"{checkpoint} does not say what it was trained on; give DATA to measure.")
    origin = trained.origin if data is None else str(data)
    images, words = load_for_evaluation(
        origin, preprocessing.channels, card.classes, trained, split
    )
    with reporter.track(f"reading {words}", len(images)) as advance:
        checked = check_images(images, cache_bytes=2**31, advance=lambda done: advance(done, ""))
    if not skip_unreadable:
        refuse_unreadable([checked])
    for image in checked.unreadable:
        reporter.say(f"left out    {image}")
    compute = choose_compute(device, precision)
    reporter.say(f"images      {len(checked.images)}, {words}")
    batches = Batches(
        TransformedImages(checked.images, EvaluationTransform(preprocessing), None),
        InOrder(len(checked.images), batch_size),
        choose_workers(None, checked.in_memory),
    )
    task = ClassificationTask(card.classes, preprocessing)
    with (
        explain_memory(f"Halve --batch-size {batch_size}."),
        reporter.track("evaluating", len(checked.images)) as advance,
    ):
        evaluation = task.evaluate(
            compute.place(model), batches, compute, advance=lambda done: advance(done, "")
        )
    return evaluation, card.classes


def _trained_on(card: ModelCard) -> TrainedOn:
    """What the card says of the data, which is nothing for a model that was not trained here."""
    data = card.data
    held_out, seed = data.get("held_out"), data.get("seed")
    return TrainedOn(
        origin=str(data.get("origin", "")),
        fingerprint=str(data.get("fingerprint", "")),
        held_out=held_out if is_a(held_out, float) else None,
        seed=seed if isinstance(seed, int) else 0,
    )
