"""What a net costs: parameters, and multiply-adds, counted without computing anything."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Cost:
    """Parameters, and multiply-adds of one image in convolutions and linear layers."""

    params: int
    macs: int


def count_cost(model: nn.Module, channels: int, size: int) -> Cost:
    """Count the cost of one image (1, channels, size, size).

    The model must be on the meta device, where running it costs nothing and works at any size.
    """
    total = 0

    def add(module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        assert isinstance(module, nn.Conv2d | nn.Linear)
        total += output.numel() * module.weight[0].numel()

    layers = [part for part in model.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(add) for layer in layers]
    was_training = model.training
    try:
        with torch.no_grad():
            model.eval()(torch.empty(1, channels, size, size, device="meta"))
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return Cost(sum(weight.numel() for weight in model.parameters()), total)
