"""The report of a run that is going on: it grows by the epoch, and says how long it will take."""

from __future__ import annotations

import time
from datetime import timedelta
from statistics import median
from typing import Any, Generic

from resnestkit.data.images import ImageSet
from resnestkit.tasks.base import ResultT, Task
from resnestkit.training.observers import Observer
from resnestkit.training.recipe import BaseRecipe
from resnestkit.training.report import write_report
from resnestkit.training.run import Record, RunFolder
from resnestkit.training.state import Position
from resnestkit.weights.checkpoint import ModelCard

SECONDS_BETWEEN_PAGES = 10.0
DRAWING_SHARE = 0.05
"""Drawing takes at most this share of the time; many classes take long to draw."""
RELOAD_SECONDS = 10


class LiveReport(Observer[ResultT], Generic[ResultT]):
    """Writes report.html anew after an epoch, if the last time is long enough ago.

    The last epoch is left to the report of the finished run.

    Args:
        run: whose page it is.
        card: net, classes and data.
        recipe: all settings.
        task: draws its part of the page.
        images: of the validation, in the order of the evaluation.
        split: what they are called.
    """

    def __init__(
        self,
        run: RunFolder,
        card: ModelCard,
        recipe: BaseRecipe,
        task: Task[Any, ResultT],
        images: ImageSet,
        split: str,
    ) -> None:
        self._run, self._card, self._recipe = run, card, recipe
        self._task, self._images, self._split = task, images, split
        self._seen: tuple[Position, list[Record], ResultT] | None = None
        self._paces: list[float] = []
        self._looked = time.monotonic()
        self._next = self._looked + SECONDS_BETWEEN_PAGES

    def see(self, position: Position, records: list[Record], result: ResultT) -> None:
        """Note how long the epoch took, and draw if it is time to."""
        now = time.monotonic()
        # The first epoch seen may have begun in an earlier process.
        self._paces.append(max(now - self._looked, records[-1].get("seconds", 0.0)))
        self._looked = now
        self._seen = position, records, result
        if now >= self._next and position.epoch < self._recipe.epochs:
            self._show(self._time_left(position.epoch), RELOAD_SECONDS)
            done = time.monotonic()
            self._next = done + max(SECONDS_BETWEEN_PAGES, (done - now) / DRAWING_SHARE)

    def finish(self, position: Position, records: list[Record], result: ResultT) -> None:
        """Write the page of the whole run, with the evaluation of its best model."""
        self._write(position, records, result, "")

    def leave(self, *, stopped: bool) -> None:
        """Leave a page that does not wait for more."""
        if stopped:
            self._show("stopped")

    def _time_left(self, epoch: int) -> str:
        left = round(median(self._paces) * (self._recipe.epochs - epoch))
        return f"about {timedelta(seconds=left)} left"

    def _show(self, words: str, reload: int = 0) -> None:
        """The latest epoch seen, if any was."""
        if self._seen is not None:
            epoch = self._seen[0].epoch
            state = f"epoch {epoch} of {self._recipe.epochs}, {words}"
            note = f"{self._task.drawn} are those of epoch {epoch}"
            self._write(*self._seen, f"{state} ({note})", reload)

    def _write(
        self,
        position: Position,
        records: list[Record],
        result: ResultT,
        state: str,
        reload: int = 0,
    ) -> None:
        part = self._task.report(result, self._images, self._split)
        curves = self._task.draw_curves(records)
        write_report(
            self._run, self._card, self._recipe, curves, part, records, position.best_epoch, state,
            reload=reload,
        )  # fmt: skip
