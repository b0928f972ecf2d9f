"""Train from data and a recipe to a run folder: the whole way, in one function."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from resnestkit.compute import Compute, choose_compute, describe_versions
from resnestkit.data.sources import DIGITS, Source, TrainedOn, load_source
from resnestkit.errors import UserError
from resnestkit.factory import create_model, load_backbone, load_model
from resnestkit.models.cost import Cost, count_cost
from resnestkit.models.resnet import ResNet
from resnestkit.models.zoo import Net, find_net
from resnestkit.preprocessing import Preprocessing
from resnestkit.tasks.classification import ClassificationTask, Evaluation
from resnestkit.training.loop import Trainer
from resnestkit.training.prepare import check_batches, hint_at_size, make_loaders, read_images
from resnestkit.training.progress import Reporter
from resnestkit.training.recipe import Recipe
from resnestkit.training.report import write_report
from resnestkit.training.run import RunFolder
from resnestkit.weights.checkpoint import CLASSIFIER, ModelCard


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a finished training left."""

    run: RunFolder
    evaluation: Evaluation
    """The best model on the validation images."""
    best_epoch: int
    cost: Cost
    """Parameters, and multiply-adds at the size trained with."""
    images_per_second: float
    """Median over the epochs, of training alone."""


def train(
    data: str, recipe: Recipe, output: Path | None = None, *, reporter: Reporter | None = None
) -> TrainResult:
    """Train, evaluate and report.

    Args:
        data: "digits", or a folder of images by class.
        recipe: every setting.
        output: the run folder to make; None is runs/<net>-<time>.
        reporter: where progress goes; None prints to standard output.

    Raises:
        UserError: for anything the user can mend; Interrupted after a signal, with all saved.
    """
    run = RunFolder(output or RunFolder.default_path(recipe.model))
    run.check_free()
    return _train(run, data, recipe, reporter or Reporter())


def resume(path: Path, *, reporter: Reporter | None = None) -> TrainResult:
    """Go on with a stopped run, by its own data and recipe, to the same bits.

    Raises UserError if the folder holds no run.
    """
    run, data, recipe = RunFolder.open(path)
    return _train(run, data, recipe, reporter or Reporter())


def _train(run: RunFolder, data: str, recipe: Recipe, reporter: Reporter) -> TrainResult:
    """From the run's state, if it has one, or from the beginning."""
    net = find_net(recipe.model)
    compute = choose_compute(recipe.device, recipe.precision, channels_last=recipe.channels_last)
    torch.manual_seed(recipe.seed)
    preprocessing = _preprocessing(recipe, net)
    source = load_source(data, preprocessing.channels, recipe.holdout, recipe.seed)
    model = _make_model(net, recipe, len(source.classes), compute)
    cost = _count(net, preprocessing, len(source.classes))
    reporter.say(_describe_net(net, cost, preprocessing.size))
    reporter.say(f"compute     {compute}")
    checked = read_images(source, recipe, reporter)
    hint_at_size(checked["train"], net, preprocessing.size, reporter)
    check_batches(checked["train"], recipe)

    # Only now, when nothing the user could mend stands in the way, is the folder taken.
    run.begin(data if data == DIGITS else str(Path(data).resolve()), recipe, describe_versions())
    reporter.say(f"run         {run.path}")
    card = _make_card(net, source, recipe, preprocessing)
    trainer = Trainer(
        model,
        _make_task(recipe, card),
        recipe,
        make_loaders(checked, source.validation, recipe, preprocessing),
        run,
        card,
        compute,
        reporter,
    )
    if run.state.exists():
        trainer.resume()
    _fit(trainer)
    best, _ = load_model(run.best)
    evaluation = trainer.evaluate(compute.place(best))
    validation = checked[source.validation].images
    write_report(run, card, recipe, evaluation, validation, trainer.records, source.validation)
    speeds = sorted(record["images_per_second"] for record in trainer.records)
    return TrainResult(run, evaluation, trainer.position.best_epoch, cost, speeds[len(speeds) // 2])


def _fit(trainer: Trainer) -> None:
    try:
        trainer.fit()
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"Out of memory on {trainer.compute.device} with --batch-size "
            f"{trainer.recipe.batch_size}; halve it, and double --accumulate to keep the recipe."
        ) from error


def _make_card(net: Net, source: Source, recipe: Recipe, preprocessing: Preprocessing) -> ModelCard:
    return ModelCard(
        kind=CLASSIFIER,
        net=net.name,
        spec=net.spec,
        classes=source.classes,
        preprocessing=preprocessing,
        norm=recipe.norm,
        data=asdict(TrainedOn(source.origin, source.fingerprint, source.held_out, recipe.seed)),
        versions=describe_versions(),
    )


def _make_task(recipe: Recipe, card: ModelCard) -> ClassificationTask:
    return ClassificationTask(
        len(card.classes),
        card.preprocessing,
        label_smoothing=recipe.label_smoothing,
        mixup=recipe.mixup,
        cutmix=recipe.cutmix,
    )


def _preprocessing(recipe: Recipe, net: Net) -> Preprocessing:
    return Preprocessing(
        size=recipe.size or net.size,
        crop_ratio=recipe.crop_ratio,
        interpolation=recipe.interpolation,
        mean=recipe.mean,
        std=recipe.std,
    )


def _make_model(net: Net, recipe: Recipe, classes: int, compute: Compute) -> ResNet:
    model = create_model(
        net.name,
        classes=classes,
        in_channels=len(recipe.mean),
        norm=recipe.norm,
        drop_path=recipe.drop_path,
        drop_block=recipe.drop_block,
        dropout=recipe.dropout,
        zero_gamma=recipe.zero_gamma,
    )
    if recipe.weights is not None:
        load_backbone(model, Path(recipe.weights))
    return compute.place(model)


def _count(net: Net, preprocessing: Preprocessing, classes: int) -> Cost:
    channels = preprocessing.channels
    with torch.device("meta"):
        model = create_model(net.name, classes, channels)
    return count_cost(model, channels, preprocessing.size)


def _describe_net(net: Net, cost: Cost, size: int) -> str:
    return (
        f"net         {net.name}: {cost.params / 1e6:.2f} M parameters, "
        f"{cost.macs / 1e6:.1f} M multiply-adds at {size}x{size}"
    )
