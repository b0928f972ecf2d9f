"""Classes for images by torch: checkpoints, and programs of torch.export."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from numpy.typing import NDArray
from torch import Tensor

from resnestkit.compute import choose_compute
from resnestkit.data.images import decode_image
from resnestkit.data.transforms import EvaluationTransform, normalise
from resnestkit.deploy.exporters import find_exporter
from resnestkit.deploy.gpu_form import make_runner
from resnestkit.errors import UserError
from resnestkit.factory import load_model
from resnestkit.models.backbone import Backbone
from resnestkit.runtime.card import DeployCard
from resnestkit.runtime.classifier import Classifier, read_classifier_card, run_in_batches
from resnestkit.runtime.session import Choice
from resnestkit.weights.checkpoint import ModelCard

Run = Callable[[Float[Tensor, "b c s s"]], Float32[NDArray[np.float32], "b k"]]
"""Normalised images in, logits out."""


class TorchClassifier(Classifier[UInt8[Tensor, "c s s"]]):
    """A .safetensors that `resnestkit train` wrote, or a .pt2 that `resnestkit export` did.

    Args:
        path: the file.
        device: where a checkpoint computes: "auto", "cpu", "cuda", ...
        threads: how many at most, from now on and in the whole process; None leaves them.
        precision: of a checkpoint; None is float32.

    Raises:
        UserError: the file holds no trained classifier, or it cannot compute so here.
    """

    card: ModelCard | DeployCard
    model: Backbone | None = None
    """The net of a checkpoint; a program has none."""

    def __init__(
        self,
        path: Path,
        device: str = "auto",
        threads: int | None = None,
        precision: Choice | None = None,
    ) -> None:
        if threads is not None:
            if threads < 1:
                raise UserError(f"--threads is {threads}; it must be 1 or more.")
            torch.set_num_threads(threads)
        if path.suffix.lower() == ".pt2":
            self.card, self._run = _open_program(path, device, precision)
        else:
            self.model, self.card = load_model(path)
            self.model.require_head(str(path))
            channels = self.card.preprocessing.channels
            self._run = _place(self.model, channels, device, precision or "float32")
        self.classes, self.preprocessing = self.card.classes, self.card.preprocessing
        self._transform = EvaluationTransform(self.preprocessing)

    def decode(self, content: bytes, name: str) -> UInt8[Tensor, "c s s"]:
        """As `Classifier.decode`."""
        return self._transform(decode_image(content, name, self.preprocessing.channels))

    def logits(
        self, images: Sequence[UInt8[Tensor, "c s s"]]
    ) -> Float32[NDArray[np.float32], "b k"]:
        """As `Classifier.logits`."""
        return self._run(normalise(torch.stack(list(images)), self.preprocessing))


def _place(model: Backbone, channels: int, device: str, precision: Choice) -> Run:
    compute = choose_compute(device, precision)
    net = make_runner(model, compute, channels)

    def run(images: Tensor) -> NDArray[np.float32]:
        with torch.inference_mode(), compute.autocast():
            placed = images.to(compute.device, memory_format=compute.layout)
            logits: NDArray[np.float32] = net(placed).float().cpu().numpy()
            return logits

    return run


def _open_program(path: Path, device: str, precision: Choice | None) -> tuple[DeployCard, Run]:
    card = read_classifier_card(path)
    if device not in {"auto", "cpu"} or precision == "bfloat16":
        raise UserError(
            f"{path} computes in float32 on the processor; give the checkpoint that it was made of "
            "for another device or precision."
        )
    exporter = find_exporter(card.format)
    try:
        program = exporter.open_file(path, torch.get_num_threads())
    except Exception as error:  # of torch's many kinds, for a part that is damaged or not there
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"PyTorch cannot load {path}: {reason.rstrip('.')}.") from error

    def run(images: Tensor) -> NDArray[np.float32]:
        return run_in_batches(lambda one: program(one)[0], images.numpy(), card.input.batch)

    return card, run
