"""Joins in int8: no steps inside of them, and all convolutions as before."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from numpy.typing import NDArray

from resnestkit.bench.subjects import settle
from resnestkit.deploy.exporters import find_exporter
from resnestkit.deploy.exporters.torch import trace
from resnestkit.deploy.form import make_deploy_form
from resnestkit.deploy.int8_joins import free_joins
from resnestkit.deploy.quantisers import find_quantiser
from resnestkit.deploy.quantising import nncf_at_work
from resnestkit.models.build import build_net
from resnestkit.models.spec import NetSpec
from resnestkit.models.zoo import find_net
from resnestkit.runtime.card import LOGITS, InputForm
from resnestkit.runtime.openvino_core import openvino_core

SIZE = 64
BLOCKS = 2
STEPS = {
    "resnest14": 5,  # two means, the difference, the gate, the product
    "resnest50_fast_4s1x64d": 16,  # of four splits the means, weights, products; twice two sums
    "sknet50": 4,  # two weights, two products
    "seresnet50": 1,  # the gate; the product is added to the shortcut, and keeps its step
    "resnet50": 0,
}
"""Steps that go, in each block."""


@pytest.mark.parametrize("name", STEPS)
def test_steps_inside_of_joins_go(tmp_path: Path, name: str) -> None:
    net = make_small(name)
    images = np.random.default_rng(0).standard_normal((4, 3, SIZE, SIZE), np.float32)
    with torch.inference_mode():
        exact = net(torch.from_numpy(images)).numpy()
    model = write_int8(net, images, tmp_path / "net.xml")
    layers = find_quantiser("openvino").layers(model)
    before, steps = error(model, images, exact), count_steps(model)

    freed = free_joins(model)

    assert freed == STEPS[name] * BLOCKS
    assert count_steps(model) == steps - freed
    assert find_quantiser("openvino").layers(model) == layers
    after = error(model, images, exact)
    assert 0 < after < 1.05 * before if freed else after == before


def make_small(name: str) -> torch.nn.Module:
    """A net of two blocks whose norms know its activations."""
    torch.manual_seed(0)
    spec = find_net(name).spec
    assert isinstance(spec, NetSpec)
    net = build_net(
        replace(spec, layers=(1, 1), widths=spec.widths[:2]), classes=5, zero_gamma=False
    )
    settle(net, 3)
    return net


def write_int8(net: torch.nn.Module, images: NDArray[np.float32], path: Path) -> openvino.Model:
    form = InputForm(3, SIZE, SIZE, dynamic=False)
    find_exporter("openvino").write(trace(make_deploy_form(net), form), (LOGITS,), path)
    with nncf_at_work() as nncf:
        made: openvino.Model = nncf.quantize(
            openvino_core().read_model(path), nncf.Dataset([image[None] for image in images])
        )
    return made


def count_steps(model: openvino.Model) -> int:
    return sum(op.get_type_name() == "FakeQuantize" for op in model.get_ops())


def error(model: openvino.Model, images: NDArray[np.float32], exact: NDArray[np.float32]) -> float:
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino_core().compile_model(model, "CPU", settings)
    return float(
        np.mean(
            [
                np.abs(compiled(one[None])[0] - y).mean()
                for one, y in zip(images, exact, strict=True)
            ]
        )
    )
