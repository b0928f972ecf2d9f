"""Collect from images, recipe and machine what `resnestkit.training.doctor` judges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from resnestkit.compute import Compute
from resnestkit.data.check import Checked
from resnestkit.data.findings import Finding
from resnestkit.data.sources import Source
from resnestkit.data.survey import Look, Twin, find_twins, mean_and_std
from resnestkit.factory import create_model
from resnestkit.models.zoo import Net
from resnestkit.progress import Reporter
from resnestkit.ranks import ranks
from resnestkit.training import doctor
from resnestkit.training.memory import StepMemory, estimate_step, free_memory
from resnestkit.training.recipe import Recipe

_BYTES_PER_PIXEL = 2**15
"""More than any net of the table takes in training per pixel of its input."""


@dataclass(frozen=True)
class Patient:
    """What is to be trained, on what, by what."""

    source: Source
    checked: dict[str, Checked]
    net: Net
    recipe: Recipe
    """As it will run, with nothing left to "auto"."""
    compute: Compute

    @property
    def train(self) -> Checked:
        """The training images."""
        return self.checked["train"]

    @property
    def size(self) -> int:
        """Side of the training input."""
        return self.recipe.train_size or self.recipe.size or self.net.size

    @cached_property
    def looks(self) -> Sequence[Look]:
        """Of all images of both splits."""
        return [look for checked in self.checked.values() for look in checked.looks]

    @cached_property
    def twins(self) -> list[Twin]:
        """Images that are there twice."""
        return find_twins(
            {split: one.looks for split, one in self.checked.items()},
            {split: one.images.names for split, one in self.checked.items()},
            {split: one.images.labels for split, one in self.checked.items()},
        )

    @cached_property
    def colours(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation of the training images."""
        return mean_and_std(self.train.looks)

    @cached_property
    def free(self) -> int | None:
        """Memory that the device has left."""
        return free_memory(self.compute.device)

    @cached_property
    def memory(self) -> StepMemory:
        """What a step of the training will take."""
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

    @property
    def surely_fits(self) -> bool:
        """Whether memory need not be looked into: a bound far above any net is there."""
        pixels = self.recipe.batch_size * self.size**2
        bound = pixels * _BYTES_PER_PIXEL + 20 * self.net.params
        return self.free is not None and bound < self.free / 2


def examine(patient: Patient) -> list[Finding]:
    """All findings that take no timing, the worst first."""
    recipe, images = patient.recipe, len(patient.train.images)
    found = [
        *doctor.find_twins_findings(patient.twins, patient.source.classes),
        *doctor.find_imbalance(doctor.count_classes(patient.source.classes, patient.train)),
        *doctor.find_small_images(patient.train.looks, patient.size),
        *doctor.find_grey(patient.looks, recipe),
        *doctor.find_normalisation(*patient.colours, recipe),
        *doctor.find_batch(recipe, images, ranks()),
        *doctor.find_rate(recipe, ranks()),
        *doctor.find_schedule(recipe, images, ranks()),
    ]
    if not patient.surely_fits:
        found += doctor.find_memory(patient.memory, patient.free, recipe)
    return sort_findings(found)


def sort_findings(findings: Sequence[Finding]) -> list[Finding]:
    """Refusals, then what is wrong, what is slow, and notes."""
    order = ("wrong", "slow", "note")
    return sorted(findings, key=lambda one: (not one.refused, order.index(one.severity)))


def warn(patient: Patient, reporter: Reporter) -> None:
    """At the start of a training: what is wrong or slow, a line each, and no notes."""
    for finding in examine(patient):
        if finding.severity != "note":
            reporter.say(f"{finding.severity:<11} {finding}")


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
