"""RoIAlign by `kernels`, on all levels of a pyramid at once, where these are switched on and fit.

It equals torchvision's `roi_align` up to rounding, gradients included, and takes bfloat16 as it is:
what a region holds is rounded once, at the end. torchvision tells the weights of a point's four
pixels anew for each channel; here they are told once for all, as are those of points that share
their pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable

from resnestkit.ops import fused
from resnestkit.ops.kernels import load_kernels

Level = Float[Tensor, "b c _ _"]


@dataclass(frozen=True, slots=True)
class Cut:
    """How regions are cut into cells."""

    scales: tuple[float, ...]
    """Of each level: its pixels per image pixel."""
    side: int
    """Cells per side."""
    ratio: int
    """Points per cell and axis; 0 or less is as many as a cell is pixels wide."""
    aligned: bool
    """Whether a pixel's centre is at +0.5."""
    planes: bool
    """Whether what is pooled lies contiguous, and not channels_last."""


def fits(levels: Sequence[Level], regions: Tensor) -> bool:
    """Whether kernels are on, and are for these maps and regions."""
    return (
        regions.is_cpu
        and regions.dtype == torch.float32
        and len({level.dtype for level in levels}) == 1
        and all(map(fused.reads, levels))
    )


def pool_regions(
    levels: Sequence[Level],
    regions: Float32[Tensor, "n 5"],
    level_of: Int64[Tensor, " n"],
    cut: Cut,
) -> Float[Tensor, "n c side side"]:
    """What each region holds on its level; `fits` first.

    Args:
        levels: maps of all images.
        regions: image, left, top, right and bottom, in image pixels; no gradient reaches them.
        level_of: which level each region is read on; one of none holds zeros.
        cut: how it is read.
    """
    pooled: Tensor = _PoolRegions.apply(regions.contiguous(), level_of.contiguous(), cut, *levels)
    return pooled


class _PoolRegions(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, regions: Tensor, level_of: Tensor, cut: Cut, *levels: Level
    ) -> Float[Tensor, "n c side side"]:
        shape = (len(regions), levels[0].shape[1], cut.side, cut.side)
        pooled = torch.empty(shape, dtype=levels[0].dtype, memory_format=_layout(cut)).zero_()
        for number, level in enumerate(levels):
            _call("pool", level, pooled, regions, level_of, number, cut)
        ctx.save_for_backward(regions, level_of)
        ctx.cut, ctx.shapes = cut, [level.shape for level in levels]
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Float[Tensor, "n c side side"]) -> tuple[Tensor | None, ...]:
        regions, level_of = ctx.saved_tensors
        cut: Cut = ctx.cut
        g = g.contiguous(memory_format=_layout(cut))
        gradients: list[Tensor | None] = [None] * len(ctx.shapes)
        for number, shape in enumerate(ctx.shapes):
            if ctx.needs_input_grad[3 + number]:
                dx = torch.empty(shape, dtype=g.dtype, memory_format=torch.channels_last)
                _call("spread", dx, g, regions, level_of, number, cut)
                gradients[number] = dx
        return None, None, None, *gradients


def _layout(cut: Cut) -> torch.memory_format:
    return torch.contiguous_format if cut.planes else torch.channels_last


def _call(
    name: str,
    level: Level,
    pooled: Tensor,
    regions: Tensor,
    level_of: Tensor,
    number: int,
    cut: Cut,
) -> None:
    images, channels, height, width = level.shape
    size = (number, len(regions), images, height, width, channels, cut.side)
    how = (cut.scales[number], max(cut.ratio, 0), int(cut.aligned), int(cut.planes))
    threads = torch.get_num_threads()
    load_kernels().call(name, level.dtype, level, regions, level_of, *size, *how, threads, pooled)
