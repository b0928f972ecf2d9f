"""Costs counted on the meta device are those of the arithmetic."""

from __future__ import annotations

import torch
from torch import nn

from resnestkit.models.cost import Cost, count_cost


def _small_net() -> nn.Sequential:
    with torch.device("meta"):
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.Conv2d(8, 4, 1, groups=2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 5),
        )


def test_multiply_adds_are_those_of_convolutions_and_linear_layers() -> None:
    """Each output value of a convolution takes as many as one filter has weights."""
    positions = 5 * 5
    macs = positions * 8 * (3 * 9) + positions * 4 * (8 // 2) + 5 * 4
    params = 8 * 3 * 9 + 2 * 8 + (4 * 4 + 4) + (4 * 5 + 5)
    assert count_cost(_small_net(), channels=3, size=9) == Cost(params, macs)


def test_counting_leaves_no_trace() -> None:
    net = _small_net().train()
    assert count_cost(net, 3, 8) == count_cost(net, 3, 8)
    assert net.training
    assert not any(part._forward_hooks for part in net.modules())
