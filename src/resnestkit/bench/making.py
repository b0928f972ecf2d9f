"""The files that contend: our deploy form, the peers' exports, and both in int8."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn

from resnestkit.bench.contenders import Contender, Library, Plan
from resnestkit.bench.subjects import Subject, build, count_macs, name_in, settle
from resnestkit.deploy.exporters import find_exporter
from resnestkit.deploy.exporters.torch import trace
from resnestkit.deploy.form import make_deploy_form
from resnestkit.deploy.quantisers import find_quantiser
from resnestkit.deploy.quantising import nncf_at_work
from resnestkit.errors import UserError
from resnestkit.extras import require
from resnestkit.models.zoo import find_net
from resnestkit.runtime.card import IMAGES, LOGITS, InputForm
from resnestkit.runtime.loading import has_bfloat16

_CALIBRATION = 4
"""Images of noise by which int8 ranges are chosen: they decide about accuracy, not about speed."""


@dataclass(slots=True)
class Workshop:
    """Makes a subject's contenders in a folder, each file once."""

    subject: Subject
    folder: Path
    _models: dict[Library, tuple[str, nn.Module]] = field(default_factory=dict)

    def make(self, plan: Plan) -> Contender:
        """The contender of a plan.

        Raises UserError if a library is not installed or has no such net, or the processor lacks
        the precision.
        """
        if plan.precision == "bfloat16" and not has_bfloat16():
            raise UserError("this processor, or its OpenVINO, does not multiply in bfloat16")
        name, model = self._find_model(plan.library)
        path = self._write(plan, model)
        if plan.precision == "int8":
            path = quantise(path, self.noise(_CALIBRATION), finished=plan.is_ours)
        subject = self.subject
        macs = subject.macs
        if plan.library == "torchvision":
            macs = count_macs(find_net(name), subject.classes, subject.channels, subject.size)
        return Contender(plan, str(path), name, subject.classes, subject.channels, macs)

    def noise(self, count: int) -> NDArray[np.float32]:
        """Images of normalised noise: what costs is the same as with photographs."""
        shape = (count, self.subject.channels, self.subject.size, self.subject.size)
        return np.random.default_rng(0).standard_normal(shape, np.float32)

    def _find_model(self, library: Library) -> tuple[str, nn.Module]:
        """A library's net with its name there; that of the same net has the subject's weights."""
        if library not in self._models:
            self._models[library] = self._make_model(library)
        return self._models[library]

    def _make_model(self, library: Library) -> tuple[str, nn.Module]:
        subject = self.subject
        if library == "resnestkit":
            return subject.net.name, subject.model
        name = name_in(library, subject.net)
        if name is None:
            raise UserError(f"{library} has no {subject.net.name}")
        if library == "torchvision" and subject.channels != 3:
            raise UserError(f"{library}'s {name} looks at 3 channels, not {subject.channels}")
        model = build(library, name, subject.classes, subject.channels)
        if library == "torchvision":
            settle(model, subject.channels)
        else:
            model.load_state_dict(subject.model.state_dict())
        return name, model

    def _write(self, plan: Plan, model: nn.Module) -> Path:
        """The file that a runtime opens, in float32."""
        suffix = {"OpenVINO": ".xml", "ONNX Runtime": ".onnx"}.get(plan.runtime, ".safetensors")
        path = self.folder / f"{plan.library}{suffix}"
        if path.exists():
            return path
        if suffix == ".safetensors":
            save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path)
        elif plan.is_ours:
            self._write_ours(model, path)
        elif suffix == ".onnx":
            self._write_onnx(model, path)
        else:
            onnx = self._write(Plan(plan.library, "ONNX Runtime"), model)
            _convert(onnx, path)
        return path

    def _write_ours(self, model: nn.Module, path: Path) -> None:
        """As `resnestkit export --to openvino` writes it."""
        channels, size = self.subject.channels, self.subject.size
        exporter = find_exporter("openvino")
        form = InputForm(channels, size, size, dynamic=False)
        exporter.write(trace(make_deploy_form(model, channels), form), (LOGITS,), path)

    def _write_onnx(self, model: nn.Module, path: Path) -> None:
        """As torch's exporter writes a model that nobody rearranged, for any number of images."""
        require("onnxscript", "deploy")
        made = torch.onnx.export(
            model,
            (torch.from_numpy(self.noise(2)),),
            input_names=[IMAGES],
            output_names=[LOGITS],
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
        assert made is not None
        made.save(str(path), external_data=False)


def _convert(onnx: Path, path: Path) -> None:
    """ONNX to OpenVINO's own form."""
    require("openvino", "deploy")
    import openvino  # noqa: PLC0415  (an extra)

    openvino.save_model(openvino.convert_model(onnx), path, compress_to_fp16=False)


def quantise(path: Path, images: NDArray[np.float32], *, finished: bool) -> Path:
    """A file's twin in int8 beside it, by NNCF's defaults but for its correction of biases.

    The correction takes minutes, and changes nothing but the values of biases. Ours is ``finished``
    as `resnestkit quantise` does it; a peer's is as NNCF gives it.
    """
    target = path.with_name(f"{path.stem}-int8{path.suffix}")
    if target.exists():
        return target
    quantiser = find_quantiser("onnx" if path.suffix == ".onnx" else "openvino")
    with nncf_at_work() as nncf:
        made = nncf.quantize(
            quantiser.read(path),
            nncf.Dataset([quantiser.feed(image[None]) for image in images]),
            subset_size=len(images),
            advanced_parameters=nncf.AdvancedQuantizationParameters(disable_bias_correction=True),
        )
    if finished:
        quantiser.finish(made)
    quantiser.write(made, target)
    return target
