"""What the facts about data, recipe and machine mean: findings, each with its remedy.

Pure functions: they read nothing and measure nothing. `resnestkit.training.preflight` collects the
facts, for `resnestkit doctor` and for the start of `resnestkit train`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from resnestkit.data.check import Checked
from resnestkit.data.findings import Finding
from resnestkit.data.survey import Look, Twin
from resnestkit.training.memory import StepMemory
from resnestkit.training.optimizer import REFERENCE_BATCH, peak_rate
from resnestkit.training.recipe import Recipe

HIGHEST_PEAK = 6.4
"""Linear scaling was published up to 0.1 x 16384 / 256; beyond, trainings tend to diverge."""

_NAMED = 3


@dataclass(frozen=True, slots=True)
class Balance:
    """Training images per class."""

    counts: Mapping[str, int]

    @property
    def ratio(self) -> float:
        """The largest class over the smallest."""
        return max(self.counts.values()) / max(1, min(self.counts.values()))

    @property
    def smallest(self) -> list[str]:
        """Up to three of the smallest classes, the smallest first."""
        return sorted(self.counts, key=lambda name: self.counts[name])[:_NAMED]


def count_classes(classes: Sequence[str], checked: Checked) -> Balance:
    """The readable images of each class."""
    counts = Counter(checked.images.labels)
    return Balance({name: counts[label] for label, name in enumerate(classes)})


def find_imbalance(balance: Balance) -> Iterator[Finding]:
    """A class with a tenth of another's images is hardly learnt."""
    if balance.ratio >= 10:
        named = ", ".join(f"{name} ({balance.counts[name]})" for name in balance.smallest)
        yield Finding(
            "note",
            f"The largest class has {balance.ratio:.0f} times the images of the smallest: {named}.",
            "Add images of these, and look at the accuracy per class rather than the total.",
        )


def find_twins_findings(twins: Sequence[Twin], classes: Sequence[str]) -> Iterator[Finding]:
    """Copies across splits and under two labels are wrong; within a split, notable."""
    across = [twin for twin in twins if twin.kind == "same" and len(set(twin.splits)) > 1]
    labels = [twin for twin in twins if len(set(twin.labels)) > 1]
    within = [twin for twin in twins if twin not in across and twin not in labels]
    if across:
        yield Finding(
            "wrong",
            f"{_copies(across)} in {' and '.join(across[0].splits)} both: {_pairs(across)}.",
            "Remove one of each; the accuracy measured is too good.",
        )
    if labels:
        one = [classes[label] for label in labels[0].labels]
        yield Finding(
            "wrong",
            f"{_copies(labels)} under two labels, such as {' and '.join(one)}: {_pairs(labels)}.",
            "Keep the right one of each.",
        )
    if within:
        yield Finding(
            "note",
            f"{_copies(within)} twice in {within[0].splits[0]}: {_pairs(within)}.",
            "Remove the copies, unless they are meant to count more.",
        )


def _copies(twins: Sequence[Twin]) -> str:
    return "One image is" if len(twins) == 1 else f"{len(twins)} images are"


def _pairs(twins: Sequence[Twin]) -> str:
    pairs = [" = ".join(twin.names) for twin in twins[:_NAMED]]
    return "; ".join(pairs) + ("; ..." if len(twins) > _NAMED else "")


def find_small_images(looks: Sequence[Look], size: int) -> Iterator[Finding]:
    """Images of at most half the input's side are mostly interpolation."""
    small = share_below(looks, size)
    if small > 0.1:
        yield Finding(
            "note",
            f"{small:.0%} of the images are at most half as large as the input of {size} pixels.",
            "A smaller --size is quicker, and may be as good.",
        )


def share_below(looks: Sequence[Look], size: int) -> float:
    """Share of images whose short side is at most half of ``size``."""
    return sum(2 * min(look.height, look.width) <= size for look in looks) / max(1, len(looks))


def share_grey(looks: Sequence[Look]) -> float:
    """Share of images without colour."""
    return sum(look.is_grey for look in looks) / max(1, len(looks))


def find_grey(looks: Sequence[Look], recipe: Recipe) -> Iterator[Finding]:
    """Only grey images, read as colour."""
    if len(recipe.mean) == 3 and looks and share_grey(looks) == 1 and recipe.weights is None:
        yield Finding(
            "note",
            "All images are grey, and are read as colour.",
            "One value of --mean and --std reads them as grey.",
        )


