"""Before the first step: every image is read once, and what is wrong is said."""

from __future__ import annotations

from resnestkit.data.check import Checked, check_images
from resnestkit.data.loaders import (
    EpochSampler,
    InOrder,
    TransformedImages,
    choose_workers,
    make_loader,
)
from resnestkit.data.sources import Source
from resnestkit.data.transforms import Augmentation, evaluation_transform, training_transform
from resnestkit.errors import UserError
from resnestkit.models.zoo import Net
from resnestkit.preprocessing import Preprocessing
from resnestkit.training.loop import Loaders
from resnestkit.training.progress import Reporter
from resnestkit.training.recipe import Recipe


def read_images(source: Source, recipe: Recipe, reporter: Reporter) -> dict[str, Checked]:
    """Read every image of the two splits used once; keep what fits the memory allowed."""
    checked = {}
    memory = recipe.cache_mb * 2**20
    for split in ("train", source.validation):
        images = source.splits[split]
        with reporter.track(f"reading {split} images", len(images)) as advance:
            checked[split] = check_images(
                images,
                cache_bytes=memory,
                skip_unreadable=recipe.skip_unreadable,
                advance=lambda done, advance=advance: advance(done, ""),  # type: ignore[misc]
            )
        memory -= checked[split].cached_bytes
        reporter.say(
            f"{split:<11} {_describe_images(checked[split])}, {len(source.classes)} classes"
        )
        for image in checked[split].unreadable:
            reporter.say(f"left out    {image}")
    return checked


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


def check_batches(train: Checked, recipe: Recipe) -> None:
    """Raise UserError if a step would hold too few images for the norm policy."""
    if recipe.norm in {"batch", "sync"} and min(recipe.batch_size, len(train.images)) < 2:
        raise UserError(
            "Batch normalisation needs two or more images per step: raise --batch-size, or use "
            "--norm group."
        )


def make_loaders(
    checked: dict[str, Checked], validation: str, recipe: Recipe, preprocessing: Preprocessing
) -> Loaders:
    """Shuffled, augmented training batches, and validation batches in order."""
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
