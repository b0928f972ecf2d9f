"""Training's norms and split attention by `kernels`, where these are switched on and fit.

Each function equals its plain form, up to rounding (the plain form rounds to the map's type between
the steps, this one at their end), gradients included, and stores less: a ReLU's mask is told from
what is kept anyway, and the splits, each normalised and rectified, are never stored.

============  ============================================================  ==================
function      plain form                                                    passes over memory
============  ============================================================  ==================
`norm_relu`   relu(norm(x))                                                 2 forward, 2 back
`join_block`  relu(norm(x) + shortcut)                                      2 forward, 2 back
`attend`      splits = relu(norm(x)), pooled, gated, weighed and summed     3 forward, 3 back
`pointwise`   a 1x1 convolution, as the product of two matrices             as its plain form
============  ============================================================  ==================

On a GPU, `attend` takes the average pool behind it ("avd") along: the map in between is not stored.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from resnestkit.errors import UserError
from resnestkit.ops.kernels import Computing, find_kernels, require_kernels

Map = Float[Tensor, "b c h w"]
Gate = Callable[[Tensor], Tensor]

_LEAST = 2**16
"""Elements of a map below which a call costs more than it saves."""


class _Switch:
    """Of the whole process: a net is called from one thread, and torch.compile must see through."""

    on: bool = False


@contextmanager
def use_kernels(*, enabled: bool = True) -> Iterator[None]:
    """Let what is called inside compute by kernels where they fit.

    Raises UserError where there are no kernels.
    """
    if enabled:
        require_kernels()
    before, _Switch.on = _Switch.on, enabled
    try:
        yield
    finally:
        _Switch.on = before


@functools.cache
def _kernels(device: torch.device) -> Computing | None:
    try:
        return find_kernels(device)
    except UserError:
        return None


def fits(norm: nn.Module, x: Map) -> TypeGuard[nn.BatchNorm2d]:
    """Whether kernels are on, and are for this map and this norm, of batch statistics."""
    return (
        takes(x)
        and type(norm) is nn.BatchNorm2d
        and norm.training
        and norm.affine
        and norm.bias is not None
        and norm.track_running_stats
        and norm.momentum is not None
        and norm.weight.dtype == torch.float32
        and x.numel() > x.shape[1]
        and not norm._forward_hooks
        and not norm._forward_pre_hooks
    )


def takes(x: Map) -> bool:
    """Whether kernels are on, and are for this map, which is large enough to be worth a call."""
    # In this order, for torch.export would bind a graph to the number of elements it was shown.
    return reads(x) and x.numel() >= _LEAST


def reads(x: Map) -> bool:
    """Whether kernels are on, and can read this map: channels_last, where there are kernels.

    Whoever makes a graph of it (torch.compile, torch.export, a tracer) sees the plain form.
    """
    return (
        _Switch.on
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and (found := _kernels(x.device)) is not None
        and x.dtype in found.types
        and x.is_contiguous(memory_format=torch.channels_last)
    )


def mixes(x: Map) -> bool:
    """Whether `pointwise` is for this map: a GPU's convolutions are left to cuDNN."""
    return x.device.type == "cpu" and takes(x)


def norm_relu(x: Map, norm: nn.BatchNorm2d) -> Map:
    """relu(norm(x)) in training; `fits` first."""
    out: Tensor = _NormRelu.apply(x, None, norm.weight, norm.bias, norm)
    return out


def join_block(x: Map, shortcut: Map, norm: nn.BatchNorm2d) -> Map:
    """relu(norm(x) + shortcut) in training; `fits` first. Both are of one shape."""
    if shortcut.shape != x.shape:
        raise ValueError(f"a branch of {tuple(x.shape)} and a shortcut of {tuple(shortcut.shape)}")
    other = shortcut.to(x.dtype).contiguous(memory_format=torch.channels_last)
    out: Tensor = _NormRelu.apply(x, other, norm.weight, norm.bias, norm)
    return out


def attend(
    x: Float[Tensor, "b RC h w"],
    norm: nn.BatchNorm2d,
    gate: Gate,
    radix: int,
    learnt: Iterable[Tensor],
    pool: nn.AvgPool2d | None = None,
) -> Float[Tensor, "b C h2 w2"]:
    """Split attention of what the convolution put out, in training; `fits` first.

    Args:
        x: the splits, before their norm.
        norm: bn0.
        gate: turns the pooled sum of the splits (b, C, 1, 1) into weights (b, RC, 1, 1).
        radix: number of splits.
        learnt: the gate's parameters.
        pool: what follows, if that is to be taken along; `pools` first.

    Under torch.utils.checkpoint the gradients are right, but the norms' statistics follow once more
    than without, since the gate's own graph is computed again for itself.
    """
    trained = [parameter for parameter in learnt if parameter.requires_grad]
    along = () if pool is None else (*x.shape[2:], pool.stride)
    out: Tensor = _Attend.apply(x, norm.weight, norm.bias, norm, gate, radix, along, *trained)
    return out


