"""Batch norms' statistics taken anew for the weights as they are, where running ones lag."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from resnestkit.ranks import ranks, sum_over_ranks


@torch.no_grad()
def retake_statistics(model: nn.Module, steps: Iterable[Callable[[], object]], seed: int) -> None:
    """The mean of each norm's statistics over some batches (Wu and Johnson 2021, section 3).

    Args:
        model: whose batch norms are to be made precise; those in evaluation mode are left alone.
        steps: each runs the model on one batch, in training mode, without learning from it.
        seed: of whatever the steps draw; the stream that the training draws from stays where it is.
    """
    was_training = model.training
    model.train()
    norms = [part for part in model.modules() if isinstance(part, _BatchNorm) and _follows(part)]
    kept = {norm: norm.momentum for norm in norms}
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch then keeps the mean of all batches
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng([device.index or 0 for device in devices]):
        torch.manual_seed(seed)
        for step in steps:
            step()
    for norm, momentum in kept.items():
        norm.momentum = momentum
        _average(norm)
    model.train(was_training)


def _follows(norm: _BatchNorm) -> bool:
    return norm.training and norm.track_running_stats


def _average(norm: _BatchNorm) -> None:
    """Every process saw other images."""
    for value in (norm.running_mean, norm.running_var):
        assert value is not None
        value.copy_(sum_over_ranks(value) / ranks())
