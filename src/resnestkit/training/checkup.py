"""`resnestkit doctor`: everything that can be known before a training, and nothing trained."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from resnestkit.compute import Compute, choose_compute
from resnestkit.data.detection.check import check_detection_images
from resnestkit.data.detection.sources import inspect_detection_source
from resnestkit.data.findings import Finding
from resnestkit.data.panoptic.sources import inspect_panoptic_source
from resnestkit.data.segmentation.check import check_segmentation_images
from resnestkit.data.segmentation.sources import inspect_segmentation_source
from resnestkit.data.sources import load_source
from resnestkit.detection.spec import has_masks
from resnestkit.errors import UserError
from resnestkit.models.zoo import find_net
from resnestkit.progress import Reporter
from resnestkit.training import doctor
from resnestkit.training.build import resolve, resolve_data
from resnestkit.training.classification_patient import ClassificationPatient
from resnestkit.training.detection_patient import DetectionPatient
from resnestkit.training.panoptic_patient import PanopticPatient
from resnestkit.training.preflight import Patient, examine, sort_findings
from resnestkit.training.prepare import read_splits
from resnestkit.training.recipe import (
    BaseRecipe,
    DetectionRecipe,
    PanopticRecipe,
    Recipe,
    SegmentationRecipe,
)
from resnestkit.training.segmentation_patient import SegmentationPatient
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
    data: str | Path, recipe: BaseRecipe, reporter: Reporter, *, speed: bool = True
) -> Checkup:
    """Look at data, recipe and machine. Raises UserError where there is nothing to look at."""
    recipe = resolve(recipe, find_net(recipe.model))
    torch.manual_seed(recipe.seed)
    compute = choose_compute(recipe.device, recipe.precision, channels_last=recipe.channels_last)
    patient = _look_at(resolve_data(data), recipe, compute, reporter)
    findings, weights = _refusals(patient, reporter)
    findings += examine(patient)
    measured = None
    if speed and not any(finding.refused for finding in findings):
        trial = patient.prepare_trial()
        measured = measure_speed(trial.model, trial.task, trial.loaders, compute, recipe)
        findings += doctor.find_speed(measured.loading, measured.stepping)
    return Checkup(patient, sort_findings(findings), measured, weights)


def _look_at(data: str, recipe: BaseRecipe, compute: Compute, reporter: Reporter) -> Patient:
    """Read the data as a training would, but refuse nothing yet."""
    net, channels = find_net(recipe.model), len(recipe.mean)
    if isinstance(recipe, PanopticRecipe):  # which is a detector's too
        told = inspect_panoptic_source(data, channels, recipe.holdout, recipe.seed)
        checked = read_splits(told, recipe, reporter, check_segmentation_images)
        return PanopticPatient(told, checked, net, recipe, compute)
    if isinstance(recipe, DetectionRecipe):
        masks = has_masks(recipe.kind)
        boxed = inspect_detection_source(data, channels, recipe.holdout, recipe.seed, masks=masks)
        checked = read_splits(boxed, recipe, reporter, check_detection_images)
        return DetectionPatient(boxed, checked, net, recipe, compute)
    if isinstance(recipe, SegmentationRecipe):
        masked = inspect_segmentation_source(data, channels, recipe.holdout, recipe.seed)
        checked = read_splits(masked, recipe, reporter, check_segmentation_images)
        return SegmentationPatient(masked, checked, net, recipe, compute)
    assert isinstance(recipe, Recipe)
    source = load_source(data, channels, recipe.holdout, recipe.seed)
    checked = read_splits(source, recipe, reporter)
    return ClassificationPatient(source, checked, net, recipe, compute)


def _refusals(patient: Patient, reporter: Reporter) -> tuple[list[Finding], str | None]:
    """What `train` would refuse, in its own words, and how the weights fit."""
    recipe, said = patient.recipe, _Listener(reporter)
    checks = patient.refusals()
    if recipe.weights is not None or recipe.freeze is not None:
        checks.append(partial(patient.load, said))
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
