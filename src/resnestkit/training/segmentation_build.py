"""From a recipe to the parts of a segmenter's training: the model, the task and the batches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from resnestkit.data.check import Checked
from resnestkit.data.loaders import Batches, EpochSampler, InOrder, Loaders, choose_workers
from resnestkit.data.segmentation.batches import SegmentationBatch, SegmentationDataset
from resnestkit.data.segmentation.check import CheckedSegmentation, ClassCounts
from resnestkit.data.segmentation.sources import SegmentationSource
from resnestkit.data.segmentation.table import SegmentationImages
from resnestkit.data.segmentation.transforms import SegmentationAugmentation, SegmentationTransform
from resnestkit.errors import UserError
from resnestkit.preprocessing import Preprocessing
from resnestkit.progress import Reporter
from resnestkit.ranks import rank, ranks
from resnestkit.segmentation.scales import Protocol
from resnestkit.segmentation.segmenter import Segmenter
from resnestkit.segmenters import create_segmenter
from resnestkit.tasks.segmentation import SegmentationTask
from resnestkit.training.build import say_loaded, stated_preprocessing
from resnestkit.training.recipe import SegmentationRecipe


def make_segmenter(
    recipe: SegmentationRecipe, classes: int, reporter: Reporter | None = None
) -> Segmenter:
    """The segmenter that a recipe asks for, with its weights if there are any.

    How its images are normalised is what the weights want, unless the recipe says otherwise.
    """
    model = create_segmenter(
        recipe.kind,
        recipe.model,
        classes,
        recipe.weights,
        output_stride=recipe.output_stride,
        norm=recipe.norm,
        head_norm=recipe.head_norm,
        auxiliary=None if recipe.auxiliary else False,
        frozen_stages=recipe.freeze,
        in_channels=len(recipe.mean),
        settings=recipe.settings,
        preprocessing=stated_preprocessing(recipe),
        partial=recipe.partial,
    )
    model.preprocessing = replace(model.preprocessing, size=recipe.crop_size)
    say_loaded(model, recipe, reporter)
    return model


def make_protocol(recipe: SegmentationRecipe) -> Protocol:
    """How a recipe's evaluations look at whole images."""
    return Protocol(recipe.test_side, recipe.test_scales, recipe.test_flip, recipe.test_window)


def make_task(
    recipe: SegmentationRecipe,
    source: SegmentationSource,
    preprocessing: Preprocessing,
    weights: Sequence[float],
) -> SegmentationTask:
    """The loss and the metrics that a recipe asks for."""
    return SegmentationTask(
        source.classes,
        preprocessing,
        protocol=make_protocol(recipe),
        auxiliary=recipe.auxiliary,
        class_weights=weights,
        colours=source.palette,
    )


def weigh_classes(recipe: SegmentationRecipe, counts: ClassCounts) -> tuple[float, ...]:
    """The classes' weights in the loss, from what the training masks show; () for none.

    Raises UserError for another number of weights than there are classes.
    """
    if recipe.class_weights == "none":
        return ()
    if recipe.class_weights == "balanced":
        return counts.balanced_weights()
    if recipe.class_weights == "softened":
        return tuple(math.sqrt(weight) for weight in counts.balanced_weights())
    if len(recipe.class_weights) != len(counts.pixels):
        raise UserError(
            f"--class-weights are {len(recipe.class_weights)} numbers for {len(counts.pixels)} "
            "classes; give one for each."
        )
    return recipe.class_weights


def class_counts(checked: Checked) -> ClassCounts:
    """How much of each class the masks of a checked split show."""
    assert isinstance(checked, CheckedSegmentation)
    return checked.counts


def segmentation_images(checked: Checked) -> SegmentationImages:
    """The images of a checked split, with their masks."""
    assert isinstance(checked.images, SegmentationImages)
    return checked.images


def make_loaders(
    checked: dict[str, Checked],
    validation: str,
    recipe: SegmentationRecipe,
    preprocessing: Preprocessing,
) -> Loaders[SegmentationBatch]:
    """Random crops to train on, and whole validation images in order."""
    train, held = segmentation_images(checked["train"]), segmentation_images(checked[validation])
    transform = SegmentationTransform(
        SegmentationAugmentation(
            base_side=recipe.base_side,
            scale=(recipe.scale[0], recipe.scale[1]),
            crop=recipe.crop_size,
            flip=recipe.flip,
            jitter=recipe.jitter,
        ),
        preprocessing,
    )
    sampler = EpochSampler(len(train), recipe.batch_size, recipe.seed, rank(), ranks())
    return Loaders(
        train=Batches(
            SegmentationDataset(train, transform, recipe.seed),
            sampler,
            choose_workers(recipe.workers, checked["train"].in_memory),
        ),
        sampler=sampler,
        validation=Batches(
            SegmentationDataset(held),
            InOrder(len(held), recipe.batch_size, rank(), ranks()),
            choose_workers(recipe.workers, checked[validation].in_memory),
        ),
        validation_count=len(held),
    )
