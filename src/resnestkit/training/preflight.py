"""Collect from images, recipe and machine what `resnestkit.training.doctor` judges.

What every task shares is here; `classification_patient` and `detection_patient` bring the rest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from torch import nn

from resnestkit.compute import Compute
from resnestkit.data.check import Checked
from resnestkit.data.findings import Finding
from resnestkit.data.loaders import Loaders
from resnestkit.data.sources import Source
from resnestkit.data.survey import Look, Twin, find_twins, mean_and_std
from resnestkit.models.zoo import Net
from resnestkit.progress import Reporter
from resnestkit.ranks import ranks
from resnestkit.tasks.base import Task
from resnestkit.training import doctor
from resnestkit.training.memory import StepMemory, free_memory
from resnestkit.training.recipe import BaseRecipe


@dataclass(frozen=True, slots=True)
class Trial:
    """What a few steps of a training need, to be timed."""

    model: nn.Module
    """On its device, in training mode."""
    task: Task[Any, Any]
    loaders: Loaders[Any]


@dataclass(frozen=True)
class Patient(ABC):
    """What is to be trained, on what, by what."""

    things: ClassVar[str]
    """What is counted by class: images, or objects or pixels in them."""

    source: Source
    checked: dict[str, Checked]
    net: Net
    recipe: BaseRecipe
    """As it will run, with nothing left to "auto"."""
    compute: Compute

    @property
    @abstractmethod
    def counts(self) -> Mapping[str, Counter[int]]:
        """Of each split, how many things each class has; the first class is 0."""

    @property
    @abstractmethod
    def memory(self) -> StepMemory | None:
        """What a step of the training will take, where that can be told."""

    @abstractmethod
    def describe(self) -> str:
        """What is trained at what size, in a line."""

    @abstractmethod
    def find_own(self) -> Iterable[Finding]:
        """What only this task has to say."""

    @abstractmethod
    def refusals(self) -> list[Callable[[], object]]:
        """Checks that raise UserError for what a training refuses to start with."""

    @abstractmethod
    def load(self, reporter: Reporter) -> nn.Module:
        """The model with its weights, as a training would begin with it."""

    @abstractmethod
    def prepare_trial(self) -> Trial:
        """A model of the same speed, and the batches of a training."""

    @abstractmethod
    def twin_labels(self, split: str) -> Sequence[int]:
        """What two images that show the same should agree in."""

    @property
    def few(self) -> str:
        """What to do about classes of which there is little; nothing says to add some."""
        return ""

    @property
    def facts(self) -> dict[str, Any]:
        """Numbers that only this task has, for JSON."""
        return {}

    @property
    def train(self) -> Checked:
        """The training images."""
        return self.checked["train"]

    @cached_property
    def balance(self) -> doctor.Balance:
        """Things of each class to train on."""
        counts = self.counts["train"]
        named = {name: counts[label] for label, name in enumerate(self.source.classes)}
        return doctor.Balance(named, self.things, self.few)

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
            {split: self.twin_labels(split) for split in self.checked},
        )

    @cached_property
    def colours(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation of the training images."""
        return mean_and_std(self.train.looks)

    @cached_property
    def free(self) -> int | None:
        """Memory that the device has left."""
        return free_memory(self.compute.device)


def examine(patient: Patient) -> list[Finding]:
    """All findings that take no timing, the worst first."""
    recipe, images = patient.recipe, len(patient.train.images)
    return sort_findings(
        [
            *doctor.find_twins_findings(patient.twins, patient.source.classes),
            *doctor.find_imbalance(patient.balance),
            *doctor.find_grey(patient.looks, recipe),
            *doctor.find_normalisation(*patient.colours, recipe),
            *doctor.find_batch(recipe, images, ranks()),
            *doctor.find_rate(recipe, ranks()),
            *doctor.find_schedule(recipe, images, ranks()),
            *patient.find_own(),
        ]
    )


def sort_findings(findings: Sequence[Finding]) -> list[Finding]:
    """Refusals, then what is wrong, what is slow, and notes."""
    order = ("wrong", "slow", "note")
    return sorted(findings, key=lambda one: (not one.refused, order.index(one.severity)))


def warn(patient: Patient, reporter: Reporter) -> None:
    """At the start of a training: what is wrong or slow, a line each, and no notes."""
    for finding in examine(patient):
        if finding.severity != "note":
            reporter.say(f"{finding.severity:<11} {finding}")
