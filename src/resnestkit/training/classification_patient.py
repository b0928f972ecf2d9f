"""What a training of a classifier is known by before it starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, ClassVar

import torch
from torch import nn

from resnestkit.data.check import refuse_unreadable
from resnestkit.data.findings import Finding
from resnestkit.factory import create_model
from resnestkit.models.zoo import Net
from resnestkit.progress import Reporter
from resnestkit.training import doctor
from resnestkit.training.build import make_card, make_model, make_preprocessing, make_task
from resnestkit.training.memory import StepMemory, estimate_step
from resnestkit.training.preflight import Patient, Trial
from resnestkit.training.prepare import check_every_class, check_norm, make_loaders
from resnestkit.training.recipe import Recipe

_BYTES_PER_PIXEL = 2**15
"""More than any net of the table takes in training per pixel of its input."""


@dataclass(frozen=True)
class ClassificationPatient(Patient):
    """A classifier to be trained on images by class."""

    things: ClassVar[str] = "images"
    recipe: Recipe

    @property
    def size(self) -> int:
        """Side of the training input."""
        return self.recipe.train_size or self.recipe.size or self.net.size

    @cached_property
    def counts(self) -> Mapping[str, Counter[int]]:
        """Images by class."""
        return {split: Counter(one.images.labels) for split, one in self.checked.items()}

    @cached_property
    def memory(self) -> StepMemory:
        """Told by a step without memory."""
        recipe = self.recipe
        # One image alone is refused under batch norms, and would not run here either.
        batch = max(2, min(recipe.batch_size, len(self.train.images)))
        return estimate_step(
            _on_meta(self.net, recipe, len(self.source.classes)),
            self.compute,
            (batch, len(recipe.mean), self.size, self.size),
            momentum=recipe.momentum > 0,
            average=recipe.ema > 0,
            accumulate=recipe.accumulate > 1,
        )

    def describe(self) -> str:
        """The net, and how the images' size suits it."""
        small = doctor.share_below(self.train.looks, self.size)
        return (
            f"{self.net.name} at {self.size} pixels; {small:.0%} of the images are less than half "
            "as large"
        )

    def find_own(self) -> Iterator[Finding]:
        """Small images, and memory that a step may not find."""
        yield from doctor.find_small_images(self.train.looks, self.size)
        if not self._surely_fits:
            yield from doctor.find_memory(self.memory, self.free, self.recipe)

    @property
    def _surely_fits(self) -> bool:
        """Whether memory need not be looked into: a bound far above any net is there."""
        pixels = self.recipe.batch_size * self.size**2
        bound = pixels * _BYTES_PER_PIXEL + 20 * self.net.params
        return self.free is not None and bound < self.free / 2

    def refusals(self) -> list[Callable[[], object]]:
        """Classes without images, unreadable images, norms without statistics."""
        checks: list[Callable[[], object]] = [
            partial(check_every_class, self.source.classes, one, split)
            for split, one in self.checked.items()
        ]
        if not self.recipe.skip_unreadable:
            checks.append(partial(refuse_unreadable, self.checked.values()))
        return [*checks, partial(check_norm, self.train, self.recipe)]

    def load(self, reporter: Reporter) -> nn.Module:
        """The net, with the recipe's weights if it names any."""
        load = self.recipe.weights is not None
        classes = len(self.source.classes)
        return make_model(self.net, self.recipe, classes, self.compute, reporter, load=load)

    def prepare_trial(self) -> Trial:
        """A net of drawn weights, which are as quick."""
        recipe, source = self.recipe, self.source
        preprocessing = make_preprocessing(recipe, self.net)
        card = make_card(self.net, source, recipe, preprocessing)
        loaders = make_loaders(self.checked, source.validation, recipe, preprocessing)
        drawn = replace(recipe, weights=None, partial=False, freeze=None)
        drawn = replace(drawn, norm="batch" if recipe.norm == "sync" else recipe.norm)
        quiet = Reporter(quiet=True)
        model = make_model(self.net, drawn, len(source.classes), self.compute, quiet, load=False)
        if recipe.freeze is not None:
            model.freeze(recipe.freeze)
        return Trial(model.train(), make_task(recipe, card), loaders)

    def twin_labels(self, split: str) -> Sequence[int]:
        """Their classes."""
        return self.checked[split].images.labels


def _on_meta(net: Net, recipe: Recipe, classes: int) -> Any:
    with torch.device("meta"):
        model = create_model(
            net.name,
            classes=classes,
            in_channels=len(recipe.mean),
            norm="batch" if recipe.norm == "sync" else recipe.norm,
            drop_path=recipe.drop_path,
            dropout=recipe.dropout,
        )
    if recipe.freeze is not None:
        model.freeze(min(recipe.freeze, len(model.stages)))
    return model.train()
