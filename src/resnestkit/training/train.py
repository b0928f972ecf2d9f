"""Train from data and a recipe to a run folder: the whole way, in one function."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import nn

from resnestkit.compute import Compute, choose_compute, explain_memory
from resnestkit.data.packed import HUGGING_FACE
from resnestkit.data.seeding import mix_seed
from resnestkit.data.sources import DIGITS, Source, TrainedOn, load_source
from resnestkit.errors import UserError
from resnestkit.factory import create_model, load_model
from resnestkit.models.backbone import Backbone
from resnestkit.models.cost import Cost, count_cost
from resnestkit.models.zoo import Net, find_net
from resnestkit.preprocessing import ChannelOrder, Preprocessing
from resnestkit.ranks import is_first, joined, rank, restarts, share, wait
from resnestkit.tasks.classification import ClassificationTask
from resnestkit.tasks.evaluation import Evaluation
from resnestkit.training.live import LiveReport
from resnestkit.training.loop import Trainer
from resnestkit.training.observers import Observer, Observers
from resnestkit.training.preflight import Patient, warn
from resnestkit.training.prepare import check_norm, hint_at_size, make_loaders, read_images
from resnestkit.training.progress import Reporter
from resnestkit.training.recipe import Recipe
from resnestkit.training.run import RunFolder
from resnestkit.training.tensorboard import Board, require_tensorboard
from resnestkit.weights.checkpoint import CLASSIFIER, ModelCard, current_versions
from resnestkit.weights.loading import find_weights, freeze_loaded, load_weights, names_file


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
    """Parameters, and multiply-adds at the size evaluated with."""
    images_per_second: float
    """Median over the epochs, of training alone."""


def train(
    data: str | Path,
    recipe: Recipe,
    output: str | Path | None = None,
    *,
    reporter: Reporter | None = None,
) -> TrainResult:
    """Train, evaluate and report. Under torchrun, every process calls this and gets the result.

    Args:
        data: "digits", or a folder of images by class.
        recipe: every setting.
        output: the run folder to make; None is runs/<net>-<time>.
        reporter: where progress goes; None prints to standard output.

    Raises:
        UserError: for anything the user can mend; Interrupted after a signal, with all saved.
    """
    with joined():
        if output is not None and restarts() and RunFolder(Path(output)).config.exists():
            return resume(output, reporter=reporter)
        net = find_net(recipe.model)
        recipe = _resolve(recipe, net)
        origin = _resolve_data(data)
        run = share(_new_run(net, output, origin) if is_first() else None)
        assert run is not None
        return _train(run, origin, recipe, reporter or _reporter(), resumed=False)


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
    with joined():
        run, origin, recipe = RunFolder.open(Path(path))
        moved = origin if data is None else _resolve_data(data)
        return _train(run, moved, recipe, reporter or _reporter(), resumed=True)


def _reporter() -> Reporter:
    """One process speaks for all."""
    return Reporter(quiet=not is_first())


def _new_run(net: Net, output: str | Path | None, origin: str) -> RunFolder:
    run = RunFolder.new(net.name) if output is None else RunFolder(Path(output))
    _keep_apart(run, origin)
    if output is not None:
        run.check_free()
    return run


def _resolve(recipe: Recipe, net: Net) -> Recipe:
    """The recipe as it will run: "auto" and none become what this machine and net make them."""
    compute = choose_compute(recipe.device, recipe.precision)
    return replace(
        recipe,
        size=recipe.size or net.size,
        train_size=recipe.train_size or recipe.size or net.size,
        crop_ratio=recipe.crop_ratio or net.crop_ratio,
        interpolation=recipe.interpolation or net.interpolation,
        precision="bfloat16" if compute.bfloat16 else "float32",
        dropout=net.spec.dropout if recipe.dropout is None else recipe.dropout,
        weights=_resolve_file(recipe.weights),
    )


def _resolve_file(weights: str | None) -> str | None:
    """A file's whole path; the name of published weights as it is."""
    if weights is None or not names_file(weights):
        return weights
    return str(Path(weights).resolve())


def _resolve_data(data: str | Path) -> str:
    named = str(data) == DIGITS or str(data).startswith(HUGGING_FACE)
    return str(data) if named else str(Path(data).resolve())


def _keep_apart(run: RunFolder, origin: str) -> None:
    if origin != DIGITS and run.path.resolve().is_relative_to(origin):
        raise UserError(
            f"The run folder {run.path} would lie inside the data, where it would be taken for a "
            "class. Choose an --output elsewhere."
        )


