"""The small parts: rounding, norms, stems, DropBlock and stochastic depth by themselves."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.layers import make_divisible
from torch import nn

from resnestkit.models.layers import (
    DropBlock,
    conv,
    drop_block,
    group_norm,
    is_norm,
    make_pool,
    make_stem,
    norm_factory,
    round_channels,
    set_drop_block,
    stochastic_depth,
)
from resnestkit.models.spec import NetSpec


@given(st.floats(0.1, 4096), st.sampled_from([1, 8, 16, 32]))
def test_channels_are_rounded_as_timm_rounds_them(channels: float, divisor: int) -> None:
    rounded = round_channels(channels, divisor)
    assert rounded == make_divisible(channels, divisor)
    assert rounded % divisor == 0
    assert rounded >= max(divisor, 0.9 * channels)


@given(st.integers(1, 4096))
def test_a_group_norm_divides_its_channels_into_few_groups_of_many(channels: int) -> None:
    norm = group_norm(channels)
    assert channels % norm.num_groups == 0
    assert norm.num_groups <= 32
    assert norm.num_groups == 1 or channels // norm.num_groups >= 16


@pytest.mark.parametrize(("channels", "groups"), [(32, 2), (64, 4), (512, 32), (2048, 32), (24, 1)])
def test_group_norm_takes_as_many_groups_as_it_may(channels: int, groups: int) -> None:
    assert group_norm(channels).num_groups == groups


def test_group_norm_leaves_something_of_the_attentions_1x1_maps() -> None:
    """A norm over one value is the constant 0, and would make the gate blind."""
    out = group_norm(32)(torch.randn(1, 32, 1, 1))
    assert out.abs().max() > 0.1


@pytest.mark.parametrize("policy", ["batch", "sync", "frozen", "group"])
def test_is_norm_knows_every_policys_norm(policy: str) -> None:
    assert is_norm(norm_factory(policy)(32))


def test_is_norm_knows_nothing_else() -> None:
    assert not any(map(is_norm, (nn.Conv2d(1, 1, 1), nn.Identity(), nn.Linear(1, 1), nn.ReLU())))


def test_an_unknown_norm_policy_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'layer'.*batch, sync, frozen, group"):
        norm_factory("layer")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("stem", "convolutions", "side"), [("7x7", 1, 32), ("deep", 3, 32), ("small", 1, 64)]
)
def test_a_stem_has_the_strides_and_channels_of_its_spec(
    stem: str, convolutions: int, side: int
) -> None:
    spec = NetSpec((1, 1, 1, 1), stem=stem, stem_width=16)  # type: ignore[arg-type]
    made = make_stem(spec, 3, norm_factory("batch"))
    assert sum(isinstance(part, nn.Conv2d) for part in made.modules()) == convolutions
    assert made(torch.randn(1, 3, 64, 64)).shape == (1, spec.stem_channels, side, side)


@pytest.mark.parametrize(
    ("pool", "side", "pooled"),
    [
        ("max", 32, 16),
        ("max", 33, 17),
        ("max_ceil", 32, 16),
        ("max_ceil", 33, 16),
        ("none", 33, 33),
    ],
)
def test_pooling_rounds_as_its_library_does(pool: str, side: int, pooled: int) -> None:
    made = make_pool(NetSpec((1, 1, 1, 1), pool=pool))  # type: ignore[arg-type]
    assert made(torch.randn(1, 2, side, side)).shape == (1, 2, pooled, pooled)


# --- DropBlock ----------------------------------------------------------------------------------


@pytest.mark.parametrize("probability", [0.1, 0.3])
@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (3, 3), (2, 5), (14, 14), (4, 20)])
def test_drop_block_zeroes_about_its_share_of_any_map(
    shape: tuple[int, int], probability: float
) -> None:
    """A little less where blocks overlap; torchvision's own module refuses a side of two."""
    out = DropBlock(probability, 3).train()(torch.ones(64, 64, *shape))
    zeroed = (out == 0).float().mean().item()
    assert 0.7 * probability < zeroed < 1.15 * probability
    assert out.mean().item() == pytest.approx(1.0, abs=0.01)


def test_drop_block_zeroes_squares() -> None:
    out = DropBlock(0.02, 3).train()(torch.ones(1, 8, 20, 20))
    zeros = (out == 0).float()
    alone = nn.functional.conv2d(zeros.view(8, 1, 20, 20), torch.ones(1, 1, 3, 3), padding=1)
    assert zeros.any()
    assert (alone.view_as(zeros)[zeros == 1] >= 4).all(), "a zero has neighbours in its block"


def test_drop_block_is_nothing_in_evaluation_or_at_probability_zero() -> None:
    x = torch.randn(2, 3, 8, 8)
    assert DropBlock(0.5, 3).eval()(x) is x
    assert DropBlock(0.0, 3).train()(x) is x
    assert isinstance(drop_block(0.0), nn.Identity)


def test_set_drop_block_reaches_every_drop_block_below() -> None:
    net = nn.Sequential(drop_block(0.1), nn.Sequential(drop_block(0.2)), nn.Dropout(0.7)).train()
    set_drop_block(net, 0.0)
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(net[:2](x), x)
    set_drop_block(net, 1.0)
    assert not net[0](x[..., :3, :3]).any()
    assert net[2].p == 0.7


# --- Stochastic depth -------------------------------------------------------------------------


def test_stochastic_depth_drops_whole_images_and_keeps_the_mean() -> None:
    out = stochastic_depth(0.25).train()(torch.ones(4000, 2, 1, 1)).flatten(1)
    assert torch.equal(out[:, 0], out[:, 1])
    assert (out == 0).float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert out.mean().item() == pytest.approx(1.0, abs=0.04)
    assert isinstance(stochastic_depth(0.0), nn.Identity)


@pytest.mark.parametrize(("channels", "groups", "side"), [(16, 2, 32), (64, 64, 32), (128, 32, 56)])
def test_grouped_dilated_weights_learn_in_bfloat16(channels: int, groups: int, side: int) -> None:
    layer = conv(channels, channels, 3, dilation=2, groups=groups)
    layer.to(memory_format=torch.channels_last)
    x = torch.randn(2, channels, side, side).contiguous(memory_format=torch.channels_last)
    gradient = torch.randn(2, channels, side, side)
    exact = torch.autograd.grad(layer(x), layer.weight, gradient)[0]
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
    assert out.is_contiguous(memory_format=torch.channels_last)
    found = torch.autograd.grad(
        out, layer.weight, gradient.to(out.dtype).contiguous(memory_format=torch.channels_last)
    )[0]
    assert float((found - exact).norm() / exact.norm()) < 0.02
