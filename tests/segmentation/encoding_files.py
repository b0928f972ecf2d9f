"""Files as PyTorch-Encoding writes them, and what its heads compute, after its source.

Repository zhanghang1989/PyTorch-Encoding at ac748410dfc8d7d70a2ce7f5add08050af2fae20:
encoding/models/sseg/base.py (the backbone is ``pretrained``, without its ``fc``), deeplab.py
(``head`` is a DeepLabV3Head) and fcn.py (``head`` and ``auxlayer`` are FCNHeads).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from resnest.torch import resnet as official
from torch import Tensor, nn
from torch.nn import functional as F

State = dict[str, Tensor]


def conv(name: str, *shape: int, bias: bool = False) -> State:
    """A convolution whose outputs are about as large as its inputs."""
    found = {f"{name}.weight": torch.randn(shape) * math.sqrt(2 / math.prod(shape[1:]))}
    return found | ({f"{name}.bias": torch.randn(shape[0])} if bias else {})


def norm(name: str, channels: int) -> State:
    """A batch norm of which nothing is as it starts."""
    return {
        f"{name}.weight": torch.rand(channels) + 0.5,
        f"{name}.bias": 0.2 * torch.randn(channels),
        f"{name}.running_mean": 0.3 * torch.randn(channels),
        f"{name}.running_var": torch.rand(channels) + 0.5,
        f"{name}.num_batches_tracked": torch.tensor(7),
    }


def deeplab_head(classes: int) -> State:
    """DeepLabV3Head(2048, classes)."""
    state = conv("head.aspp.b0.0", 256, 2048, 1, 1) | norm("head.aspp.b0.1", 256)
    for branch in ("b1", "b2", "b3"):
        state |= conv(f"head.aspp.{branch}.0", 256, 2048, 3, 3)
        state |= norm(f"head.aspp.{branch}.1", 256)
    # The branch of the pooled image: `gap` is a pool, a convolution and a norm.
    state |= conv("head.aspp.b4.gap.1", 256, 2048, 1, 1) | norm("head.aspp.b4.gap.2", 256)
    state |= conv("head.aspp.project.0", 256, 1280, 1, 1) | norm("head.aspp.project.1", 256)
    state |= conv("head.block.0", 256, 256, 3, 3) | norm("head.block.1", 256)
    return state | conv("head.block.4", classes, 256, 1, 1, bias=True)


def fcn_head(name: str, channels: int, classes: int) -> State:
    """FCNHead(channels, classes)."""
    width = channels // 4
    state = conv(f"{name}.conv5.0", width, channels, 3, 3) | norm(f"{name}.conv5.1", width)
    return state | conv(f"{name}.conv5.4", classes, width, 1, 1, bias=True)


def segmenter(backbone: State, head: str, classes: int) -> State:
    """The state of a DeepLabV3 ("deeplab") or FCN ("fcn") with its auxiliary layer."""
    body = {f"pretrained.{n}": t for n, t in backbone.items() if not n.startswith("fc.")}
    own = deeplab_head(classes) if head == "deeplab" else fcn_head("head", 2048, classes)
    return body | own | fcn_head("auxlayer", 1024, classes)


def build_backbone(layers: tuple[int, ...], **options: Any) -> nn.Module:
    """The authors' ResNet, dilated to stride 8; their ResNeSt unless options say otherwise."""
    choices = {
        "radix": 2,
        "groups": 1,
        "bottleneck_width": 64,
        "deep_stem": True,
        "stem_width": 32,
        "avg_down": True,
        "avd": True,
        "dilated": True,
    }
    return official.ResNet(official.Bottleneck, list(layers), **choices | options)


@dataclass
class Heads:
    """What the authors' heads compute of features in evaluation, by the names of a state."""

    state: State

    def deeplab(self, c4: Tensor, size: tuple[int, int]) -> Tensor:
        """DeepLabV3.forward's first output."""
        branches = [self._layer(c4, "head.aspp.b0.0", "head.aspp.b0.1")]
        for index, rate in ((1, 12), (2, 24), (3, 36)):
            place = f"head.aspp.b{index}"
            branches.append(self._layer(c4, f"{place}.0", f"{place}.1", rate))
        pooled = c4.mean((2, 3), keepdim=True)
        context = self._layer(pooled, "head.aspp.b4.gap.1", "head.aspp.b4.gap.2")
        branches.append(context.expand_as(branches[0]))
        x = self._layer(torch.cat(branches, 1), "head.aspp.project.0", "head.aspp.project.1")
        x = self._layer(x, "head.block.0", "head.block.1")
        return self._classify(x, "head.block.4", size)

    def fcn(self, features: Tensor, size: tuple[int, int], name: str = "head") -> Tensor:
        """FCN.forward's first output; with "auxlayer", the second one of both."""
        x = self._layer(features, f"{name}.conv5.0", f"{name}.conv5.1")
        return self._classify(x, f"{name}.conv5.4", size)

    def _layer(self, x: Tensor, conv: str, norm: str, rate: int = 1) -> Tensor:
        weight = self.state[f"{conv}.weight"]
        x = F.conv2d(x, weight, padding=rate * (weight.shape[-1] // 2), dilation=rate)
        mean, variance, scale, shift = (
            self.state[f"{norm}.{part}"][:, None, None]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.relu((x - mean) / torch.sqrt(variance + 1e-5) * scale + shift)

    def _classify(self, x: Tensor, name: str, size: tuple[int, int]) -> Tensor:
        x = F.conv2d(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])
        return stretch(x, size)


def stretch(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, the corner pixels' centres on each other, side by side as two products."""
    for axis, wanted in ((2, size[0]), (3, size[1])):
        given = x.shape[axis]
        at = torch.arange(wanted, dtype=x.dtype) * (given - 1) / max(wanted - 1, 1)
        distance = (at[:, None] - torch.arange(given, dtype=x.dtype)).abs()
        share = (1 - distance).clamp(min=0)
        x = torch.movedim(torch.movedim(x, axis, -1) @ share.T, -1, axis)
    return x
