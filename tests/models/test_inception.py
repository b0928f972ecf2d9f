"""The Inception nets keep the backbone contract, and are the nets that were published."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from builders import build, randomize_norms
from comparison import TOLERANCE, compare_function, compare_nets, give_weights
from contract import BackboneContract
from published import Pair, build_published
from torch import nn
from torch.nn import functional as F
from torchvision.ops import FrozenBatchNorm2d, StochasticDepth

from resnestkit import UserError
from resnestkit.models.attention import SqueezeExcite
from resnestkit.models.backbone import Backbone
from resnestkit.models.bn_inception import (
    STAGES,
    AveragePool,
    BNInception,
    InceptionModule,
    ceil_max_pool,
)
from resnestkit.models.cost import count_cost
from resnestkit.models.inception_resnet import InceptionResNetV2, MixedModule, ResidualModule
from resnestkit.models.layers import DropBlock, SyncBatchNorm, is_norm
from resnestkit.models.spec import NORM_POLICIES, InceptionSpec, NormPolicy
from resnestkit.models.zoo import find_net

BN = ("bn_inception", "se_bn_inception")
RESNET = ("inception_resnet_v2", "se_inception_resnet_v2")
GATES = {
    "3a": (256, 16),
    "3b": (320, 20),
    "3c": (576, 36),
    "4a": (576, 36),
    "4b": (576, 36),
    "4c": (608, 38),
    "4d": (608, 38),
    "4e": (1056, 66),
    "5a": (1024, 64),
    "5b": (1024, 64),
}
"""Channels and units of the gates, as in the authors' SE-BN-Inception.prototxt."""


SHUT = -200.0
"""A gate's bias at which its sigmoid is 0 in single precision."""


class FewBlocks(InceptionResNetV2):
    """Every kind of block, and of none more than two."""

    blocks = (2, 1, 2)


def shallow(name: str, **options: Any) -> Backbone:
    spec = find_net(name).spec
    assert isinstance(spec, InceptionSpec)
    return (BNInception if spec.form == "bn" else FewBlocks)(spec, **options)


class InceptionContract(BackboneContract):
    """What the two classes' contracts share."""

    @classmethod
    def build(cls, name: str, **options: Any) -> Backbone:
        return build(name, **options)

    @classmethod
    def build_shallow(cls, name: str, **options: Any) -> Backbone:
        return shallow(name, **options)

    def test_cost_is_the_tables(self, name: str) -> None:
        net = find_net(name)
        with torch.device("meta"):
            cost = count_cost(build(name), 3, net.size)
        assert cost.params == net.params
        assert round(cost.macs / 1e9, 3) == net.gmacs


class TestBNInception(InceptionContract):
    names = kinds = BN
    drop_path = 0.0

    @classmethod
    def expected_stages(cls, name: str) -> list[tuple[int, int]]:
        return [(192, 4), (320, 8), (608, 16), (1024, 32)]


class TestInceptionResNetV2(InceptionContract):
    names = kinds = RESNET
    costly = frozenset(RESNET)
    side = 108
    odd = (107, 123)

    @classmethod
    def expected_stages(cls, name: str) -> list[tuple[int, int]]:
        return [(192, 4), (320, 8), (1088, 16), (1536, 32)]

    @classmethod
    def expected_side(cls, name: str, side: int, stride: int) -> int:
        """3x3 windows without padding: five of stride 2, one more after each of the first two."""
        for reached in (2, 4, 8, 16, 32):
            if reached <= stride:
                side = (side - 1) // 2 - (2 if reached <= 4 else 0)
        return side


# --- BN-Inception -------------------------------------------------------------------------------


def test_gates_are_as_wide_as_in_the_authors_file() -> None:
    with torch.device("meta"):
        net = build("se_bn_inception")
    found = {
        name.removeprefix("inception_"): (part.se.fc1.in_channels, part.se.fc1.out_channels)
        for name, part in net.named_children()
        if isinstance(part, InceptionModule)
    }
    assert found == GATES
    assert [name for names in STAGES for name in names] == list(GATES)


@pytest.mark.parametrize("sides", [(8, 14), (2, 4), (112, 6)])
def test_pooling_is_caffes_where_sides_are_even(sides: tuple[int, int]) -> None:
    images = torch.randn(2, 3, *sides)
    assert torch.equal(ceil_max_pool(2)(images), F.max_pool2d(images, 3, 2, ceil_mode=True))


@pytest.mark.parametrize("side", [1, 3, 7, 15])
def test_pooling_of_odd_sides_fits_the_convolutions_beside_it(side: int) -> None:
    """Caffe's gives one row less; but for that row they agree."""
    images = torch.randn(2, 3, side, side)
    pooled = ceil_max_pool(2)(images)
    assert pooled.shape[2] == (side + 1) // 2
    if side > 1:
        caffes = F.max_pool2d(images, 3, 2, ceil_mode=True)
        assert caffes.shape[2] == side // 2
        assert torch.equal(pooled[:, :, :-1, :-1], caffes)


