"""`triton_kernels`, launched: on a GPU of Ampere or later, or in Triton's interpreter.

They are called as the compiled ones of `kernels` are, by the same names with the same arguments
(the number of threads means nothing here), so that `fused` need not know which it calls. They take
float16 too, and can take the average pool behind split attention along.

The interpreter, which computes on a CPU's tensors, is for tests: it is on where TRITON_INTERPRET is
1 before Triton is imported. Nothing here was run on a GPU yet.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from resnestkit.errors import UserError

_AMPERE = (8, 0)
_TILE = 2048
"""Elements that a program holds at once: 16 for each of 128 threads."""
_WIDEST = 64
"""Channels of a tile: 128 bytes of a row in bfloat16."""
_PROGRAMS = 2048
"""As many are wanted for a sum, so that no part of a GPU is idle."""
_MERGED = (64, 16)
"""Parts and channels of a tile of `merge`, in float64."""


def interprets() -> bool:
    """Whether Triton computes in its interpreter, on a CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@functools.cache
def load_triton(device: torch.device) -> TritonKernels:
    """The kernels of a device. Raises UserError, in one sentence, where they cannot be had."""
    if device.type == "cuda" and not interprets():
        if torch.version.hip is not None or not torch.cuda.is_available():
            raise UserError("The kernels for a GPU are for CUDA.")
        if torch.cuda.get_device_capability(device) < _AMPERE:
            raise UserError(f"{torch.cuda.get_device_name(device)} is older than Ampere.")
    try:
        kernels = TritonKernels()
        _try(kernels, device)
    except ImportError as error:
        raise UserError("Triton is not installed.") from error
    except Exception as error:  # of Triton's many kinds, such as the lack of a C compiler
        first = (str(error) or type(error).__name__).split("\n", maxsplit=1)[0]
        raise UserError(f"Triton does not run here: {first.rstrip('.')}.") from error
    return kernels


def _try(kernels: TritonKernels, device: torch.device) -> None:
    """A first launch, on a map whose mean and variance are known."""
    x = torch.arange(4.0, device=device).view(4, 1, 1, 1)
    mean, variance = x.new_empty((2, 1))
    kernels.call("measure", x.dtype, x, 4, 1, 0, mean, variance)
    if (mean.item(), variance.item()) != (1.5, 1.25):
        raise ArithmeticError("a kernel gave wrong numbers")


