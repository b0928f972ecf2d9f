"""From a recipe to the parts of a training: settings resolved, model, task, card."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from resnestkit.compute import Compute, ModelT, choose_compute
from resnestkit.data.detection.layout import SHAPES
from resnestkit.data.drawn import is_drawn
from resnestkit.data.packed import HUGGING_FACE
from resnestkit.data.segmentation.layout import SCENES
from resnestkit.data.sources import DIGITS, Source, TrainedOn
from resnestkit.errors import UserError
from resnestkit.factory import create_model
from resnestkit.models.backbone import Backbone
from resnestkit.models.cost import Cost, count_cost
from resnestkit.models.headed import Headed
from resnestkit.models.layers import SyncBatchNorm
from resnestkit.models.zoo import Net
from resnestkit.ops.kernels import find_kernels, has_kernels
from resnestkit.preprocessing import ChannelOrder, Preprocessing
from resnestkit.progress import Reporter, track_bytes
from resnestkit.tasks.classification import ClassificationTask
from resnestkit.training.recipe import BaseRecipe, Recipe
from resnestkit.weights.checkpoint import CLASSIFIER, ModelCard, current_versions
from resnestkit.weights.loading import find_weights, freeze_loaded, load_weights, names_file

RecipeT = TypeVar("RecipeT", bound=BaseRecipe)


def resolve(recipe: RecipeT, net: Net) -> RecipeT:
    """The recipe as it will run: "auto" and none become what this machine and net make them."""
    compute = choose_compute(recipe.device, recipe.precision)
    chosen: dict[str, Any] = {
        "precision": "bfloat16" if compute.bfloat16 else "float32",
        "kernels": _resolve_kernels(recipe, compute),
        "weights": _resolve_file(recipe.weights),
    }
    if isinstance(recipe, Recipe):
        chosen |= {
            "size": recipe.size or net.size,
            "train_size": recipe.train_size or recipe.size or net.size,
            "crop_ratio": recipe.crop_ratio or net.crop_ratio,
            "interpolation": recipe.interpolation or net.interpolation,
            "dropout": net.spec.dropout if recipe.dropout is None else recipe.dropout,
        }
    return replace(recipe, **chosen)


def _resolve_kernels(recipe: BaseRecipe, compute: Compute) -> bool:
    """Whether to train by kernels. Raises UserError if they are asked for and cannot be had."""
    if recipe.kernels and not recipe.channels_last:
        raise UserError("--kernels are for channels_last; leave the flag out.")
    if recipe.kernels is None:
        return recipe.channels_last and has_kernels(compute.device)
    if recipe.kernels:
        find_kernels(compute.device)
    return recipe.kernels


def _resolve_file(weights: str | None) -> str | None:
    """A file's whole path; the name of published weights as it is."""
    if weights is None or not names_file(weights):
        return weights
    return str(Path(weights).resolve())


def resolve_data(data: str | Path) -> str:
    """Where the images are: a whole path, or the name of a set that needs none."""
    drawn = any(is_drawn(data, name) for name in (DIGITS, SHAPES, SCENES))
    named = drawn or str(data).startswith(HUGGING_FACE)
    return str(data) if named else str(Path(data).resolve())


def make_card(net: Net, source: Source, recipe: Recipe, preprocessing: Preprocessing) -> ModelCard:
    """What the checkpoints of a training say of themselves."""
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


def make_task(recipe: Recipe, card: ModelCard) -> ClassificationTask:
    """The loss and the metrics that a recipe asks for."""
    return ClassificationTask(
        card.classes,
        card.preprocessing,
        label_smoothing=recipe.label_smoothing,
        mixup=recipe.mixup,
        cutmix=recipe.cutmix,
        mix_off_epochs=recipe.mixup_off_epochs,
    )


def make_preprocessing(recipe: Recipe, net: Net) -> Preprocessing:
    """The evaluation protocol: the recipe's words, else the net's own."""
    return Preprocessing(
        size=recipe.size or net.size,
        crop_ratio=recipe.crop_ratio or net.crop_ratio,
        interpolation=recipe.interpolation or net.interpolation,
        mean=recipe.mean,
        std=recipe.std,
        channel_order=recipe.channel_order or "RGB",
    )


