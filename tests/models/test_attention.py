"""The attention modules against slow references written from the papers' formulas."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resnestkit.models.attention import (
    SelectiveKernel,
    SelectiveKernelGate,
    SplitAttention,
    SqueezeExcite,
)
from resnestkit.models.layers import norm_factory
from resnestkit.models.spec import SelectiveKernelSpec
from resnestkit.ops import attention_weights, pool_splits, weigh_splits

BATCH_NORM = norm_factory("batch")
RADIX_AND_CARDINALITY = [
    (radix, cardinality) for radix in (1, 2, 3, 4) for cardinality in (1, 2, 4)
]


def split_attention_as_in_the_paper(block: SplitAttention, x: Tensor) -> Tensor:
    """Split attention in its cardinality-major form: figure 2 left and equations 1 to 3.

    The features are made of K cardinal groups, each of R splits; cardinal group k does all of its
    work alone. What the paper calls F, with index R(k - 1) + r, is the convolution of group
    (r, k) of the block, whose weights lie radix-major.
    """
    R, K = block.radix, block.cardinality
    c = block.conv.out_channels // (R * K)
    joined = []
    for k in range(K):
        splits = []
        for r in range(R):
            group = r * K + k
            channels = _part(group, c)
            inputs = _part(group, x.shape[1] // (R * K))
            mapped = _convolve(block.conv, x[:, inputs], channels)
            splits.append(_normalise(block.bn0, mapped, channels).relu())
        squeezed = sum(splits).mean((2, 3), keepdim=True)  # equation 1

        hidden_units = _part(k, block.fc1.out_channels // K)
        hidden = F.conv2d(squeezed, block.fc1.weight[hidden_units], block.fc1.bias[hidden_units])
        hidden = _normalise(block.bn1, hidden, hidden_units).relu()
        logits = []
        for r in range(R):
            outputs = _part(k * R + r, c)
            logits.append(F.conv2d(hidden, block.fc2.weight[outputs], block.fc2.bias[outputs]))

        total = sum(logit.exp() for logit in logits)  # equation 3
        weights = [logit.exp() / total for logit in logits]
        if R == 1:
            weights = [1 / (1 + (-logits[0]).exp())]
        joined.append(sum(w * split for w, split in zip(weights, splits, strict=True)))
    return torch.cat(joined, 1)


def _part(index: int, size: int) -> slice:
    return slice(index * size, (index + 1) * size)


def _convolve(conv: nn.Conv2d, x: Tensor, channels: slice) -> Tensor:
    return F.conv2d(x, conv.weight[channels], None, conv.stride, conv.padding, conv.dilation)


def _normalise(norm: nn.BatchNorm2d, x: Tensor, channels: slice) -> Tensor:
    if norm.training:
        variance, mean = torch.var_mean(x, (0, 2, 3), correction=0, keepdim=True)
    else:
        mean, variance = (
            held[channels].view(1, -1, 1, 1) for held in (norm.running_mean, norm.running_var)
        )
    weight, bias = (learnt[channels].view(1, -1, 1, 1) for learnt in (norm.weight, norm.bias))
    return (x - mean) / (variance + norm.eps).sqrt() * weight + bias


def _split_attention(radix: int, cardinality: int, **options: int) -> SplitAttention:
    """A block in float64 whose norms are as random as its convolutions.

    The input's channels differ from the output's, and the hidden units are more than the least.
    """
    block = SplitAttention(
        48, 24, BATCH_NORM, radix=radix, cardinality=cardinality, reduction=2, **options
    ).double()
    for norm in (block.bn0, block.bn1):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias)
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return block


def _gradients(block: nn.Module, x: Tensor, out: Tensor) -> dict[str, Tensor]:
    weights = dict(block.named_parameters())
    probe = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out).sin()
    found = torch.autograd.grad((out * probe).sum(), [x, *weights.values()])
    return dict(zip(["x", *weights], found, strict=True))


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(("radix", "cardinality"), RADIX_AND_CARDINALITY)
def test_the_block_equals_the_papers_formulas(radix: int, cardinality: int, training: bool) -> None:
    """Forward, and backward to the input and to every parameter."""
    block = _split_attention(radix, cardinality).train(training)
    x = torch.randn(4, 48, 6, 5, dtype=torch.float64, requires_grad=True)
    ours, reference = block(x), split_attention_as_in_the_paper(block, x)
    torch.testing.assert_close(ours, reference, rtol=1e-9, atol=1e-11)
    expected = _gradients(block, x, reference)
    for name, gradient in _gradients(block, x, ours).items():
        torch.testing.assert_close(
            gradient, expected[name], rtol=1e-9, atol=1e-10, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.mark.parametrize(("stride", "dilation"), [(2, 1), (1, 2), (1, 4)])
def test_the_block_equals_the_papers_formulas_strided_and_dilated(
    stride: int, dilation: int
) -> None:
    block = _split_attention(2, 2, stride=stride, dilation=dilation).eval()
    x = torch.randn(2, 48, 9, 7, dtype=torch.float64)
    out = block(x)
    assert out.shape == (2, 24, -(-9 // stride), -(-7 // stride))
    torch.testing.assert_close(
        out, split_attention_as_in_the_paper(block, x), rtol=1e-9, atol=1e-11
    )


def test_each_split_reads_its_own_slice_of_the_input() -> None:
    """With radix R the splits share no input channel, so the weights do not grow with R."""
    sizes = {
        radix: _split_attention(radix, cardinality).conv.weight.numel() * cardinality
        for radix, cardinality in RADIX_AND_CARDINALITY
    }
    assert set(sizes.values()) == {9 * 48 * 24}
    block = _split_attention(2, 1).eval()
    x = torch.randn(1, 48, 4, 4, dtype=torch.float64)
    changed = x.clone()
    changed[:, 24:] = 0
    first, second = (block.conv(x) == block.conv(changed)).view(2, 24 * 16)
    assert first.all()
    assert not second.all()


def test_drop_block_stands_between_the_norm_and_the_relu() -> None:
    block = SplitAttention(32, 32, BATCH_NORM, drop=0.5).train()
    seen: list[Tensor] = []
    block.drop.register_forward_hook(
        lambda _module, inputs, out: seen.extend((inputs[0].clone(), out.clone()))
    )
    block(torch.randn(4, 32, 8, 8))
    before, after = seen
    assert (before < 0).any()
    assert not (before == 0).any()
    assert (after == 0).float().mean() > 0.25


@pytest.mark.parametrize(
    ("in_channels", "radix", "hidden"),
    [(64, 2, 32), (64, 1, 32), (128, 1, 32), (256, 2, 128), (640, 4, 640), (96, 1, 32)],
)
def test_the_gate_has_in_channels_times_radix_over_four_units_and_at_least_32(
    in_channels: int, radix: int, hidden: int
) -> None:
    with torch.device("meta"):
        block = SplitAttention(in_channels, in_channels, BATCH_NORM, radix=radix)
    assert block.fc1.out_channels == hidden
    assert block.fc2.in_channels == hidden


@pytest.mark.parametrize("radix", [2, 3])
def test_weights_of_the_block_sum_to_one_over_the_radix(radix: int) -> None:
    block = _split_attention(radix, 2).eval()
    weights = block.weights(torch.randn(3, 24 * radix, 4, 4, dtype=torch.float64))
    total = weights.view(3, radix, 24).sum(1)
    torch.testing.assert_close(total, torch.ones_like(total))
    assert weights.std() > 1e-3, "the weights do not depend on the input"


# --- The others are the same idea in other places ---------------------------------------------


def test_squeeze_and_excitation_is_split_attention_of_one_split() -> None:
    """SE's gate and the radix-1 gate are one formula: only where it stands differs."""
    gate = SqueezeExcite(32, reduction=4).double()
    x = torch.randn(2, 32, 5, 4, dtype=torch.float64)
    logits = gate.fc2(torch.relu(gate.fc1(pool_splits(x, radix=1))))
    as_split = weigh_splits(x, attention_weights(logits, radix=1, cardinality=1), radix=1)
    torch.testing.assert_close(gate(x), as_split)
    assert gate.fc1.out_channels == 8


