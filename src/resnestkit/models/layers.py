"""The small parts of which every net is made: norms, stems, shortcuts, regularisers.

torchvision's parts are imported where a net has them: it takes seconds, and most nets have none.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from resnestkit.models.spec import NORM_POLICIES, NetSpec, NormPolicy
from resnestkit.ops import fused
from resnestkit.ranks import sum_over_ranks

NormFactory = Callable[[int], nn.Module]


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation with at most 32 groups and at least 16 channels in each.

    Fewer channels per group would leave a 1x1 map of the attention nothing to normalise over.
    """
    most = max(1, min(32, channels // 16))
    groups = next(count for count in range(most, 0, -1) if channels % count == 0)
    return nn.GroupNorm(groups, channels)


def frozen_norm(channels: int) -> nn.Module:
    """Batch normalisation whose statistics and parameters stay as they are: torchvision's."""
    from torchvision.ops import FrozenBatchNorm2d  # noqa: PLC0415  (slow to import)

    norm: nn.Module = FrozenBatchNorm2d(channels)
    return norm


class SyncBatchNorm(nn.BatchNorm2d):
    """Batch normalisation over the images of all processes, on any device.

    The mean and then the variance are summed over the processes, gradients included. State, and
    what evaluation computes, are those of batch normalisation. torch's own `nn.SyncBatchNorm` is
    quicker but knows CUDA alone: there `convert_sync_batchnorm` puts it in our place.
    """

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Normalise each channel over all processes' images and pixels."""
        if not self.training:
            normalised: Tensor = super().forward(x)
            return normalised
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        count = sum_over_ranks(values.new_tensor(float(x.numel() // x.shape[1])))
        if count < 2:
            raise ValueError(f"Expected more than 1 value per channel when training, got {x.shape}")
        mean = sum_over_ranks(values.sum((0, 2, 3))) / count
        centred = values - mean.view(1, -1, 1, 1)
        variance = sum_over_ranks(centred.square().sum((0, 2, 3))) / count
        self._follow(mean.detach(), variance.detach(), count)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)).to(x.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Move the running statistics; their variance is the unbiased one."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance * (count / (count - 1)), share)


_NORMS: dict[NormPolicy, NormFactory] = {
    "batch": nn.BatchNorm2d,
    "sync": SyncBatchNorm,
    "frozen": frozen_norm,
    "group": group_norm,
}


def norm_factory(policy: NormPolicy) -> NormFactory:
    """The norm layer of a policy, by number of channels. Raises ValueError on another policy."""
    if policy not in _NORMS:
        raise ValueError(f"norm is {policy!r}; it must be one of {', '.join(NORM_POLICIES)}")
    return _NORMS[policy]


def round_channels(channels: float, divisor: int) -> int:
    """The multiple of divisor nearest to channels, at least divisor and 90% of channels."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def norm_relu(
    x: Float[Tensor, "b c h w"], norm: nn.Module, drop: nn.Module | None = None
) -> Float[Tensor, "b c h w"]:
    """relu(drop(norm(x))), in one piece where kernels are on and nothing is dropped."""
    if fused.fits(norm, x) and (drop is None or isinstance(drop, nn.Identity)):
        return fused.norm_relu(x, norm)
    x = norm(x)
    return torch.relu_(x if drop is None else drop(x))


class ConvNormAct(nn.Module):
    """Convolution without bias, norm, and (unless ``act`` is false) ReLU."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        norm: NormFactory,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        act: bool = True,
    ) -> None:
        super().__init__()
        self.conv = conv(in_channels, out_channels, kernel, stride, dilation, groups)
        self.bn = norm(out_channels)
        self.act = act

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:
        """Apply the three in turn."""
        x = self.conv(x)
        return norm_relu(x, self.bn) if self.act else self.bn(x)


class PointwiseConv(nn.Conv2d):
    """A 1x1 convolution, which is a product of matrices and is computed so where kernels are on."""

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h w"]:
        """Mix the channels of every pixel."""
        plain = self.stride == (1, 1) and self.padding == (0, 0)
        if plain and fused.mixes(x):
            return fused.pointwise(x, self)
        mixed: Tensor = super().forward(x)
        return mixed


class GroupedDilatedConv(nn.Conv2d):
    """A convolution of several groups and a dilation, which bfloat16 on a CPU cannot be left to.

    With both, and few channels in a group, oneDNN 3 gives wrong gradients of the weight for
    channels_last maps of 32x32 and more (seen in torch 2.15, AVX-512 with bf16): noise, or no
    numbers at all. In float32 they are right, so these are computed so.
    """

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:
        """As usual, and of the type that it would have had."""
        low = x.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu")
        if x.device.type != "cpu" or not low:
            out: Tensor = super().forward(x)
            return out
        with torch.autocast("cpu", enabled=False):
            bias = None if self.bias is None else self.bias.float()
            wide = self._conv_forward(x.float(), self.weight.float(), bias)
        narrow: Tensor = wide.to(torch.bfloat16)
        return narrow


def conv_class(kernel: int, stride: int, dilation: int, groups: int) -> type[nn.Conv2d]:
    """What to make a convolution of."""
    if kernel == stride == groups == 1:
        return PointwiseConv
    return GroupedDilatedConv if dilation > 1 and groups > 1 else nn.Conv2d


def conv(
    in_channels: int,
    out_channels: int,
    kernel: int,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
) -> nn.Conv2d:
    """A convolution without bias whose padding keeps the size at stride 1."""
    return conv_class(kernel, stride, dilation, groups)(
        in_channels,
        out_channels,
        kernel,
        stride,
        padding=dilation * (kernel - 1) // 2,
        dilation=dilation,
        groups=groups,
        bias=False,
    )


def draw_weights(net: nn.Module) -> None:
    """Convolutions' weights as the authors draw them: normal, by the fan out (He et al. 2015).

    A net on the meta device has none, and torch would import its compiler to draw them, which takes
    seconds.
    """
    for part in net.modules():
        if isinstance(part, nn.Conv2d) and not part.weight.is_meta:
            fan_out = part.out_channels * math.prod(part.kernel_size)
            nn.init.normal_(part.weight, 0.0, math.sqrt(2.0 / fan_out))


def make_stem(spec: NetSpec, in_channels: int, norm: NormFactory) -> nn.Module:
    """The first convolution(s), before the stem's last norm: 7x7, three 3x3, or one 3x3."""
    width = spec.stem_width
    if spec.stem == "small":
        return conv(in_channels, width, 3)
    if spec.stem == "7x7":
        return conv(in_channels, width, 7, stride=2)
    return DeepStem(
        conv(in_channels, width, 3, stride=2),
        norm(width),
        nn.ReLU(inplace=True),
        conv(width, width, 3),
        norm(width),
        nn.ReLU(inplace=True),
        conv(width, 2 * width, 3),
    )


class DeepStem(nn.Sequential):
    """Three 3x3 convolutions (ResNet-C), numbered as in the published weights."""

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b c h2 w2"]:
        """One layer after the other; a norm and the ReLU behind it in one piece where that fits."""
        layers = iter(self)
        for layer in layers:
            if not fused.fits(layer, x):
                x = layer(x)
                continue
            follower = next(layers, nn.Identity())
            joined = type(follower) is nn.ReLU and not follower._forward_hooks
            x = fused.norm_relu(x, layer) if joined else follower(layer(x))
        return x


def make_pool(spec: NetSpec) -> nn.Module:
    """The stem's pooling. Caffe pads nothing and rounds up, which published SE-Nets need."""
    if spec.pool == "none":
        return nn.Identity()
    if spec.pool == "max_ceil":
        return nn.MaxPool2d(3, stride=2, ceil_mode=True)
    return nn.MaxPool2d(3, stride=2, padding=1)


def make_shortcut(
    spec: NetSpec,
    in_channels: int,
    out_channels: int,
    norm: NormFactory,
    *,
    stride: int,
    dilation: int,
    first_dilation: int,
) -> nn.Sequential | None:
    """A shortcut that changes shape, or None where the identity fits.

    The averaging form (ResNet-D) keeps a 1x1 pool where it does not stride, so that the
    convolution is ``downsample.1`` everywhere, as in the published weights.
    """
    if stride == 1 and in_channels == out_channels:
        return None
    if spec.shortcut == "avg":
        pool = nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)
        return nn.Sequential(pool, conv(in_channels, out_channels, 1), norm(out_channels))
    strided = stride > 1 or dilation > 1
    if spec.shortcut == "conv3x3" and strided:
        reduce = conv(in_channels, out_channels, 3, stride, first_dilation)
    else:
        reduce = conv(in_channels, out_channels, 1, stride)
    return nn.Sequential(reduce, norm(out_channels))


class DropBlock(nn.Module):
    """DropBlock (Ghiasi et al. 2018): zero squares of features in training, and rescale.

    torchvision's module refuses maps of 2x2, for which its block has an even side; here the side
    is the largest odd number that fits.

    Args:
        p: probability that a feature is dropped.
        block_size: side of the squares, in pixels of the map.
    """

    def __init__(self, p: float, block_size: int) -> None:
        super().__init__()
        self.p, self.block_size = p, block_size

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Drop blocks while training; the identity otherwise."""
        if not self.training or self.p == 0:
            return x
        from torchvision.ops import drop_block2d  # noqa: PLC0415  (slow to import)

        side = min(self.block_size, *x.shape[2:])
        odd = side if side % 2 else side - 1
        dropped: Tensor = drop_block2d(x, self.p, odd)
        return dropped

    def extra_repr(self) -> str:
        """As print shows it."""
        return f"p={self.p}, block_size={self.block_size}"


def drop_block(probability: float, size: int = 3) -> nn.Module:
    """A DropBlock, or the identity where it would never act."""
    return DropBlock(probability, size) if probability > 0 else nn.Identity()


def stochastic_depth(probability: float) -> nn.Module:
    """Stochastic depth (Huang et al. 2016): drop a whole residual branch, image by image."""
    if probability <= 0:
        return nn.Identity()
    from torchvision.ops import StochasticDepth  # noqa: PLC0415  (slow to import)

    depth: nn.Module = StochasticDepth(probability, "row")
    return depth


def set_drop_block(module: nn.Module, probability: float) -> None:
    """Set the probability of every DropBlock below module, for a schedule over the training."""
    for part in module.modules():
        if isinstance(part, DropBlock):
            part.p = probability


def is_norm(module: nn.Module) -> bool:
    """Whether a module normalises: its parameters are not weights, and are never decayed."""
    own = isinstance(module, (nn.modules.batchnorm._NormBase, nn.GroupNorm))
    return own or is_torchvision(module, "FrozenBatchNorm2d")


def is_torchvision(module: nn.Module, name: str) -> bool:
    """Whether a module is an instance of a class of torchvision's, which need not be imported."""
    return any(
        kind.__name__ == name and kind.__module__.startswith("torchvision.")
        for kind in type(module).__mro__
    )
