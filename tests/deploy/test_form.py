"""The deploy form against the net that it was made of, in float64: nothing but rounding differs."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from builders import build, randomize_norms
from torch import Tensor, nn

from resnestkit.deploy.form import SplitGate, UnrolledBottleneck, make_deploy_form
from resnestkit.models.layers import DropBlock, is_norm
from resnestkit.models.resnet import ResNet
from resnestkit.models.spec import NetSpec
from resnestkit.models.zoo import TABLE, find_net
from resnestkit.segmenters import create_segmenter

ODD = (33, 41)
LAYERS = (1, 2)
"""A first stage; a stage that strides; and a block that does not begin a stage."""


def two_stages(name: str) -> NetSpec:
    """The spec of a residual net with every kind of its blocks, in two stages."""
    spec = find_net(name).spec
    assert isinstance(spec, NetSpec)
    return replace(spec, layers=LAYERS, widths=spec.widths[: len(LAYERS)])


def list_kinds() -> list[str]:
    """Residual nets that differ in more than depth; scripts/check_forms.py takes all, and whole."""
    found: dict[object, str] = {}
    for net in TABLE:
        if isinstance(net.spec, NetSpec):
            found.setdefault(two_stages(net.name), net.name)
    return list(found.values())


def build_shallow(name: str, **options: Any) -> ResNet:
    return ResNet(two_stages(name), **options)


def make_alive(model: nn.Module, channels: int = 3, side: int = 48) -> nn.Module:
    """The model in float64 and in evaluation, its norms as if it were trained."""
    model = model.double()
    randomize_norms(model, torch.randn(2, channels, side, side, dtype=torch.float64))
    return model.eval()


def differ(model: nn.Module, form: nn.Module, images: Tensor) -> float:
    """The largest difference, as a share of the largest output."""
    with torch.no_grad():
        expected, found = model(images), form(images)
    assert found.shape == expected.shape
    assert float(expected.abs().max()) > 0
    return float((found - expected).abs().max() / expected.abs().max())


def norms_of(model: nn.Module) -> list[nn.Module]:
    return [part for part in model.modules() if is_norm(part)]


def check(
    model: nn.Module, channels: int = 3, sides: tuple[int, int] = ODD, side: int = 48
) -> nn.Module:
    """The form of a model, which must agree with it on a batch of odd size."""
    form = make_deploy_form(make_alive(model, channels, side), channels)
    images = torch.randn(3, channels, *sides, dtype=torch.float64)
    assert differ(model, form, images) < 1e-12
    assert not norms_of(form)
    assert not any(weight.requires_grad for weight in form.parameters())
    return form


@pytest.mark.parametrize("name", list_kinds())
def test_every_kind_of_net_keeps_its_function(name: str) -> None:
    form = check(build_shallow(name, classes=7))
    unrolled = sum(isinstance(part, UnrolledBottleneck) for part in form.modules())
    assert unrolled == (sum(LAYERS) if two_stages(name).radix > 1 else 0)


def test_inceptions_keep_their_function() -> None:
    check(build("se_bn_inception", classes=7))
    check(build("se_inception_resnet_v2", classes=7), sides=(75, 77), side=80)


@pytest.mark.parametrize(
    "options",
    [
        {"output_stride": 8},
        {"output_stride": 16},
        {"norm": "frozen"},
        {"norm": "sync"},
        {"in_channels": 1},
        {"in_channels": 5, "classes": 0},
        {"drop_path": 0.3, "drop_block": 0.2, "dropout": 0.4},
    ],
    ids=str,
)
def test_options_keep_their_function(options: dict[str, Any]) -> None:
    model = build_shallow("resnest14", **{"classes": 7, **options})
    form = check(model, options.get("in_channels", 3))
    dead = (nn.Dropout, DropBlock)
    assert not any(isinstance(part, dead) for part in form.modules())


def test_norms_that_see_the_image_stay() -> None:
    """Group norms have no statistics to fold, and what is around them is left as it was."""
    model = make_alive(build_shallow("resnest14", classes=7, norm="group"))
    form = make_deploy_form(model)
    images = torch.randn(3, 3, *ODD, dtype=torch.float64)
    assert differ(model, form, images) < 1e-12
    assert len(norms_of(form)) == len(norms_of(model)) > 0


def test_a_segmenter_keeps_its_function() -> None:
    check(create_segmenter("deeplabv3", "resnest14", classes=5, settings="light", auxiliary=False))


def test_no_convolution_of_one_cardinal_group_is_grouped() -> None:
    """What no runtime computes in int8: grouped convolutions. Cardinality's own stay."""
    form = make_deploy_form(build_shallow("resnest14"))
    assert {part.groups for part in form.modules() if isinstance(part, nn.Conv2d)} == {1}
    form = make_deploy_form(build_shallow("resnest50_fast_4s2x40d"))
    assert {part.groups for part in form.modules() if isinstance(part, nn.Conv2d)} == {1, 2}


def test_a_gate_of_two_splits_is_one_layer_and_of_more_one_each() -> None:
    for name, layers in (("resnest14", 1), ("resnest50_fast_4s1x64d", 4)):
        form = make_deploy_form(build_shallow(name))
        gates = [part for part in form.modules() if isinstance(part, SplitGate)]
        assert gates
        assert {len(gate.fc2) for gate in gates} == {layers}


def test_the_net_is_left_as_it_was() -> None:
    model = build_shallow("resnest14", classes=7).train()
    before = copy.deepcopy(model.state_dict())
    form = make_deploy_form(model)
    assert model.training
    assert not form.training
    assert all(weight.requires_grad for weight in model.parameters())
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("layer", ["fc2.0", "fc1"])
def test_the_comparison_sees_a_wrong_gate(layer: str) -> None:
    model = make_alive(build_shallow("resnest14", classes=7))
    form = make_deploy_form(model)
    gate = next(part for part in form.modules() if isinstance(part, SplitGate))
    weight = gate.get_parameter(f"{layer}.weight")
    weight.data.mul_(1.01)
    assert differ(model, form, torch.randn(3, 3, *ODD, dtype=torch.float64)) > 1e-7
