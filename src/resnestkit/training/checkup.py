"""`resnestkit doctor`: everything that can be known before a training, and nothing trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from resnestkit.compute import choose_compute
from resnestkit.data.check import Checked, refuse_unreadable
from resnestkit.data.findings import Finding
from resnestkit.data.sources import load_source
from resnestkit.errors import UserError
from resnestkit.models.zoo import Net, find_net
from resnestkit.progress import Reporter
from resnestkit.training import doctor
from resnestkit.training.build import (
    make_card,
    make_model,
    make_preprocessing,
    make_task,
    resolve,
    resolve_data,
)
from resnestkit.training.preflight import Patient, examine, sort_findings
from resnestkit.training.prepare import (
    check_every_class,
    check_norm,
    make_loaders,
    read_splits,
)
from resnestkit.training.recipe import Recipe
from resnestkit.training.speed import Speed, measure_speed


@dataclass(frozen=True)
class Checkup:
    """What was found, and the facts it was found from."""

    patient: Patient
    findings: list[Finding]
    speed: Speed | None
    """None where it was not measured."""
    weights: str | None
    """How the weights given fit, in words."""

    @property
    def refused(self) -> bool:
        """Whether a training would not start."""
        return any(finding.refused for finding in self.findings)


def check_up(
    data: str | Path, recipe: Recipe, reporter: Reporter, *, speed: bool = True
) -> Checkup:
    """Look at data, recipe and machine. Raises UserError where there is nothing to look at."""
    net = find_net(recipe.model)
    recipe = resolve(recipe, net)
    torch.manual_seed(recipe.seed)
    source = load_source(resolve_data(data), len(recipe.mean), recipe.holdout, recipe.seed)
    checked = read_splits(source, recipe, reporter)
    compute = choose_compute(recipe.device, recipe.precision, channels_last=recipe.channels_last)
    patient = Patient(source, checked, net, recipe, compute)
    findings, weights = _refusals(patient, reporter)
    findings += examine(patient)
    measured = None
    if speed and not any(finding.refused for finding in findings):
        measured = _measure(patient)
        findings += doctor.find_speed(measured.loading, measured.stepping)
    return Checkup(patient, sort_findings(findings), measured, weights)


def _refusals(patient: Patient, reporter: Reporter) -> tuple[list[Finding], str | None]:
    """What `train` would refuse, in its own words, and how the weights fit."""
    recipe, source = patient.recipe, patient.source
    said = _Listener(reporter)

    def every_class(split: str, one: Checked) -> Callable[[], object]:
        return lambda: check_every_class(source.classes, one, split)

    checks: list[Callable[[], object]] = [
        every_class(split, one) for split, one in patient.checked.items()
    ]
    if not recipe.skip_unreadable:
        checks.append(lambda: refuse_unreadable(patient.checked.values()))
    checks.append(lambda: check_norm(patient.train, recipe))
    if recipe.weights is not None or recipe.freeze is not None:
        checks.append(lambda: _load(patient.net, patient, said))
    found = []
    for check in checks:
        try:
            check()
        except UserError as error:
            found.append(Finding("wrong", str(error), "", refused=True))
    return found, said.weights


class _Listener(Reporter):
    """Remembers what is said of the weights, and keeps it from the screen."""

    def __init__(self, reporter: Reporter) -> None:
        super().__init__(reporter.console)
        self.weights: str | None = None

    def say(self, text: str) -> None:
        """Keep it."""
        self.weights = text.removeprefix("weights").strip()


def _load(net: Net, patient: Patient, reporter: Reporter) -> torch.nn.Module:
    """The model as a training would begin with it."""
    classes = len(patient.source.classes)
    load = patient.recipe.weights is not None
    return make_model(net, patient.recipe, classes, patient.compute, reporter, load=load)


def _measure(patient: Patient) -> Speed:
    recipe, net, source = patient.recipe, patient.net, patient.source
    preprocessing = make_preprocessing(recipe, net)
    card = make_card(net, source, recipe, preprocessing)
    loaders = make_loaders(patient.checked, source.validation, recipe, preprocessing)
    # Speed is the same for weights that were drawn.
    drawn = replace(recipe, weights=None, partial=False, freeze=None)
    drawn = replace(drawn, norm="batch" if recipe.norm == "sync" else recipe.norm)
    quiet = Reporter(quiet=True)
    model = make_model(net, drawn, len(source.classes), patient.compute, quiet, load=False)
    if recipe.freeze is not None:
        model.freeze(recipe.freeze)
    return measure_speed(model.train(), make_task(recipe, card), loaders, patient.compute, recipe)
