"""OpenVINO's own form, straight from the program."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import openvino
import openvino.opset14 as operations
from torch.export import ExportedProgram

from resnestkit.deploy.placing import explain_writing
from resnestkit.runtime.card import IMAGES
from resnestkit.runtime.loading import Run, load

SUFFIX = ".xml"
LIBRARY = "openvino"
ROUNDS_UP = True


def write(program: ExportedProgram, outputs: Sequence[str], target: Path) -> None:
    """Write the graph, and its weights in float32 to the .bin beside it."""
    model = openvino.convert_model(program)
    model.inputs[0].get_tensor().set_names({IMAGES})
    for output, name in zip(model.outputs, outputs, strict=True):
        output.get_tensor().set_names({name})
    round_down_pools(model)
    with explain_writing(target):
        openvino.save_model(model, target, compress_to_fp16=False)


def round_down_pools(model: openvino.Model) -> None:
    """Let average pools that round sizes up pad at the right and the bottom instead; in place.

    What is padded does not count, so they give the same at every size. But OpenVINO (2026.4) runs
    no pool that rounds up in int8: it turns the map into float32 before, and back behind it.
    """
    for pool in model.get_ops():
        if pool.get_type_name() != "AvgPool":
            continue
        settings = pool.get_attributes()
        rounds_up = settings["rounding_type"].startswith("ceil")
        sides = tuple(settings[name] for name in ("kernel", "strides", "pads_begin", "pads_end"))
        if rounds_up and settings["exclude-pad"] and sides == ([2, 2], [2, 2], [0, 0], [0, 0]):
            [source] = pool.input_values()
            made = operations.avg_pool(source, [2, 2], [0, 0], [1, 1], [2, 2], True, "floor")
            made.set_friendly_name(pool.get_friendly_name())
            pool.output(0).replace(made.output(0))


def open_file(path: Path, threads: int) -> Run:
    """Compile for the processor, in float32 also where bfloat16 would be quicker."""
    return load(path, "float32", threads)