def pools(x: Map, pool: nn.Module) -> TypeGuard[nn.AvgPool2d]:
    """Whether kernels are on, and take a pool along with attention: avd's 3x3, on a GPU."""
    return (
        type(pool) is nn.AvgPool2d
        and reads(x)
        and (found := _kernels(x.device)) is not None
        and found.pools
        and (pool.kernel_size, pool.padding) == (3, 1)
        and isinstance(pool.stride, int)
        and not pool.ceil_mode
        and pool.count_include_pad
        and pool.divisor_override is None
        and not pool._forward_hooks
        and not pool._forward_pre_hooks
    )


def pointwise(x: Float[Tensor, "b i h w"], conv: nn.Conv2d) -> Float[Tensor, "b o h w"]:
    """A 1x1 convolution, without stride or padding, as a product of matrices; `mixes` first."""
    # By a permutation, the weight's gradient comes to lie as the weight does.
    weight = conv.weight.permute(0, 2, 3, 1).reshape(conv.out_channels, conv.in_channels)
    mixed = F.linear(x.permute(0, 2, 3, 1), weight, conv.bias)
    return mixed.permute(0, 3, 1, 2)


@dataclass(frozen=True, slots=True)
class _Norm:
    """A norm on the statistics of one map: its normalised value is scale * x + shift."""

    scale: Float32[Tensor, " c"]
    shift: Float32[Tensor, " c"]
    mean: Float32[Tensor, " c"]
    rsqrt: Float32[Tensor, " c"]
    """1 / sqrt(variance + eps)."""

    @classmethod
    def measure(cls, x: Map, norm: nn.BatchNorm2d) -> _Norm:
        """Take a map's statistics, and let the running ones follow."""
        channels = x.shape[1]
        rows = x.numel() // channels
        mean, variance = x.new_empty((2, channels), dtype=torch.float32)
        _call("measure", x, x, rows, channels, torch.get_num_threads(), mean, variance)
        with torch.no_grad():
            _follow(norm, mean, variance * (rows / (rows - 1)))
            rsqrt = torch.rsqrt(variance + norm.eps)
            scale = norm.weight * rsqrt
            return cls(scale, norm.bias - mean * scale, mean, rsqrt)

    def settle(
        self, bias: Tensor, weight: Tensor, rows: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Gradients of the bias and the weight, and what the statistics owe: slope and offset.

        ``bias`` and ``weight`` are the sums of `reduce`, in float64.
        """
        weight = weight * self.rsqrt
        slope = -self.scale * self.rsqrt * weight / rows
        offset = -self.scale * bias / rows - slope * self.mean
        return bias.float(), weight.float(), slope.float(), offset.float()

    def tensors(self) -> tuple[Tensor, ...]:
        """To be saved for the way back."""
        return self.scale, self.shift, self.mean, self.rsqrt


def _follow(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    assert norm.momentum is not None
    norm.running_mean.lerp_(mean, norm.momentum)
    norm.running_var.lerp_(variance, norm.momentum)
    norm.num_batches_tracked += 1


def _call(name: str, x: Tensor, *values: Tensor | int | None) -> None:
    find_kernels(x.device).call(name, x.dtype, *values)


class _NormRelu(torch.autograd.Function):
    """relu(norm(x)), or relu(norm(x) + other), whose sign the output tells on the way back."""

    @staticmethod
    def forward(
        ctx: Any, x: Map, other: Map | None, weight: Tensor, bias: Tensor, norm: nn.BatchNorm2d
    ) -> Map:
        del weight, bias  # the norm's own, named here so that gradients reach them
        measured = _Norm.measure(x, norm)
        channels = x.shape[1]
        size = (x.numel() // channels, channels, torch.get_num_threads())
        y = torch.empty_like(x)
        _call("normalise", x, x, other, measured.scale, measured.shift, *size, y)
        ctx.save_for_backward(x, None if other is None else y, *measured.tensors())
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Map) -> tuple[Tensor | None, ...]:
        x, y, *saved = ctx.saved_tensors
        norm = _Norm(*saved)
        g = _alike(g, x)
        channels = x.shape[1]
        rows = x.numel() // channels
        size = (rows, channels, torch.get_num_threads())
        bias, weight = x.new_empty((2, channels), dtype=torch.float64)
        _call("reduce", x, g, x, y, norm.scale, norm.shift, norm.mean, *size, bias, weight)
        bias, weight, slope, offset = norm.settle(bias, weight, rows)
        dx, dother = torch.empty_like(x), None if y is None else torch.empty_like(x)
        owed = (norm.scale, norm.shift, slope, offset)
        _call("differentiate", x, g, x, y, *owed, *size, dx, dother)
        return dx, dother, weight, bias, None


class _Attend(torch.autograd.Function):
    """Norm, ReLU, pooling, gate and weighted sum. The gate, which is small, has its own graph."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Float[Tensor, "b RC h w"],
        weight: Tensor,
        bias: Tensor,
        norm: nn.BatchNorm2d,
        gate: Gate,
        radix: int,
        pool: tuple[int, ...],
        *learnt: Tensor,
    ) -> Float[Tensor, "b C h2 w2"]:
        del weight, bias
        measured = _Norm.measure(x, norm)
        images, channels, height, width = x.shape
        size = _split_size(x, radix)
        sums = x.new_empty((images, channels), dtype=torch.float32)
        _call("squeeze", x, x, None, measured.scale, measured.shift, *size, sums)
        pooled = sums.view(images, radix, channels // radix, 1, 1).sum(1) / (height * width)
        with torch.enable_grad():
            pooled.requires_grad_()
            autocast = torch.is_autocast_enabled(x.device.type)
            gated = gate(pooled if autocast else pooled.to(x.dtype))
        attention = gated.detach().flatten(1).float().contiguous()
        made = [(side - 1) // pool[2] + 1 for side in pool[:2]] or (height, width)
        y = x.new_empty((images, *made, channels // radix)).permute(0, 3, 1, 2)
        _call("join", x, x, measured.scale, measured.shift, attention, *size, y, *pool)
        ctx.save_for_backward(x, attention, *measured.tensors())
        ctx.gate, ctx.radix, ctx.pool = (pooled, gated, learnt), radix, pool
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Float[Tensor, "b C h2 w2"]) -> tuple[Tensor | None, ...]:
        x, attention, *saved = ctx.saved_tensors
        norm = _Norm(*saved)
        g = _alike(g, x)
        images, channels, height, width = x.shape
        pixels, size, pool = height * width, _split_size(x, ctx.radix), ctx.pool
        lines = (norm.scale, norm.shift)
        asked = x.new_empty((images, channels), dtype=torch.float32)
        _call("squeeze", x, x, g, *lines, *size, asked, *pool)
        owed, learnt = _through_gate(ctx.gate, asked, ctx.radix)
        owed = (owed / pixels).contiguous()
        bias, weight = x.new_empty((2, channels), dtype=torch.float64)
        reaching = (attention, owed)
        sums = (bias, weight)
        _call("reduce_splits", x, g, x, *lines, norm.mean, *reaching, *size, *sums, *pool)
        bias, weight, slope, offset = norm.settle(bias, weight, images * pixels)
        dx = torch.empty_like(x)
        owing = (*lines, slope, offset)
        _call("differentiate_splits", x, g, x, *owing, *reaching, *size, dx, *pool)
        return dx, weight, bias, None, None, None, None, *learnt


def _through_gate(
    gate: tuple[Tensor, Tensor, tuple[Tensor, ...]], asked: Float32[Tensor, "b RC"], radix: int
) -> tuple[Float32[Tensor, "b RC"], tuple[Tensor | None, ...]]:
    """Gradients of every split's pooled sum, alike for all splits, and of the gate's parameters."""
    pooled, gated, learnt = gate
    asked = asked.view_as(gated).to(gated.dtype)
    # The graph is kept for whoever goes back twice; it goes with what holds it.
    pooling, *others = torch.autograd.grad(
        gated, [pooled, *learnt], asked, allow_unused=True, retain_graph=True
    )
    return pooling.flatten(1).float().repeat(1, radix), tuple(others)


def _split_size(x: Tensor, radix: int) -> tuple[int, int, int, int, int]:
    images, channels, height, width = x.shape
    return images, height * width, radix, channels // radix, torch.get_num_threads()


def _alike(g: Tensor, x: Tensor) -> Tensor:
    """A gradient as it must lie for the kernels."""
    return g.to(x.dtype).contiguous(memory_format=torch.channels_last)
