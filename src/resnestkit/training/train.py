"""Train from data and a recipe to a run folder: the whole way, in one function."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from resnestkit.compute import Compute, choose_compute, explain_memory
from resnestkit.data.sources import DIGITS, Source, TrainedOn, load_source
from resnestkit.errors import UserError
from resnestkit.factory import create_model, find_weights, load_model, load_weights
from resnestkit.models.backbone import Backbone
from resnestkit.models.cost import Cost, count_cost
from resnestkit.models.zoo import Net, find_net
from resnestkit.preprocessing import Preprocessing
from resnestkit.tasks.classification import ClassificationTask
from resnestkit.tasks.evaluation import Evaluation
from resnestkit.training.loop import Trainer
from resnestkit.training.prepare import check_norm, hint_at_size, make_loaders, read_images
from resnestkit.training.progress import Reporter
from resnestkit.training.recipe import Recipe
from resnestkit.training.report import write_report
from resnestkit.training.run import RunFolder
from resnestkit.weights.checkpoint import CLASSIFIER, ModelCard, current_versions


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a finished training left."""

    run: RunFolder
    evaluation: Evaluation
    """The best model on the validation images, in float32. The epoch was chosen on these images."""
    best_epoch: int
    last_top1: float
    """Accuracy of the last epoch, for which nothing was chosen."""
    cost: Cost
    """Parameters, and multiply-adds at the size trained with."""
    images_per_second: float
    """Median over the epochs, of training alone."""


