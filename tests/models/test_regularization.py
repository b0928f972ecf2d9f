"""DropBlock and stochastic depth act in the nets, where they should and nowhere else."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from builders import build_shallow, shallow_spec
from torch import Tensor

from resnestkit.models.blocks import ResidualBlock
from resnestkit.models.layers import DropBlock, set_drop_block
from resnestkit.models.resnet import ResNet
from resnestkit.models.spec import NetSpec

ONE_OF_EACH = ["resnet18", "seresnext50_32x4d", "skresnet18", "sknet50", "resnest50"]
EARLY, LATE = ("layer1", "layer2"), ("layer3", "layer4")


def _twins(name: str, **options: float) -> tuple[ResNet, ResNet]:
    """A net without and one with the options, of the same weights, both in training."""
    plain = build_shallow(name, classes=7, zero_gamma=False)
    acting = build_shallow(name, classes=7, zero_gamma=False, **options)
    acting.load_state_dict(plain.state_dict(), strict=True)
    return plain.train(), acting.train()


def _blocks(net: ResNet) -> list[ResidualBlock]:
    return [part for part in net.modules() if isinstance(part, ResidualBlock)]


def _last_block(net: ResNet, images: Tensor) -> tuple[Tensor, Tensor]:
    """What the last block put out, and the relu of its shortcut."""
    block = _blocks(net)[-1]
    seen: list[Tensor] = []
    block.register_forward_pre_hook(lambda _block, inputs: seen.append(inputs[0].clone()))
    with torch.no_grad():
        out = net.forward_features(images)["layer4"]
        shortcut = seen[0] if block.downsample is None else block.downsample(seen[0])
    return out, torch.relu(shortcut)


@pytest.mark.parametrize("has_downsample", [False, True])
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_stochastic_depth_drops_the_residual_and_never_the_shortcut(
    name: str, has_downsample: bool
) -> None:
    spec = replace(shallow_spec(name), layers=(1, 1, 1, 1 if has_downsample else 2))
    dropping = ResNet(spec, classes=7, drop_path=1.0, zero_gamma=False).train()
    keeping = ResNet(spec, classes=7, drop_path=0.0, zero_gamma=False).train()
    assert (_blocks(dropping)[-1].downsample is not None) == has_downsample
    images = torch.randn(2, 3, 64, 64)
    out, shortcut = _last_block(dropping, images)
    assert shortcut.any()
    assert torch.equal(out, shortcut)
    out, shortcut = _last_block(keeping, images)
    assert not torch.allclose(out, shortcut)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_stochastic_depth_drops_some_images_of_a_batch(name: str) -> None:
    net = build_shallow(name, classes=7, drop_path=0.5, zero_gamma=False).train()
    out, shortcut = _last_block(net, torch.randn(24, 3, 32, 32))
    dropped = (out == shortcut).flatten(1).all(1)
    assert 4 <= int(dropped.sum()) <= 20


def test_stochastic_depth_rises_linearly_with_depth() -> None:
    with torch.device("meta"):
        net = ResNet(NetSpec((2, 1, 1, 1)), drop_path=0.2)
    probabilities = [getattr(block.drop_path, "p", 0.0) for block in _blocks(net)]
    assert probabilities == pytest.approx([0.0, 0.05, 0.1, 0.15, 0.2])


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_drop_block_acts_in_the_last_two_stages_alone(name: str) -> None:
    plain, acting = _twins(name, drop_block=0.1)
    images = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        expected, features = plain.forward_features(images), acting.forward_features(images)
    assert all(torch.equal(features[stage], expected[stage]) for stage in EARLY)
    assert not any(torch.equal(features[stage], expected[stage]) for stage in LATE)


@pytest.mark.parametrize("side", [64, 96])
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_drop_block_zeroes_about_its_share_in_every_late_block(name: str, side: int) -> None:
    """The last stages' maps are 4x4 and 2x2, or 6x6 and 3x3."""
    _, net = _twins(name, drop_block=0.2)
    shares: dict[str, float] = {}
    for part_name, part in net.named_modules():
        if isinstance(part, DropBlock):
            part.register_forward_hook(
                lambda _part, _inputs, out, key=part_name: shares.update(
                    {key: (out == 0).float().mean().item()}
                )
            )
    with torch.no_grad():
        net(torch.randn(4, 3, side, side))
    assert all(0.12 < share < 0.24 for share in shares.values()), shares
    blocks = {f"{stage}.{i}" for stage in LATE for i in range(len(net.get_submodule(stage)))}
    assert {".".join(key.split(".")[:2]) for key in shares} == blocks


def test_a_schedule_sets_the_probability_of_drop_block() -> None:
    plain, acting = _twins("resnest50", drop_block=0.1)
    images = torch.randn(2, 3, 64, 64)
    set_drop_block(acting, 0.0)
    with torch.no_grad():
        assert torch.equal(acting(images), plain(images))
        set_drop_block(acting, 0.9)
        assert not torch.equal(acting(images), plain(images))
    assert {part.p for part in acting.modules() if isinstance(part, DropBlock)} == {0.9}


@pytest.mark.parametrize("option", ["drop_path", "drop_block", "dropout"])
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_regularisers_differ_by_seed_and_are_silent_in_evaluation(name: str, option: str) -> None:
    plain, acting = _twins(name, **{option: 0.5})
    images = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        torch.manual_seed(1)
        first = acting(images)
        torch.manual_seed(2)
        second = acting(images)
        assert not torch.equal(first, second)
        plain.load_state_dict(acting.state_dict())
        assert torch.equal(acting.eval()(images), plain.eval()(images))


def test_drop_block_acts_on_maps_of_one_pixel() -> None:
    plain, acting = _twins("resnet50", drop_block=0.5)
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        features, expected = acting.forward_features(images), plain.forward_features(images)
    assert features["layer4"].shape[-2:] == (1, 1)
    assert not torch.equal(features["layer4"], expected["layer4"])
    assert torch.isfinite(features["layer4"]).all()
