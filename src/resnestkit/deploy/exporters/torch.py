"""Programs of torch.export, which the other formats are made of too."""

from __future__ import annotations

import io
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F

from resnestkit.deploy.placing import explain_writing
from resnestkit.errors import UserError
from resnestkit.runtime.card import InputForm
from resnestkit.runtime.loading import Run

SUFFIX = ".pt2"
LIBRARY = "torch"
ROUNDS_UP = False

_SHOWN = 2
"""Images of the example. A program that was shown one would take no other number."""


def trace(model: nn.Module, form: InputForm) -> ExportedProgram:
    """The program of a model, which has one input.

    Raises UserError if it cannot be made for every size that the form names.
    """
    height, width = form.height, form.width
    if form.dynamic:  # in no side like another, and in none so small that it would be special
        height, width = (_round_up(s, form) for s in (height, width + form.multiple))
    count = _SHOWN if form.batch is None else form.batch
    first = next(model.parameters())
    images = torch.zeros(count, form.channels, height, width, dtype=first.dtype)
    try:
        with torch.no_grad():
            program = torch.export.export(
                model,
                (images,),
                dynamic_shapes=(_dynamic_shapes(form),),
                # Rounding up, as average pools do, is a condition that no solver sees is true.
                prefer_deferred_runtime_asserts_over_guards=True,
            )
        _drop_assertions(program)
        return program
    except torch._dynamo.exc.UserError as error:
        if not form.dynamic:
            raise
        reason = str(error).strip().split("\n", maxsplit=1)[0]
        raise UserError(
            f"This model cannot be exported for every size; give --static. ({reason})"
        ) from error


def _drop_assertions(program: ExportedProgram) -> None:
    """Take out what the tracer asserts of sizes because it held for the example.

    torch 2.11 computes a pool's size by a branch on a remainder, which changes nothing, but would
    bind a program to odd sizes or to even ones. Whether all sizes are right, the check says.
    """
    for node in list(program.graph.nodes):
        if node.target is torch.ops.aten._assert_scalar.default:
            program.graph.erase_node(node)
    program.graph.eliminate_dead_code()
    program.graph_module.recompile()


def _round_up(side: int, form: InputForm) -> int:
    least = max(side, 2 * form.least_side)
    return -(-least // form.multiple) * form.multiple


def _dynamic_shapes(form: InputForm) -> dict[int, Any]:
    shapes: dict[int, Any] = {}
    if form.batch is None:
        shapes[0] = Dim("batch", min=1)
    if form.dynamic:
        least = -(-form.least_side // form.multiple)
        for axis, name in ((2, "height"), (3, "width")):
            side: Any = Dim(name if form.multiple == 1 else f"{name}_parts", min=least)
            shapes[axis] = side if form.multiple == 1 else form.multiple * side
    return shapes


class PaddedPool(nn.Module):
    """A pool that repeats the last row and column, and so has nothing to round up.

    The mean of a pixel and its copy is the pixel, and so is the maximum.
    """

    def __init__(self, pool: nn.AvgPool2d | nn.MaxPool2d) -> None:
        super().__init__()
        self.pool = deepcopy(pool)
        self.pool.ceil_mode = False

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        """As the pool."""
        pooled: Tensor = self.pool(F.pad(x, (0, 1, 0, 1), "replicate"))
        return pooled


def pad_pools(model: nn.Module, *, averages: bool) -> None:
    """Let pools of a deploy form that round sizes up pad instead, in place.

    Tracing a maximum over every size fails. AOTInductor compiles wrong averages: what it sees of
    the example's size, whether there was anything to round, it takes for true of all (torch 2.15).
    """
    for name, part in list(model.named_modules()):
        kinds = (nn.MaxPool2d, nn.AvgPool2d) if averages else (nn.MaxPool2d,)
        if isinstance(part, kinds) and part.ceil_mode:
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, _pad(part))


def _pad(pool: nn.AvgPool2d | nn.MaxPool2d) -> nn.Module:
    if pool.kernel_size == pool.stride == 1:
        return nn.Identity()
    # The two that there are: means of 2x2 that count what is inside, and Caffe's maxima of 3x3.
    kernel = 2 if isinstance(pool, nn.AvgPool2d) else 3
    assert (pool.kernel_size, pool.stride, pool.padding) == (kernel, 2, 0), pool
    return PaddedPool(pool)


def write(program: ExportedProgram, outputs: Sequence[str], target: Path) -> None:  # noqa: ARG001
    """Write the program; its outputs are in order, and have no names."""
    # Torch's own writer ends the process where the disk is full (2.15).
    content = io.BytesIO()
    torch.export.save(program, content)
    with explain_writing(target):
        target.write_bytes(content.getbuffer())


def open_file(path: Path, threads: int) -> Run:  # noqa: ARG001  (torch's are the process's)
    """Load a program."""
    return as_runner(torch.export.load(path).module())


def as_runner(model: Any) -> Run:
    """What torch runs, as the other runtimes are called."""

    def run(images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        with torch.inference_mode():
            found = model(torch.from_numpy(images))
        parts = found if isinstance(found, (tuple, list)) else (found,)
        return [part.numpy() for part in parts]

    return run
