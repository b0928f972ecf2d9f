"""Train from data and a recipe to a run folder: the whole way, in one function."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from resnestkit.compute import Compute, choose_compute, describe_versions
from resnestkit.data.check import Checked, check_images
from resnestkit.data.loaders import (
    EpochSampler,
    InOrder,
    TransformedImages,
    choose_workers,
    make_loader,
)
from resnestkit.data.sources import DIGITS, Source, TrainedOn, load_source
from resnestkit.data.transforms import Augmentation, evaluation_transform, training_transform
from resnestkit.errors import UserError
from resnestkit.factory import create_model, load_backbone, load_model
from resnestkit.models.cost import Cost, count_cost
from resnestkit.models.resnet import ResNet
from resnestkit.models.zoo import Net, find_net
from resnestkit.preprocessing import Preprocessing
from resnestkit.tasks.classification import ClassificationTask, Evaluation
from resnestkit.training.loop import Loaders, Trainer
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
    data: str,
    recipe: Recipe,
    output: Path | None = None,
    *,
    resume: bool = False,
    reporter: Reporter | None = None,
) -> TrainResult:
    """Train, evaluate and report.

    Args:
        data: "digits", or a folder of images by class.
        recipe: every setting.
        output: the run folder to make; none is runs/<net>-<time>. Under ``resume`` the folder of
            the run to go on with, whose own recipe should be passed.
        resume: go on with the run in ``output``.
        reporter: where progress goes; none prints to standard output.

    Raises:
        UserError: for anything the user can mend; Interrupted after a signal, with all saved.
    """
    reporter = reporter or Reporter()
    net = find_net(recipe.model)
    compute = choose_compute(recipe.device, recipe.precision, channels_last=recipe.channels_last)
    torch.manual_seed(recipe.seed)
    source = load_source(data, len(recipe.mean), recipe.holdout, recipe.seed)
    if resume and output is not None:
        run = RunFolder(output)
    else:
        path = output or RunFolder.default_path(net.name)
        origin = data if data == DIGITS else str(Path(data).resolve())
        run = RunFolder.create(path, origin, recipe, describe_versions())
    return _train_into(run, net, source, recipe, compute, reporter, resume=resume)


def _train_into(
    run: RunFolder,
    net: Net,
    source: Source,
    recipe: Recipe,
    compute: Compute,
    reporter: Reporter,
    *,
    resume: bool,
) -> TrainResult:
    preprocessing = _preprocessing(recipe, net)
    model = _make_model(net, recipe, len(source.classes), compute)
    cost = _count(net, preprocessing, len(source.classes))
    reporter.say(_describe_net(net, cost, preprocessing.size))
    reporter.say(f"compute     {compute}")
    checked = _check(source, recipe, reporter)
    _check_batches(checked["train"], recipe)
    task = ClassificationTask(
        len(source.classes),
        preprocessing,
        label_smoothing=recipe.label_smoothing,
        mixup=recipe.mixup,
        cutmix=recipe.cutmix,
    )
    card = ModelCard(
        kind=CLASSIFIER,
        net=net.name,
        spec=net.spec,
        classes=source.classes,
        preprocessing=preprocessing,
        norm=recipe.norm,
        data=asdict(TrainedOn(source.origin, source.fingerprint, source.held_out, recipe.seed)),
        versions=describe_versions(),
    )
    loaders = _make_loaders(checked, source.validation, recipe, preprocessing)
    trainer = Trainer(model, task, recipe, loaders, run, card, compute, reporter)
    if resume and run.state.exists():
        trainer.resume()
    reporter.say(f"run         {run.path}")
    trainer.fit()
    best, _ = load_model(run.best)
    trainer.model, trainer.average = compute.place(best), None
    evaluation = trainer.evaluate()
    validation = checked[source.validation].images
    write_report(run, card, recipe, evaluation, validation, trainer.records, source.validation)
    speeds = sorted(record["images_per_second"] for record in trainer.records)
    return TrainResult(run, evaluation, trainer.position.best_epoch, cost, speeds[len(speeds) // 2])


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


def _check(source: Source, recipe: Recipe, reporter: Reporter) -> dict[str, Checked]:
    """Read every image of the splits used once, and say what was found."""
    checked = {}
    left = recipe.cache_mb * 2**20
    for split in ("train", source.validation):
        images = source.splits[split]
        with reporter.track(f"reading {split} images", len(images)) as advance:
            found = check_images(
                images,
                cache_bytes=left,
                skip_unreadable=recipe.skip_unreadable,
                advance=lambda done, advance=advance: advance(done, ""),  # type: ignore[misc]
            )
        if found.in_memory:
            left -= sum(found.images.read(i).numel() for i in range(len(found.images)))
        checked[split] = found
        (low_h, low_w), (high_h, high_w) = found.stats.smallest, found.stats.largest
        sizes = f"{low_w}x{low_h}" + (
            f" to {high_w}x{high_h}" if found.stats.smallest != found.stats.largest else ""
        )
        reporter.say(
            f"{split:<11} {len(found.images)} images of {len(source.classes)} classes, {sizes}"
        )
        for image in found.unreadable:
            reporter.say(f"left out    {image}")
    return checked


def _check_batches(train: Checked, recipe: Recipe) -> None:
    if recipe.norm in {"batch", "sync"} and min(recipe.batch_size, len(train.images)) < 2:
        raise UserError(
            "Batch normalisation needs two or more images per step: raise --batch-size, or use "
            "--norm group."
        )


def _make_loaders(
    checked: dict[str, Checked], validation: str, recipe: Recipe, preprocessing: Preprocessing
) -> Loaders:
    augmentation = Augmentation(recipe.crop, recipe.min_area, recipe.padding, recipe.flip)
    train, held = checked["train"], checked[validation]
    sampler = EpochSampler(len(train.images), recipe.batch_size, recipe.seed)
    training_images = TransformedImages(
        train.images, training_transform(preprocessing, augmentation), recipe.seed
    )
    held_images = TransformedImages(held.images, evaluation_transform(preprocessing), None)
    return Loaders(
        train=make_loader(
            training_images, sampler, choose_workers(recipe.workers, train.in_memory)
        ),
        sampler=sampler,
        validation=make_loader(
            held_images,
            InOrder(len(held.images), 2 * recipe.batch_size),
            choose_workers(recipe.workers, held.in_memory),
        ),
        validation_count=len(held.images),
    )


def resume(path: Path, *, reporter: Reporter | None = None) -> TrainResult:
    """Go on with a stopped run, by its own data and recipe.

    Raises UserError if the folder holds no run.
    """
    run, data, recipe = RunFolder.open(path)
    return train(data, recipe, run.path, resume=True, reporter=reporter)
