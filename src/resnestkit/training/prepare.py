"""Before the first step: every image is read once, and what is wrong is said."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from resnestkit.data.augmentation import Augmentation, TrainingTransform
from resnestkit.data.check import Checked, check_images, refuse_unreadable
from resnestkit.data.loaders import (
    Batch,
    Batches,
    EpochSampler,
    InOrder,
    Loaders,
    TransformedImages,
    choose_workers,
)
from resnestkit.data.sources import Source
from resnestkit.data.transforms import EvaluationTransform
from resnestkit.errors import UserError
from resnestkit.models.zoo import Net
from resnestkit.preprocessing import Preprocessing
from resnestkit.progress import Reporter
from resnestkit.ranks import rank, ranks
from resnestkit.training.recipe import BaseRecipe, Recipe

_check_and_survey = partial(check_images, survey=True)


def read_images(source: Source, recipe: Recipe, reporter: Reporter) -> dict[str, Checked]:
    """Read every image of the two splits used once; say what they are, refuse what is wrong."""
    checked = read_splits(source, recipe, reporter)
    classes = len(source.classes)
    say_images(checked, recipe, reporter, lambda one: f"{_describe_images(one)}, {classes} classes")
    for split, one in checked.items():
        check_every_class(source.classes, one, split)
    return checked


def read_splits(
    source: Source,
    recipe: BaseRecipe,
    reporter: Reporter,
    check: Callable[..., Checked] = _check_and_survey,
) -> dict[str, Checked]:
    """Read every image of the two splits used once; keep what fits the memory allowed."""
    checked = {}
    memory = recipe.cache_mb * 2**20
    for split in ("train", source.validation):
        images = source.splits[split]
        with reporter.track(f"reading {split} images", len(images)) as advance:
            checked[split] = check(
                images,
                cache_bytes=memory,
                advance=lambda done, advance=advance: advance(done, ""),
            )
        memory -= checked[split].cached_bytes
    return checked


def say_images(
    checked: Mapping[str, Checked],
    recipe: BaseRecipe,
    reporter: Reporter,
    words: Callable[[Checked], str],
) -> None:
    """Say what each split holds. Raises UserError for unreadable images, unless they may go."""
    if not recipe.skip_unreadable:
        refuse_unreadable(checked.values())
    for split, one in checked.items():
        reporter.say(f"{split:<11} {words(one)}")
        for image in one.unreadable:
            reporter.say(f"left out    {image}")


def check_every_class(classes: tuple[str, ...], checked: Checked, split: str) -> None:
    """Raise UserError if a class has no readable image in a split."""
    present = set(checked.images.labels)
    lost = [name for label, name in enumerate(classes) if label not in present]
    if lost:
        raise UserError(f"No image of {', '.join(lost)} in the {split} split can be read.")


def _describe_images(checked: Checked) -> str:
    (low_h, low_w), (high_h, high_w) = checked.stats.smallest, checked.stats.largest
    sizes = f"{low_w}x{low_h}"
    if (low_h, low_w) != (high_h, high_w):
        sizes += f" to {high_w}x{high_h}"
    return f"{checked.stats.count} images of {sizes}"


def hint_at_size(train: Checked, net: Net, size: int, reporter: Reporter) -> None:
    """Say so if small images are blown up for a net that was made for large ones."""
    side = train.stats.median_side
    if not net.is_small and 2 * side <= size:
        reporter.say(
            f"hint        the images are small: --size {side}, or a net made for small images "
            "(resnestkit models '*_small'), is much quicker"
        )


def check_norm(train: Checked, recipe: BaseRecipe) -> None:
    """Raise UserError if the norm policy cannot work with these images, weights or device."""
    if len(train.images) < ranks():
        raise UserError(
            f"There are {ranks()} processes for {len(train.images)} training images; start fewer."
        )
    if recipe.norm == "frozen" and recipe.weights is None:
        raise UserError("--norm frozen holds statistics that were never learnt; give --weights.")
    together = ranks() if recipe.norm == "sync" else 1
    least = min(recipe.batch_size * ranks(), len(train.images)) * together // ranks()
    if recipe.norm in {"batch", "sync"} and least < 2:
        raise UserError(
            "Batch normalisation needs two or more images per step and process: raise "
            "--batch-size, or use --norm group (or frozen with --weights, or sync with several "
            "processes)."
        )


def _augmentation(recipe: Recipe) -> Augmentation:
    return Augmentation(
        crop=recipe.crop,
        min_area=recipe.min_area,
        padding=recipe.padding,
        flip=recipe.flip,
        auto_augment=recipe.auto_augment,
        rand_ops=recipe.rand_ops,
        rand_magnitude=recipe.rand_magnitude,
        jitter=recipe.jitter,
        lighting=recipe.lighting,
        erase=recipe.erase,
    )


def make_loaders(
    checked: dict[str, Checked], validation: str, recipe: Recipe, preprocessing: Preprocessing
) -> Loaders[Batch]:
    """Shuffled, augmented training batches, and validation batches in order."""
    trained = replace(preprocessing, size=recipe.train_size or preprocessing.size)
    train, held = checked["train"], checked[validation]
    sampler = EpochSampler(len(train.images), recipe.batch_size, recipe.seed, rank(), ranks())
    training_images = TransformedImages(
        train.images, TrainingTransform(trained, _augmentation(recipe)), recipe.seed
    )
    held_images = TransformedImages(held.images, EvaluationTransform(preprocessing), None)
    return Loaders(
        train=Batches(training_images, sampler, choose_workers(recipe.workers, train.in_memory)),
        sampler=sampler,
        validation=Batches(
            held_images,
            InOrder(len(held.images), 2 * recipe.batch_size, rank(), ranks()),
            choose_workers(recipe.workers, held.in_memory),
        ),
        validation_count=len(held.images),
    )