@pytest.mark.parametrize("dilation", [1, 2, 4])
def test_a_dilated_average_is_the_average_of_a_thinned_map(dilation: int) -> None:
    images = torch.randn(2, 3, 12, 12)
    thinned = F.avg_pool2d(images[:, :, ::dilation, ::dilation], 3, 1, 1)
    found = AveragePool(dilation)(images)[:, :, ::dilation, ::dilation]
    torch.testing.assert_close(found, thinned)


def test_bn_inception_has_no_shortcuts_for_stochastic_depth() -> None:
    with pytest.raises(UserError, match=r"no residual blocks to drop, but drop_path is 0\.1"):
        build("bn_inception", drop_path=0.1)


# --- Inception-ResNet-v2 ------------------------------------------------------------------------


@pytest.fixture
def theirs() -> nn.Module:
    """timm's Inception-ResNet-v2, whole and in float64."""
    name = RESNET[0]
    return build_published(Pair("timm", name, name), num_classes=7).double()


def test_inception_resnet_equals_timm(theirs: nn.Module) -> None:
    """The whole net: names, features, logits."""
    ours = build(RESNET[0], classes=7).double()
    give_weights(ours, theirs)
    images = torch.randn(1, 3, 151, 160, dtype=torch.float64)
    assert compare_function(ours, theirs, images) < TOLERANCE


def test_gradients_and_statistics_equal_timm(theirs: nn.Module) -> None:
    """Few blocks of each kind, in training."""
    ours = shallow(RESNET[0], classes=7, dropout=0.0).double()
    for name, blocks in zip(("repeat", "repeat_1", "repeat_2"), FewBlocks.blocks, strict=True):
        theirs.set_submodule(name, theirs.get_submodule(name)[:blocks])
    give_weights(ours, theirs)
    images = torch.randn(4, 3, 151, 160, dtype=torch.float64)
    assert compare_nets(ours, theirs, images).worst < TOLERANCE


def test_stochastic_depth_rises_to_the_last_block() -> None:
    with torch.device("meta"):
        net = build(RESNET[0], drop_path=0.39)
    rates = [part.p for part in net.modules() if isinstance(part, StochasticDepth)]
    assert rates == pytest.approx([0.01 * depth for depth in range(1, 40)])


def test_a_dropped_branch_leaves_its_shortcut() -> None:
    net = shallow(RESNET[1], drop_path=1.0)
    x = torch.rand(2, 2080, 3, 3)
    assert torch.equal(net.block8.train()(x), x)
    assert not torch.equal(net.block8.eval()(x), x)


def test_gates_are_of_every_residual_block_and_a_sixteenth_as_wide() -> None:
    with torch.device("meta"):
        net = build(RESNET[1])
    gated = [part for part in net.modules() if isinstance(part, ResidualModule)]
    assert len(gated) == 40
    units = {(part.se.fc1.in_channels, part.se.fc1.out_channels) for part in gated}
    assert units == {(320, 20), (1088, 68), (2080, 130)}
    assert sum(isinstance(part, SqueezeExcite) for part in net.modules()) == 40


@pytest.mark.parametrize(("output_stride", "least"), [(32, 75), (16, 43), (8, 27)])
def test_an_image_too_small_is_refused_in_a_sentence(output_stride: int, least: int) -> None:
    with torch.device("meta"):
        net = shallow(RESNET[0], output_stride=output_stride).eval()
        assert net.forward_features(torch.empty(1, 3, least, least))["stage4"].shape[2:] == (1, 1)
        with pytest.raises(UserError, match=f"{least}x{least - 1} is too small.*{least} or more"):
            net(torch.empty(1, 3, least, least - 1))


# --- Both ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [BN[1], RESNET[1]])
def test_every_gate_changes_the_output(name: str) -> None:
    net = shallow(name, classes=7).eval()
    images = torch.randn(2, 3, 107, 107)
    randomize_norms(net, images)
    with torch.no_grad():
        before = net(images)
        for gate in (part for part in net.modules() if isinstance(part, SqueezeExcite)):
            bias = gate.fc2.bias.clone()
            gate.fc2.bias.fill_(SHUT)
            assert (net(images) - before).abs().max() > 1e-3 * before.abs().max()
            gate.fc2.bias.copy_(bias)


@pytest.mark.parametrize(("gated", "plain"), [(BN[1], BN[0]), (RESNET[1], RESNET[0])])
def test_with_open_gates_it_is_the_net_without(gated: str, plain: str) -> None:
    one, other = shallow(gated, classes=7).eval(), shallow(plain, classes=7).eval()
    images = torch.randn(2, 3, 107, 107)
    randomize_norms(other, images)
    missing, unexpected = one.load_state_dict(other.state_dict(), strict=False)
    assert all(".se." in name for name in missing)
    assert not unexpected
    with torch.no_grad():
        _set_gates(one, -SHUT)
        torch.testing.assert_close(one(images), other(images), rtol=1e-4, atol=1e-4)


def test_a_shut_gate_silences_a_module_or_a_branch_and_no_shortcut() -> None:
    x = torch.rand(2, 320, 6, 6)
    with torch.no_grad():
        module, block = shallow(BN[1]).inception_3c, shallow(RESNET[1]).repeat[0]
        _set_gates(module, SHUT)
        _set_gates(block, SHUT)
        assert not module(x).any()
        assert torch.equal(block(x), x)


