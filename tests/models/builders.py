"""Nets for tests: cheap where depth does not matter, and alive in every branch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from resnestkit.models.layers import is_norm
from resnestkit.models.resnet import ResNet
from resnestkit.models.spec import NetSpec
from resnestkit.models.zoo import find_net

FEW_BLOCKS = (1, 2, 1, 2)
"""Two stages of a first block alone, two with a block after it."""


def build(name: str, **options: Any) -> ResNet:
    """The net of that name."""
    return ResNet(find_net(name).spec, **options)


def shallow_spec(name: str) -> NetSpec:
    """The spec of that name with at most `FEW_BLOCKS`."""
    spec = find_net(name).spec
    return replace(spec, layers=tuple(map(min, spec.layers, FEW_BLOCKS)))


def build_shallow(name: str, **options: Any) -> ResNet:
    """The net of that name with few blocks: every kind of its blocks, at every width."""
    return ResNet(shallow_spec(name), **options)


def randomize_norms(net: nn.Module, images: Tensor) -> None:
    """Make a new net's norms look like a trained net's: random weights, statistics of images.

    Zero-gamma would silence every residual branch, and statistics of 0 and 1 (or random ones)
    would let a deep net blow up until its gates saturate; either makes wrong nets look right.
    """
    norms = [part for part in net.modules() if is_norm(part)]
    adapting = [norm for norm in norms if isinstance(norm, nn.BatchNorm2d)]
    was_training = net.training
    with torch.no_grad():
        for norm in norms:
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_(0.0, 0.2)
        for norm in adapting:
            norm.momentum = 1.0
        if adapting:
            net.train()(images)
        for norm in adapting:
            norm.momentum = 0.1
            norm.running_var.clamp_(min=1e-2)  # of so few 1x1 maps a variance can be nearly zero
    net.train(was_training)
