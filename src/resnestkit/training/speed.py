"""The loader alone and the model alone, each for a few timed batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from resnestkit.compute import Compute
from resnestkit.data.loaders import Loaders
from resnestkit.ops.fused import use_kernels
from resnestkit.tasks.base import Task
from resnestkit.training.recipe import BaseRecipe


@dataclass(frozen=True, slots=True)
class Speed:
    """Images per second."""

    loading: float
    stepping: float

    @property
    def together(self) -> float:
        """What a training can reach: reading and computing run side by side at best."""
        return min(self.loading, self.stepping)


def measure_speed(
    model: nn.Module,
    task: Task[Any, Any],
    loaders: Loaders[Any],
    compute: Compute,
    recipe: BaseRecipe,
    seconds: float = 8.0,
) -> Speed:
    """Time both, after a warm-up of one batch each. The model's weights do not move.

    Args:
        model: in training mode, on its device; its statistics change.
        task: makes the loss.
        loaders: training batches.
        compute: device and precision.
        recipe: accumulation and the like do not matter here.
        seconds: spent at most, but for the last batch of each.
    """
    loaders.sampler.set_position(0)
    batches = _endless(loaders)
    first = next(batches)
    loading = _rate(lambda: len(next(batches).indices), seconds / 2)
    batches.close()

    def step() -> int:
        with use_kernels(enabled=bool(recipe.kernels)):
            made = task.step(model, replace(first), compute)
        torch.autograd.backward(made.loss)
        model.zero_grad(set_to_none=recipe.accumulate == 1)
        return made.images

    step()
    return Speed(loading, _rate(step, seconds / 2))


def _endless(loaders: Loaders[Any]) -> Generator[Any, None, None]:
    while True:
        yield from loaders.train


def _rate(work: Callable[[], int], seconds: float) -> float:
    """Images per second of work that returns the images it did; at most 20 calls."""
    images, started = 0, time.perf_counter()
    for _ in range(20):
        images += work()
        if time.perf_counter() - started > seconds:
            break
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return images / (time.perf_counter() - started)
