"""The three attentions of the family: SE's gate, SK's choice of kernel, split attention.

They are one idea in three places. Squeeze a map to a vector, let a small bottleneck turn it into
one logit per channel and branch, and weigh the branches: SE has one branch and a sigmoid and sits
after the block, SK's branches are kernels of different size, split attention's are equal kernels
on different slices of the input. Parameter names are those of the published checkpoints.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from resnestkit.models.layers import (
    ConvNormAct,
    NormFactory,
    conv_class,
    drop_block,
    norm_relu,
    round_channels,
)
from resnestkit.models.spec import SelectiveKernelSpec
from resnestkit.ops import attention_weights, fused, join, pool_splits, weigh_splits


class SqueezeExcite(nn.Module):
    """Squeeze-and-excitation (Hu et al. 2017, section 3): x * sigmoid(fc2(relu(fc1(mean x)))).

    The bottleneck has channels / reduction units, rounded to a multiple of ``divisor``.
    """

    def __init__(self, channels: int, reduction: int = 16, *, divisor: int = 8) -> None:
        super().__init__()
        hidden = round_channels(channels / reduction, divisor)
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Scale each channel of x by its gate."""
        squeezed = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.fc2(torch.relu(self.fc1(squeezed))))


class SelectiveKernelGate(nn.Module):
    """Softmax over the paths, per channel (Li et al. 2019, equations 3 to 6)."""

    def __init__(self, channels: int, paths: int, hidden: int, norm: NormFactory) -> None:
        super().__init__()
        self.paths = paths
        self.fc_reduce = nn.Conv2d(channels, hidden, 1, bias=False)
        self.bn = norm(hidden)
        self.fc_select = nn.Conv2d(hidden, channels * paths, 1, bias=False)

    def forward(self, fused: Float[Tensor, "b c 1 1"]) -> Float[Tensor, "b p c 1 1"]:
        """Weights of the paths; they sum to 1 over p."""
        hidden = torch.relu(self.bn(self.fc_reduce(fused)))
        return torch.softmax(self.fc_select(hidden).unflatten(1, (self.paths, -1)), dim=1)


class SelectiveKernel(nn.Module):
    """A 3x3 and a 5x5 path, joined by attention (Li et al. 2019, section 3.1).

    The 5x5 path is a 3x3 of dilation 2, as the authors released it. With ``split_input`` each path
    reads its own half of the channels, so that the paths cost together what one of them would.

    ``kernel`` is odd. ``padding`` is that of the first path (None keeps the size at stride 1); the
    second has as much more as its kernel reaches further, so that the maps are of one size.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        choices: SelectiveKernelSpec,
        norm: NormFactory,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        *,
        kernel: int = 3,
        padding: int | None = None,
    ) -> None:
        super().__init__()
        dilations = (dilation, 2 * dilation)
        self.split_input = choices.split_input
        path_channels = in_channels // len(dilations) if self.split_input else in_channels
        self.paths = nn.ModuleList(
            ConvNormAct(
                path_channels, out_channels, kernel, norm, stride=stride, dilation=d, groups=groups
            )
            for d in dilations
        )
        if padding is not None:
            _trim(self.paths, dilation * (kernel - 1) // 2 - padding)
        hidden = round_channels(out_channels / choices.reduction, choices.divisor)
        self.attn = SelectiveKernelGate(out_channels, len(dilations), hidden, norm)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:
        """Run the paths, fuse them into one vector, and weigh each path by its gate."""
        inputs = x.chunk(len(self.paths), 1) if self.split_input else (x,) * len(self.paths)
        branches = [path(part) for path, part in zip(self.paths, inputs, strict=True)]
        fused = torch.stack([branch.mean((2, 3), keepdim=True) for branch in branches]).sum(0)
        return join(branches, self.attn(fused).unbind(1))


def _trim(paths: nn.ModuleList, margin: int) -> None:
    """Take margin off the padding of each path, which costs their maps the same border."""
    for path in paths:
        assert isinstance(path, ConvNormAct)
        path.conv.padding = tuple(int(side) - margin for side in path.conv.padding)


class SplitAttention(nn.Module):
    """The split-attention convolution of ResNeSt (Zhang et al. 2020, section 3 and figure 2).

    A 3x3 convolution of K * R groups makes R splits of the output, each from its own slice of the
    input; a gate of two grouped 1x1 convolutions weighs the splits, channel by channel:

    =================  =====================================  ========================
    ``conv, bn0``      R splits                               b, C  -> b, R*C, h, w
    `pool_splits`      squeeze                                -> b, C, 1, 1
    ``fc1, bn1``       compact descriptor, K groups           -> b, I, 1, 1
    ``fc2``            a logit per split and channel          -> b, R*C, 1, 1
    `weigh_splits`     softmax (or sigmoid), weighted sum     -> b, C, h, w
    =================  =====================================  ========================

    ``bn1`` normalises over the batch alone, since its maps are 1x1: in training it needs two or
    more images per process, or another norm policy than "batch".

    ``kernel`` is the convolution's, odd; without a ``padding`` it keeps the size at stride 1.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        norm: NormFactory,
        *,
        radix: int = 2,
        cardinality: int = 1,
        reduction: int = 4,
        stride: int = 1,
        dilation: int = 1,
        drop: float = 0.0,
        kernel: int = 3,
        padding: int | None = None,
    ) -> None:
        super().__init__()
        self.radix, self.cardinality = radix, cardinality
        hidden = max(in_channels * radix // reduction, 32)
        splits = channels * radix
        self.conv = conv_class(kernel, stride, dilation, cardinality * radix)(
            in_channels,
            splits,
            kernel,
            stride=stride,
            padding=dilation * (kernel - 1) // 2 if padding is None else padding,
            dilation=dilation,
            groups=cardinality * radix,
            bias=False,
        )
        self.bn0 = norm(splits)
        self.drop = drop_block(drop)
        self.fc1 = nn.Conv2d(channels, hidden, 1, groups=cardinality)
        self.bn1 = norm(hidden)
        self.fc2 = nn.Conv2d(hidden, splits, 1, groups=cardinality)

    def forward(
        self, x: Float[Tensor, "b i h w"], pool: nn.AvgPool2d | None = None
    ) -> Float[Tensor, "b C h2 w2"]:
        """Convolve into splits, join them by their attention, and pool them if asked to."""
        splits = self.conv(x)
        if fused.fits(self.bn0, splits) and isinstance(self.drop, nn.Identity):
            learnt = [*self.fc1.parameters(), *self.bn1.parameters(), *self.fc2.parameters()]
            return fused.attend(splits, self.bn0, self.gate, self.radix, learnt, pool)
        splits = norm_relu(splits, self.bn0, self.drop)
        joined = weigh_splits(splits, self.weights(splits), self.radix)
        return joined if pool is None else pool(joined)

    def weights(self, splits: Float[Tensor, "b RC h w"]) -> Float[Tensor, "b RC 1 1"]:
        """The attention over the splits, in the splits' own (radix-major) order."""
        return self.gate(pool_splits(splits, self.radix))

    def gate(self, squeezed: Float[Tensor, "b C 1 1"]) -> Float[Tensor, "b RC 1 1"]:
        """The attention that the splits' pooled sum asks for."""
        logits = self.fc2(torch.relu(self.bn1(self.fc1(squeezed))))
        return attention_weights(logits, self.radix, self.cardinality)
