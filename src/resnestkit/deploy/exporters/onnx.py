"""ONNX, by torch's exporter; run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from resnestkit.deploy.placing import explain_writing
from resnestkit.runtime.card import IMAGES
from resnestkit.runtime.loading import Run, load

SUFFIX = ".onnx"
LIBRARY = "onnxruntime"
ROUNDS_UP = True


def write(program: ExportedProgram, outputs: Sequence[str], target: Path) -> None:
    """Write the graph and its weights to one file."""
    made = torch.onnx.export(
        program,
        dynamo=True,
        input_names=[IMAGES],
        output_names=list(outputs),
        dynamic_shapes=_axes(program),
        verbose=False,
    )
    assert made is not None
    with explain_writing(target):
        made.save(str(target), external_data=False)


def _axes(program: ExportedProgram) -> Any:
    """Names of the input's sides that vary: the program calls them by numbers."""
    [wanted] = program.graph_signature.user_inputs
    [images] = [node for node in program.graph.nodes if node.name == wanted]
    sides = zip(("batch", None, "height", "width"), images.meta["val"].shape, strict=True)
    names = {i: name for i, (name, side) in enumerate(sides) if not isinstance(side, int)}
    return (names,) if names else None


def open_file(path: Path, threads: int) -> Run:
    """Open a session of ONNX Runtime."""
    return load(path, "float32", threads)
