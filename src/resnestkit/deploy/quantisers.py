"""What quantising is in each format: how its models are read, fed, run, written and looked through.

NNCF does the same with both. The functions of a format are a `Quantiser`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from resnestkit.deploy.int8_joins import free_joins
from resnestkit.deploy.placing import explain_writing
from resnestkit.extras import require
from resnestkit.runtime.card import IMAGES, Format
from resnestkit.runtime.openvino_core import openvino_core

Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]

_LAYERS = frozenset({"Convolution", "GroupConvolution", "MatMul", "Conv", "Gemm"})
_UNPACK = frozenset({"Convert", "Subtract", "Multiply", "Reshape", "Transpose"})
"""What lies in OpenVINO's graph between weights of eight bits and their layer."""


class Quantiser(NamedTuple):
    """The functions of one format."""

    read: Callable[[Path], Any]
    """A file as NNCF takes it."""
    write: Callable[[Any, Path], None]
    feed: Callable[[NDArray[np.float32]], Any]
    """A batch as NNCF hands it to a model of this format."""
    finish: Callable[[Any], object]
    """Do to what NNCF gives what it leaves undone, in place."""
    prepare: Callable[[Any], Run]
    """What NNCF gives to be measured, as a function that gives logits."""
    layers: Callable[[Any], dict[str, bool]]
    """Convolutions and matrix products by name, and whether each is in int8."""
    library: str
    ranks_by_outputs: bool
    """Whether NNCF can rank layers by how outputs change, and not by the accuracy alone."""


def find_quantiser(to: Format) -> Quantiser:
    """That of a format. Raises UserError if a library that it needs is not installed."""
    require("nncf", "deploy")
    quantiser = {"openvino": _OPENVINO, "onnx": _ONNX}[to]
    require(quantiser.library, "deploy")
    return quantiser


def _read_openvino(path: Path) -> Any:
    return openvino_core().read_model(path)


def _write_openvino(model: Any, path: Path) -> None:
    import openvino  # noqa: PLC0415  (an extra)

    with explain_writing(path):
        openvino.save_model(model, path, compress_to_fp16=False)


def _prepare_openvino(compiled: Any) -> Run:
    def run(images: NDArray[np.float32]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = compiled(images)[0]
        return logits

    return run


def _layers_of_openvino(model: Any) -> dict[str, bool]:
    found = {}
    for op in model.get_ordered_ops():
        if op.get_type_name() in _LAYERS:
            source = op.input_value(1).get_node()
            while source.get_type_name() in _UNPACK:
                source = source.input_value(0).get_node()
            is_weight = source.get_type_name() == "Constant"
            if is_weight:
                found[op.get_friendly_name()] = source.get_element_type().size == 1
    return found


def _read_onnx(path: Path) -> Any:
    import onnx  # noqa: PLC0415  (an extra)

    return onnx.load(path)


def _write_onnx(model: Any, path: Path) -> None:
    import onnx  # noqa: PLC0415  (an extra)

    with explain_writing(path):
        onnx.save(model, path)


def _prepare_onnx(model: Any) -> Run:
    import onnxruntime  # noqa: PLC0415  (an extra)

    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )

    def run(images: NDArray[np.float32]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = session.run(None, {IMAGES: images})[0]
        return logits

    return run


def _leave(_model: Any) -> None:
    """ONNX Runtime has 8-bit kernels for the parts of a join, and none for the whole."""


def _layers_of_onnx(model: Any) -> dict[str, bool]:
    weights = {tensor.name for tensor in model.graph.initializer}
    unpacked = {
        node.output[0]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in weights
    }
    return {
        node.name: node.input[1] in unpacked
        for node in model.graph.node
        if node.op_type in _LAYERS and node.input[1] in weights | unpacked
    }


_OPENVINO = Quantiser(
    _read_openvino,
    _write_openvino,
    lambda images: images,
    free_joins,
    _prepare_openvino,
    _layers_of_openvino,
    "openvino",
    ranks_by_outputs=True,
)
_ONNX = Quantiser(
    _read_onnx,
    _write_onnx,
    lambda images: {IMAGES: images},
    _leave,
    _prepare_onnx,
    _layers_of_onnx,
    "onnx",
    ranks_by_outputs=False,
)
