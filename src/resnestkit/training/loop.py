"""The one training loop. It knows batches, losses and metrics, and no task."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any, Generic

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from resnestkit.compute import Compute
from resnestkit.data.loaders import Batch, Loaders
from resnestkit.errors import UserError
from resnestkit.models.layers import set_drop_block
from resnestkit.tasks.base import ResultT, Step, Task
from resnestkit.training.interrupt import Interrupted, SignalWatch
from resnestkit.training.optimizer import (
    moving_average,
    parameter_groups,
    peak_rate,
    rate_at,
)
from resnestkit.training.progress import Reporter, format_seconds
from resnestkit.training.recipe import Recipe
from resnestkit.training.run import Record, RunFolder
from resnestkit.training.state import Position, load_state, save_state
from resnestkit.weights.checkpoint import ModelCard, save_tensors


class Trainer(Generic[ResultT]):
    """Trains a model by a recipe into a run folder; can stop after any step and go on from there.

    Args:
        model: on its device already.
        task: makes the loss and the evaluation.
        recipe: all settings.
        loaders: the data.
        run: where everything is written.
        card: what the checkpoints say of themselves; metrics are filled in here.
        compute: device, precision and memory layout.
        reporter: what the person sees.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task[Batch, ResultT],
        recipe: Recipe,
        loaders: Loaders,
        run: RunFolder,
        card: ModelCard,
        compute: Compute,
        reporter: Reporter,
    ) -> None:
        self.model, self.task, self.recipe, self.loaders = model, task, recipe, loaders
        self.run, self.card, self.compute, self.reporter = run, card, compute, reporter
        self.optimizer = torch.optim.SGD(
            parameter_groups(model, recipe.weight_decay),
            lr=recipe.lr,
            momentum=recipe.momentum,
            nesterov=recipe.nesterov and recipe.momentum > 0,
        )
        self.average: AveragedModel | None = None
        if recipe.ema:
            self.average = moving_average(model, recipe.ema)
        self.position = Position()
        self.records: list[Record] = []

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        return len(self.loaders.sampler)

    @property
    def evaluated(self) -> nn.Module:
        """The weights that count: the moving average where there is one."""
        return self.model if self.average is None else self.average.module

    @property
    def identity(self) -> dict[str, Any]:
        """What must not change under a run that goes on."""
        return {
            "data": self.card.data["fingerprint"],
            "seed": self.recipe.seed,
            "holdout": self.recipe.holdout,
            "batch size": self.recipe.batch_size,
        }

    def resume(self) -> None:
        """Go back to where the run folder's state left off."""
        self.position = load_state(
            self.run.state, self.identity, self.model, self.average, self.optimizer
        )
        self.records = [r for r in self.run.read_records() if r["epoch"] <= self.position.epoch]
        if len(self.records) < self.position.epoch:
            raise UserError(f"{self.run.path}/metrics.jsonl lacks epochs of this run; put it back.")

    def fit(self) -> None:
        """Train to the last epoch.

        Raises Interrupted after a signal, with everything saved, and UserError on a loss that is
        not a number.
        """
        with SignalWatch() as watch:
            while self.position.epoch < self.recipe.epochs:
                self._train_epoch(watch)
                self._finish_epoch()
                self._stop_if_asked(watch)

    def _train_epoch(self, watch: SignalWatch) -> None:
        recipe, position = self.recipe, self.position
        self.model.train()
        set_drop_block(self.model, recipe.drop_block * (position.epoch + 1) / recipe.epochs)
        self.loaders.sampler.set_position(position.epoch, position.batch)
        title = f"epoch {position.epoch + 1}/{recipe.epochs}"
        with self.reporter.track(title, self.steps) as advance:
            if position.batch:
                advance(position.batch, "")
            started = time.perf_counter()
            for batch in self.loaders.train:
                step = self._step(batch)
                now = time.perf_counter()
                self._add(step, now - started)
                started = now
                position.batch += 1
                advance(1, self._progress_text())
                # Only where the weights just moved: half-added gradients are not saved.
                if watch.received is not None and position.batch % recipe.accumulate == 0:
                    break
        if position.batch < self.steps:
            self._stop_if_asked(watch)

    def _step(self, batch: Batch) -> Step:
        """Forward and backward of one batch; every ``accumulate`` batches the weights move."""
        recipe, position = self.recipe, self.position
        step = self.task.step(self.model, batch, self.compute)
        if not math.isfinite(step.sums["loss"]):
            kept = f" The model of epoch {position.best_epoch} is in {self.run.best}."
            raise UserError(
                f"The loss is {step.sums['loss']} in epoch {position.epoch + 1}, batch "
                f"{position.batch + 1}.{kept if position.best_epoch else ''} Start another run "
                "with a lower --lr, a longer --warmup-epochs, or --clip-norm 5."
            )
        first = position.batch - position.batch % recipe.accumulate
        share = min(recipe.accumulate, self.steps - first)
        torch.autograd.backward(step.loss / share)
        if position.batch + 1 - first == share:
            self._move_weights()
        return step

    def _move_weights(self) -> None:
        recipe = self.recipe
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
        if recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update_parameters(self.model)

    @property
    def learning_rate(self) -> float:
        """Rate of the step in progress."""
        recipe = self.recipe
        per_epoch = math.ceil(self.steps / recipe.accumulate)
        step = self.position.epoch * per_epoch + self.position.batch // recipe.accumulate
        return rate_at(
            step,
            peak=peak_rate(recipe.lr, recipe.batch_size * recipe.accumulate),
            warmup=round(min(recipe.warmup_epochs, recipe.epochs / 2) * per_epoch),
            total=recipe.epochs * per_epoch,
        )

    def _finish_epoch(self) -> None:
        """Evaluate, write the record and the checkpoints, and move on to the next epoch."""
        position, sums = self.position, self.position.sums
        result = self.evaluate(self.evaluated, self.compute)
        trained = self._means()
        position.epoch, position.batch, position.sums = position.epoch + 1, 0, {}
        record: Record = {
            "epoch": position.epoch,
            **{f"train_{name}": value for name, value in trained.items()},
            **{f"val_{name}": value for name, value in result.metrics.items()},
            "lr": self.optimizer.param_groups[0]["lr"],
            "images_per_second": sums["images"] / sums["seconds"],
            "seconds": sums["seconds"],
        }
        self.records.append(record)
        self.run.write_records(self.records)
        better = result.score > position.best_score
        if better:
            position.best_score, position.best_epoch = result.score, position.epoch
        self._save_models(result.metrics, better=better)
        save_state(
            self.run.state, self.identity, position, self.model, self.average, self.optimizer
        )
        self.reporter.say(
            f"epoch {position.epoch:>3}/{self.recipe.epochs}  train {self.task.words(trained)}  "
            f"val {self.task.words(result.metrics)}  {record['images_per_second']:5.0f} img/s"
            + ("  best" if better else "")
        )

    def evaluate(self, model: nn.Module, compute: Compute) -> ResultT:
        """A model on the validation images."""
        with self.reporter.track("validating", self.loaders.validation_count) as advance:
            return self.task.evaluate(
                model,
                self.loaders.validation,
                compute,
                advance=lambda done: advance(done, ""),
            )

    def _save_models(self, metrics: dict[str, float], *, better: bool) -> None:
        card = replace(self.card, metrics={**metrics, "epoch": self.position.epoch}).to_dict()
        weights = self.evaluated.state_dict()
        for path in (self.run.last, self.run.best) if better else (self.run.last,):
            save_tensors(path, weights, card)

    def _stop_if_asked(self, watch: SignalWatch) -> None:
        position = self.position
        if watch.received is None or position.epoch >= self.recipe.epochs:
            return
        save_state(
            self.run.state, self.identity, position, self.model, self.average, self.optimizer
        )
        raise Interrupted(
            f"Stopped in epoch {position.epoch + 1}, batch {position.batch}, and saved. "
            f"Go on with: resnestkit train --resume {self.run.path}",
            watch.received,
        )

    def _add(self, step: Step, seconds: float) -> None:
        sums = self.position.sums
        for name, value in {**step.sums, "images": step.images, "seconds": seconds}.items():
            sums[name] = sums.get(name, 0.0) + value

    def _means(self) -> dict[str, float]:
        sums = self.position.sums
        return {k: v / sums["images"] for k, v in sums.items() if k not in {"images", "seconds"}}

    def _progress_text(self) -> str:
        sums, position = self.position.sums, self.position
        done = position.epoch * self.steps + position.batch
        left = (self.recipe.epochs * self.steps - done) * sums["seconds"] / position.batch
        speed = sums["images"] / sums["seconds"]
        return f"{self.task.words(self._means())}  {speed:.0f} img/s  {format_seconds(left)} left"
