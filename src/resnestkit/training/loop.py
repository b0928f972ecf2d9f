"""The one training loop. It knows batches, losses and metrics, and no task."""

from __future__ import annotations

import inspect
import itertools
import math
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from resnestkit.compute import Compute
from resnestkit.data.loaders import Loaders
from resnestkit.data.seeding import mix_seed
from resnestkit.errors import UserError
from resnestkit.models.layers import set_drop_block
from resnestkit.ops.fused import use_kernels
from resnestkit.progress import Reporter, format_rate, format_seconds
from resnestkit.ranks import any_of, gather, is_first, ranks, share_tensors
from resnestkit.tasks.base import BatchT, ResultT, Step, Task
from resnestkit.training.interrupt import Interrupted, SignalWatch
from resnestkit.training.optimizer import (
    moving_average,
    parameter_groups,
    peak_rate,
    rate_at,
)
from resnestkit.training.precise import retake_statistics
from resnestkit.training.recipe import BaseRecipe, Recipe
from resnestkit.training.run import Record, RunFolder
from resnestkit.training.state import Position, Trained, load_state, save_state
from resnestkit.weights.checkpoint import ModelCard, save_tensors


class Trainer(Generic[BatchT, ResultT]):
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
        heads: parts of the model that learn at ``head_lr`` times the rate of the rest.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task[BatchT, ResultT],
        recipe: BaseRecipe,
        loaders: Loaders[BatchT],
        run: RunFolder,
        card: ModelCard,
        compute: Compute,
        reporter: Reporter,
        heads: Sequence[nn.Module] = (),
        head_lr: float = 1.0,
    ) -> None:
        self.model, self.task, self.recipe, self.loaders = model, task, recipe, loaders
        self.called = spread(model)
        self.run, self.card, self.compute, self.reporter = run, card, compute, reporter
        self.optimizer = torch.optim.SGD(
            parameter_groups(model, recipe.weight_decay, heads, head_lr),
            lr=recipe.lr,
            momentum=recipe.momentum,
            nesterov=recipe.nesterov and recipe.momentum > 0,
        )
        self.average: AveragedModel | None = None
        if recipe.ema:
            self.average = moving_average(model, recipe.ema)
        self.position = Position()
        self.records: list[Record] = []
        self._saved = time.monotonic()
        self._bad_group = False
        self.on_epoch: Callable[[Position, list[Record], ResultT], None] | None = None
        """Called by the process that writes, when an epoch's files are written."""

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
            "batch size": self.recipe.batch_size * ranks(),
        }

    @property
    def trained(self) -> Trained:
        """What a state holds."""
        return Trained(self.model, self.average, self.optimizer)

    def resume(self) -> None:
        """Go back to where the run folder's state left off."""
        paths = self.run.states(self.recipe.keep_states)
        self.position, wrong = load_state(paths, self.identity, self.trained)
        for words in wrong:
            self.reporter.say(f"state       {words} Going on from the one before it.")
        if not is_first():  # the first has everyone's sums
            self.position.sums = dict.fromkeys(self.position.sums, 0.0)
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
                if any_of([watch.received is not None])[0]:
                    self._stop(watch)

    def _train_epoch(self, watch: SignalWatch) -> None:
        recipe, position = self.recipe, self.position
        self.model.train()
        self.task.start_epoch(recipe.epochs - position.epoch)
        if isinstance(recipe, Recipe):
            set_drop_block(self.model, recipe.drop_block * (position.epoch + 1) / recipe.epochs)
        self.loaders.sampler.set_position(position.epoch, position.batch)
        title = f"epoch {position.epoch + 1}/{recipe.epochs}"
        with (
            self.reporter.track(title, self.steps) as advance,
            use_kernels(enabled=bool(recipe.kernels)),
        ):
            if position.batch:
                advance(position.batch, "")
            started = time.perf_counter()
            for batch in self.loaders.train:
                step, asked = self._step(batch, watch)
                now = time.perf_counter()
                if not asked.bad:
                    self._add(step, now - started)
                started = now
                position.batch += 1
                advance(1, self._progress_text())
                # Only where the weights just moved: half-added gradients are not saved.
                if position.batch % recipe.accumulate == 0 and position.batch < self.steps:
                    if asked.stop:
                        self._stop(watch)
                    if asked.save:
                        self._save_state()

    def _step(self, batch: BatchT, watch: SignalWatch) -> tuple[Step, Asked]:
        """Forward and backward of one batch; every ``accumulate`` batches the weights move."""
        recipe, position = self.recipe, self.position
        first = position.batch - position.batch % recipe.accumulate
        group = min(recipe.accumulate, self.steps - first)
        moves = position.batch + 1 - first == group
        held = [buffer.clone() for buffer in self.model.buffers()] if recipe.skip_bad_steps else []
        with self._apart(apart=not moves):
            step = self.task.step(self.called, batch, self.compute)
            asked = self._agree(step, watch)
            if asked.bad:
                self._leave_out(batch, step, held)
            else:
                share = self.loaders.sampler.share(step.images) / group
                torch.autograd.backward(step.loss * share)
        if moves and not self._bad_group:
            self._move_weights()
        if moves and self._bad_group:
            self.optimizer.zero_grad(set_to_none=True)
            self._bad_group = False
        return step, asked

    def _apart(self, *, apart: bool) -> AbstractContextManager[None]:
        """Where the weights do not move yet, processes need not add up their gradients."""
        if apart and isinstance(self.called, DistributedDataParallel):
            context: AbstractContextManager[None] = self.called.no_sync()
            return context
        return nullcontext()

    def _agree(self, step: Step, watch: SignalWatch) -> Asked:
        """What any process asks for, all do, or they would wait for each other for ever."""
        minutes = (time.monotonic() - self._saved) / 60
        bad = not math.isfinite(step.sums["loss"])
        due = is_first() and minutes >= self.recipe.save_minutes
        return Asked(*any_of([bad, watch.received is not None, due]))

    def _leave_out(self, batch: BatchT, step: Step, held: list[Tensor]) -> None:
        """Drop a batch without a loss, and the statistics that it spoilt, or stop the run."""
        position = self.position
        position.skipped += 1
        loss, names = self._find_bad(batch, step)
        where = f"in epoch {position.epoch + 1}, batch {position.batch + 1}"
        if position.skipped > self.recipe.skip_bad_steps:
            if is_first():
                self.run.write_json("bad_batch.json", {"where": where, "images": names})
            kept = f" The model of epoch {position.best_epoch} is in {self.run.best}."
            raise UserError(
                f"The loss is {loss} {where}, whose images are listed in "
                f"{self.run.path / 'bad_batch.json'} ({', '.join(names[:3])}, ...)."
                f"{kept if position.best_epoch else ''} Start another run with a lower --lr, a "
                f"longer {self._warmup_flag}, or --clip-norm 5."
            )
        for buffer, before in zip(self.model.buffers(), held, strict=True):
            buffer.copy_(before)
        self._bad_group = True
        self.reporter.say(f"left out    a loss of {loss} {where} ({', '.join(names[:3])}, ...)")

    def _find_bad(self, batch: BatchT, step: Step) -> tuple[float, list[str]]:
        """The loss that is no number, on whatever process, and the names of its images."""
        names = [self.loaders.train.images.names[index] for index in batch.indices]
        seen = gather((step.sums["loss"], names))
        return next(found for found in seen if not math.isfinite(found[0]))

    def _move_weights(self) -> None:
        recipe = self.recipe
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * group["rate"]
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
        total = recipe.epochs * per_epoch
        warmup = recipe.warmup_steps
        if warmup is None:
            warmup = round(recipe.warmup_epochs * per_epoch)
        return rate_at(
            step,
            peak=peak_rate(recipe.lr, recipe.batch_size * ranks() * recipe.accumulate),
            warmup=min(warmup, round(total / 2)),
            total=total,
            milestones=recipe.milestones if recipe.schedule == "step" else None,
            power=recipe.power if recipe.schedule == "poly" else None,
        )

    @property
    def _warmup_flag(self) -> str:
        return "--warmup-epochs" if self.recipe.warmup_steps is None else "--warmup-steps"

    def _finish_epoch(self) -> None:
        """Evaluate, write the record and the checkpoints, and move on to the next epoch."""
        position = self.position
        for module in (self.model, self.evaluated):
            share_tensors(list(module.buffers()))
        if self.recipe.precise_norm:
            self._retake_statistics()
        result = self.evaluate(self.evaluated, self.compute)
        sums = _add_up(gather(position.sums))
        trained = _means(sums)
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
        better = result.score > position.best_score
        if better:
            position.best_score, position.best_epoch = result.score, position.epoch
        if is_first():
            self.run.write_records(self.records)
            self._save_models({**result.metrics, **self.task.notes(result)}, better=better)
        self._save_state()
        self.reporter.say(
            f"epoch {position.epoch:>3}/{self.recipe.epochs}  train {self.task.words(trained)}  "
            f"val {self.task.words(result.metrics)}  "
            f"{format_rate(record['images_per_second']):>5} img/s" + ("  best" if better else "")
        )
        if self.on_epoch is not None and is_first():
            self.on_epoch(position, self.records, result)

    def _retake_statistics(self) -> None:
        """Of the weights that are about to be evaluated, on images of the epoch that ended."""
        self.loaders.sampler.set_position(self.position.epoch)
        batches = itertools.islice(self.loaders.train, self.recipe.precise_norm)
        seed = mix_seed(self.recipe.seed, self.position.epoch)
        if isinstance(self.recipe, Recipe):  # the average's blocks still drop as at the end
            share = self.position.epoch / self.recipe.epochs
            set_drop_block(self.evaluated, self.recipe.drop_block * share)
        step = partial(self.task.step, self.evaluated, compute=self.compute)
        with use_kernels(enabled=bool(self.recipe.kernels)):
            retake_statistics(self.evaluated, (partial(step, batch) for batch in batches), seed)

    def evaluate(self, model: nn.Module, compute: Compute) -> ResultT:
        """A model on the validation images."""
        with (
            self.reporter.track("validating", self.loaders.validation_count) as advance,
            use_kernels(enabled=bool(self.recipe.kernels)),
        ):
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

    def _save_state(self) -> None:
        """Write what the run goes on from, unless it would go on from weights that are lost."""
        position = self.position
        if not all(bool(weight.sum().isfinite()) for weight in self.model.parameters()):
            raise UserError(
                f"The weights are no numbers any more, in epoch {position.epoch + 1}, batch "
                f"{position.batch}. The state before that was kept: start another run with a lower "
                f"--lr, a longer {self._warmup_flag}, or --clip-norm 5."
            )
        paths = self.run.states(self.recipe.keep_states)
        together = replace(position, sums=_add_up(gather(position.sums)))
        save_state(paths, self.identity, together, self.trained)
        self._saved = time.monotonic()

    def _stop(self, watch: SignalWatch) -> None:
        """Save, and leave with the signal's exit code, if there is anything left to do."""
        position = self.position
        if position.epoch >= self.recipe.epochs:
            return
        self._save_state()
        raise Interrupted(
            f"Stopped in epoch {position.epoch + 1}, batch {position.batch}, and saved. "
            f"Go on with: resnestkit train --resume {self.run.path}",
            watch.received or signal.SIGTERM,
        )

    def _add(self, step: Step, seconds: float) -> None:
        sums = self.position.sums
        for name, value in {**step.sums, "images": step.images, "seconds": seconds}.items():
            sums[name] = sums.get(name, 0.0) + value

    def _progress_text(self) -> str:
        sums, position = self.position.sums, self.position
        if not sums:
            return ""
        done = position.epoch * self.steps + position.batch
        left = (self.recipe.epochs * self.steps - done) * sums["seconds"] / position.batch
        speed = format_rate(sums["images"] / sums["seconds"])
        return f"{self.task.words(_means(sums))}  {speed} img/s  {format_seconds(left)} left"


@dataclass(frozen=True, slots=True)
class Asked:
    """What a step calls for, on whatever process."""

    bad: bool
    """The loss is no number."""
    stop: bool
    """A signal came."""
    save: bool
    """The last state is old."""


def spread(model: nn.Module) -> nn.Module:
    """The model, or what adds up its gradients over the processes where there are several."""
    if ranks() == 1:
        return model
    device = next(model.parameters()).device
    # Statistics go their own ways until an epoch ends: the first process's then count for all.
    known = inspect.signature(DistributedDataParallel).parameters
    word = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    options: dict[str, Any] = {word: False}
    return DistributedDataParallel(
        model, device_ids=[device] if device.type == "cuda" else None, **options
    )


def _add_up(parts: list[dict[str, float]]) -> dict[str, float]:
    """Sums over the processes; the seconds are those of the slowest."""
    if not parts[0]:
        return {}
    added = {name: math.fsum(part[name] for part in parts) for name in parts[0]}
    return added | {"seconds": max(part["seconds"] for part in parts)}


def _means(sums: dict[str, float]) -> dict[str, float]:
    """Per image."""
    images = max(sums["images"], 1)
    return {k: v / images for k, v in sums.items() if k not in {"images", "seconds"}}
