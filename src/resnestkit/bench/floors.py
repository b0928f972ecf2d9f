"""The arithmetic floor: how fast products of matrices are here, in the runtime that runs the nets.

A 1x1 convolution is a product of matrices: pixels by channels, and weights. A chain of
them, each followed by a ReLU, has next to nothing beside its multiply-adds, so a net whose every
multiply-add cost as little would be at the floor. (Winograd's form needs fewer, and may go below.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from resnestkit.bench.contenders import Precision
from resnestkit.errors import UserError
from resnestkit.runtime.loading import has_bfloat16
from resnestkit.runtime.openvino_core import openvino_core

SIDE, CHANNELS, LINKS = 28, 512, 8
"""Every product is of 784 x 512 and 512 x 512, which is about what nets ask for."""
OPERATIONS = 2 * SIDE * SIDE * CHANNELS * CHANNELS * LINKS
"""Of one call: multiplications and additions."""

_MOST = 4.0
"""Of the inputs in int8."""


def open_floor(precision: Precision, threads: int) -> Callable[[], object]:
    """A call that multiplies, so many `OPERATIONS`.

    Raises UserError if OpenVINO is not installed, or the processor lacks the precision.
    """
    core = openvino_core()
    if precision == "bfloat16" and not has_bfloat16():
        raise UserError("this processor does not multiply in bfloat16")
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32",
    }
    compiled = core.compile_model(_chain(precision), "CPU", settings)
    request = compiled.create_infer_request()
    images = np.ones((1, CHANNELS, SIDE, SIDE), np.float32)
    return lambda: request.infer([images], share_inputs=True)


def _chain(precision: Precision) -> Any:
    """1x1 convolutions, each behind the last; their mean is the output, so that none is stored."""
    import openvino  # noqa: PLC0415  (an extra)
    import openvino.opset13 as operations  # noqa: PLC0415  (an extra)

    images = maps = operations.parameter([1, CHANNELS, SIDE, SIDE], np.float32)
    generator = np.random.default_rng(0)
    for _ in range(LINKS):
        weights = generator.standard_normal((CHANNELS, CHANNELS, 1, 1), np.float32)
        constant = operations.constant(weights / np.float32(CHANNELS**0.5))
        if precision == "int8":
            maps = _round(maps, 0.0, _MOST, 256)
            largest = float(np.abs(weights).max()) / CHANNELS**0.5
            constant = _round(constant, -largest, largest, 255)
        made = operations.convolution(maps, constant, [1, 1], [0, 0], [0, 0], [1, 1])
        maps = operations.relu(made)
    mean = operations.reduce_mean(maps, operations.constant(np.array([2, 3])), keep_dims=True)
    return openvino.Model([mean], [images])


def _round(values: Any, least: float, most: float, levels: int) -> Any:
    """What OpenVINO reads as a wish for int8."""
    import openvino.opset13 as operations  # noqa: PLC0415  (an extra)

    low, high = (operations.constant(np.float32(edge)) for edge in (least, most))
    return operations.fake_quantize(values, low, high, low, high, levels)
