"""Exported files made by hand: nets of a few numbers, whose answers are known beforehand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import openvino
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from pictures import COLOURS

from resnestkit import save_model
from resnestkit.models.build import build_net
from resnestkit.models.spec import NetSpec
from resnestkit.models.zoo import find_net
from resnestkit.preprocessing import Preprocessing
from resnestkit.runtime.card import IMAGES, LOGITS, DeployCard, InputForm, write_card
from resnestkit.runtime.openvino_core import openvino_core

CLASSES = tuple(COLOURS)
PREPROCESSING = Preprocessing(size=16, crop_ratio=1.0)
SIZE = 16


def write_colour_net(
    path: Path, batch: int | None = None, *, dynamic: bool = True, loud: float = 0.0
) -> Path:
    """A classifier of blue, green and red images: 3x3 means, ReLU, their mean, a matrix product.

    Args:
        path: the .onnx or .xml to write.
        batch: the only number of images it takes.
        dynamic: whether it takes other sizes than 16.
        loud: value of a fourth map, which tells nothing; where it is large, 8 bits for all maps
            leave nothing of the others.
    """
    side = None if dynamic else SIZE
    shape = [batch or "batch", 3, side or "height", side or "width"]
    model = helper.make_model(
        helper.make_graph(
            [
                helper.make_node(
                    "Conv", [IMAGES, "mean", "lift"], ["map"], "conv", pads=[1, 1, 1, 1]
                ),
                helper.make_node("Relu", ["map"], ["positive"], "relu"),
                helper.make_node("GlobalAveragePool", ["positive"], ["pooled"], "pool"),
                helper.make_node("Flatten", ["pooled"], ["flat"], "flatten"),
                helper.make_node("Gemm", ["flat", "head", "bias"], [LOGITS], "gemm", transB=1),
            ],
            "colours",
            [helper.make_tensor_value_info(IMAGES, TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, [shape[0], 3])],
            [numpy_helper.from_array(values, name) for name, values in _weights(loud).items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    if path.suffix == ".onnx":
        onnx.save(model, path)
    else:
        read = openvino_core().read_model(model.SerializeToString())
        openvino.save_model(read, path, compress_to_fp16=False)
    form = InputForm(3, SIZE, SIZE, batch, dynamic)
    kind = "onnx" if path.suffix == ".onnx" else "openvino"
    card = DeployCard("classifier", "colours", CLASSES, PREPROCESSING, form, (LOGITS,), kind)
    write_card(path, card)
    return path


def save_tiny_net(path: Path, preprocessing: Preprocessing) -> Path:
    """A checkpoint of a ResNeSt of two blocks, whose random answers differ from image to image."""
    torch.manual_seed(0)
    spec = find_net("resnest14").spec
    assert isinstance(spec, NetSpec)
    net = build_net(replace(spec, layers=(1, 1), widths=spec.widths[:2]), classes=len(CLASSES))
    with torch.no_grad():
        net.fc.weight.mul_(40)
    net.head_is_new = False
    save_model(net, path, CLASSES, preprocessing)
    return path


def expected_logits(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the net without a loud channel says."""
    weights = _weights(0.0)
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    height, width = images.shape[2:]
    parts = [
        np.einsum(
            "bchw,oc->bohw",
            padded[:, :, y : y + height, x : x + width],
            weights["mean"][:, :, y, x],
        )
        for y in range(3)
        for x in range(3)
    ]
    pooled = np.maximum(sum(parts), 0).mean((2, 3))
    return pooled @ weights["head"].T + weights["bias"]


def _weights(loud: float) -> dict[str, NDArray[np.float32]]:
    """Maps of blue, green and red, in the order of the classes, and a constant one."""
    mean = np.zeros((4, 3, 3, 3), np.float32)
    for place, channel in enumerate((2, 1, 0)):
        mean[place, channel] = 1 / 9
    lift = np.array([0, 0, 0, loud], np.float32)
    head = np.eye(3, 4, dtype=np.float32)
    return {"mean": mean, "lift": lift, "head": head, "bias": np.zeros(3, np.float32)}