def train(
    data: str | Path,
    recipe: Recipe,
    output: str | Path | None = None,
    *,
    reporter: Reporter | None = None,
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
    net = find_net(recipe.model)
    recipe = _resolve(recipe, net)
    origin = _resolve_data(data)
    run = RunFolder.new(net.name) if output is None else RunFolder(Path(output))
    _keep_apart(run, origin)
    if output is not None:
        run.check_free()
    return _train(run, origin, recipe, reporter or Reporter(), resumed=False)


def resume(
    path: str | Path, data: str | Path | None = None, *, reporter: Reporter | None = None
) -> TrainResult:
    """Go on with a stopped run; on a CPU with as many threads, to the same bits.

    Args:
        path: the run's folder.
        data: where the images are now, if they moved; they must be the same images.
        reporter: where progress goes; None prints to standard output.

    Raises:
        UserError: the folder holds no run, or the images are others.
    """
    run, origin, recipe = RunFolder.open(Path(path))
    moved = origin if data is None else _resolve_data(data)
    return _train(run, moved, recipe, reporter or Reporter(), resumed=True)


def _resolve(recipe: Recipe, net: Net) -> Recipe:
    """The recipe as it will run: "auto" and none become what this machine and net make them."""
    compute = choose_compute(recipe.device, recipe.precision)
    return replace(
        recipe,
        size=recipe.size or net.size,
        precision="bfloat16" if compute.bfloat16 else "float32",
        dropout=net.spec.dropout if recipe.dropout is None else recipe.dropout,
        weights=_resolve_file(recipe.weights),
    )


def _resolve_file(weights: str | None) -> str | None:
    """A file's whole path; the name of published weights as it is."""
    if weights is None or not (Path(weights).suffix or Path(weights).exists()):
        return weights
    return str(Path(weights).resolve())


def _resolve_data(data: str | Path) -> str:
    return DIGITS if str(data) == DIGITS else str(Path(data).resolve())


def _keep_apart(run: RunFolder, origin: str) -> None:
    if origin != DIGITS and run.path.resolve().is_relative_to(origin):
        raise UserError(
            f"The run folder {run.path} would lie inside the data, where it would be taken for a "
            "class. Choose an --output elsewhere."
        )


def _train(
    run: RunFolder, data: str, recipe: Recipe, reporter: Reporter, *, resumed: bool
) -> TrainResult:
    net = find_net(recipe.model)
    compute = choose_compute(recipe.device, recipe.precision, channels_last=recipe.channels_last)
    torch.manual_seed(recipe.seed)
    preprocessing = _preprocessing(recipe, net)
    source = load_source(data, preprocessing.channels, recipe.holdout, recipe.seed)
    starts = not run.state.exists()
    model = _make_model(net, recipe, len(source.classes), compute, reporter, load=starts)
    cost = _count(net, preprocessing, len(source.classes))
    reporter.say(_describe_net(net, cost, preprocessing.size))
    reporter.say(f"compute     {compute}")
    checked = read_images(source, recipe, reporter)
    hint_at_size(checked["train"], net, preprocessing.size, reporter)
    check_norm(checked["train"], recipe, compute)

    # Only now, when nothing the user could mend stands in the way, is the folder taken.
    if not resumed:
        run.take(data, recipe, current_versions())
    reporter.say(f"run         {run.path}")
    card = _make_card(net, source, recipe, preprocessing)
    task = _make_task(recipe, card)
    loaders = make_loaders(checked, source.validation, recipe, preprocessing)
    trainer = Trainer(model, task, recipe, loaders, run, card, compute, reporter)
    if not starts:
        trainer.resume()
    advice = f"Halve --batch-size {recipe.batch_size}, and double --accumulate to make up for it."
    with explain_memory(advice):
        trainer.fit()
        best, _ = load_model(run.best)
        result = trainer.evaluate(compute.place(best), replace(compute, bfloat16=False))
    run.write_json("evaluation.json", {"classes": card.classes, **asdict(result)})
    validation = checked[source.validation].images
    part = task.report(result, validation, source.validation)
    best_epoch, records = trainer.position.best_epoch, trainer.records
    write_report(run, card, recipe, part, records, best_epoch)
    speeds = sorted(record["images_per_second"] for record in records)
    speed, last = speeds[len(speeds) // 2], records[-1]["val_top1"]
    return TrainResult(run, result, best_epoch, last, cost, speed)


def _make_card(net: Net, source: Source, recipe: Recipe, preprocessing: Preprocessing) -> ModelCard:
    return ModelCard(
        kind=CLASSIFIER,
        net=net.name,
        spec=net.spec,
        classes=source.classes,
        preprocessing=preprocessing,
        norm=recipe.norm,
        data=asdict(TrainedOn(source.origin, source.fingerprint, source.held_out, recipe.seed)),
        versions=current_versions(),
    )


def _make_task(recipe: Recipe, card: ModelCard) -> ClassificationTask:
    return ClassificationTask(
        card.classes,
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


def _make_model(
    net: Net, recipe: Recipe, classes: int, compute: Compute, reporter: Reporter, *, load: bool
) -> Backbone:
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
    if load and recipe.weights is not None:
        path = _find_weights(recipe.weights, net, reporter)
        coverage = load_weights(model, path, net.name, partial=recipe.partial)
        head = ", new classifier" if model.head_is_new else ""
        reporter.say(f"weights     {path.name}: {coverage}{head}")
        _check_preprocessing(model, recipe, path)
    if recipe.freeze is not None:
        _freeze(model, recipe.freeze)
    return compute.place(model)


def _check_preprocessing(model: Backbone, recipe: Recipe, path: Path) -> None:
    """Weights see colours as they were trained to, or the training silently starts from less."""
    wanted = model.preprocessing
    if wanted is not None and (wanted.mean, wanted.std) != (recipe.mean, recipe.std):
        mean, std = (" ".join(map(str, values)) for values in (wanted.mean, wanted.std))
        raise UserError(
            f"{path.name} wants its images with --mean {mean} --std {std}; say so, since other "
            "values would be a silent loss."
        )


def _freeze(model: Backbone, stages: int) -> None:
    if stages > len(model.stages):
        raise UserError(f"--freeze is {stages}, but the net has {len(model.stages)} stages.")
    model.freeze(stages)


def _find_weights(weights: str, net: Net, reporter: Reporter) -> Path:
    shown = 0
    with reporter.track("downloading weights", 100) as advance:

        def show(there: int, total: int) -> None:
            nonlocal shown
            percent = 100 * there // total if total else 0
            advance(percent - shown, f"{there / 1e6:.0f} MB")
            shown = percent

        return find_weights(weights, net.name, show)


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