def find_normalisation(
    mean: Sequence[float], std: Sequence[float], recipe: Recipe
) -> Iterator[Finding]:
    """The data's mean and deviation against the recipe's."""
    off = max(abs(one - two) for one, two in zip(mean, recipe.mean, strict=True))
    ratios = [one / two for one, two in zip(std, recipe.std, strict=True)]
    if off <= 0.15 and all(1 / 1.5 <= ratio <= 1.5 for ratio in ratios):
        return
    found = f"--mean {_numbers(mean)} --std {_numbers(std)}"
    text = f"The images' own normalisation, {found}, is far from the recipe's."
    if recipe.weights is not None:
        yield Finding("note", text, "Leave it: loaded weights want what they were trained with.")
    else:
        yield Finding("note", text, "Without loaded weights, the images' own is the better start.")


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.3f}" for value in values)


def find_batch(recipe: Recipe, images: int, processes: int = 1) -> Iterator[Finding]:
    """Few images per process make poor statistics. One alone is refused elsewhere."""
    per_process = min(recipe.batch_size, images // processes)
    if recipe.norm == "sync":
        per_process *= processes
    if recipe.norm in {"batch", "sync"} and 2 <= per_process < 8:
        yield Finding(
            "note",
            f"Batch statistics are taken over {per_process} images, which is few.",
            "Raise --batch-size to 8 or more, or use --norm group"
            + (" or --norm sync." if processes > 1 and recipe.norm == "batch" else "."),
        )


def find_rate(recipe: Recipe, processes: int = 1) -> Iterator[Finding]:
    """The learning rate is per 256 images: what comes of it."""
    batch = recipe.batch_size * recipe.accumulate * processes
    peak = peak_rate(recipe.lr, batch)
    if peak > HIGHEST_PEAK:
        yield Finding(
            "wrong",
            f"The learning rate peaks at {peak:.3g}: --lr {recipe.lr:g} is per {REFERENCE_BATCH} "
            f"images, and a step has {batch}.",
            f"Lower --lr to {HIGHEST_PEAK * REFERENCE_BATCH / batch:.2g} or less.",
        )
    elif batch != REFERENCE_BATCH and math.isclose(recipe.lr, peak_rate(0.1, batch), rel_tol=0.01):
        yield Finding(
            "note",
            f"--lr {recipe.lr:g} is what 0.1 becomes for steps of {batch} images; it is scaled "
            f"once more, to {peak:.3g}.",
            "If it was scaled by hand, give --lr 0.1.",
        )


def find_schedule(recipe: Recipe, images: int, processes: int = 1) -> Iterator[Finding]:
    """Epochs, steps and warm-up."""
    if recipe.warmup_epochs > recipe.epochs / 2:
        yield Finding(
            "note",
            f"--warmup-epochs {recipe.warmup_epochs:g} is more than half of {recipe.epochs} "
            f"epochs; it is cut to {recipe.epochs / 2:g}.",
            "Lower it, or raise --epochs.",
        )
    steps = recipe.epochs * steps_per_epoch(recipe, images, processes)
    if steps < 100:
        yield Finding(
            "note",
            f"The weights move {steps} times in all, which is little.",
            "Raise --epochs, or lower --batch-size or --accumulate.",
        )


def steps_per_epoch(recipe: Recipe, images: int, processes: int = 1) -> int:
    """How often the weights move in an epoch."""
    batches = max(1, images // (recipe.batch_size * processes))
    return math.ceil(batches / recipe.accumulate)


def find_memory(memory: StepMemory, free: int | None, recipe: Recipe) -> Iterator[Finding]:
    """A step that takes more than there is fails after the first minutes."""
    if free is not None and memory.total > free:
        yield Finding(
            "wrong",
            f"A step needs about {memory.total / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free.",
            f"Halve --batch-size {recipe.batch_size} and double --accumulate, or lower --size.",
        )
    elif free is not None and memory.total > 0.8 * free:
        yield Finding(
            "note",
            f"A step needs about {memory.total / 1e9:.1f} GB of {free / 1e9:.1f} GB free: close.",
            "Lower --batch-size if it fails.",
        )


def find_speed(loading: float, stepping: float) -> Iterator[Finding]:
    """Images per second of the loader alone and of the model alone: the lesser one limits."""
    if loading < stepping:
        yield Finding(
            "slow",
            f"Reading gives {loading:.0f} images/s and the net could take {stepping:.0f}: reading "
            "limits.",
            "Raise --workers or --cache-mb, or store smaller images.",
        )
