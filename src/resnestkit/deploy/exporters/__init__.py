"""One module per format: each writes a traced model to a file, and opens such a file to run it.

=============  =========  ==============================================================
module         file       holds
=============  =========  ==============================================================
`onnx`         .onnx      the graph and its weights, for ONNX Runtime and whatever reads ONNX
`openvino`     .xml       the graph, its weights in the .bin beside it
`torch`        .pt2       a program of torch.export, which runs wherever torch does
`aot`          .pt2       the same compiled by AOTInductor, for the machine that made it
=============  =========  ==============================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from resnestkit.extras import require
from resnestkit.runtime.card import Format
from resnestkit.runtime.loading import Run

if TYPE_CHECKING:
    from torch.export import ExportedProgram  # slow to import, and needed to write alone

_NEEDS: dict[Format, tuple[str, ...]] = {
    "onnx": ("onnxscript", "onnxruntime"),
    "openvino": ("openvino",),
    "torch": (),
    "aot": (),
}
FORMATS: tuple[Format, ...] = tuple(_NEEDS)


class Exporter(Protocol):
    """What each module has."""

    SUFFIX: str
    LIBRARY: str
    """Of the runtime, for the versions in the card."""
    ROUNDS_UP: bool
    """Whether averages that round sizes up are right there at every size, or must be padded."""

    def write(self, program: ExportedProgram, outputs: Sequence[str], target: Path) -> None:
        """Write a traced model, whose outputs have these names. Raises UserError."""

    def open_file(self, path: Path, threads: int) -> Run:
        """Open a file to run it in float32."""


def find_exporter(to: Format) -> Exporter:
    """The module of a format. Raises UserError if a library that it needs is not installed."""
    for library in _NEEDS[to]:
        require(library, "deploy")
    return cast(Exporter, import_module(f"{__name__}.{to}"))
