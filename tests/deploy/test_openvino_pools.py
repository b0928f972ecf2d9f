"""OpenVINO's pools that pad instead of rounding up: the same at every size, and in int8."""

import openvino
import pytest
import torch
from torch import nn

from resnestkit.deploy.exporters.openvino import round_down_pools
from resnestkit.runtime.openvino_core import openvino_core


def convert(pool: nn.Module) -> openvino.Model:
    program = torch.export.export(
        pool,
        (torch.zeros(1, 4, 9, 12),),
        dynamic_shapes=({2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO},),
        prefer_deferred_runtime_asserts_over_guards=True,
    )
    return openvino.convert_model(program)


def rounding(model: openvino.Model) -> list[str]:
    pools = [op for op in model.get_ops() if op.get_type_name() == "AvgPool"]
    return [pool.get_attributes()["rounding_type"] for pool in pools]


@pytest.mark.parametrize("sides", [(8, 8), (9, 8), (8, 9), (9, 13)])
def test_mean_of_shortcuts_is_the_same(sides: tuple[int, int]) -> None:
    pool = nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)
    model = convert(pool)
    assert rounding(model)[0].startswith("ceil")

    round_down_pools(model)

    assert rounding(model) == ["floor"]
    images = torch.randn(1, 4, *sides)
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino_core().compile_model(model, "CPU", settings)
    torch.testing.assert_close(torch.from_numpy(compiled([images.numpy()])[0]), pool(images))


@pytest.mark.parametrize(
    "pool",
    [
        nn.AvgPool2d(2, 2, ceil_mode=True),  # counts what is outside
        nn.AvgPool2d(3, 2, padding=1, ceil_mode=True, count_include_pad=False),
        nn.AvgPool2d(3, 2, padding=1),
    ],
)
def test_other_pools_are_left(pool: nn.Module) -> None:
    model = convert(pool)
    before = rounding(model)

    round_down_pools(model)

    assert rounding(model) == before
