"""From a recipe to the parts of a panoptic net's training: the model and the batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from resnestkit.data.check import Checked
from resnestkit.data.loaders import Batches, GroupedSampler, InOrder, Loaders, choose_workers
from resnestkit.data.panoptic.batches import PanopticBatch, PanopticDataset
from resnestkit.panoptic.network import PanopticNet
from resnestkit.panoptic.spec import PanopticSettings, light_panoptic_settings
from resnestkit.panoptics import create_panoptic
from resnestkit.progress import Reporter
from resnestkit.ranks import rank, ranks
from resnestkit.training.build import say_loaded, stated_preprocessing
from resnestkit.training.detection_build import make_transform
from resnestkit.training.recipe import PanopticRecipe
from resnestkit.training.segmentation_build import segmentation_images


def make_panoptic(
    recipe: PanopticRecipe, things: Sequence[bool], reporter: Reporter | None = None
) -> PanopticNet:
    """The panoptic net that a recipe asks for, with its weights if there are any.

    How its images are normalised is what the weights want, unless the recipe says otherwise.
    """
    chosen = [place for place, thing in enumerate(things) if thing]
    model = create_panoptic(
        recipe.model,
        len(things),
        chosen,
        recipe.weights,
        kind=recipe.kind,
        settings=recipe.settings,
        panoptic=make_settings(recipe),
        norm=recipe.norm,
        head_norm=recipe.head_norm,
        frozen_stages=recipe.freeze,
        min_size=recipe.test_side,
        max_size=recipe.max_side,
        fpn_channels=recipe.fpn_channels,
        in_channels=len(recipe.mean),
        preprocessing=stated_preprocessing(recipe),
        partial=recipe.partial,
    )
    say_loaded(model, recipe, reporter, "new classifiers")
    return model


def make_settings(recipe: PanopticRecipe) -> PanopticSettings:
    """The branch for stuff and the merge that a recipe asks for."""
    usual = light_panoptic_settings() if recipe.settings == "light" else PanopticSettings()
    area = usual.stuff_area if recipe.stuff_area is None else recipe.stuff_area
    return replace(usual, loss_weight=recipe.semantic_weight, stuff_area=area)


def make_loaders(
    checked: dict[str, Checked], validation: str, recipe: PanopticRecipe, things: Sequence[bool]
) -> Loaders[PanopticBatch]:
    """Batches of like orientation to train on, and validation batches in order."""
    train, held = segmentation_images(checked["train"]), segmentation_images(checked[validation])
    lying = [int(look.width > look.height) for look in checked["train"].looks]
    sampler = GroupedSampler(lying, recipe.batch_size, recipe.seed, rank(), ranks())
    return Loaders(
        train=Batches(
            PanopticDataset(train, things, make_transform(recipe), recipe.seed),
            sampler,
            choose_workers(recipe.workers, checked["train"].in_memory),
        ),
        sampler=sampler,
        validation=Batches(
            PanopticDataset(held, things),
            InOrder(len(held), recipe.batch_size, rank(), ranks()),
            choose_workers(recipe.workers, checked[validation].in_memory),
        ),
        validation_count=len(held),
    )
