"""The one training loop."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from resnestkit.compute import Compute
from resnestkit.data.loaders import Batch, EpochSampler
from resnestkit.errors import UserError
from resnestkit.models.layers import set_drop_block
from resnestkit.tasks.classification import ClassificationTask, Evaluation
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


@dataclass(frozen=True, slots=True)
class Loaders:
    """Training batches, whose order the sampler decides, and validation batches."""

    train: DataLoader[Batch]
    sampler: EpochSampler
    validation: DataLoader[Batch]
    validation_count: int


class Trainer:
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
        task: ClassificationTask,
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

    def resume(self) -> None:
        """Go back to where the run folder's state left off."""
        self.position = load_state(self.run.state, self.model, self.average, self.optimizer)
        self.records = [r for r in self.run.read_records() if r["epoch"] <= self.position.epoch]

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
                loss, correct = self._step(batch)
                now = time.perf_counter()
                self._add(loss, correct, len(batch.indices), now - started)
                started = now
                position.batch += 1
                advance(1, self._progress_text())
                # Only where the weights just moved: half-added gradients are not saved.
                if watch.received is not None and position.batch % recipe.accumulate == 0:
                    break
        if position.batch < self.steps:
            self._stop_if_asked(watch)

    def _step(self, batch: Batch) -> tuple[float, int]:
        """Forward and backward of one batch; every ``accumulate`` batches the weights move."""
        recipe = self.recipe
        images, labels = self.task.prepare(batch, self.compute.device, self.compute.layout)
        loss, logits = self.task.loss(self.model, images, labels, self.compute.autocast)
        value = loss.item()
        if not math.isfinite(value):
            raise UserError(
                f"The loss is {value} in epoch {self.position.epoch + 1}, batch "
                f"{self.position.batch + 1}. The last good model is kept in {self.run.path}; try a "
                "lower --lr, a longer --warmup-epochs, or --clip-norm 5."
            )
        first = self.position.batch - self.position.batch % recipe.accumulate
        share = min(recipe.accumulate, self.steps - first)
        torch.autograd.backward(loss / share)
        if self.position.batch + 1 - first == share:
            self._move_weights()
        return value, int((logits.argmax(1) == labels).sum())

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
            warmup=round(recipe.warmup_epochs * per_epoch),
            total=recipe.epochs * per_epoch,
        )

    def _finish_epoch(self) -> None:
        """Evaluate, write the record and the checkpoints, and move on to the next epoch."""
        position, sums = self.position, self.position.sums
        rate = self.learning_rate
        evaluation = self.evaluate(self.evaluated)
        position.epoch, position.batch, position.sums = position.epoch + 1, 0, {}
        record: Record = {
            "epoch": position.epoch,
            "train_loss": sums["loss"] / sums["images"],
            "train_top1": sums["correct"] / sums["images"],
            "val_loss": evaluation.loss,
            "val_top1": evaluation.top1,
            "lr": rate,
            "images_per_second": sums["images"] / sums["seconds"],
            "seconds": sums["seconds"],
        }
        self.records.append(record)
        self.run.write_records(self.records)
        better = evaluation.top1 > position.best_top1
        if better:
            position.best_top1, position.best_epoch = evaluation.top1, position.epoch
        self._save_models(evaluation, better)
        self.save()
        self.reporter.say(_describe(record, self.recipe.epochs, better))

    def evaluate(self, model: nn.Module) -> Evaluation:
        """A model on the validation images."""
        with self.reporter.track("validating", self.loaders.validation_count) as advance:
            return self.task.evaluate(
                model,
                self.loaders.validation,
                self.compute.device,
                self.compute.autocast,
                layout=self.compute.layout,
                advance=lambda done: advance(done, ""),
            )

    def _save_models(self, evaluation: Evaluation, better: bool) -> None:
        metrics = {"top1": evaluation.top1, "top5": evaluation.top5, "loss": evaluation.loss}
        metrics["epoch"] = self.position.epoch
        card = replace(self.card, metrics=metrics).to_dict()
        weights = self.evaluated.state_dict()
        for path in (self.run.last, self.run.best) if better else (self.run.last,):
            save_tensors(path, weights, card)

    def save(self) -> None:
        """Write the state from which `resume` goes on."""
        save_state(self.run.state, self.position, self.model, self.average, self.optimizer)

    def _stop_if_asked(self, watch: SignalWatch) -> None:
        if watch.received is None or self.position.epoch >= self.recipe.epochs:
            return
        self.save()
        raise Interrupted(
            f"Stopped in epoch {self.position.epoch + 1}, batch {self.position.batch}, and saved. "
            f"Go on with: resnestkit train --resume {self.run.path}",
            watch.received,
        )

    def _add(self, loss: float, correct: int, images: int, seconds: float) -> None:
        sums = self.position.sums
        added = {"loss": loss * images, "correct": correct, "images": images, "seconds": seconds}
        for name, value in added.items():
            sums[name] = sums.get(name, 0.0) + value

    def _progress_text(self) -> str:
        sums, position = self.position.sums, self.position
        per_batch = sums["seconds"] / position.batch
        done = position.epoch * self.steps + position.batch
        left = (self.recipe.epochs * self.steps - done) * per_batch
        return (
            f"loss {sums['loss'] / sums['images']:.3f}  "
            f"acc {sums['correct'] / sums['images']:.1%}  "
            f"{sums['images'] / sums['seconds']:.0f} img/s  {format_seconds(left)} left"
        )


def _describe(record: Record, epochs: int, better: bool) -> str:
    return (
        f"epoch {record['epoch']:>3.0f}/{epochs}  train loss {record['train_loss']:.3f}  "
        f"val loss {record['val_loss']:.3f}  val acc {record['val_top1']:6.2%}  "
        f"{record['images_per_second']:5.0f} img/s" + ("  best" if better else "")
    )
