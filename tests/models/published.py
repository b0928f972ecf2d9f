"""The same nets in the libraries that published them: the oracles for names and outputs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import resnest.torch
import timm
import torchvision
from resnest.torch import resnet as official
from timm.models import resnet as timm_resnet
from timm.models.sknet import SelectiveKernelBottleneck
from torch import nn

TORCHVISION = {
    "resnet18": ["resnet18"],
    "resnet34": ["resnet34"],
    "resnet50": ["resnet50", "resnet50a"],
    "resnet101": ["resnet101", "resnet101a"],
    "resnet152": ["resnet152"],
    "resnext50_32x4d": ["resnext50_32x4d"],
    "resnext101_64x4d": ["resnext101_64x4d"],
    "wide_resnet50_2": ["wide_resnet50_2"],
    "wide_resnet101_2": ["wide_resnet101_2"],
}
TIMM = {
    "resnet50c": ["resnet50c"],
    "resnet101c": ["resnet101c"],
    "resnet50d": ["resnet50d"],
    "resnet101d": ["resnet101d"],
    "resnet50s": ["resnet50s"],
    "resnext101_32x4d": ["resnext101_32x4d"],
    "seresnet50": ["seresnet50", "seresnet50a"],
    "seresnet101": ["seresnet101", "seresnet101a"],
    "seresnet152": ["seresnet152", "seresnet152a"],
    "seresnext50_32x4d": ["seresnext50_32x4d", "legacy_seresnext50_32x4d"],
    "seresnext101_32x4d": ["seresnext101_32x4d", "legacy_seresnext101_32x4d"],
    "senet154": ["senet154", "legacy_senet154"],
    "skresnet18": ["skresnet18"],
    "skresnet34": ["skresnet34"],
    "skresnet50": ["skresnet50"],
    "skresnet50d": ["skresnet50d"],
    "skresnext50_32x4d": ["sknet50"],
    "resnest14d": ["resnest14"],
    "resnest26d": ["resnest26"],
    "resnest50d": ["resnest50"],
    "resnest101e": ["resnest101"],
    "resnest200e": ["resnest200"],
    "resnest269e": ["resnest269"],
    "resnest50d_4s2x40d": ["resnest50_fast_4s2x40d"],
    "resnest50d_1s4x24d": ["resnest50_fast_1s4x24d"],
}
"""A library's name of a net, and our names of the nets with its parameters.

Where the stride sits and how the stem pools are no matter of parameters: that is all in which the
"a" and legacy forms differ.
"""
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


def pairs() -> Iterator[tuple[str, str, str]]:
    """Library, its name of a net, our name of a net with the same parameters."""
    tables = {"torchvision": TORCHVISION, "timm": TIMM, "resnest": {n: [n] for n in OFFICIAL}}
    for library, table in tables.items():
        yield from ((library, theirs, ours) for theirs, names in table.items() for ours in names)
    yield "timm", "sknet101", "sknet101"


def build_published(library: str, name: str, **options: Any) -> nn.Module:
    """A library's net; options are the library's own."""
    if name == "sknet101":  # timm has the block, but no entry
        kernels = {"rd_ratio": 1 / 16, "rd_divisor": 32, "split_input": False}
        return timm_resnet.ResNet(
            SelectiveKernelBottleneck,
            [3, 4, 23, 3],
            cardinality=32,
            base_width=4,
            block_args={"sk_kwargs": kernels},
            **options,
        )
    if library == "timm":
        return timm.create_model(name, **options)
    if library == "torchvision":
        return torchvision.models.get_model(name, weights=None, **options)
    return getattr(resnest.torch, name)(**options)


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
