"""Forcing: what it says is what it does, and nothing is left of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from explained import NETS, make_heads, make_net, see

from resnestkit import UserError
from resnestkit.explain import find_sites, force, watch
from resnestkit.explain.forcing import Replay, force_rows
from resnestkit.explain.sites import body_units


@pytest.mark.parametrize("name", NETS)
def test_forcing_to_what_was_observed_changes_nothing(name: str) -> None:
    net, images = make_net(name), torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        before = net(images)
        for block, one in see(net, images).items():
            for split in range(one.grid.shape[2]):
                with force(net, split, one.grid[0, :, split], block):
                    assert torch.allclose(net(images), before, atol=1e-4), (block, split)


def test_the_other_splits_share_the_rest_as_they_did() -> None:
    net, images = make_heads(radix=3), torch.randn(2, 3, 24, 24)
    before = see(net, images)["layer1.0"].grid
    with force(net, 1, 0.25, "layer1.0"):
        after = see(net, images)["layer1.0"].grid
    assert np.allclose(after[:, :, 1], 0.25, atol=1e-6)
    assert np.allclose(after.sum(2), 1, atol=1e-6)
    assert np.allclose(
        after[:, :, 0] / after[:, :, 2], before[:, :, 0] / before[:, :, 2], rtol=1e-3
    )
    with force(net, 1, 1.0):
        assert np.array_equal(see(net, images)["layer2.0"].grid[:, :, 0], np.zeros((2, 2, 48)))


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", NETS)
def test_forcing_equals_a_direct_computation(name: str, value: float) -> None:
    """What the attention puts out is the sum of its branches, each times its forced weight."""
    net, images = make_net(name), torch.randn(1, 3, 32, 32)
    site = find_sites(net)[1]
    outputs: list[torch.Tensor] = []
    maps: list[torch.Tensor] = []
    site.module.register_forward_hook(lambda _m, _i, out: outputs.append(out))
    names = {"split": ["bn0"], "sk": ["paths.0", "paths.1"], "se": []}[site.kind]
    for part in names:
        layer = site.module.get_submodule(part)
        layer.register_forward_hook(lambda _m, _i, out: maps.append(out.clone().relu()))
    if site.kind == "se":
        site.module.register_forward_pre_hook(lambda _m, given: maps.append(given[0]))
    with torch.no_grad(), force(net, 0, value, site.block):
        net(images)
    joined = torch.cat(maps, 1)
    first, *others = joined.chunk(site.splits, 1)
    expected = value * first + sum((1 - value) * other for other in others)
    assert torch.allclose(outputs[0], expected, atol=1e-5)


def test_forcing_is_undone_after_an_error_too() -> None:
    net, images = make_net(), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        before = net(images)
        with force(net, 0, 0.0):
            assert not torch.allclose(net(images), before, atol=1e-3)
        assert torch.equal(net(images), before)
        with pytest.raises(RuntimeError, match="on purpose"), force(net, 0, 0.0):
            raise RuntimeError("on purpose")
        assert torch.equal(net(images), before)
    assert not any(part._forward_hooks for part in net.modules())


@pytest.mark.parametrize("name", [*NETS, "se_bn_inception", "resnest14"])
def test_a_replay_is_the_whole_run(name: str) -> None:
    """Each row of a replay equals a run of the whole net with that choice alone."""
    net, image = make_net(name).double(), torch.randn(1, 3, 64, 64, dtype=torch.float64)
    site = find_sites(net)[-2]
    choices = [(0, 0.0), (0, 0.5), (0, 1.0)]
    replay = Replay(body_units(net))
    with torch.no_grad():
        with replay.record():
            before = net(image)
        whole = []
        for choice in choices:
            with force(net, *choice, site.block):
                whole.append(net(image))
        for _ in range(2):  # what was recorded is as it was
            with replay.before(site.unit, 3), force_rows([site], choices):
                rows = net(image.expand(3, -1, -1, -1))
            assert torch.allclose(rows, torch.cat(whole), atol=1e-9, rtol=1e-9)
        assert torch.equal(net(image), before)
    assert not torch.allclose(rows[0], rows[2], atol=1e-6)
    assert not any("forward" in vars(part) for part in net.modules())


def test_a_replay_spares_what_is_before() -> None:
    net, image = make_net(), torch.randn(1, 3, 32, 32)
    replay = Replay(body_units(net))
    with torch.no_grad(), replay.record():
        net(image)
    sites = find_sites(net)
    with torch.no_grad(), replay.before("layer3.0", 1), watch(sites) as seen:
        net(image)
    assert sorted(seen.grids) == ["layer3.0", "layer3.1", "layer4.0", "layer4.1"]


def test_what_cannot_be_forced_is_said() -> None:
    net = make_net()
    for options, said in (
        ((2, 0.5), "no split 2; give 0 to 1"),
        ((0, 1.5), "from 0 to 1"),
        ((0, float("nan")), "from 0 to 1"),
        ((0, 0.5, "layer9"), "no block"),
    ):
        with pytest.raises(UserError, match=said), force(net, *options):
            pass
    with pytest.raises(UserError, match="no attention"), force(make_net("resnet23_small"), 0, 0.5):
        pass
