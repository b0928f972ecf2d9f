"""Several runs beside each other, finished or not: what each reached, and what differs."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import torch

from resnestkit.detection.detector import build_body
from resnestkit.errors import UserError
from resnestkit.factory import build_from_card
from resnestkit.models.cost import Cost, count_cost
from resnestkit.models.zoo import find_net
from resnestkit.segmentation.segmenter import build_segmenter
from resnestkit.training.recipe import BaseRecipe
from resnestkit.training.run import Record, RunFolder
from resnestkit.weights.checkpoint import ModelCard, read_card

DEFAULT_SCORE = "val_top1"
NOT_SETTINGS = {"model", "epochs", "seed"}
"""Fields of the recipe that have a column of their own."""
WITHOUT_EFFECT = ("workers", "cache_mb", "save_minutes", "keep_states", "tensorboard")
"""Fields of the recipe that change nothing of what a run learns."""
SHORTEST_SILENCE = 120.0
"""A run that wrote within so many seconds, or three epochs, is taken to be going."""


@dataclass(frozen=True, slots=True)
class PastRun:
    """What a run folder tells, at the moment of reading it."""

    name: str
    data: str
    recipe: BaseRecipe
    records: list[Record]
    state: str
    """ "finished", "going" or "stopped"."""
    score: str
    """Which number of the records counts."""
    cost: Cost | None
    """None before the first epoch has left a checkpoint."""

    @property
    def net(self) -> str:
        """Name in the table, whatever the user called it."""
        return find_net(self.recipe.model).name

    @property
    def epochs(self) -> int:
        """Epochs done."""
        return int(self.records[-1]["epoch"]) if self.records else 0

    @property
    def scores(self) -> list[tuple[int, float]]:
        """Epoch and score, where it was measured."""
        found = [(int(r["epoch"]), r[self.score]) for r in self.records if self.score in r]
        return [(epoch, score) for epoch, score in found if math.isfinite(score)]

    @property
    def best(self) -> tuple[int, float] | None:
        """The first epoch with the highest score, and that score."""
        return max(self.scores, key=lambda found: found[1], default=None)

    @property
    def last(self) -> float | None:
        """The latest score."""
        return self.scores[-1][1] if self.scores else None

    @property
    def speed(self) -> float | None:
        """Images per second of training, median over the epochs."""
        speeds = [r["images_per_second"] for r in self.records if "images_per_second" in r]
        return median(speeds) if speeds else None

    @property
    def seconds(self) -> float:
        """Time of training so far, without validation."""
        return sum(record.get("seconds", 0.0) for record in self.records)


@dataclass(frozen=True, slots=True)
class Spread:
    """Finished runs that differ in the seed alone; deviations are of the sample (n - 1)."""

    runs: list[str]
    best_mean: float
    best_std: float
    last_mean: float
    last_std: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Runs in the order given, and what sets them apart."""

    runs: list[PastRun]
    score: str
    differences: dict[str, list[Any]]
    """Settings that are not the same in all runs, with the value of each run."""
    spreads: list[Spread]


def compare(paths: Sequence[str | Path]) -> Comparison:
    """Read runs that may be finished, stopped, or going on; a folder given twice counts once.

    Raises UserError if a folder holds no run, or the runs are not measured by the same number.
    """
    folders: list[Path] = []
    for path in map(Path, paths):
        if not any(path.resolve() == folder.resolve() for folder in folders):
            folders.append(path)
    if not folders:
        raise UserError("Give the folders of the runs to compare.")
    names = _name(folders)
    runs = [_read(folder, name) for folder, name in zip(folders, names, strict=True)]
    scores = {run.score: run.name for run in runs if run.records}
    if len(scores) > 1:
        said = " and ".join(f"{name} by {score}" for score, name in scores.items())
        raise UserError(f"These runs cannot be compared: {said} are measured differently.")
    score = next(iter(scores), DEFAULT_SCORE)
    return Comparison(runs, score, _find_differences(runs), _find_spreads(runs))


def _name(folders: Sequence[Path]) -> list[str]:
    """The last part of each path, or the whole path where that part is shared."""
    last = [folder.resolve().name for folder in folders]
    return [
        name if last.count(name) == 1 else str(folder)
        for name, folder in zip(last, folders, strict=True)
    ]


def _read(path: Path, name: str) -> PastRun:
    folder, data, recipe = RunFolder.open(path)
    records = folder.read_records()
    if any(not isinstance(record, dict) or "epoch" not in record for record in records):
        raise UserError(f"{path}/metrics.jsonl is damaged: every line is the record of an epoch.")
    state = _find_state(folder, recipe, records)
    return PastRun(name, data, recipe, records, state, _find_score(records), _find_cost(folder))


def _find_state(run: RunFolder, recipe: BaseRecipe, records: list[Record]) -> str:
    if records and records[-1]["epoch"] >= recipe.epochs:
        return "finished"
    metrics = run.path / "metrics.jsonl"
    written = (metrics if records else run.config).stat().st_mtime
    epoch = max((record.get("seconds", 0.0) for record in records), default=0.0)
    silence = time.time() - written
    return "going" if silence < max(SHORTEST_SILENCE, 3 * epoch) else "stopped"


def _find_score(records: Sequence[Record]) -> str:
    """The first number of the validation that is no loss; tasks list what they count first."""
    names = (name for record in records for name in record)
    found = (name for name in names if name.startswith("val_") and "loss" not in name)
    return next(found, DEFAULT_SCORE)


def _find_cost(run: RunFolder) -> Cost | None:
    """Counted on the net that the run's checkpoint describes."""
    card = read_card(run.last) if run.last.is_file() else None
    return None if card is None else _count(card)


def _count(card: ModelCard) -> Cost:
    """As its training counts it: of a detector, the net alone at the size of an evaluation."""
    channels, size = card.preprocessing.channels, card.preprocessing.size
    with torch.device("meta"):
        if card.segmenter is not None:
            return count_cost(build_segmenter(card.segmenter, card.preprocessing), channels, size)
        if card.detector is None:
            return count_cost(build_from_card(card), channels, size)
        body = build_body(card.detector, channels)
    return count_cost(body, channels, card.detector.min_sizes[-1])


def _find_differences(runs: Sequence[PastRun]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {"data": [run.data for run in runs]}
    names = {field.name: None for run in runs for field in dataclasses.fields(run.recipe)}
    for name in names:
        if name not in NOT_SETTINGS:
            columns[name] = [getattr(run.recipe, name, None) for run in runs]
    return {name: values for name, values in columns.items() if len(set(values)) > 1}


def _find_spreads(runs: Sequence[PastRun]) -> list[Spread]:
    usual = {name: getattr(BaseRecipe(), name) for name in WITHOUT_EFFECT}
    groups: dict[tuple[str, BaseRecipe], dict[int, PastRun]] = {}
    for run in runs:
        if run.state == "finished" and run.best is not None:
            same = dataclasses.replace(run.recipe, model=run.net, seed=0, **usual)
            groups.setdefault((run.data, same), {}).setdefault(run.recipe.seed, run)
    return [_spread(list(group.values())) for group in groups.values() if len(group) > 1]


def _spread(runs: Sequence[PastRun]) -> Spread:
    best = [run.best[1] for run in runs if run.best is not None]
    last = [run.last for run in runs if run.last is not None]
    return Spread([run.name for run in runs], mean(best), stdev(best), mean(last), stdev(last))
