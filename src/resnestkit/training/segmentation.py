"""What segmentation brings to a training."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial

import torch

from resnestkit.compute import Compute
from resnestkit.data.check import Checked
from resnestkit.data.segmentation.batches import SegmentationBatch
from resnestkit.data.segmentation.check import check_segmentation_images
from resnestkit.data.segmentation.sources import SegmentationSource, load_segmentation_source
from resnestkit.data.sources import TrainedOn
from resnestkit.models.cost import Cost, count_cost
from resnestkit.models.zoo import find_net
from resnestkit.progress import Reporter
from resnestkit.segmenters import load_segmenter, segmenter_card
from resnestkit.tasks.segmentation_evaluation import SegmentationEvaluation
from resnestkit.training.build import describe_compute, synchronise
from resnestkit.training.job import Job
from resnestkit.training.preflight import warn
from resnestkit.training.prepare import read_splits, say_images
from resnestkit.training.recipe import SegmentationRecipe
from resnestkit.training.segmentation_build import (
    class_counts,
    make_loaders,
    make_protocol,
    make_segmenter,
    make_task,
    weigh_classes,
)
from resnestkit.training.segmentation_patient import SegmentationPatient, check_norms


def prepare_segmentation(
    data: str, recipe: SegmentationRecipe, compute: Compute, reporter: Reporter
) -> Job[SegmentationBatch, SegmentationEvaluation]:
    """Read the images and their masks, make the segmenter, and say what both are.

    Args:
        data: "scenes", or a folder of images and masks.
        recipe: with nothing left to "auto".
        compute: where the segmenter goes.
        reporter: what the person sees.

    Raises UserError for anything the user can mend.
    """
    source = load_segmentation_source(data, len(recipe.mean), recipe.holdout, recipe.seed)
    classes = len(source.classes)
    model = make_segmenter(recipe, classes, reporter)
    images = model.preprocessing  # what the weights decided, a run that goes on must keep
    recipe = replace(recipe, mean=images.mean, std=images.std, channel_order=images.channel_order)
    cost = count(recipe, classes)
    reporter.say(
        f"segmenter   {recipe.kind} on {recipe.model}, output stride {model.spec.output_stride}: "
        f"{cost.params / 1e6:.2f} M parameters, {cost.macs / 1e9:.1f} G multiply-adds at "
        f"{recipe.crop_size}x{recipe.crop_size}"
    )
    reporter.say(describe_compute(compute, recipe))
    checked = read_splits(source, recipe, reporter, check_segmentation_images)
    say_images(checked, recipe, reporter, partial(_describe_images, source))
    check_norms(checked["train"], recipe, model.spec.head_norm)
    warn(SegmentationPatient(source, checked, find_net(recipe.model), recipe, compute), reporter)
    weights = weigh_classes(recipe, class_counts(checked["train"]))
    trained = TrainedOn(source.origin, source.fingerprint, source.held_out, recipe.seed)
    origin = asdict(trained) | {
        "protocol": make_protocol(recipe).to_dict(),
        "binary": source.binary,
    }
    card = segmenter_card(model, source.classes, data=origin, palette=source.palette)
    placed = compute.place(synchronise(model, compute))
    return Job(
        recipe=recipe,
        model=placed,
        task=make_task(recipe, source, images, weights),
        loaders=make_loaders(checked, source.validation, recipe, images),
        # By the time that a checkpoint is written, the head has learnt.
        card=replace(card, head_is_new=False),
        validation=checked[source.validation].images,
        split=source.validation,
        cost=cost,
        load=lambda path: load_segmenter(path)[0],
        heads=placed.head_modules(),
        head_lr=recipe.head_lr,
    )


def count(recipe: SegmentationRecipe, classes: int) -> Cost:
    """What the segmenter costs at the size of a training crop."""
    # The norm does not matter here, and frozen ones would want weights.
    drawn = replace(recipe, weights=None, partial=False, freeze=None, norm="batch", head_norm=None)
    with torch.device("meta"):
        return count_cost(make_segmenter(drawn, classes), len(recipe.mean), recipe.crop_size)


def _describe_images(source: SegmentationSource, checked: Checked) -> str:
    counts = class_counts(checked)
    return (
        f"{checked.stats.count} images, {counts.pixels.sum():,} labelled pixels of "
        f"{len(source.classes)} classes"
    )
