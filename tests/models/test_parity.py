"""Ours against the libraries that published the nets: names of every one, outputs of one of each.

`scripts/parity.py` compares every one, at its whole depth, and writes the table down.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import resnest.torch
import timm
import torch
import torchvision
from builders import FEW_BLOCKS, build, build_shallow
from comparison import TOLERANCE, compare_function, compare_nets, give_weights
from published import (
    UNPUBLISHED,
    Pair,
    build_official,
    build_published,
    build_torchvision,
    pairs,
)
from torch import Tensor, nn

from resnestkit.models.zoo import TABLE, find_net, list_models
from resnestkit.weights.names import to_ours

CLASSES = 7


@pytest.mark.parametrize("pair", list(pairs()), ids=str)
def test_state_dict_names_and_shapes_are_the_published_ones(pair: Pair) -> None:
    with torch.device("meta"):
        our_state = build(pair.ours).state_dict()
        their_state = to_ours(build_published(pair).state_dict())[0]
    assert _shapes(our_state) == _shapes(their_state)


def test_every_net_has_a_peer_but_the_small_ones_and_those_listed() -> None:
    alone = UNPUBLISHED | set(list_models("*_small"))
    assert alone < set(list_models())
    assert {pair.ours for pair in pairs()} == set(list_models()) - alone


def test_no_library_has_a_net_of_ours_that_is_not_compared() -> None:
    compared = {(pair.library, pair.theirs) for pair in pairs()}
    names = [name for net in TABLE for name in (net.name, *net.aliases)]
    offered = {("timm", name) for name in names if timm.is_model(name)}
    offered |= {("torchvision", n) for n in names if n in torchvision.models.list_models()}
    offered |= {("resnest", name) for name in names if hasattr(resnest.torch, name)}
    assert offered <= compared


def test_an_alias_is_the_name_of_the_net_that_it_is_compared_with() -> None:
    renamed = [pair for pair in pairs() if pair.theirs not in list_models()]
    assert renamed
    assert all(find_net(pair.theirs).name == pair.ours for pair in renamed)


@pytest.mark.parametrize("output_stride", [32, 16, 8])
@pytest.mark.parametrize("name", ["resnest50", "resnest50_fast_4s2x40d"])
def test_resnest_equals_the_authors_code_at_every_output_stride(
    name: str, output_stride: int
) -> None:
    ours = build(name, classes=CLASSES, output_stride=output_stride).double()
    theirs = build_published(Pair("resnest", name, name), output_stride, num_classes=CLASSES)
    give_weights(ours, theirs.double())
    assert compare_function(ours, theirs, _images(2, 64, 64)) < TOLERANCE


SHALLOW_PAIRS: dict[str, Callable[[], nn.Module]] = {
    "resnet50": lambda: build_torchvision(FEW_BLOCKS, num_classes=CLASSES),
    **{
        name: lambda theirs=theirs, layers=layers: _build_timm(theirs, layers=list(layers))
        for name, theirs, layers in [
            ("resnet18", "resnet18", FEW_BLOCKS),
            ("resnet50d", "resnet50d", FEW_BLOCKS),
            ("seresnext50_32x4d", "seresnext50_32x4d", FEW_BLOCKS),
            ("skresnet18", "skresnet18", FEW_BLOCKS),
            ("skresnet50d", "skresnet50d", FEW_BLOCKS),
            ("sknet50", "skresnext50_32x4d", FEW_BLOCKS),
            ("resnest14", "resnest14d", (1, 1, 1, 1)),
            ("resnest50_fast_1s4x24d", "resnest50d_1s4x24d", FEW_BLOCKS),
        ]
    },
    "resnest50": lambda: build_official(FEW_BLOCKS, num_classes=CLASSES),
    "resnest50_fast_4s2x40d": lambda: build_official(
        FEW_BLOCKS,
        num_classes=CLASSES,
        radix=4,
        groups=2,
        bottleneck_width=40,
        avd_first=True,
    ),
    "resnest50_fast_1s1x64d": lambda: build_official(
        FEW_BLOCKS, num_classes=CLASSES, radix=1, avd_first=True
    ),
}


@pytest.mark.parametrize("name", SHALLOW_PAIRS)
def test_outputs_gradients_and_statistics_equal_the_published_code(name: str) -> None:
    ours = build_shallow(name, classes=CLASSES, dropout=0.0).double()
    theirs = SHALLOW_PAIRS[name]().double()
    give_weights(ours, theirs)
    assert compare_nets(ours, theirs, _images(4, 65, 71)).worst < TOLERANCE


def test_a_net_that_differs_a_little_is_told_apart() -> None:
    """The comparison itself can fail: one stride in the other place is enough."""
    ours = build_shallow("resnet50a", classes=CLASSES).double()
    theirs = build_torchvision(FEW_BLOCKS, num_classes=CLASSES).double()
    give_weights(ours, theirs)
    found = compare_nets(ours, theirs, _images(4, 65, 71))
    for value in (found.features, found.logits, found.training, found.gradients, found.statistics):
        assert value > 1e-3


def test_dilated_resnet_equals_torchvision() -> None:
    ours = build_shallow("resnet50", classes=CLASSES, output_stride=8).double()
    theirs = build_torchvision(
        FEW_BLOCKS, num_classes=CLASSES, replace_stride_with_dilation=[False, True, True]
    ).double()
    give_weights(ours, theirs)
    assert compare_nets(ours, theirs, _images(4, 65, 71)).worst < TOLERANCE


def test_strided_and_dilated_3x3_shortcuts_equal_timm() -> None:
    ours = build_shallow("senet154", classes=CLASSES, output_stride=8, dropout=0.0).double()
    theirs = _build_timm("senet154", layers=list(FEW_BLOCKS), output_stride=8).double()
    give_weights(ours, theirs)
    assert compare_nets(ours, theirs, _images(4, 64, 64)).worst < TOLERANCE


def _build_timm(name: str, **options: Any) -> nn.Module:
    return build_published(Pair("timm", name, name), num_classes=CLASSES, **options)


def _images(count: int, height: int, width: int) -> Tensor:
    return torch.randn(count, 3, height, width, dtype=torch.float64)


def _shapes(state: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in state.items()}
