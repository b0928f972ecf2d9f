"""Files into functions: the two runtimes that need no torch.

============  ========  ===================================================
OpenVINO      ``.xml``  computes in float32 or bfloat16
ONNX Runtime  ``.onnx`` computes in float32
============  ========  ===================================================

Layers that were quantised compute in int8 in both; the precision is that of all others.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32
from numpy.typing import NDArray

from resnestkit.errors import UserError
from resnestkit.extras import require
from resnestkit.runtime.openvino_core import openvino_core

Arithmetic = Literal["float32", "bfloat16"]
"""In what a file is computed."""
Run = Callable[[Float32[NDArray[np.float32], "b c h w"]], list[NDArray[np.float32]]]
"""Images in, all outputs out, in the file's order. Threads of a program may share one."""

SUFFIXES = (".xml", ".onnx")


def load(
    path: Path,
    precision: Arithmetic = "float32",
    threads: int | None = None,
    shape: Sequence[int] | None = None,
) -> Run:
    """Load a file in its runtime, on the processor.

    Args:
        path: an .xml, with its .bin beside it, or an .onnx.
        precision: "float32" or "bfloat16".
        threads: how many at most; None is one for each core.
        shape: batch (-1 for any), channels, height and width of all images to come, for which
            OpenVINO then plans; None is whatever the file takes. ONNX Runtime plans nothing.

    Raises:
        UserError: there is no such file, it is damaged, its library is not installed, or it cannot
            compute in this precision here.
    """
    if threads is not None and threads < 1:
        raise UserError(f"--threads is {threads}; it must be 1 or more.")
    loaders = {".xml": _load_openvino, ".onnx": _load_onnx}
    loader = loaders.get(path.suffix.lower())
    if loader is None:
        raise UserError(f"{path} is for no runtime known here: it ends in none of .xml and .onnx.")
    if not path.is_file():
        raise UserError(f"There is no file {path}.")
    return loader(path, precision, threads, shape)


def has_bfloat16() -> bool:
    """Whether OpenVINO is installed and the processor multiplies in bfloat16."""
    try:
        core = openvino_core()
    except UserError:
        return False
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def name_processor() -> str:
    """What the processor calls itself, as OpenVINO says it."""
    return str(openvino_core().get_property("CPU", "FULL_DEVICE_NAME"))


def _load_openvino(
    path: Path, precision: Arithmetic, threads: int | None, shape: Sequence[int] | None
) -> Run:
    if precision == "bfloat16" and not has_bfloat16():
        raise UserError("This processor does not multiply in bfloat16; choose float32.")
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32",
    }
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    core = openvino_core()
    try:
        model = core.read_model(path)
        if shape is not None:
            model.reshape(list(shape))
        request = core.compile_model(model, "CPU", settings).create_infer_request()
    except RuntimeError as error:
        raise _damaged(path, "OpenVINO", error) from error
    any_batch = model.input(0).partial_shape[0].is_dynamic
    busy = threading.Lock()

    def infer(images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        found = request.infer([np.ascontiguousarray(images)], share_inputs=True)
        return list(found.to_tuple())

    def run(images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        pieces = np.split(images, _cuts(len(images))) if any_batch else [images]
        with busy:  # a request answers one at a time
            parts = [infer(piece) for piece in pieces]
        if len(parts) == 1:
            return parts[0]
        return [np.concatenate(one) for one in zip(*parts, strict=True)]

    return run


def _cuts(count: int) -> list[int]:
    """Where to cut a batch into powers of two, the largest first.

    For every batch size that OpenVINO meets it makes kernels, and keeps them: for resnest50 in int8
    that is 8 MB, and the half of a batch's time when it comes for the first time.
    """
    sizes = [1 << bit for bit in reversed(range(count.bit_length())) if count >> bit & 1]
    return [sum(sizes[:number]) for number in range(1, len(sizes))]


def _load_onnx(
    path: Path, precision: Arithmetic, threads: int | None, shape: Sequence[int] | None
) -> Run:
    if precision == "bfloat16":
        raise UserError(
            "ONNX Runtime does not compute in bfloat16 on a processor; export the model to "
            "openvino, or choose float32."
        )
    del shape
    require("onnxruntime", "deploy")
    import onnxruntime  # noqa: PLC0415  (an extra)

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 3  # errors; they come as exceptions too
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own kinds, which have no common one but this
        raise _damaged(path, "ONNX Runtime", error) from error
    [images_in] = session.get_inputs()

    def run(images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        found: list[NDArray[np.float32]] = session.run(None, {images_in.name: images})
        return found

    return run


def _damaged(path: Path, runtime: str, error: Exception) -> UserError:
    if path.suffix.lower() == ".xml" and not path.with_suffix(".bin").is_file():
        return UserError(f"{path} needs {path.with_suffix('.bin').name} beside it, its weights.")
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return UserError(f"{runtime} cannot load {path}: {lines[-1] if lines else 'no reason given'}")
