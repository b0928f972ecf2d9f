"""Every residual net of the table keeps the backbone contract, and costs what its row says."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from builders import build, build_shallow, shallow_spec
from contract import BackboneContract
from torch import nn

from resnestkit.models.backbone import Backbone
from resnestkit.models.blocks import ResidualBlock
from resnestkit.models.cost import count_cost
from resnestkit.models.resnet import ResNet
from resnestkit.models.spec import NetSpec
from resnestkit.models.zoo import TABLE, find_net, list_models

RESNETS = tuple(net for net in TABLE if isinstance(net.spec, NetSpec))
BASIC = {"resnet18", "resnet34", "skresnet18", "skresnet34"}
ONE_OF_EACH = ["resnet18", "resnet50a", "seresnext50_32x4d", "skresnet18", "sknet50", "resnest50"]
"""A net of each block class, with each attention."""


class TestResNet(BackboneContract):
    """The whole table but the Inception nets, whose class is another."""

    names = tuple(net.name for net in RESNETS)
    kinds = tuple({shallow_spec(net.name): net.name for net in reversed(RESNETS)}.values())[::-1]
    costly = frozenset(net.name for net in RESNETS if net.params > 60e6)

    @classmethod
    def build(cls, name: str, **options: Any) -> Backbone:
        return build(name, **options)

    @classmethod
    def build_shallow(cls, name: str, **options: Any) -> ResNet:
        return build_shallow(name, **options)

    @classmethod
    def expected_stages(cls, name: str) -> list[tuple[int, int]]:
        if name in BASIC:
            return [(64, 4), (128, 8), (256, 16), (512, 32)]
        if name.endswith("_small"):
            return [(64, 1), (128, 2), (256, 4), (512, 8)]
        return [(256, 4), (512, 8), (1024, 16), (2048, 32)]

    @classmethod
    def expected_side(cls, name: str, side: int, stride: int) -> int:
        """Nets that come from Caffe pool without padding: after the stem, halves round down."""
        if find_net(name).spec.pool == "max_ceil":
            return math.ceil(math.ceil(side / 2) // 2 / (stride // 4))
        return super().expected_side(name, side, stride)

    def test_cost_is_the_tables(self, name: str) -> None:
        net = find_net(name)
        with torch.device("meta"):
            cost = count_cost(build(name, classes=net.classes), 3, net.size)
        assert cost.params == net.params
        digits = 4 if net.is_small else 3
        assert round(cost.macs / 1e9, digits) == pytest.approx(net.gmacs, abs=10.0**-digits)


@pytest.mark.parametrize("name", [*ONE_OF_EACH, *list_models("*_small")])
def test_zero_gamma_makes_a_new_net_its_shortcuts(name: str) -> None:
    net = build_shallow(name, zero_gamma=True).eval()
    blocks = [part for part in net.modules() if isinstance(part, ResidualBlock)]
    assert len(blocks) == sum(shallow_spec(name).layers)
    assert not any(block.last_norm.weight.any() for block in blocks)
    with torch.no_grad():
        x = net.stem(torch.randn(1, 3, 64, 64))
        for block in blocks:
            shortcut = x if block.downsample is None else block.downsample(x)
            out = block(x)
            assert torch.equal(out, torch.relu(shortcut))
            x = out


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_convolutions_are_drawn_with_variance_two_over_fan_out(name: str) -> None:
    """As the authors draw them: the fan-out ignores groups."""
    net = build_shallow(name)
    for part in net.modules():
        if isinstance(part, nn.Conv2d) and part.weight.numel() > 10_000:
            fan_out = part.out_channels * part.kernel_size[0] * part.kernel_size[1]
            assert part.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.05)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_without_zero_gamma_every_last_norm_starts_at_one(name: str) -> None:
    net = build_shallow(name, zero_gamma=False)
    blocks = [part for part in net.modules() if isinstance(part, ResidualBlock)]
    assert all((block.last_norm.weight == 1).all() for block in blocks)


def test_dropout_is_the_specs_unless_told_otherwise() -> None:
    with torch.device("meta"):
        assert build_shallow("resnest269").drop.p == 0.2
        assert build_shallow("resnest269", dropout=0.0).drop.p == 0.0
        assert build_shallow("resnest50").drop.p == 0.0


def test_dropout_acts_on_the_features_of_the_classifier() -> None:
    net = build_shallow("resnet18", classes=0, dropout=0.5)
    features = net.eval()(torch.randn(4, 3, 64, 64))
    dropped = net.drop.train()(features)
    assert (dropped == 0).float().mean() - (features == 0).float().mean() > 0.2


def test_classes_zero_gives_the_mean_of_the_last_stage() -> None:
    net = build_shallow("resnest50", classes=0).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        last = net.forward_features(images)["layer4"]
        assert torch.allclose(net(images), last.mean((2, 3)))


@pytest.mark.parametrize("stages", [0, 1, 4])
def test_freeze_takes_the_stem_and_so_many_stages(stages: int) -> None:
    net = build_shallow("resnest50")
    net.freeze(stages)
    frozen = {"conv1", "bn1", *net.stage_names[:stages]}
    for name, weight in net.named_parameters():
        assert weight.requires_grad == (name.split(".")[0] not in frozen), name


@pytest.mark.parametrize("stages", [-1, 5])
def test_freeze_refuses_stages_that_are_not_there(stages: int) -> None:
    with pytest.raises(ValueError, match=f"cannot freeze {stages} of 4 stages"):
        build_shallow("resnet18").freeze(stages)


def test_freeze_holds_statistics_after_train_is_called_again() -> None:
    net = build_shallow("resnet18").train()
    net.freeze(1)
    before = {key: value.clone() for key, value in net.state_dict().items() if "running" in key}
    net.eval()
    net.train()(torch.randn(2, 3, 64, 64))
    for key, value in before.items():
        held = key.startswith(("bn1", "layer1"))
        assert torch.equal(value, net.state_dict()[key]) == held, key


def test_freezing_less_thaws_the_rest() -> None:
    net = build_shallow("resnet18").train()
    net.freeze(2)
    net.freeze(1)
    assert not any(weight.requires_grad for weight in net.layer1.parameters())
    assert all(weight.requires_grad for weight in net.layer2.parameters())
    assert net.layer2[0].bn1.training


def test_freeze_keeps_the_mode_it_was_called_in() -> None:
    net = build_shallow("resnet18").eval()
    net.freeze(2)
    assert not any(part.training for part in net.modules())


@pytest.mark.parametrize("output_stride", [4, 64])
def test_an_output_stride_that_is_none_of_the_three_is_refused(output_stride: int) -> None:
    with pytest.raises(ValueError, match="8, 16 or 32"):
        ResNet(NetSpec((1, 1, 1, 1)), output_stride=output_stride)


def test_a_net_of_three_stages_is_a_spec_away() -> None:
    spec = NetSpec((1, 1, 1), widths=(16, 32, 64), stem="small", stem_width=16, pool="none")
    net = ResNet(spec, classes=3).eval()
    assert [(stage.name, stage.channels, stage.stride) for stage in net.stages] == [
        ("layer1", 64, 1),
        ("layer2", 128, 2),
        ("layer3", 256, 4),
    ]
    assert net(torch.randn(1, 3, 8, 8)).shape == (1, 3)
