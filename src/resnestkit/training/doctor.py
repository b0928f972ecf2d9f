"""What the facts about data, recipe and machine mean: findings, each with its remedy.

Pure functions: they read nothing and measure nothing. `resnestkit.training.preflight` collects the
facts, for `resnestkit doctor` and for the start of `resnestkit train`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resnestkit.data.findings import Finding
from resnestkit.data.survey import Look, Twin
from resnestkit.training.memory import StepMemory
from resnestkit.training.optimizer import REFERENCE_BATCH, peak_rate
from resnestkit.training.recipe import (
    BaseRecipe,
    DetectionRecipe,
    SegmentationRecipe,
)

HIGHEST_PEAKS = {"classification": 6.4, "detection": 0.32, "segmentation": 0.32, "panoptic": 0.32}
"""Linear scaling was published up to 0.1 x 16384 / 256 (You et al. 2017), and for detectors up to
0.02 x 256 / 16 (Peng et al. 2017, *MegDet*); beyond, trainings tend to diverge. For segmenters
and panoptic nets nothing of the kind was published: theirs is the detectors'."""

TINY_SHARE = 0.25
"""Of boxes that are tiny beside the anchors; COCO has about a tenth of such."""

_NAMED = 3


@dataclass(frozen=True, slots=True)
class Balance:
    """What there is to train on per class."""

    counts: Mapping[str, int]
    things: str = "images"
    """What is counted."""
    remedy: str = ""
    """Of few things of a class; none is to add some."""

    @property
    def ratio(self) -> float:
        """The largest class over the smallest."""
        return max(self.counts.values()) / max(1, min(self.counts.values()))

    @property
    def smallest(self) -> list[str]:
        """Up to three of the smallest classes, the smallest first."""
        return sorted(self.counts, key=lambda name: self.counts[name])[:_NAMED]


