"""Nets for tests: cheap where depth does not matter, and alive in every branch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from resnestkit.models.backbone import Backbone
from resnestkit.models.blocks import ResidualBlock
from resnestkit.models.build import build_net
from resnestkit.models.layers import is_norm
from resnestkit.models.resnet import ResNet
from resnestkit.models.spec import NetSpec
from resnestkit.models.zoo import find_net

FEW_BLOCKS = (2, 1, 2, 1)
"""Stages with and without a block after the first; the last stage's are the dear ones."""


def build(name: str, **options: Any) -> Backbone:
    """The net of that name."""
    return build_net(find_net(name).spec, **options)


def shallow_spec(name: str) -> NetSpec:
    """The spec of that residual net with at most `FEW_BLOCKS`."""
    spec = find_net(name).spec
    assert isinstance(spec, NetSpec)
    return replace(spec, layers=tuple(map(min, spec.layers, FEW_BLOCKS)))


def build_shallow(name: str, **options: Any) -> ResNet:
    """The residual net of that name with few blocks: every kind of its blocks, at every width."""
    return ResNet(shallow_spec(name), **options)


def randomize_norms(net: nn.Module, images: Tensor) -> None:
    """Make a new net's norms look like a trained net's: random weights, statistics of images.

    Zero-gamma would silence every residual branch, and statistics of 0 and 1 (or random ones)
    would let a deep net blow up until its gates saturate; either makes wrong nets look right.
    Each norm is set when the images reach it, so that the next ones see what they will see later.
    """

    def settle(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        norm.weight.uniform_(*((0.1, 0.4) if norm in last_norms else (0.5, 1.5)))
        norm.bias.normal_(0.0, 0.2)
        if hasattr(norm, "running_var"):
            variance, mean = torch.var_mean(inputs[0], (0, 2, 3), correction=0)
            norm.running_mean.copy_(mean)
            # More than the variance of these few images, which others would exceed by far.
            power = variance + mean**2
            norm.running_var.copy_(power + power.mean())

    blocks = [part for part in net.modules() if isinstance(part, ResidualBlock)]
    last_norms = {block.last_norm for block in blocks}  # small, as in trained nets
    was_training = net.training
    hooks = [part.register_forward_pre_hook(settle) for part in net.modules() if is_norm(part)]
    with torch.no_grad():
        net.eval()(images)
    for hook in hooks:
        hook.remove()
    net.train(was_training)
