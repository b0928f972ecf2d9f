"""The deploy form: the same function as a trained net, arranged for runtimes to be quick.

Norms are folded into the convolutions before them. Split attention is unrolled over the radix:
each split has its own dense convolutions, from the block's first 1x1 on, so that no runtime has to
run a grouped convolution (none has a quick int8 one) or to cut a map into pieces. Splits are pooled
before they are summed, and the softmax over two splits is a sigmoid of the difference of their
logits, which one layer gives. What is left out is what does nothing in evaluation: dropout,
DropBlock, stochastic depth.

Formulas: Zhang et al. 2020, section 3; `resnestkit.ops.split_attention` is the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from resnestkit.models.attention import SplitAttention
from resnestkit.models.blocks import Bottleneck
from resnestkit.models.layers import DropBlock, is_torchvision

_DEAD = (nn.Dropout, nn.Dropout2d, DropBlock)
_LOOK = 96
"""Pixels of a side of the image by which it is seen which norm follows which convolution.

No net needs more than 75.
"""


def make_deploy_form(model: nn.Module, in_channels: int = 3) -> nn.Module:
    """A copy of a net in its deploy form, in evaluation mode and without gradients.

    The copy gives what the net gives in evaluation, to rounding. The net is left as it is.

    Args:
        model: any net of the family, by itself or inside another module (such as a segmenter),
            which takes images (b, in_channels, h, w).
        in_channels: channels of the image.
    """
    form = deepcopy(model).eval().requires_grad_(False)
    fold_norms(form, in_channels)
    for name, part in list(form.named_modules()):
        unrolled = _unroll(part)
        if unrolled is not None:
            _replace(form, name, unrolled)
    for name, part in list(form.named_modules()):
        if _is_dead(part):
            _replace(form, name, nn.Identity())
    return form


def _is_dead(part: nn.Module) -> bool:
    """Whether a part does nothing in evaluation; so do pools of one pixel, as in shortcuts."""
    if isinstance(part, nn.AvgPool2d):
        return part.kernel_size in {1, (1, 1)} and part.stride in {1, (1, 1)}
    return isinstance(part, _DEAD) or is_torchvision(part, "StochasticDepth")


def fold_norms(model: nn.Module, in_channels: int = 3) -> int:
    """Fold each batch norm into the convolution whose output it reads, in place; how many were.

    Which that is, is seen by running a small image: so it holds for nets that are not ours too.
    """
    pairs = _find_pairs(model, in_channels)
    for conv_name, norm_name in pairs:
        conv, norm = model.get_submodule(conv_name), model.get_submodule(norm_name)
        assert isinstance(conv, nn.Conv2d)
        _replace(model, conv_name, _fold(conv, norm))
        _replace(model, norm_name, nn.Identity())
    return len(pairs)


def _find_pairs(model: nn.Module, in_channels: int) -> list[tuple[str, str]]:
    """Names of the convolutions and of the norms that read their outputs, one each."""
    made: dict[int, str] = {}
    alive: list[Tensor] = []  # so that no other tensor gets the number of one that is gone
    pairs: list[tuple[str, str]] = []

    def note(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            made[id(output)] = name
            alive.append(output)

        return hook

    def ask(name: str) -> Any:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if id(inputs[0]) in made:
                pairs.append((made[id(inputs[0])], name))

        return hook

    handles = []
    for name, part in model.named_modules():
        if isinstance(part, nn.Conv2d):
            handles.append(part.register_forward_hook(note(name)))
        elif _is_batch_norm(part):
            handles.append(part.register_forward_pre_hook(ask(name)))
    first = next(model.parameters(), torch.zeros(()))
    with torch.inference_mode():
        model(torch.zeros(1, in_channels, _LOOK, _LOOK, dtype=first.dtype, device=first.device))
    for handle in handles:
        handle.remove()
    return pairs


def _is_batch_norm(part: nn.Module) -> bool:
    own = isinstance(part, nn.modules.batchnorm._BatchNorm)
    return own or is_torchvision(part, "FrozenBatchNorm2d")


def _fold(conv: nn.Conv2d, norm: nn.Module) -> nn.Conv2d:
    """A convolution that does what a convolution and a norm in evaluation do, in their type."""
    scale, shift = _affine(norm)
    folded = _like(conv, conv.in_channels, conv.out_channels, conv.groups)
    bias = shift if conv.bias is None else shift + conv.bias.double() * scale
    folded.weight.data.copy_(conv.weight.double() * scale.view(-1, 1, 1, 1))
    assert folded.bias is not None
    folded.bias.data.copy_(bias)
    return folded


def _affine(norm: Any) -> tuple[Tensor, Tensor]:
    """A norm in evaluation as scale and shift, in float64: rounding is once, at the end."""
    mean, variance = norm.running_mean.double(), norm.running_var.double()
    weight = torch.ones_like(mean) if norm.weight is None else norm.weight.double()
    scale = weight / torch.sqrt(variance + norm.eps)
    shift = -mean * scale
    return scale, shift if norm.bias is None else shift + norm.bias.double()


def _like(conv: nn.Conv2d, in_channels: int, out_channels: int, groups: int) -> nn.Conv2d:
    """An empty convolution with a bias that moves over the image as another does."""
    return nn.Conv2d(
        in_channels,
        out_channels,
        conv.kernel_size,  # type: ignore[arg-type]  # two numbers
        conv.stride,  # type: ignore[arg-type]  # two numbers
        conv.padding,  # type: ignore[arg-type]  # two numbers
        conv.dilation,  # type: ignore[arg-type]  # two numbers
        groups,
        device=conv.weight.device,
        dtype=conv.weight.dtype,
    ).requires_grad_(False)


def _unroll(part: nn.Module) -> nn.Module | None:
    """The deploy form of a part, if it has one of its own."""
    if type(part) is Bottleneck and isinstance(part.conv2, SplitAttention):
        if part.conv2.radix > 1 and _is_folded(part.conv2):
            return UnrolledBottleneck(part)
        return None
    return None


def _is_folded(attention: SplitAttention) -> bool:
    """Whether no norm is left between its convolutions and its gate."""
    return isinstance(attention.bn0, nn.Identity)


class SplitGate(nn.Module):
    """The weights of R splits from their pooled sum, one map (b, C, 1, 1) for each split."""

    def __init__(self, attention: SplitAttention) -> None:
        super().__init__()
        self.radix = attention.radix
        self.fc1, self.norm = attention.fc1, attention.bn1
        logits = _by_split(attention)
        if self.radix == 2:
            logits = logits[:1] - logits[1:]
        self.fc2 = nn.ModuleList(_make_logits(attention, one) for one in logits)

    def forward(self, squeezed: Float[Tensor, "b C 1 1"]) -> list[Float[Tensor, "b C 1 1"]]:
        """Softmax over the splits; of two, the sigmoid of a difference."""
        hidden = torch.relu(self.norm(self.fc1(squeezed)))
        logits = [layer(hidden) for layer in self.fc2]
        if self.radix == 2:
            return [torch.sigmoid(logits[0])]
        return list(torch.softmax(torch.stack(logits), 0).unbind(0))


def _by_split(attention: SplitAttention) -> Tensor:
    """Weights and bias of the gate's last layer, (R, C, inputs per group + 1), in float64.

    They lie cardinality-major, (k, r, c), and the maps radix-major: `attention_weights` says so.
    """
    fc2, radix, groups = attention.fc2, attention.radix, attention.cardinality
    assert fc2.bias is not None
    both = torch.cat([fc2.weight.double().flatten(1), fc2.bias.double().unsqueeze(1)], 1)
    channels = fc2.out_channels // radix
    by_group = both.view(groups, radix, channels // groups, -1).transpose(0, 1)
    return by_group.reshape(radix, channels, -1)


def _make_logits(attention: SplitAttention, both: Tensor) -> nn.Conv2d:
    fc2 = attention.fc2
    layer = _like(fc2, fc2.in_channels, len(both), attention.cardinality)
    layer.weight.data.copy_(both[:, :-1].view_as(layer.weight))
    assert layer.bias is not None
    layer.bias.data.copy_(both[:, -1])
    return layer


class UnrolledBottleneck(nn.Module):
    """A ResNeSt block whose splits are apart from its first convolution on."""

    def __init__(self, block: Bottleneck) -> None:
        super().__init__()
        attention = block.conv2
        assert isinstance(attention, SplitAttention)
        self.downsample = block.downsample
        self.reduce = nn.ModuleList(_cut(block.conv1, attention.radix))
        self.pool_before, self.pool_after = block.pool_before, block.pool_after
        self.convs = nn.ModuleList(_cut_groups(attention.conv, attention.radix))
        self.gate = SplitGate(attention)
        self.widen, self.last_norm, self.se = block.conv3, block.bn3, block.se
        self.first_norm = block.bn1
        self.out_channels = block.out_channels

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:
        """As the block in evaluation."""
        splits = [
            torch.relu(conv(self.pool_before(torch.relu(reduce(x)))))
            for reduce, conv in zip(self.reduce, self.convs, strict=True)
        ]
        squeezed = sum_up([split.mean((2, 3), keepdim=True) for split in splits])
        joined = join_splits(splits, self.gate(squeezed))
        out = self.se(self.last_norm(self.widen(self.pool_after(joined))))
        shortcut = x if self.downsample is None else self.downsample(x)
        return torch.relu(out + shortcut)


def sum_up(parts: Sequence[Tensor]) -> Tensor:
    """Their sum, without the zero with which Python's begins."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def join_splits(splits: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """The weighted sum; one weight for two splits is that of the first, of two that sum to 1."""
    if len(weights) < len(splits):
        return splits[1] + weights[0] * (splits[0] - splits[1])
    return sum_up([split * weight for split, weight in zip(splits, weights, strict=True)])


def _cut(conv: nn.Conv2d, parts: int) -> list[nn.Conv2d]:
    """Convolutions that each give an equal share of the outputs of a dense one, in order."""
    width = conv.out_channels // parts
    cut = []
    for start in range(0, conv.out_channels, width):
        share = _like(conv, conv.in_channels, width, 1)
        _take(share, conv, slice(start, start + width))
        cut.append(share)
    return cut


def _cut_groups(conv: nn.Conv2d, parts: int) -> list[nn.Conv2d]:
    """Convolutions that each are an equal share of a grouped one's groups, in order."""
    width = conv.out_channels // parts
    cut = []
    for start in range(0, conv.out_channels, width):
        share = _like(conv, conv.in_channels // parts, width, conv.groups // parts)
        _take(share, conv, slice(start, start + width))
        cut.append(share)
    return cut


def _take(share: nn.Conv2d, conv: nn.Conv2d, rows: slice) -> None:
    share.weight.data.copy_(conv.weight[rows])
    assert share.bias is not None
    assert conv.bias is not None  # of the norm that was folded
    share.bias.data.copy_(conv.bias[rows])


def _replace(model: nn.Module, name: str, part: nn.Module) -> None:
    """Put a part where another was."""
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, part)