class TritonKernels:
    """The launched functions: ``kernels.call("join", dtype, tensors and numbers)``."""

    types = frozenset({torch.float32, torch.bfloat16, torch.float16})
    """Of the maps that they take."""
    pools = True
    """Whether those of splits take height, width and stride of a pool behind their arguments."""

    def __init__(self) -> None:
        from resnestkit.ops import triton_kernels  # noqa: PLC0415  (needs Triton)

        self._made: Any = triton_kernels

    def call(self, name: str, dtype: torch.dtype, *values: Tensor | float | None) -> None:
        """Run a function on tensors, which lie as it expects them, and numbers."""
        del dtype  # the tensors say it
        function: Callable[..., None] = getattr(self, f"_{name}")
        with _on(values[0]):
            function(*values)

    def _run(self, name: str, programs: int, *values: Tensor | float | None) -> None:
        # Products and sums are joined where fma says so, whatever Triton's release would do.
        getattr(self._made, name)[(programs,)](*values, enable_fp_fusion=False)

    def _measure(
        self, x: Tensor, rows: int, channels: int, _threads: int, mean: Tensor, variance: Tensor
    ) -> None:
        tile = _tile(channels)
        runs, run = _cut(rows, _blocks(channels, tile), tile[0])
        parts = _parts(x, runs, 2, channels)
        programs = runs * _blocks(channels, tile)
        self._run("measure", programs, x, parts, rows, channels, run, *tile)
        self._merge(parts, x, mean, variance, rows)

    def _merge(
        self, parts: Tensor, x: Tensor | None, first: Tensor, second: Tensor, rows: int
    ) -> None:
        count, _, channels = parts.shape
        programs = _blocks(channels, _MERGED)
        self._run("merge", programs, parts, x, first, second, count, rows, channels, *_MERGED)

    def _normalise(
        self, x: Tensor, other: Tensor | None, scale: Tensor, shift: Tensor,
        rows: int, channels: int, _threads: int, y: Tensor,
    ) -> None:  # fmt: skip
        tile = _tile(channels)
        programs = -(-rows // tile[0]) * _blocks(channels, tile)
        self._run("normalise", programs, x, other, scale, shift, rows, channels, y, *tile)

    def _reduce(
        self, g: Tensor, x: Tensor, y: Tensor | None, scale: Tensor, shift: Tensor, mean: Tensor,
        rows: int, channels: int, _threads: int, bias: Tensor, weight: Tensor,
    ) -> None:  # fmt: skip
        norm = (scale, shift, mean)
        self._sum(g, x, y, norm, (None, None), (1, rows, 1, channels), (), bias, weight)

    def _reduce_splits(
        self, g: Tensor, x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor,
        attention: Tensor, owed: Tensor, images: int, pixels: int, radix: int, width: int,
        _threads: int, bias: Tensor, weight: Tensor, *pool: int,
    ) -> None:  # fmt: skip
        norm, size = (scale, shift, mean), (images, pixels, radix, width)
        self._sum(g, x, None, norm, (attention, owed), size, pool, bias, weight)

    def _sum(
        self, g: Tensor, x: Tensor, y: Tensor | None, norm: tuple[Tensor, ...],
        gate: tuple[Tensor | None, ...], size: tuple[int, int, int, int], pool: tuple[int, ...],
        bias: Tensor, weight: Tensor,
    ) -> None:  # fmt: skip
        images, pixels, radix, width = size
        channels, tile = radix * width, _tile(radix * width)
        blocks = _blocks(channels, tile)
        runs, run = _cut(pixels, images * blocks, tile[0])
        parts = _parts(x, images * runs, 2, channels)
        sizes = (pixels, channels, width, runs, run, *_pooling(pixels, pool))
        programs = images * runs * blocks
        self._run("reduce", programs, g, x, y, *norm, *gate, parts, *sizes, *tile)
        self._merge(parts, None, bias, weight, images * pixels)

    def _differentiate(
        self, g: Tensor, x: Tensor, y: Tensor | None, scale: Tensor, shift: Tensor, slope: Tensor,
        offset: Tensor, rows: int, channels: int, _threads: int, dx: Tensor, dother: Tensor | None,
    ) -> None:  # fmt: skip
        owed = (scale, shift, slope, offset, None, None)
        self._give(g, x, y, owed, (1, rows, 1, channels), (), dx, dother)

    def _differentiate_splits(
        self, g: Tensor, x: Tensor, scale: Tensor, shift: Tensor, slope: Tensor, offset: Tensor,
        attention: Tensor, owed: Tensor, images: int, pixels: int, radix: int, width: int,
        _threads: int, dx: Tensor, *pool: int,
    ) -> None:  # fmt: skip
        owing = (scale, shift, slope, offset, attention, owed)
        self._give(g, x, None, owing, (images, pixels, radix, width), pool, dx, None)

    def _give(
        self, g: Tensor, x: Tensor, y: Tensor | None, owed: tuple[Tensor | None, ...],
        size: tuple[int, int, int, int], pool: tuple[int, ...], dx: Tensor, dother: Tensor | None,
    ) -> None:  # fmt: skip
        images, pixels, radix, width = size
        channels, tile = radix * width, _tile(radix * width)
        tiles = -(-pixels // tile[0])
        sizes = (pixels, channels, width, tiles, *_pooling(pixels, pool))
        programs = images * tiles * _blocks(channels, tile)
        self._run("differentiate", programs, g, x, y, *owed, dx, dother, *sizes, *tile)

    def _squeeze(
        self, x: Tensor, g: Tensor | None, scale: Tensor, shift: Tensor, images: int, pixels: int,
        radix: int, width: int, _threads: int, sums: Tensor, *pool: int,
    ) -> None:  # fmt: skip
        channels, tile = radix * width, _tile(radix * width)
        blocks = _blocks(channels, tile)
        runs, run = _cut(pixels, images * blocks, tile[0])
        parts = sums if runs == 1 else _parts(x, runs, images, channels)
        sizes = (images, pixels, channels, width, runs, run, *_pooling(pixels, pool))
        programs = images * runs * blocks
        self._run("squeeze", programs, x, g, scale, shift, parts, *sizes, *tile)
        if runs > 1:
            torch.sum(parts, 0, out=sums)

    def _join(
        self, x: Tensor, scale: Tensor, shift: Tensor, attention: Tensor, images: int, pixels: int,
        radix: int, width: int, _threads: int, y: Tensor, *pool: int,
    ) -> None:  # fmt: skip
        tile = _tile(width)
        side, made_side, made_pixels, stride = _pooling(pixels, pool)
        tiles = -(-made_pixels // tile[0])
        sizes = (pixels, width, tiles, side, made_side, made_pixels, radix, stride)
        programs = images * tiles * _blocks(width, tile)
        self._run("join", programs, x, scale, shift, attention, y, *sizes, *tile)


def _on(x: Any) -> AbstractContextManager[Any]:
    """Triton launches on the current GPU, whatever that of its tensors is."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def _tile(channels: int) -> tuple[int, int]:
    """Rows and channels, which are powers of two."""
    wide = min(_WIDEST, 1 << (channels - 1).bit_length())
    return _TILE // wide, wide


def _blocks(channels: int, tile: tuple[int, int]) -> int:
    return -(-channels // tile[1])


def _cut(rows: int, others: int, tile: int) -> tuple[int, int]:
    """Into how many runs to cut rows that a sum goes over, of how many rows each.

    ``others`` programs there are for each. A run is whole tiles.
    """
    tiles = -(-rows // tile)
    wanted = max(1, min(_PROGRAMS // others, tiles))
    run = -(-tiles // wanted) * tile
    return -(-rows // run), run


def _parts(x: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=x.device)


def _pooling(pixels: int, pool: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Of a map and of what is made of it: pixels in a line, and there, and in all; the stride."""
    if not pool:
        return pixels, pixels, pixels, 0
    height, width, stride = pool
    made_side = (width - 1) // stride + 1
    return width, made_side, ((height - 1) // stride + 1) * made_side, stride
