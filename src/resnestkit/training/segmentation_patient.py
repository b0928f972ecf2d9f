"""What a training of a segmenter is known by before it starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from resnestkit.data.check import Checked, refuse_unreadable
from resnestkit.data.findings import Finding
from resnestkit.data.segmentation.check import check_classes
from resnestkit.data.segmentation.sources import SegmentationSource
from resnestkit.models.spec import NormPolicy
from resnestkit.progress import Reporter
from resnestkit.segmentation.segmenter import Segmenter
from resnestkit.tasks.segmentation import segmentation_loss
from resnestkit.training import doctor
from resnestkit.training.memory import StepMemory, estimate_step
from resnestkit.training.preflight import Patient, Trial
from resnestkit.training.prepare import check_norm
from resnestkit.training.recipe import SegmentationRecipe
from resnestkit.training.segmentation_build import (
    class_counts,
    make_loaders,
    make_protocol,
    make_segmenter,
    make_task,
    weigh_classes,
)

_BYTES_PER_PIXEL = 2**16
"""More than any net of the table takes in training per pixel of its input, at output stride 8."""


@dataclass(frozen=True)
class SegmentationPatient(Patient):
    """A segmenter to be trained on images with masks."""

    things: ClassVar[str] = "labelled pixels"
    source: SegmentationSource
    recipe: SegmentationRecipe

    @cached_property
    def counts(self) -> Mapping[str, Counter[int]]:
        """Labelled pixels by class."""
        shown = {split: class_counts(one).pixels for split, one in self.checked.items()}
        return {split: Counter(dict(enumerate(one.tolist()))) for split, one in shown.items()}

    @cached_property
    def memory(self) -> StepMemory:
        """Told by a step without memory."""
        recipe = self.recipe
        # One image alone is refused under batch norms, and would not run here either.
        batch = max(2, min(recipe.batch_size, len(self.train.images)))
        with torch.device("meta"):
            model = make_segmenter(self._drawn, len(self.source.classes))
        if recipe.freeze is not None:
            model.body.freeze(min(recipe.freeze, len(model.body.stages)))
        return estimate_step(
            model.train(),
            self.compute,
            (batch, len(recipe.mean), recipe.crop_size, recipe.crop_size),
            momentum=recipe.momentum > 0,
            average=recipe.ema > 0,
            accumulate=recipe.accumulate > 1,
            loss=partial(_learn, recipe.auxiliary),
        )

    @property
    def _drawn(self) -> SegmentationRecipe:
        """The recipe for weights as drawn, with norms that can have them."""
        norm: NormPolicy = "group" if self.recipe.norm == "group" else "batch"
        head_norm = self.recipe.head_norm
        return replace(
            self.recipe,
            weights=None,
            partial=False,
            freeze=None,
            norm=norm,
            head_norm="batch" if head_norm in {"sync", "frozen"} else head_norm,
        )

    @cached_property
    def head_norm(self) -> NormPolicy:
        """The decoder's norms, as they will be."""
        if self.recipe.head_norm is not None:
            return self.recipe.head_norm
        return "group" if self.recipe.norm == "frozen" else self.recipe.norm

    @property
    def few(self) -> str:
        """Pixels are not added one by one."""
        if self.recipe.class_weights != "none":
            return "Look at each class's IoU."
        return "Look at each class's IoU; --class-weights softened makes the rare ones weigh more."

    @property
    def facts(self) -> dict[str, Any]:
        """Of labels and weights."""
        counts = {split: class_counts(one) for split, one in self.checked.items()}
        return {
            "balanced_weights": counts["train"].balanced_weights(),
            "ignored": {split: one.ignored_share for split, one in counts.items()},
            "protocol": make_protocol(self.recipe).to_dict(),
        }

    def describe(self) -> str:
        """The segmenter, its crops, and how an evaluation looks at images."""
        recipe = self.recipe
        low, high = (round(recipe.base_side * end) for end in recipe.scale)
        return (
            f"{recipe.kind} on {self.net.name}; crops of {recipe.crop_size} pixels from longer "
            f"sides of {low} to {high}; evaluated at {make_protocol(recipe)}"
        )

    def find_own(self) -> Iterator[Finding]:
        """What is wrong with the masks, sides that training does not show, and memory."""
        yield from self.source.findings
        counts = {split: class_counts(one) for split, one in self.checked.items()}
        yield from check_classes(counts, self.source.classes)
        yield from doctor.find_other_sides(self.train.looks, self.recipe)
        if not self._surely_fits:
            yield from doctor.find_memory(self.memory, self.free, self.recipe)

    @property
    def _surely_fits(self) -> bool:
        """Whether memory need not be looked into: a bound far above any segmenter is there."""
        pixels = self.recipe.batch_size * self.recipe.crop_size**2
        bound = pixels * _BYTES_PER_PIXEL + 40 * self.net.params
        return self.free is not None and bound < self.free / 2

    def refusals(self) -> list[Callable[[], object]]:
        """Unreadable images, norms without statistics, weights for other classes."""
        checks: list[Callable[[], object]] = []
        if not self.recipe.skip_unreadable:
            checks.append(partial(refuse_unreadable, self.checked.values()))
        return [
            *checks,
            partial(check_norms, self.train, self.recipe, self.head_norm),
            partial(weigh_classes, self.recipe, class_counts(self.train)),
        ]

    def load(self, reporter: Reporter) -> nn.Module:
        """The segmenter, with the recipe's weights if it names any."""
        return make_segmenter(self.recipe, len(self.source.classes), reporter)

    def prepare_trial(self) -> Trial:
        """A segmenter of drawn weights, which are as quick."""
        model: Segmenter = make_segmenter(self._drawn, len(self.source.classes))
        if self.recipe.freeze is not None:
            model.body.freeze(self.recipe.freeze)
        images, validation = model.preprocessing, self.source.validation
        loaders = make_loaders(self.checked, validation, self.recipe, images)
        task = make_task(self.recipe, self.source, images, ())
        return Trial(self.compute.place(model).train(), task, loaders)

    def twin_labels(self, split: str) -> Sequence[int]:
        """None: an image shows many classes."""
        return [0] * len(self.checked[split].images)


def check_norms(train: Checked, recipe: SegmentationRecipe, head_norm: NormPolicy) -> None:
    """Raise UserError if the norms of net or decoder cannot work with these images.

    A decoder that pools the whole image (DeepLab's ASPP, PSPNet) has one value per image and
    channel there, of which batch norms need two.
    """
    check_norm(train, recipe)
    if head_norm in {"batch", "sync"}:
        check_norm(train, replace(recipe, norm=head_norm))


def _learn(auxiliary: float, outputs: dict[str, Tensor]) -> Tensor:
    """The loss of a batch that is all of the first class."""
    shape = outputs["logits"].shape
    masks = torch.zeros((shape[0], *shape[2:]), dtype=torch.long, device=outputs["logits"].device)
    return segmentation_loss(outputs, masks, auxiliary)
