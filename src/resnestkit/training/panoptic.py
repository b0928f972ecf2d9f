"""What panoptic segmentation brings to a training."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial

from resnestkit.compute import Compute
from resnestkit.data.check import Checked
from resnestkit.data.panoptic.batches import PanopticBatch
from resnestkit.data.panoptic.sources import load_panoptic_source
from resnestkit.data.segmentation.check import check_segmentation_images
from resnestkit.data.segmentation.sources import SegmentationSource
from resnestkit.data.sources import TrainedOn
from resnestkit.models.zoo import find_net
from resnestkit.panoptics import load_panoptic, panoptic_card
from resnestkit.progress import Reporter
from resnestkit.tasks.panoptic import PanopticTask
from resnestkit.tasks.panoptic_evaluation import PanopticEvaluation
from resnestkit.training.build import describe_compute, synchronise
from resnestkit.training.detection_build import count_net
from resnestkit.training.job import Job
from resnestkit.training.panoptic_build import make_loaders, make_panoptic
from resnestkit.training.panoptic_patient import PanopticPatient
from resnestkit.training.preflight import warn
from resnestkit.training.prepare import check_norm, read_splits, say_images
from resnestkit.training.recipe import PanopticRecipe


def prepare_panoptic(
    data: str, recipe: PanopticRecipe, compute: Compute, reporter: Reporter
) -> Job[PanopticBatch, PanopticEvaluation]:
    """Read the images and their segments, make the panoptic net, and say what both are.

    Args:
        data: "scenes", or a folder of COCO's panoptic form.
        recipe: with nothing left to "auto".
        compute: where the net goes.
        reporter: what the person sees.

    Raises UserError for anything the user can mend.
    """
    source = load_panoptic_source(data, len(recipe.mean), recipe.holdout, recipe.seed)
    model = make_panoptic(recipe, source.things, reporter)
    images = model.preprocessing  # what the weights decided, a run that goes on must keep
    recipe = replace(recipe, mean=images.mean, std=images.std, channel_order=images.channel_order)
    cost = count_net(recipe)
    reporter.say(
        f"panoptic    {recipe.kind} and stuff on {recipe.model}: "
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters; the net alone "
        f"{cost.macs / 1e9:.1f} G multiply-adds at {recipe.test_side}x{recipe.test_side}"
    )
    reporter.say(describe_compute(compute, recipe))
    checked = read_splits(source, recipe, reporter, check_segmentation_images)
    say_images(checked, recipe, reporter, partial(_describe_images, source))
    check_norm(checked["train"], recipe)
    warn(PanopticPatient(source, checked, find_net(recipe.model), recipe, compute), reporter)
    trained = TrainedOn(source.origin, source.fingerprint, source.held_out, recipe.seed)
    card = panoptic_card(model, source.classes, data=asdict(trained), palette=source.palette)
    return Job(
        recipe=recipe,
        model=compute.place(synchronise(model, compute)),
        task=PanopticTask(source.classes, source.things, source.palette),
        loaders=make_loaders(checked, source.validation, recipe, source.things),
        # By the time that a checkpoint is written, the head has learnt.
        card=replace(card, head_is_new=False),
        validation=checked[source.validation].images,
        split=source.validation,
        cost=cost,
        load=lambda path: load_panoptic(path)[0],
    )


def _describe_images(source: SegmentationSource, checked: Checked) -> str:
    things = sum(source.things)
    return (
        f"{checked.stats.count} images, {things} classes of things and "
        f"{len(source.things) - things} of stuff"
    )
