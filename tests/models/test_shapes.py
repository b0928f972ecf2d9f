"""The shapes in the signatures hold while the nets run.

jaxtyping's import hook checks them, and it has to come before the first import: run this file in
a process of its own, as ``make shapes`` does.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from builders import build, build_shallow
from jaxtyping import TypeCheckError

from resnestkit.models.resnet import ResNet
from resnestkit.models.spec import NetSpec
from resnestkit.ops import attention_weights, join, pool_splits, weigh_splits


@pytest.fixture(autouse=True)
def _hooked(request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--jaxtyping-packages"):
        pytest.skip("shapes are checked by jaxtyping's import hook: run `make shapes`")


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "resnet50a",
        "seresnext50_32x4d",
        "legacy_senet154",
        "skresnet18",
        "skresnet50d",
        "sknet50",
        "resnest50",
        "resnest50_fast_1s1x64d",
        "resnest50_fast_4s2x40d",
        "resnest23_small",
    ],
)
def test_shapes_of_each_block_class_hold(name: str) -> None:
    net = build_shallow(name, classes=7).eval()
    with torch.no_grad():
        assert net(torch.randn(1, 3, 65, 71)).shape == (1, 7)


@pytest.mark.parametrize("output_stride", [8, 32])
@pytest.mark.parametrize("name", ["se_bn_inception", "se_inception_resnet_v2"])
def test_shapes_of_the_inception_nets_hold(name: str, output_stride: int) -> None:
    with torch.device("meta"):
        net = build(name, classes=7, drop_block=0.2, output_stride=output_stride).train()
        assert net(torch.empty(2, 3, 107, 123)).shape == (2, 7)


@pytest.mark.parametrize(
    "options",
    [
        {"drop_path": 0.5, "drop_block": 0.2, "dropout": 0.5},
        {"norm": "group", "output_stride": 8},
        {"norm": "frozen", "classes": 0, "in_channels": 1},
    ],
)
@pytest.mark.parametrize("name", ["resnet50", "resnest50", "sknet50"])
def test_shapes_hold_under_every_option_in_training(name: str, options: dict[str, Any]) -> None:
    net = build_shallow(name, **options).train()
    out = net(torch.randn(2, net.in_channels, 64, 64))
    out.sum().backward()
    assert out.shape == (2, net.classes or net.stages[-1].channels)


def test_shapes_hold_on_the_meta_device_and_in_half_precision() -> None:
    with torch.device("meta"):
        net = build_shallow("resnest50").eval()
        assert net(torch.empty(2, 3, 64, 64)).shape == (2, 1000)
    net = build_shallow("resnest50", classes=7).eval().bfloat16()
    assert net(torch.randn(2, 3, 64, 64, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "call",
    {
        "an image without a batch": lambda: _net()(torch.randn(3, 64, 64)),
        "an image of whole numbers": lambda: _net()(torch.ones(1, 3, 64, 64, dtype=torch.uint8)),
        "splits without a height": lambda: pool_splits(torch.randn(2, 4, 3), 2),
        "logits of a map": lambda: attention_weights(torch.randn(2, 4, 3, 3), 2, 1),
        "weights of other channels": lambda: weigh_splits(
            torch.randn(2, 4, 3, 3), torch.randn(2, 6, 1, 1), 2
        ),
        "weights of another batch": lambda: weigh_splits(
            torch.randn(2, 4, 3, 3), torch.randn(3, 4, 1, 1), 2
        ),
        "branches of other channels": lambda: join(
            [torch.randn(2, 4, 3, 3)], [torch.randn(2, 1, 1, 1)]
        ),
        "a block of no known kind": lambda: NetSpec((1, 1, 1, 1), block="octave"),  # type: ignore[arg-type]
    }.items(),
    ids=lambda call: call[0],
)
def test_a_wrong_shape_is_refused(call: tuple[str, Any]) -> None:
    with pytest.raises(TypeCheckError):
        call[1]()


def _net() -> ResNet:
    return build_shallow("resnet18").eval()