@pytest.mark.parametrize(("name", "side", "first"), [(BN[0], 64, 0), (RESNET[0], 139, 1)])
@pytest.mark.parametrize("output_stride", [8, 16])
def test_a_dilated_net_is_the_strided_one_at_more_places(
    name: str, side: int, first: int, output_stride: int
) -> None:
    """At every second pixel of a stage that strides no more are the strided net's features.

    Padded windows begin at the first pixel, unpadded ones around the second; with the gates, which
    squeeze the whole map, there is no such rule.
    """
    plain = shallow(name, classes=0).double().eval()
    dilated = shallow(name, classes=0, output_stride=output_stride).double().eval()
    images = torch.randn(1, 3, side, side, dtype=torch.float64)
    randomize_norms(plain, images)
    dilated.load_state_dict(plain.state_dict(), strict=True)
    with torch.no_grad():
        expected, found = plain.forward_features(images), dilated.forward_features(images)
    for strided, other in zip(plain.stages, dilated.stages, strict=True):
        step = strided.stride // other.stride
        start = first * (step - 1)
        thinned = found[other.name][:, :, start::step, start::step]
        high, wide = expected[strided.name].shape[2:]
        torch.testing.assert_close(thinned[:, :, :high, :wide], expected[strided.name])


@pytest.mark.parametrize("policy", NORM_POLICIES)
@pytest.mark.parametrize("name", [BN[1], RESNET[1]])
def test_every_norm_is_of_the_policy_and_has_the_nets_eps(name: str, policy: NormPolicy) -> None:
    types = {
        "batch": nn.BatchNorm2d,
        "sync": SyncBatchNorm,
        "frozen": FrozenBatchNorm2d,
        "group": nn.GroupNorm,
    }
    with torch.device("meta"):
        net, plain = shallow(name, norm=policy), shallow(name)
    norms = [part for part in net.modules() if is_norm(part)]
    assert {type(norm) for norm in norms} == {types[policy]}
    assert len(norms) == sum(map(is_norm, plain.modules()))
    assert {norm.eps for norm in norms} == {1e-5 if name in BN else 1e-3}
    assert net.norm_policy == policy


@pytest.mark.parametrize("policy", ["frozen", "group"])
@pytest.mark.parametrize("name", [BN[1], RESNET[1]])
def test_a_batch_of_one_trains(name: str, policy: NormPolicy) -> None:
    net = shallow(name, classes=7, norm=policy)
    images = torch.randn(1, 3, 107, 107)
    randomize_norms(net, images)
    F.cross_entropy(net.train()(images), torch.tensor([3])).backward()
    assert [key for key, weight in net.named_parameters() if not weight.grad.any()] == []


def test_drop_block_acts_in_the_last_two_stages() -> None:
    with torch.device("meta"):
        nets = [shallow(name, drop_block=0.1) for name in (BN[0], RESNET[0])]
    for net in nets:
        for level in net.levels:
            parts = [part for name in level.parts for part in net.get_submodule(name).modules()]
            kinds = InceptionModule | MixedModule | ResidualModule
            modules = [part for part in parts if isinstance(part, kinds)]
            drops = sum(isinstance(part, DropBlock) for part in parts)
            assert drops == (len(modules) if level in net.stages[2:] else 0)


def test_dropout_is_the_specs_unless_told_otherwise() -> None:
    with torch.device("meta"):
        assert build(RESNET[0]).drop.p == 0.2
        assert build(RESNET[0], dropout=0.0).drop.p == 0.0
        assert build(BN[0]).drop.p == 0.0


@pytest.mark.parametrize("name", [*BN, *RESNET])
def test_levels_are_the_whole_net_and_share_nothing(name: str) -> None:
    """So freezing all of them freezes all but the classifier."""
    with torch.device("meta"):
        net = shallow(name)
    parts = [part for level in net.levels for part in level.parts]
    assert parts == [part for part, _ in net.named_children() if part not in {"drop", net.head}]
    assert net.get_parameter(net.first_weight).shape[1] == net.in_channels
    assert net.get_submodule(net.head).out_features == net.classes


def test_the_stems_level_comes_before_its_pooling() -> None:
    with torch.device("meta"):
        net = build(BN[0]).eval()
        levels = net.forward_levels(torch.empty(1, 3, 65, 71))
    assert [(level.name, level.channels, level.stride) for level in net.levels[:2]] == [
        ("stem", 64, 2),
        ("stage1", 192, 4),
    ]
    assert list(levels) == ["stem", *net.stage_names]
    assert levels["stem"].shape == (1, 64, 33, 36)


def test_a_spec_of_the_other_form_is_refused() -> None:
    with pytest.raises(ValueError, match="form is 'resnet_v2'; this net is 'bn'"):
        BNInception(InceptionSpec("resnet_v2"))


def _set_gates(net: nn.Module, bias: float) -> None:
    for part in net.modules():
        if isinstance(part, SqueezeExcite):
            nn.init.zeros_(part.fc2.weight)
            nn.init.constant_(part.fc2.bias, bias)
