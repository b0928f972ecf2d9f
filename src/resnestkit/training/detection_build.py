"""From a recipe to the parts of a detector's training: the model and the batches."""

from __future__ import annotations

import torch

from resnestkit.data.check import Checked
from resnestkit.data.detection.batches import DetectionBatch, DetectionDataset
from resnestkit.data.detection.table import DetectionImages
from resnestkit.data.detection.transforms import DetectionAugmentation, DetectionTransform
from resnestkit.data.loaders import Batches, GroupedSampler, InOrder, Loaders, choose_workers
from resnestkit.detection.detector import Detector
from resnestkit.detectors import create_detector
from resnestkit.factory import create_model
from resnestkit.models.cost import Cost, count_cost
from resnestkit.progress import Reporter
from resnestkit.ranks import rank, ranks
from resnestkit.training.build import say_loaded, stated_preprocessing
from resnestkit.training.recipe import DetectionRecipe


def make_detector(
    recipe: DetectionRecipe, classes: int, reporter: Reporter | None = None
) -> Detector:
    """The detector that a recipe asks for, with its weights if there are any.

    How its images are normalised is what the weights want, unless the recipe says otherwise.
    """
    model = create_detector(
        recipe.kind,
        recipe.model,
        classes,
        recipe.weights,
        settings=recipe.settings,
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
    say_loaded(model, recipe, reporter)
    return model


def count_net(recipe: DetectionRecipe) -> Cost:
    """Of the net alone: what the heads cost depends on what is found."""
    with torch.device("meta"):
        net = create_model(recipe.model, 0, len(recipe.mean))
    return count_cost(net, len(recipe.mean), recipe.test_side)


def detection_images(checked: Checked) -> DetectionImages:
    """The images of a checked split, with their annotations."""
    assert isinstance(checked.images, DetectionImages)
    return checked.images


def make_transform(recipe: DetectionRecipe) -> DetectionTransform:
    """The random changes of training images that a recipe asks for."""
    return DetectionTransform(
        DetectionAugmentation(
            crop=recipe.crop,
            short_sides=recipe.short_sides,
            sampling=recipe.sampling,
            max_side=recipe.max_side,
            flip=recipe.flip,
            jitter=recipe.jitter,
        )
    )


def make_loaders(
    checked: dict[str, Checked], validation: str, recipe: DetectionRecipe, *, masks: bool
) -> Loaders[DetectionBatch]:
    """Batches of like orientation to train on, and validation batches in order."""
    train, held = detection_images(checked["train"]), detection_images(checked[validation])
    sampler = GroupedSampler(train.orientations, recipe.batch_size, recipe.seed, rank(), ranks())
    return Loaders(
        train=Batches(
            DetectionDataset(train, make_transform(recipe), recipe.seed, masks=masks),
            sampler,
            choose_workers(recipe.workers, checked["train"].in_memory),
        ),
        sampler=sampler,
        validation=Batches(
            DetectionDataset(held, masks=masks),
            InOrder(len(held), recipe.batch_size, rank(), ranks()),
            choose_workers(recipe.workers, checked[validation].in_memory),
        ),
        validation_count=len(held),
    )
