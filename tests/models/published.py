"""The same nets in the libraries that published them: the oracles for names and outputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import resnest.torch
import timm
import torchvision
from resnest.torch import resnet as official
from timm.models import resnet as timm_resnet
from timm.models.sknet import SelectiveKernelBottleneck
from torch import nn

TORCHVISION = [
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
]
TIMM = {
    **{name: name for name in TORCHVISION},
    "resnet26": "resnet26",
    "resnet26d": "resnet26d",
    "resnet50c": "resnet50c",
    "resnet101c": "resnet101c",
    "resnet50d": "resnet50d",
    "resnet101d": "resnet101d",
    "resnet50s": "resnet50s",
    "resnext101_32x4d": "resnext101_32x4d",
    "seresnet50": "seresnet50",
    "seresnet101": "seresnet101",
    "seresnet152": "seresnet152",
    "seresnext50_32x4d": "seresnext50_32x4d",
    "seresnext101_32x4d": "seresnext101_32x4d",
    "senet154": "senet154",
    "legacy_seresnet50": "seresnet50a",
    "legacy_seresnet101": "seresnet101a",
    "legacy_seresnet152": "seresnet152a",
    "legacy_seresnext50_32x4d": "legacy_seresnext50_32x4d",
    "legacy_seresnext101_32x4d": "legacy_seresnext101_32x4d",
    "legacy_senet154": "legacy_senet154",
    "skresnet18": "skresnet18",
    "skresnet34": "skresnet34",
    "skresnet50": "skresnet50",
    "skresnet50d": "skresnet50d",
    "skresnext50_32x4d": "sknet50",
    "resnest14d": "resnest14",
    "resnest26d": "resnest26",
    "resnest50d": "resnest50",
    "resnest101e": "resnest101",
    "resnest200e": "resnest200",
    "resnest269e": "resnest269",
    "resnest50d_4s2x40d": "resnest50_fast_4s2x40d",
    "resnest50d_1s4x24d": "resnest50_fast_1s4x24d",
    "inception_resnet_v2": "inception_resnet_v2",
}
"""timm's name of a net, and ours of the same net."""

OFFICIAL = [
    "resnest50",
    "resnest101",
    "resnest200",
    "resnest269",
    "resnest50_fast_1s1x64d",
    "resnest50_fast_2s1x64d",
    "resnest50_fast_4s1x64d",
    "resnest50_fast_1s2x40d",
    "resnest50_fast_2s2x40d",
    "resnest50_fast_4s2x40d",
    "resnest50_fast_1s4x24d",
]


ASSEMBLED = {
    "resnet50a": "torchvision",
    "resnet101a": "torchvision",
    "sknet101": "timm",
    "resnest14": "resnest",
    "resnest26": "resnest",
}
"""Nets that a library lacks, but not the parts of which `build_published` makes them."""


@dataclass(frozen=True)
class Pair:
    """One net in a library and here."""

    library: str
    theirs: str
    ours: str

    def __str__(self) -> str:
        return f"{self.library}-{self.theirs}"


UNPUBLISHED = {"bn_inception", "se_bn_inception", "se_inception_resnet_v2"}
"""Our names of nets that none of these libraries has; the small forms are the others."""


def pairs() -> Iterator[Pair]:
    """Every net of ours in every library that has it, or has the parts of which to make it."""
    yield from (Pair("torchvision", name, name) for name in TORCHVISION)
    yield from (Pair("timm", theirs, ours) for theirs, ours in TIMM.items())
    yield from (Pair("resnest", name, name) for name in OFFICIAL)
    yield from (Pair(library, name, name) for name, library in ASSEMBLED.items())


def is_offered(pair: Pair) -> bool:
    """Whether the library has the net by name, and not its parts alone."""
    return pair.ours not in ASSEMBLED or pair.theirs != pair.ours


def build_published(pair: Pair, output_stride: int = 32, **options: Any) -> nn.Module:
    """A library's net; options are the library's own.

    Raises ValueError if the library cannot build it at that output stride.
    """
    name = pair.theirs
    if pair.library == "timm":
        options = {"drop_rate": 0.0, **options}  # some drop features by default
        if output_stride != 32:
            options["output_stride"] = output_stride
        return (
            _timm_sknet101(**options) if name == "sknet101" else timm.create_model(name, **options)
        )
    if pair.library == "torchvision":
        if output_stride != 32:
            options["replace_stride_with_dilation"] = [False, output_stride == 8, True]
        net = torchvision.models.get_model(name.rstrip("a"), weights=None, **options)
        return _stride_first(net) if name.endswith("a") else net
    options |= {32: {}, 16: {"dilation": 2}, 8: {"dilated": True}}[output_stride]
    if name in ASSEMBLED:
        return build_official((1,) * 4 if name == "resnest14" else (2,) * 4, **options)
    return getattr(resnest.torch, name)(**options)


def _timm_sknet101(**options: Any) -> nn.Module:
    """timm has SKNet-101's blocks, but no entry."""
    kernels = {"rd_ratio": 1 / 16, "rd_divisor": 32, "split_input": False}
    return timm_resnet.ResNet(
        SelectiveKernelBottleneck,
        [3, 4, 23, 3],
        cardinality=32,
        base_width=4,
        block_args={"sk_kwargs": kernels},
        **options,
    )


def _stride_first(net: nn.Module) -> nn.Module:
    """Move every bottleneck's stride from the 3x3 to the first 1x1: ResNet-A of ResNet-B."""
    for block in net.modules():
        if isinstance(block, torchvision.models.resnet.Bottleneck):
            block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
    return net


def build_official(layers: tuple[int, ...], **options: Any) -> nn.Module:
    """The authors' ResNeSt, of any depth."""
    choices = {
        "radix": 2,
        "groups": 1,
        "bottleneck_width": 64,
        "deep_stem": True,
        "stem_width": 32,
        "avg_down": True,
        "avd": True,
    }
    return official.ResNet(official.Bottleneck, list(layers), **choices | options)


def build_torchvision(layers: tuple[int, ...], **options: Any) -> nn.Module:
    """torchvision's ResNet of bottlenecks, of any depth."""
    return torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, list(layers), **options)
