"""Segmenters for tests: narrow, on small images; and other codes' models, alive in every norm."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from resnestkit import create_segmenter
from resnestkit.segmentation.segmenter import Segmenter
from resnestkit.segmentation.spec import Kind, SegmentationSettings

CLASSES = 3
NARROW = SegmentationSettings(channels=64, psp_channels=32, unet_channels=(32, 16, 16, 16, 16))


def make(kind: Kind, net: str = "resnest14", **options: Any) -> Segmenter:
    """A small segmenter; group norms, since statistics of tiny maps are none."""
    defaults: dict[str, Any] = {"classes": CLASSES, "norm": "group", "settings": NARROW}
    return create_segmenter(kind, net, **{**defaults, **options})


@torch.no_grad()
def liven(model: nn.Module, images: Tensor) -> None:
    """Random weights in every norm, and in each layer with a bias; statistics of the images.

    Zero-gamma, or statistics of 0 and 1, would make wrong models look right. A norm is set when the
    images reach it, so that the next ones see what they will see later.
    """
    names = {part: name for name, part in model.named_modules()}

    def settle(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        norm.weight.uniform_(*((0.1, 0.4) if names[norm].endswith("bn3") else (0.5, 1.5)))
        norm.bias.normal_(0.0, 0.2)
        variance, mean = torch.var_mean(inputs[0], (0, 2, 3), correction=0)
        norm.running_mean.copy_(mean)
        power = variance + mean**2
        norm.running_var.copy_(power + power.mean())

    hooks = []
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            hooks.append(part.register_forward_pre_hook(settle))
        elif isinstance(part, nn.Conv2d) and part.bias is not None:
            part.bias.normal_(0.0, 0.1)
    model.eval()(images)
    for hook in hooks:
        hook.remove()


def train_without_chance(model: nn.Module) -> nn.Module:
    """In training mode, but for the norms and what drops."""
    model.train()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d | nn.Dropout | nn.Dropout2d):
            part.eval()
    return model


def difference(one: Tensor, other: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    assert one.shape == other.shape
    return float((one - other).abs().max() / other.abs().max())
