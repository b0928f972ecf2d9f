"""Reading the attention: what is seen is what the net computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from explained import NETS, make_heads, make_net, see

from resnestkit import UserError, create_model, insert_attention
from resnestkit.explain import find_sites, watch
from resnestkit.explain.sites import choose_sites, entropy
from resnestkit.models.attention import SelectiveKernel, SplitAttention, SqueezeExcite


def test_names_are_those_of_the_blocks_in_the_order_in_which_they_run() -> None:
    net = make_net()
    expected = [f"layer{n + 1}.{b}" for n, k in enumerate(net.spec.layers) for b in range(k)]
    sites = find_sites(net)
    assert [site.block for site in sites] == expected
    assert [site.depth for site in sites] == list(range(len(expected)))
    assert find_sites(make_net("resnet23_small")) == []
    inception = find_sites(create_model("se_bn_inception", classes=2))
    assert [site.block for site in inception][:2] == ["inception_3a", "inception_3b"]
    residual = find_sites(create_model("se_inception_resnet_v2", classes=2))
    assert [residual[0].block, residual[-1].block] == ["repeat.0", "block8"]
    assert len(residual) == 40


@pytest.mark.parametrize("name", NETS)
def test_weights_have_the_papers_form_and_sum_to_one(name: str) -> None:
    net = make_net(name)
    found = see(net, torch.randn(2, 3, 32, 32))
    for one in found.values():
        assert np.allclose(one.shares.sum(2), 1, atol=1e-6)
        if one.kind == "split":
            assert one.weights.shape[:3] == (2, 1, 2)
            assert np.allclose(one.weights.sum(2), 1, atol=1e-6)
        elif one.kind == "sk":
            assert one.weights.shape[:2] == (2, 2)
            assert np.allclose(one.weights.sum(1), 1, atol=1e-6)
        else:
            assert one.weights.ndim == 2
        assert 0 < one.entropy < 1


@pytest.mark.parametrize(("radix", "cardinality"), [(2, 2), (4, 1), (1, 2), (3, 2)])
def test_split_attention_equals_its_own_weights(radix: int, cardinality: int) -> None:
    net = make_heads(radix, cardinality)
    direct: list[torch.Tensor] = []
    part = net.layer2[0].conv2
    assert isinstance(part, SplitAttention)
    part.bn0.register_forward_hook(lambda _m, _i, out: direct.append(part.weights(out.relu())))
    found = see(net, torch.randn(2, 3, 24, 24))["layer2.0"]
    channels = part.fc1.in_channels // cardinality
    by_split = direct[0].view(2, radix, cardinality, channels).transpose(1, 2).numpy()
    assert found.weights.shape == (2, cardinality, radix, channels)
    assert np.allclose(found.weights, by_split, atol=1e-6)


def test_gates_equal_a_direct_computation() -> None:
    images = torch.randn(2, 3, 32, 32)
    gated, chosen = make_net("seresnet23_small"), make_net("sknet23_small")
    inputs: list[torch.Tensor] = []
    squeeze = next(part for part in gated.modules() if isinstance(part, SqueezeExcite))
    squeeze.register_forward_pre_hook(lambda _m, given: inputs.append(given[0]))
    found = next(iter(see(gated, images).values()))
    with torch.no_grad():
        mean = inputs[0].mean((2, 3), keepdim=True)
        gate = torch.sigmoid(squeeze.fc2(squeeze.fc1(mean).relu())).flatten(1)
    assert np.allclose(found.weights, gate.numpy(), atol=1e-6)
    kernel = next(part for part in chosen.modules() if isinstance(part, SelectiveKernel))
    outputs: list[torch.Tensor] = []
    kernel.attn.register_forward_hook(lambda _m, _i, out: outputs.append(out))
    found = next(iter(see(chosen, images).values()))
    assert np.allclose(found.weights, outputs[0].flatten(2).numpy(), atol=1e-7)


@pytest.mark.parametrize("name", NETS)
def test_energies_add_up_to_what_the_attention_puts_out(name: str) -> None:
    """All is positive after the ReLUs, so magnitudes add up; a gate's output is what is seen."""
    net = make_net(name)
    sites = find_sites(net)
    outputs: list[torch.Tensor] = []
    sites[2].module.register_forward_hook(lambda _m, _i, out: outputs.append(out))
    with torch.no_grad(), watch(sites, energies=True) as seen:
        net(torch.randn(2, 3, 32, 32))
    energy = seen.energies[sites[2].block]
    assert energy.shape[1:3] == (1, sites[2].splits)
    joined = energy.sum((1, 2))
    assert torch.allclose(joined, outputs[0].abs().mean(1), atol=1e-5, rtol=1e-4)


def test_looking_changes_nothing_and_leaves_nothing_behind() -> None:
    net = make_net()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        before = net(images)
        with watch(find_sites(net), energies=True):
            assert torch.equal(net(images), before)
    assert not any(part._forward_hooks for part in net.modules())


def test_entropy_is_a_share_of_the_uniform_one() -> None:
    even = np.full((1, 1, 4, 2), 0.25, np.float32)
    chosen = np.zeros((1, 1, 4, 2), np.float32)
    chosen[:, :, 2] = 1
    assert entropy(even) == pytest.approx(np.ones((1, 1, 2)))
    assert entropy(chosen) == pytest.approx(np.zeros((1, 1, 2)))
    assert entropy(np.full((1, 1, 1, 1), 0.5, np.float32)).item() == pytest.approx(1)
    third = np.array([1 / 3, 2 / 3, 0], np.float32).reshape(1, 1, 3, 1)
    direct = -(np.log(1 / 3) / 3 + 2 * np.log(2 / 3) / 3) / np.log(3)
    assert entropy(third).item() == pytest.approx(direct, abs=1e-6)


def test_attention_that_was_inserted_is_found_too() -> None:
    net = make_net("resnet23_small")
    insert_attention(net, "se", ["layer2.0.bn2", "layer2.0.bn3", "layer3.0.bn3"], size=32)
    names = [site.block for site in find_sites(net)]
    assert names == ["layer2.0.bn2.attention", "layer2.0.bn3.attention", "layer3.0"]


def test_an_unknown_block_is_one_sentence() -> None:
    sites = find_sites(make_net())
    assert [site.block for site in choose_sites(sites, "layer3.1")] == ["layer3.1"]
    with pytest.raises(UserError, match=r"no block .*'layer3.9'.*layer3.1.*layer1.0 to layer4.1"):
        choose_sites(sites, "layer3.9")
    with pytest.raises(UserError, match="this net has no attention"):
        choose_sites([], "layer3.9")