def find_imbalance(balance: Balance) -> Iterator[Finding]:
    """A class with a tenth of what another has is hardly learnt."""
    if balance.ratio >= 10:
        named = ", ".join(f"{name} ({balance.counts[name]:,})" for name in balance.smallest)
        yield Finding(
            "note",
            f"The largest class has {balance.ratio:.0f} times the {balance.things} of the "
            f"smallest: {named}.",
            balance.remedy
            or f"Add {balance.things} of these, and look at each class rather than at the whole.",
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
            "Remove one of each; what is measured is too good.",
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


def find_grey(looks: Sequence[Look], recipe: BaseRecipe) -> Iterator[Finding]:
    """Only grey images, read as colour."""
    if len(recipe.mean) == 3 and looks and share_grey(looks) == 1 and recipe.weights is None:
        yield Finding(
            "note",
            "All images are grey, and are read as colour.",
            "One value of --mean and --std reads them as grey.",
        )


def find_normalisation(
    mean: Sequence[float], std: Sequence[float], recipe: BaseRecipe
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


def find_batch(recipe: BaseRecipe, images: int, processes: int = 1) -> Iterator[Finding]:
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


def find_rate(recipe: BaseRecipe, processes: int = 1) -> Iterator[Finding]:
    """The learning rate is per 256 images: what comes of it."""
    batch = recipe.batch_size * recipe.accumulate * processes
    peak = peak_rate(recipe.lr, batch)
    highest, usual = HIGHEST_PEAKS[recipe.task], type(recipe)().lr
    if peak > highest:
        yield Finding(
            "wrong",
            f"The learning rate peaks at {peak:.3g}: --lr {recipe.lr:g} is per {REFERENCE_BATCH} "
            f"images, and a step has {batch}.",
            f"Lower --lr to {highest * REFERENCE_BATCH / batch:.2g} or less.",
        )
    elif batch != REFERENCE_BATCH and math.isclose(
        recipe.lr, peak_rate(usual, batch), rel_tol=0.01
    ):
        yield Finding(
            "note",
            f"--lr {recipe.lr:g} is what {usual:g} becomes for steps of {batch} images; it is "
            f"scaled once more, to {peak:.3g}.",
            f"If it was scaled by hand, give --lr {usual:g}.",
        )


def find_schedule(recipe: BaseRecipe, images: int, processes: int = 1) -> Iterator[Finding]:
    """Epochs, steps and warm-up."""
    steps = recipe.epochs * steps_per_epoch(recipe, images, processes)
    if recipe.warmup_steps is not None and recipe.warmup_steps > steps / 2:
        yield Finding(
            "note",
            f"--warmup-steps {recipe.warmup_steps} is more than half of {steps} steps in all; it "
            f"is cut to {round(steps / 2)}.",
            "Lower it, or raise --epochs.",
        )
    elif recipe.warmup_steps is None and recipe.warmup_epochs > recipe.epochs / 2:
        yield Finding(
            "note",
            f"--warmup-epochs {recipe.warmup_epochs:g} is more than half of {recipe.epochs} "
            f"epochs; it is cut to {recipe.epochs / 2:g}.",
            "Lower it, or raise --epochs.",
        )
    if steps < 100:
        yield Finding(
            "note",
            f"The weights move {steps} times in all, which is little.",
            "Raise --epochs, or lower --batch-size or --accumulate.",
        )


def steps_per_epoch(recipe: BaseRecipe, images: int, processes: int = 1) -> int:
    """How often the weights move in an epoch."""
    batches = max(1, images // (recipe.batch_size * processes))
    return math.ceil(batches / recipe.accumulate)


def find_tiny_boxes(
    sides: Sequence[float] | NDArray[np.float64], anchor: float, recipe: DetectionRecipe
) -> Iterator[Finding]:
    """A box of less than half an anchor's side overlaps it by less than a quarter."""
    tiny = share_tiny(sides, anchor)
    if tiny > TINY_SHARE:
        factor = anchor / 2 / max(float(np.quantile(sides, 0.1)), 1e-9)
        yield Finding(
            "wrong",
            f"With a short side of {recipe.test_side} pixels, {tiny:.0%} of the boxes are less "
            f"than half the smallest anchor of {anchor:g} pixels, and are hardly found.",
            f"Raise --test-side, --short-sides and --max-side, up to {factor:.1f} times, or cut "
            "the images into parts.",
        )


def share_tiny(sides: Sequence[float] | NDArray[np.float64], anchor: float) -> float:
    """Share of boxes whose side, the root of the area, is less than half an anchor's."""
    return float((2 * np.asarray(sides) < anchor).mean()) if len(sides) else 0.0


def find_other_sides(looks: Sequence[Look], recipe: SegmentationRecipe) -> Iterator[Finding]:
    """A net that never met things as large, or as small, as an evaluation shows them."""
    sides = [max(look.height, look.width) for look in looks]
    seen = recipe.test_side or (float(np.median(sides)) if sides else recipe.base_side)
    low, high = (recipe.base_side * end for end in recipe.scale)
    if not low <= seen <= high:
        yield Finding(
            "wrong",
            f"Images are trained on with a longer side of {low:.0f} to {high:.0f} pixels, and "
            f"evaluated at {seen:.0f}.",
            f"Give --test-side {recipe.base_side} or --base-side {seen:.0f}.",
        )


def find_memory(memory: StepMemory, free: int | None, recipe: BaseRecipe) -> Iterator[Finding]:
    """A step that takes more than there is fails after the first minutes."""
    flag = "--crop-size" if isinstance(recipe, SegmentationRecipe) else "--size"
    if free is not None and memory.total > free:
        yield Finding(
            "wrong",
            f"A step needs about {memory.total / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free.",
            f"Halve --batch-size {recipe.batch_size} and double --accumulate, or lower {flag}.",
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
            f"Reading gives {loading:.3g} images/s and the net could take {stepping:.3g}: reading "
            "limits.",
            "Raise --workers or --cache-mb, or store smaller images.",
        )