def test_selective_kernel_weights_sum_to_one_over_the_paths() -> None:
    gate = SelectiveKernelGate(6, paths=3, hidden=4, norm=BATCH_NORM).eval()
    weights = gate(torch.randn(2, 6, 1, 1))
    assert weights.shape == (2, 3, 6, 1, 1)
    torch.testing.assert_close(weights.sum(1), torch.ones(2, 6, 1, 1))
    assert weights.std() > 1e-3


@pytest.mark.parametrize("split_input", [False, True])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_the_selective_kernel_equals_the_papers_formulas(split_input: bool, training: bool) -> None:
    """Li et al. 2019, equations 1 to 6, channel by channel where the paper writes them so."""
    choices = SelectiveKernelSpec(reduction=2, divisor=4, split_input=split_input)
    unit = SelectiveKernel(16, 12, choices, BATCH_NORM, stride=2, groups=4).double().train(training)
    x = torch.randn(4, 16, 9, 7, dtype=torch.float64, requires_grad=True)
    halves = x.split(8, 1) if split_input else (x, x)
    paths = []
    for dilation, path, part in zip((1, 2), unit.paths, halves, strict=True):
        mapped = F.conv2d(part, path.conv.weight, None, 2, dilation, dilation, groups=4)
        paths.append(_normalise(path.bn, mapped, slice(None)).relu())
    squeezed = (paths[0] + paths[1]).mean((2, 3), keepdim=True)
    attention = unit.attn
    hidden = F.conv2d(squeezed, attention.fc_reduce.weight)
    hidden = _normalise(attention.bn, hidden, slice(None)).relu()
    a, b = (F.conv2d(hidden, rows).exp() for rows in attention.fc_select.weight.split(12))
    reference = a / (a + b) * paths[0] + b / (a + b) * paths[1]
    ours = unit(x)
    torch.testing.assert_close(ours, reference, rtol=1e-9, atol=1e-11)
    expected = _gradients(unit, x, reference)
    for name, gradient in _gradients(unit, x, ours).items():
        torch.testing.assert_close(
            gradient, expected[name], rtol=1e-9, atol=1e-10, msg=lambda text, n=name: f"{n}: {text}"
        )