def _train(
    run: RunFolder, data: str, recipe: Recipe, reporter: Reporter, *, resumed: bool
) -> TrainResult:
    if recipe.tensorboard:
        require_tensorboard()
    net = find_net(recipe.model)
    compute = choose_compute(recipe.device, recipe.precision, channels_last=recipe.channels_last)
    torch.manual_seed(recipe.seed)
    preprocessing = _preprocessing(recipe, net)
    source = load_source(data, preprocessing.channels, recipe.holdout, recipe.seed)
    states = run.states(recipe.keep_states)
    starts = share(not any(state.exists() for state in states))
    model = _make_model(net, recipe, len(source.classes), compute, reporter, load=starts)
    recipe = replace(recipe, channel_order=_order(model, recipe))
    preprocessing = _preprocessing(recipe, net)
    cost = _count(net, preprocessing, len(source.classes))
    reporter.say(_describe_net(net, cost, preprocessing.size))
    reporter.say(f"compute     {compute}")
    checked = read_images(source, recipe, reporter)
    hint_at_size(checked["train"], net, preprocessing.size, reporter)
    check_norm(checked["train"], recipe)
    warn(Patient(source, checked, net, recipe, compute), reporter)

    # Only now, when nothing the user could mend stands in the way, is the folder taken.
    if not resumed and is_first():
        run.take(data, recipe, current_versions())
    if rank():
        torch.manual_seed(mix_seed(recipe.seed, rank()))  # each drops and mixes its own
    reporter.say(f"run         {run.path}")
    card = _make_card(net, source, recipe, preprocessing)
    task = _make_task(recipe, card)
    loaders = make_loaders(checked, source.validation, recipe, preprocessing)
    trainer = Trainer(model, task, recipe, loaders, run, card, compute, reporter)
    if not starts:
        trainer.resume()
    advice = f"Halve --batch-size {recipe.batch_size}, and double --accumulate to make up for it."
    validation = checked[source.validation].images
    report = LiveReport(run, card, recipe, task, validation, source.validation)
    watching: dict[str, Observer[Evaluation]] = {"report": report} if is_first() else {}
    if recipe.tensorboard and is_first():
        watching["tensorboard"] = Board(run.path / "tensorboard")
    observers = Observers(reporter, watching)
    trainer.on_epoch = observers
    with explain_memory(advice), observers:
        trainer.fit()
        wait()  # until the first process has written the last epoch's files
        best, _ = load_model(run.best)
        result = trainer.evaluate(compute.place(best), replace(compute, bfloat16=False))
    best_epoch, records = trainer.position.best_epoch, trainer.records
    if is_first():
        run.write_json("evaluation.json", {"classes": card.classes, **asdict(result)})
        observers.attempt("report", lambda: report.finish(trainer.position, records, result))
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
        mix_off_epochs=recipe.mixup_off_epochs,
    )


def _preprocessing(recipe: Recipe, net: Net) -> Preprocessing:
    return Preprocessing(
        size=recipe.size or net.size,
        crop_ratio=recipe.crop_ratio or net.crop_ratio,
        interpolation=recipe.interpolation or net.interpolation,
        mean=recipe.mean,
        std=recipe.std,
        channel_order=recipe.channel_order or "RGB",
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
    _check_freeze(model, recipe.freeze or 0)
    if recipe.norm == "sync" and compute.device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    if load and recipe.weights is not None:
        path = _find_weights(recipe.weights, net, reporter)
        coverage = load_weights(model, path, net.name, partial=recipe.partial)
        head = ", new classifier" if model.head_is_new else ""
        reporter.say(f"weights     {path.name}: {coverage}{head}")
        _check_preprocessing(model, recipe, path)
        if recipe.freeze is not None:
            freeze_loaded(model, recipe.freeze, coverage, path)
    elif recipe.freeze is not None:
        model.freeze(recipe.freeze)
    return compute.place(model)


def _check_preprocessing(model: Backbone, recipe: Recipe, path: Path) -> None:
    """Weights see colours as they were trained to, or the training silently starts from less."""
    wanted = model.preprocessing
    if wanted is None:
        return
    order = _order(model, recipe)
    if (wanted.mean, wanted.std, wanted.channel_order) != (recipe.mean, recipe.std, order):
        mean, std = (" ".join(map(str, values)) for values in (wanted.mean, wanted.std))
        raise UserError(
            f"{path.name} wants its images with --mean {mean} --std {std} --channel-order "
            f"{wanted.channel_order}; say so, since other values would be a silent loss."
        )


def _order(model: Backbone, recipe: Recipe) -> ChannelOrder:
    """The order of colours that the recipe or the loaded weights ask for, else RGB."""
    return recipe.channel_order or (
        model.preprocessing.channel_order if model.preprocessing else "RGB"
    )


def _check_freeze(model: Backbone, stages: int) -> None:
    if stages > len(model.stages):
        raise UserError(f"--freeze is {stages}, but the net has {len(model.stages)} stages.")


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
