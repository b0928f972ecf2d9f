"""What detection brings to a training."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial

from resnestkit.compute import Compute
from resnestkit.data.check import Checked
from resnestkit.data.detection.batches import DetectionBatch
from resnestkit.data.detection.check import check_detection_images
from resnestkit.data.detection.sources import DetectionSource, load_detection_source
from resnestkit.data.sources import TrainedOn
from resnestkit.detection.spec import has_masks
from resnestkit.detectors import detector_card, load_detector
from resnestkit.models.zoo import find_net
from resnestkit.progress import Reporter
from resnestkit.tasks.detection import DetectionTask
from resnestkit.tasks.detection_evaluation import DetectionEvaluation
from resnestkit.training.build import describe_compute, synchronise
from resnestkit.training.detection_build import (
    count_net,
    detection_images,
    make_detector,
    make_loaders,
)
from resnestkit.training.detection_patient import (
    DetectionPatient,
    check_objects,
    count_objects,
)
from resnestkit.training.job import Job
from resnestkit.training.preflight import warn
from resnestkit.training.prepare import check_norm, read_splits, say_images
from resnestkit.training.recipe import DetectionRecipe


def prepare_detection(
    data: str, recipe: DetectionRecipe, compute: Compute, reporter: Reporter
) -> Job[DetectionBatch, DetectionEvaluation]:
    """Read the images and their annotations, make the detector, and say what both are.

    Args:
        data: "shapes", or a folder or file of COCO's form.
        recipe: with nothing left to "auto".
        compute: where the detector goes.
        reporter: what the person sees.

    Raises UserError for anything the user can mend.
    """
    masks = has_masks(recipe.kind)
    source = load_detection_source(data, len(recipe.mean), recipe.holdout, recipe.seed, masks=masks)
    model = make_detector(recipe, len(source.classes), reporter)
    images = model.preprocessing  # what the weights decided, a run that goes on must keep
    recipe = replace(recipe, mean=images.mean, std=images.std, channel_order=images.channel_order)
    cost = count_net(recipe)
    reporter.say(
        f"detector    {recipe.kind} on {recipe.model}: "
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters; the net alone "
        f"{cost.macs / 1e9:.1f} G multiply-adds at {recipe.test_side}x{recipe.test_side}"
    )
    reporter.say(describe_compute(compute, recipe))
    checked = read_splits(source, recipe, reporter, check_detection_images)
    say_images(checked, recipe, reporter, partial(_describe_images, source))
    check_norm(checked["train"], recipe)
    check_objects(source, checked)
    warn(DetectionPatient(source, checked, find_net(recipe.model), recipe, compute), reporter)
    task = DetectionTask(source.classes, masks=masks)
    trained = TrainedOn(source.origin, source.fingerprint, source.held_out, recipe.seed)
    origin = {**asdict(trained), "category_ids": list(source.category_ids)}
    return Job(
        recipe=recipe,
        model=compute.place(synchronise(model, compute)),
        task=task,
        loaders=make_loaders(checked, source.validation, recipe, masks=masks),
        # By the time that a checkpoint is written, the head has learnt.
        card=replace(detector_card(model, source.classes, data=origin), head_is_new=False),
        validation=checked[source.validation].images,
        split=source.validation,
        cost=cost,
        load=lambda path: load_detector(path)[0],
    )


def _describe_images(source: DetectionSource, checked: Checked) -> str:
    objects = count_objects(detection_images(checked)).total()
    return f"{checked.stats.count} images, {objects} objects of {len(source.classes)} classes"