def say_loaded(
    model: Headed, recipe: BaseRecipe, reporter: Reporter | None, head: str = "new classifier"
) -> None:
    """Tell whose weights a detector, a segmenter or a panoptic net has, and whether all of it."""
    if recipe.weights is not None and reporter is not None:
        new = f", {head}" if model.head_is_new else ""
        reporter.say(f"weights     {Path(recipe.weights).name}: loaded{new}")


def stated_preprocessing(recipe: BaseRecipe, size: int = 224) -> Preprocessing | None:
    """How a recipe wants images normalised; None where it leaves that to its weights."""
    usual = type(recipe)()
    stated = recipe.weights is None or recipe.channel_order is not None
    if not stated and (recipe.mean, recipe.std) == (usual.mean, usual.std):
        return None
    order = recipe.channel_order or "RGB"
    return Preprocessing(size, mean=recipe.mean, std=recipe.std, channel_order=order)


def make_model(
    net: Net, recipe: Recipe, classes: int, compute: Compute, reporter: Reporter, *, load: bool
) -> Backbone:
    """The net on its device, with the recipe's weights if they are to be loaded."""
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
    model = synchronise(model, compute)
    if load and recipe.weights is not None:
        with track_bytes(reporter, "downloading weights") as advance:
            path = find_weights(recipe.weights, net.name, advance)
        coverage = load_weights(model, path, net.name, partial=recipe.partial)
        head = ", new classifier" if model.head_is_new else ""
        reporter.say(f"weights     {path.name}: {coverage}{head}")
        _check_preprocessing(model, recipe, path)
        if recipe.freeze is not None:
            freeze_loaded(model, recipe.freeze, coverage, path)
    elif recipe.freeze is not None:
        model.freeze(recipe.freeze)
    return compute.place(model)


def synchronise(model: ModelT, compute: Compute) -> ModelT:
    """The model; on a GPU, with torch's quicker form of the synchronised norms that it has."""
    ours = any(isinstance(module, SyncBatchNorm) for module in model.modules())
    if not ours or compute.device.type != "cuda":
        return model
    converted: ModelT = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]  # untyped
    return converted


def _check_preprocessing(model: Backbone, recipe: Recipe, path: Path) -> None:
    """Weights see colours as they were trained to, or the training silently starts from less."""
    wanted = model.preprocessing
    if wanted is None:
        return
    order = channel_order(model, recipe)
    if (wanted.mean, wanted.std, wanted.channel_order) != (recipe.mean, recipe.std, order):
        mean, std = (" ".join(map(str, values)) for values in (wanted.mean, wanted.std))
        raise UserError(
            f"{path.name} wants its images with --mean {mean} --std {std} --channel-order "
            f"{wanted.channel_order}; say so, since other values would be a silent loss."
        )


def channel_order(model: Backbone, recipe: Recipe) -> ChannelOrder:
    """The order of colours that the recipe or the loaded weights ask for, else RGB."""
    return recipe.channel_order or (
        model.preprocessing.channel_order if model.preprocessing else "RGB"
    )


def _check_freeze(model: Backbone, stages: int) -> None:
    if stages > len(model.stages):
        raise UserError(f"--freeze is {stages}, but the net has {len(model.stages)} stages.")


def count(net: Net, preprocessing: Preprocessing, classes: int) -> Cost:
    """What the net costs with so many classes."""
    channels = preprocessing.channels
    with torch.device("meta"):
        model = create_model(net.name, classes, channels)
    return count_cost(model, channels, preprocessing.size)


def describe_compute(compute: Compute, recipe: BaseRecipe) -> str:
    """Device, arithmetic, layout and kernels in a line."""
    return f"compute     {compute}{', compiled kernels' if recipe.kernels else ''}"


def describe_net(net: Net, cost: Cost, size: int) -> str:
    """Net and cost in a line."""
    return (
        f"net         {net.name}: {cost.params / 1e6:.2f} M parameters, "
        f"{cost.macs / 1e6:.1f} M multiply-adds at {size}x{size}"
    )
