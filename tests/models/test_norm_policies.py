"""The norm policies: what each builds, and what training in a batch of one needs."""

from __future__ import annotations

import pytest
import torch
from builders import build_shallow, randomize_norms
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from resnestkit.models.layers import NORM_POLICIES, NormPolicy, SyncBatchNorm, is_norm

TYPES: dict[NormPolicy, type[nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "sync": SyncBatchNorm,
    "frozen": FrozenBatchNorm2d,
    "group": nn.GroupNorm,
}
ONE_OF_EACH = ["resnet18", "seresnext50_32x4d", "skresnet18", "sknet50", "resnest50"]


@pytest.mark.parametrize("policy", NORM_POLICIES)
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_every_norm_of_a_net_is_of_the_policy(name: str, policy: NormPolicy) -> None:
    with torch.device("meta"):
        net, plain = build_shallow(name, norm=policy), build_shallow(name)
    norms = [type(part) for part in net.modules() if is_norm(part)]
    assert set(norms) == {TYPES[policy]}
    assert len(norms) == sum(map(is_norm, plain.modules()))
    assert net.norm_policy == policy


@pytest.mark.parametrize("policy", ["frozen", "group"])
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_batch_of_one_trains(name: str, policy: NormPolicy) -> None:
    net = build_shallow(name, classes=7, norm=policy)
    images = torch.randn(1, 3, 64, 64)
    randomize_norms(net, torch.randn(3, 3, 64, 64))
    nn.functional.cross_entropy(net.train()(images), torch.tensor([3])).backward()
    for key, weight in net.named_parameters():
        assert weight.grad is not None, key
        assert torch.isfinite(weight.grad).all(), key
        assert weight.grad.any(), key


@pytest.mark.parametrize("name", ["resnest50", "sknet50"])
def test_a_batch_of_one_cannot_train_the_attention_under_batch_norm(name: str) -> None:
    """The attention's norm sees one 1x1 map: one value per channel, of which there is no variance.

    What a preflight has to find before the first step.
    """
    net = build_shallow(name, classes=7).train()
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        net(torch.randn(1, 3, 64, 64))


@pytest.mark.parametrize("name", ["resnet50", "seresnext50_32x4d"])
def test_a_batch_of_one_trains_under_batch_norm_where_no_norm_sees_1x1_maps(name: str) -> None:
    net = build_shallow(name, classes=7).train()
    assert torch.isfinite(net(torch.randn(1, 3, 64, 64))).all()


@pytest.mark.parametrize("policy", ["sync", "frozen"])
@pytest.mark.parametrize("name", ["resnest50", "sknet50"])
def test_batch_norm_weights_load_and_act_the_same(name: str, policy: NormPolicy) -> None:
    plain = build_shallow(name, classes=7).eval()
    randomize_norms(plain, torch.randn(3, 3, 64, 64))
    other = build_shallow(name, classes=7, norm=policy).eval()
    other.load_state_dict(plain.state_dict(), strict=True)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(other(images), plain(images), rtol=1e-4, atol=1e-4)


def test_frozen_norms_have_no_parameters_and_never_move() -> None:
    net = build_shallow("resnest50", norm="frozen").train()
    norms = [part for part in net.modules() if is_norm(part)]
    before = [norm.running_mean.clone() for norm in norms]
    net(torch.randn(2, 3, 64, 64))
    assert not any(list(norm.parameters()) for norm in norms)
    assert all(
        torch.equal(norm.running_mean, held) for norm, held in zip(norms, before, strict=True)
    )


def test_the_gate_of_a_group_normalised_net_sees_its_image() -> None:
    net = build_shallow("resnest50", norm="group").eval()
    randomize_norms(net, torch.randn(3, 3, 64, 64))
    gate = net.layer1[0].conv2
    first, second = gate.weights(torch.randn(2, 128, 8, 8)).unbind(0)
    assert (first - second).abs().max() > 1e-3


def test_zero_gamma_spares_frozen_norms_where_the_zero_could_never_be_unlearnt() -> None:
    net = build_shallow("resnest50", classes=7, norm="frozen", zero_gamma=True)
    net(torch.randn(2, 3, 64, 64)).sum().backward()
    silent = [name for name, weight in net.named_parameters() if not weight.grad.any()]
    assert silent == []
