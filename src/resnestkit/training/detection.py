"""What detection brings to a training."""

from __future__ import annotations

from dataclasses import asdict, replace

import torch
from torch import nn

from resnestkit.compute import Compute
from resnestkit.data.check import Checked, refuse_unreadable
from resnestkit.data.detection.batches import DetectionBatch, DetectionDataset
from resnestkit.data.detection.check import check_detection_images
from resnestkit.data.detection.sources import DetectionSource, load_detection_source
from resnestkit.data.detection.table import DetectionImages
from resnestkit.data.detection.transforms import DetectionAugmentation, DetectionTransform
from resnestkit.data.loaders import Batches, GroupedSampler, InOrder, Loaders, choose_workers
from resnestkit.data.sources import TrainedOn
from resnestkit.detection.detector import Detector
from resnestkit.detection.spec import has_masks
from resnestkit.detectors import create_detector, detector_card, load_detector
from resnestkit.errors import UserError
from resnestkit.factory import create_model
from resnestkit.models.cost import Cost, count_cost
from resnestkit.preprocessing import Preprocessing
from resnestkit.progress import Reporter
from resnestkit.ranks import rank, ranks
from resnestkit.tasks.detection import DetectionTask
from resnestkit.tasks.detection_evaluation import DetectionEvaluation
from resnestkit.training.build import describe_compute
from resnestkit.training.job import Job
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
    model = make_detector(recipe, len(source.classes))
    recipe = replace(recipe, channel_order=model.preprocessing.channel_order)
    cost = _count(recipe)
    reporter.say(
        f"detector    {recipe.kind} on {recipe.model}: "
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters; the net alone "
        f"{cost.macs / 1e9:.1f} G multiply-adds at {recipe.test_side}x{recipe.test_side}"
    )
    reporter.say(describe_compute(compute, recipe))
    checked = _read_images(source, recipe, reporter)
    _check_batch(recipe)
    task = DetectionTask(source.classes, masks=masks)
    trained = TrainedOn(source.origin, source.fingerprint, source.held_out, recipe.seed)
    return Job(
        recipe=recipe,
        model=compute.place(_synchronised(model, recipe, compute)),
        task=task,
        loaders=_make_loaders(checked, source.validation, recipe, masks=masks),
        # By the time that a checkpoint is written, the head has learnt.
        card=replace(detector_card(model, source.classes, data=asdict(trained)), head_is_new=False),
        validation=checked[source.validation].images,
        split=source.validation,
        cost=cost,
        load=lambda path: load_detector(path)[0],
    )


def make_detector(recipe: DetectionRecipe, classes: int) -> Detector:
    """The detector that a recipe asks for, with its weights if there are any.

    How its images are normalised is what the weights want, unless the recipe says otherwise.
    """
    given = Preprocessing(
        mean=recipe.mean, std=recipe.std, channel_order=recipe.channel_order or "RGB"
    )
    stated = recipe.weights is None or recipe.channel_order is not None or _differs(recipe)
    return create_detector(
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
        preprocessing=given if stated else None,
        partial=recipe.partial,
    )


def _differs(recipe: DetectionRecipe) -> bool:
    """Whether the recipe says how images are normalised, or leaves that to the weights."""
    usual = DetectionRecipe()
    return (recipe.mean, recipe.std) != (usual.mean, usual.std)


def _synchronised(model: Detector, recipe: DetectionRecipe, compute: Compute) -> nn.Module:
    if recipe.norm == "sync" and compute.device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]  # untyped
        return converted
    return model


def _count(recipe: DetectionRecipe) -> Cost:
    """Of the net alone: what the heads cost depends on what is found."""
    with torch.device("meta"):
        net = create_model(recipe.model, 0, len(recipe.mean))
    return count_cost(net, len(recipe.mean), recipe.test_side)


def _read_images(
    source: DetectionSource, recipe: DetectionRecipe, reporter: Reporter
) -> dict[str, Checked]:
    """Read every image of the two splits used once; say what they are, refuse what is wrong."""
    checked = {}
    memory = recipe.cache_mb * 2**20
    for split in ("train", source.validation):
        images = source.splits[split]
        with reporter.track(f"reading {split} images", len(images)) as advance:
            checked[split] = check_detection_images(
                images,
                cache_bytes=memory,
                advance=lambda done, advance=advance: advance(done, ""),  # type: ignore[misc]  # bound early
            )
        memory -= checked[split].cached_bytes
    if not recipe.skip_unreadable:
        refuse_unreadable(checked.values())
    for split, one in checked.items():
        objects = sum(
            len(_images(one).annotations(index).labels) for index in range(len(one.images))
        )
        reporter.say(
            f"{split:<11} {one.stats.count} images, {objects} objects of "
            f"{len(source.classes)} classes"
        )
        for image in one.unreadable:
            reporter.say(f"left out    {image}")
    for finding in source.findings:
        if finding.severity != "note":
            reporter.say(f"{finding.severity:<11} {finding}")
    if len(checked["train"].images) < ranks():
        raise UserError(
            f"There are {ranks()} processes for {len(checked['train'].images)} training images; "
            "start fewer."
        )
    return checked


def _check_batch(recipe: DetectionRecipe) -> None:
    """Raise UserError if the norm policy cannot work with so few images."""
    together = recipe.batch_size * (ranks() if recipe.norm == "sync" else 1)
    if recipe.norm in {"batch", "sync"} and together < 2:
        raise UserError(
            "Batch normalisation needs two or more images per step and process: raise "
            "--batch-size, or use --norm group (or frozen, with --weights)."
        )
    if recipe.norm == "frozen" and recipe.weights is None:
        raise UserError("--norm frozen holds statistics that were never learnt; give --weights.")


def _images(checked: Checked) -> DetectionImages:
    assert isinstance(checked.images, DetectionImages)
    return checked.images


def _make_loaders(
    checked: dict[str, Checked], validation: str, recipe: DetectionRecipe, *, masks: bool
) -> Loaders[DetectionBatch]:
    """Batches of like orientation to train on, and validation batches in order."""
    train, held = _images(checked["train"]), _images(checked[validation])
    transform = DetectionTransform(
        DetectionAugmentation(
            crop=recipe.crop,
            short_sides=recipe.short_sides,
            sampling=recipe.sampling,
            max_side=recipe.max_side,
            flip=recipe.flip,
            jitter=recipe.jitter,
        )
    )
    sampler = GroupedSampler(train.orientations, recipe.batch_size, recipe.seed, rank(), ranks())
    return Loaders(
        train=Batches(
            DetectionDataset(train, transform, recipe.seed, masks=masks),
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
