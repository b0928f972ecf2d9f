"""Weight decay by kind, the schedule, the moving average."""

import itertools
import math

import pytest
import torch
from torch import nn

from resnestkit import create_model
from resnestkit.training.optimizer import (
    moving_average,
    parameter_groups,
    peak_rate,
    rate_at,
)


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize(
    "net", ["resnet18", "resnet50d", "seresnet50", "skresnet18", "sknet50", "resnest50"]
)
def test_only_convolution_and_linear_weights_decay(net: str, norm: str) -> None:
    with torch.device("meta"):
        model = create_model(net, norm=norm)
    decayed, exempt = (group["params"] for group in parameter_groups(model, 0.1))
    weights = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert {id(p) for p in decayed} == {id(p) for p in weights}
    assert all(p.ndim == 1 for p in exempt)
    assert len(decayed) + len(exempt) == len(list(model.parameters()))


def test_groups_carry_their_decay_and_leave_out_what_is_frozen() -> None:
    model = create_model("resnest23_small", classes=4)
    model.freeze(2)
    groups = parameter_groups(model, 0.1)
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert all(p.requires_grad for group in groups for p in group["params"])


def test_rate_rises_linearly_then_follows_a_cosine_to_zero() -> None:
    rates = [rate_at(step, peak=1.0, warmup=10, total=110) for step in range(110)]
    assert rates[0] == pytest.approx(1 / 11)
    assert rates[9] == pytest.approx(10 / 11)
    assert rates[10] == 1.0
    assert max(rates) == 1.0
    assert rates[60] == pytest.approx(0.5)
    assert rates[-1] == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.99)))
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))


def test_rate_falls_by_a_power_of_what_is_left() -> None:
    rates = [rate_at(step, peak=2.0, warmup=2, total=12, power=0.9) for step in range(12)]
    assert rates[:3] == pytest.approx([2 / 3, 4 / 3, 2])
    assert rates[2:] == pytest.approx([2 * (1 - step / 10) ** 0.9 for step in range(10)])
    assert rate_at(12, peak=2.0, warmup=2, total=12, power=0.9) == 0


def test_heads_are_groups_of_their_own() -> None:
    model = create_model("resnest23_small", classes=4)
    model.freeze(1)
    head = model.get_submodule(model.head)
    groups = parameter_groups(model, 0.1, [head], 10.0)
    assert [group["rate"] for group in groups] == [1, 1, 10, 10]
    assert [group["weight_decay"] for group in groups] == [0.1, 0, 0.1, 0]
    assert [id(p) for group in groups[2:] for p in group["params"]] == [
        id(head.weight),
        id(head.bias),
    ]
    named = [p for group in groups for p in group["params"]]
    assert {id(p) for p in named} == {id(p) for p in model.parameters() if p.requires_grad}
    assert len(named) == len({id(p) for p in named})
    assert [group["rate"] for group in parameter_groups(model, 0.1)] == [1, 1]


def test_rate_scales_with_the_batch() -> None:
    assert peak_rate(0.1, 8192) == pytest.approx(3.2)


def test_average_follows_weights_and_copies_counters() -> None:
    model = create_model("resnest23_small", classes=4)
    average = moving_average(model, decay=0.9)
    name = "layer1.0.conv1.weight"
    start = model.get_parameter(name).detach().clone()
    average.update_parameters(model)
    with torch.no_grad():
        model.get_parameter(name).add_(1.0)
    model.bn1.num_batches_tracked.fill_(7)
    average.update_parameters(model)
    # The second update keeps min(0.9, 2 / 11) of the old value.
    moved = average.module.get_parameter(name).detach() - start
    torch.testing.assert_close(moved, torch.full_like(moved, 1 - 2 / 11))
    assert average.module.bn1.num_batches_tracked == 7
    for _ in range(200):
        average.update_parameters(model)
    torch.testing.assert_close(average.module.get_parameter(name), model.get_parameter(name))
