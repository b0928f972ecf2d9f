"""What moves the weights: parameter groups, the learning rate, the moving average."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from resnestkit.models.layers import is_norm

REFERENCE_BATCH = 256
"""The paper states learning rates for so many images per step (section 4.1)."""


def parameter_groups(
    model: nn.Module, weight_decay: float, heads: Sequence[nn.Module] = (), head_lr: float = 1.0
) -> list[dict[str, Any]]:
    """Weights, which decay, and biases and norms' parameters, which do not; of ``heads`` apart.

    A parameter is exempt for what it is: a norm's, or a bias. The published codes go by the name
    and miss the norms inside the stem and the shortcuts. ``rate`` is what a group's learning rate
    is multiplied by: ``head_lr`` for the modules in ``heads``.
    """
    exempt: dict[Tensor, None] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if is_norm(module) or name == "bias":
                exempt[parameter] = None
    fast = {parameter: None for module in heads for parameter in module.parameters()}
    trained = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = []
    for in_head, rate in ((False, 1.0), (True, head_lr))[: 2 if heads else 1]:
        part = [p for p in trained if (p in fast) == in_head]
        decaying, bare = ([p for p in part if (p in exempt) == kind] for kind in (False, True))
        groups.append({"params": decaying, "weight_decay": weight_decay, "rate": rate})
        groups.append({"params": bare, "weight_decay": 0.0, "rate": rate})
    return groups


def peak_rate(lr: float, batch: int) -> float:
    """Linear scaling: the rate per 256 images, times the images per step over 256."""
    return lr * batch / REFERENCE_BATCH


def rate_at(
    step: int,
    *,
    peak: float,
    warmup: int,
    total: int,
    milestones: Sequence[float] | None = None,
    power: float | None = None,
) -> float:
    """Learning rate of a step (from 0): linear from 0 over the warm-up, then it falls.

    It falls along a cosine to 0, or with ``milestones``, shares of the whole training, to a tenth
    at each, or with ``power`` as the share that is left to that power ("poly", Chen et al. 2017,
    *DeepLab*, section 4.1).
    """
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    if milestones is not None:
        return peak * 0.1 ** sum(step >= share * total for share in milestones)
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    if power is not None:
        return float(peak * (1 - progress) ** power)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))


def moving_average(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of weights and statistics.

    The decay starts low and rises to its value, so that a short training is not dominated by the
    random weights it began with.
    """

    @torch.no_grad()
    def update(averaged: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
        seen = int(count)
        keep = min(decay, (1 + seen) / (10 + seen))
        for old, new in zip(averaged, current, strict=True):
            if old.is_floating_point():
                old.lerp_(new, 1 - keep)
            else:
                old.copy_(new)

    return AveragedModel(model, multi_avg_fn=update, use_buffers=True)
