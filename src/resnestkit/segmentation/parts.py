"""Parts of libraries below their documented surface, and how a decoder is made to fit our policies.

What is taken of torchvision may move between its versions; nothing else of this package imports
from ``torchvision.models.segmentation``. What is taken of segmentation-models-pytorch is in
`resnestkit.segmentation.library`, which is imported where that extra is needed.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torchvision.models.segmentation.deeplabv3 import ASPP
from torchvision.models.segmentation.fcn import FCNHead

from resnestkit.models.layers import GroupedDilatedConv, conv_class, norm_factory
from resnestkit.models.spec import NormPolicy

__all__ = ["ASPP", "FCNHead", "adopt"]


def adopt(decoder: nn.Module, policy: NormPolicy) -> None:
    """Replace what a library has made, in place: norms by those of the policy, and convolutions.

    The latter are ASPP's separable ones, whose gradients bfloat16 gets wrong on a CPU (see
    `GroupedDilatedConv`). What is replaced starts anew, so adopt before weights are drawn.
    """
    make_norm = norm_factory(policy)
    for parent in list(decoder.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm2d:
                setattr(parent, name, make_norm(child.num_features))
            elif type(child) is nn.Conv2d and _is_grouped_and_dilated(child):
                setattr(parent, name, _copy(child))


def _is_grouped_and_dilated(conv: nn.Conv2d) -> bool:
    kernel, stride, dilation = conv.kernel_size[0], conv.stride[0], conv.dilation[0]
    return conv_class(kernel, stride, dilation, conv.groups) is GroupedDilatedConv


def _copy(conv: nn.Conv2d) -> GroupedDilatedConv:
    # torch's types know a pair of sides as any number of them.
    geometry: Any = {
        name: getattr(conv, name)
        for name in ("kernel_size", "stride", "padding", "dilation", "groups")
    }
    bias = conv.bias is not None
    return GroupedDilatedConv(conv.in_channels, conv.out_channels, bias=bias, **geometry)
