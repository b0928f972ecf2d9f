"""Residual blocks: y = relu(shortcut(x) + residual(x)).

A block says what its residual branch is; the sum, the shortcut and stochastic depth are the same
for all. The attributes ``conv1, bn1, ...`` carry the names of the published checkpoints.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from resnestkit.models.attention import SelectiveKernel, SplitAttention, SqueezeExcite
from resnestkit.models.layers import (
    ConvNormAct,
    NormFactory,
    conv,
    drop_block,
    make_shortcut,
    norm_relu,
    stochastic_depth,
)
from resnestkit.models.spec import NetSpec
from resnestkit.ops import fused


@dataclass(frozen=True, slots=True)
class BlockPlace:
    """Where a block stands in its net: all that differs between two blocks of one spec."""

    stage: int
    is_first: bool
    in_channels: int
    stride: int
    dilation: int
    first_dilation: int
    drop_path: float = 0.0
    drop_block: float = 0.0

    @property
    def conv_dilation(self) -> int:
        """Dilation of the 3x3: a stage's first block keeps that of the stage before."""
        return self.first_dilation if self.is_first else self.dilation


class ResidualBlock(nn.Module, ABC):
    """relu(shortcut + residual); subclasses build and run the residual branch."""

    def __init__(self, spec: NetSpec, place: BlockPlace, norm: NormFactory) -> None:
        super().__init__()
        self.out_channels = spec.widths[place.stage] * spec.expansion
        self.downsample = make_shortcut(
            spec,
            place.in_channels,
            self.out_channels,
            norm,
            stride=place.stride,
            dilation=place.dilation,
            first_dilation=place.first_dilation,
        )
        self.drop_path = stochastic_depth(place.drop_path)

    @abstractmethod
    def body(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:
        """The branch that learns, up to its last convolution."""

    @property
    @abstractmethod
    def last_norm(self) -> nn.Module:
        """The norm behind the last convolution, whose weight starts at zero under zero-gamma."""

    @property
    @abstractmethod
    def ending(self) -> tuple[nn.Module, ...]:
        """What follows the last norm, in order: DropBlock, and SE's gate; or nothing."""

    def residual(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:
        """The branch that learns, whole."""
        return self._finish(self.body(x))

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:
        """Add the branch, which stochastic depth may drop, to the shortcut, which always stays."""
        shortcut = x if self.downsample is None else self.downsample(x)
        branch = self.body(x)
        plain = all(isinstance(part, nn.Identity) for part in (*self.ending, self.drop_path))
        if plain and fused.fits(self.last_norm, branch):
            return fused.join_block(branch, shortcut, self.last_norm)
        return torch.relu_(self.drop_path(self._finish(branch)) + shortcut)

    def _finish(self, branch: Float[Tensor, "b o h w"]) -> Float[Tensor, "b o h w"]:
        branch = self.last_norm(branch)
        for part in self.ending:
            branch = part(branch)
        return branch


class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions (He et al. 2015, figure 5 left)."""

    def __init__(self, spec: NetSpec, place: BlockPlace, norm: NormFactory) -> None:
        super().__init__(spec, place, norm)
        width = self.out_channels
        self.conv1 = conv(place.in_channels, width, 3, place.stride, place.conv_dilation)
        self.bn1 = norm(width)
        self.drop1 = drop_block(place.drop_block)
        self.conv2 = conv(width, width, 3, dilation=place.dilation)
        self.bn2 = norm(width)
        self.drop2 = drop_block(place.drop_block)
        self.se = _squeeze_excite(spec, width)

    @property
    def last_norm(self) -> nn.Module:
        """bn2."""
        return self.bn2

    @property
    def ending(self) -> tuple[nn.Module, ...]:
        """DropBlock and SE's gate."""
        return self.drop2, self.se

    def body(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:
        """conv, relu, conv."""
        out: Tensor = self.conv2(norm_relu(self.conv1(x), self.bn1, self.drop1))
        return out


class Bottleneck(ResidualBlock):
    """1x1, 3x3, 1x1 (He et al. 2015, figure 5 right), in all its forms up to ResNeSt.

    With radix 0 the middle is a plain (grouped) 3x3, its norm and a ReLU; with radix 1 and more it
    is split attention, which brings its own. The average pool that takes the stride in its place
    ("avd") acts in the first block of every stage but the first even where the stride became a
    dilation, as in the authors' code.
    """

    def __init__(self, spec: NetSpec, place: BlockPlace, norm: NormFactory) -> None:
        super().__init__(spec, place, norm)
        mid = spec.mid_width(place.stage)
        squeezed = mid // spec.reduce_first
        pooled = spec.avd != "none" and place.is_first and place.stage > 0
        stride1, stride2 = (1, place.stride) if spec.stride_in == "3x3" else (place.stride, 1)

        self.conv1 = conv(place.in_channels, squeezed, 1, stride1)
        self.bn1 = norm(squeezed)
        self.drop1 = drop_block(place.drop_block)
        pool = nn.AvgPool2d(3, stride2, padding=1) if pooled else nn.Identity()
        before = spec.avd == "before"
        self.pool_before = pool if before else nn.Identity()
        self.pool_after = nn.Identity() if before else pool
        conv_stride = 1 if pooled else stride2
        self.conv2: nn.Module
        if spec.radix:
            self.conv2 = SplitAttention(
                squeezed,
                mid,
                norm,
                radix=spec.radix,
                cardinality=spec.cardinality,
                reduction=spec.attention_reduction,
                stride=conv_stride,
                dilation=place.conv_dilation,
                drop=place.drop_block,
            )
            self.bn2: nn.Module = nn.Identity()
            self.drop2: nn.Module = nn.Identity()
        else:
            self.conv2 = conv(
                squeezed, mid, 3, conv_stride, place.conv_dilation, groups=spec.cardinality
            )
            self.bn2 = norm(mid)
            self.drop2 = drop_block(place.drop_block)
        self.conv3 = conv(mid, self.out_channels, 1)
        self.bn3 = norm(self.out_channels)
        self.drop3 = drop_block(place.drop_block)
        self.se = _squeeze_excite(spec, self.out_channels)

    @property
    def last_norm(self) -> nn.Module:
        """bn3."""
        return self.bn3

    @property
    def ending(self) -> tuple[nn.Module, ...]:
        """DropBlock and SE's gate."""
        return self.drop3, self.se

    def body(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:
        """Narrow, convolve (or split and join), widen."""
        x = self.pool_before(norm_relu(self.conv1(x), self.bn1, self.drop1))
        if not isinstance(self.conv2, SplitAttention):
            x = self.pool_after(norm_relu(self.conv2(x), self.bn2, self.drop2))
        elif fused.pools(x, self.pool_after) and not self.conv2._forward_hooks:
            x = self.conv2(x, self.pool_after)
        else:
            x = self.pool_after(self.conv2(x))
        out: Tensor = self.conv3(x)
        return out


class SelectiveBasicBlock(ResidualBlock):
    """A basic block whose first 3x3 is a selective-kernel unit; DropBlock acts at its end alone."""

    def __init__(self, spec: NetSpec, place: BlockPlace, norm: NormFactory) -> None:
        super().__init__(spec, place, norm)
        assert spec.sk is not None
        width = self.out_channels
        self.conv1 = SelectiveKernel(
            place.in_channels,
            width,
            spec.sk,
            norm,
            stride=place.stride,
            dilation=place.conv_dilation,
        )
        self.conv2 = ConvNormAct(width, width, 3, norm, dilation=place.dilation, act=False)
        self.drop = drop_block(place.drop_block)

    @property
    def last_norm(self) -> nn.Module:
        """conv2.bn."""
        return self.conv2.bn

    @property
    def ending(self) -> tuple[nn.Module, ...]:
        """DropBlock."""
        return (self.drop,)

    def body(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:
        """Select a kernel, convolve."""
        out: Tensor = self.conv2.conv(self.conv1(x))
        return out


class SelectiveBottleneck(ResidualBlock):
    """A bottleneck whose 3x3 is a selective-kernel unit (Li et al. 2019, table 1).

    DropBlock acts at its end alone: no published recipe says where else it would.
    """

    def __init__(self, spec: NetSpec, place: BlockPlace, norm: NormFactory) -> None:
        super().__init__(spec, place, norm)
        assert spec.sk is not None
        mid = spec.mid_width(place.stage)
        self.conv1 = ConvNormAct(place.in_channels, mid, 1, norm)
        self.conv2 = SelectiveKernel(
            mid,
            mid,
            spec.sk,
            norm,
            stride=place.stride,
            dilation=place.conv_dilation,
            groups=spec.cardinality,
        )
        self.conv3 = ConvNormAct(mid, self.out_channels, 1, norm, act=False)
        self.drop = drop_block(place.drop_block)

    @property
    def last_norm(self) -> nn.Module:
        """conv3.bn."""
        return self.conv3.bn

    @property
    def ending(self) -> tuple[nn.Module, ...]:
        """DropBlock."""
        return (self.drop,)

    def body(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:
        """Narrow, select a kernel, widen."""
        out: Tensor = self.conv3.conv(self.conv2(self.conv1(x)))
        return out


def block_class(spec: NetSpec) -> type[ResidualBlock]:
    """The block that a spec is built of."""
    if spec.sk:
        return SelectiveBasicBlock if spec.block == "basic" else SelectiveBottleneck
    return BasicBlock if spec.block == "basic" else Bottleneck


def _squeeze_excite(spec: NetSpec, channels: int) -> nn.Module:
    return SqueezeExcite(channels, spec.se_reduction) if spec.se_reduction else nn.Identity()
