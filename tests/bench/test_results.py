"""What follows from measured seconds, without measuring any."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from resnestkit.bench.contenders import PLANS, Plan, choose_plans
from resnestkit.bench.plot import draw
from resnestkit.bench.race import WARM, race
from resnestkit.bench.results import Benchmark, Floor, Heat, Row, find_ratios, spread
from resnestkit.cli.tables import benchmark_table

OURS, PEER = Plan("resnestkit", "OpenVINO"), Plan("timm", "OpenVINO")
SLOW, EAGER = Plan("timm", "ONNX Runtime"), Plan("timm", "eager")
RESNET = Plan("torchvision", "OpenVINO")


def row(plan: Plan, *seconds: float, batch: int = 1, gmacs: float = 2.0) -> Row:
    return Row(plan, "net", batch, gmacs, seconds, rate=1e12)


HEAT = Heat(
    "resnest50",
    1,
    224,
    0.8,
    (
        row(OURS, 0.01, 0.02, 0.04),
        row(PEER, 0.03, 0.03, 0.03),
        row(SLOW, 0.05, 0.05, 0.05),
        row(EAGER, 0.04, 0.08, 0.08),
        row(RESNET, 0.001, 0.001, 0.001, gmacs=4.0),
    ),
    (Floor("float32", 10**9, (0.001, 0.002, 0.001)),),
)
RESULT = Benchmark({"processor": "one of ours"}, (HEAT,), ("net: timm, eager: it is not there",))


def test_row_counts_images_and_not_calls() -> None:
    measured = row(OURS, 0.02, 0.04, 0.08, batch=4)

    assert measured.milliseconds == pytest.approx(10)
    assert measured.quartiles == pytest.approx((7.5, 15))
    assert measured.images_per_second == pytest.approx(100)
    assert measured.share == pytest.approx(2 * 2e9 * 4 / 0.04 / 1e12)


def test_floor_is_the_rate_of_the_median_call() -> None:
    assert HEAT.floors[0].rate == pytest.approx(1e12)


def test_spread_of_one_call_is_that_call() -> None:
    assert spread([3.0]) == (3.0, 3.0)


def test_ratios_are_with_the_best_peer_of_the_same_net_and_with_timm_eager() -> None:
    best, eager = find_ratios(HEAT)

    assert (best.ours, best.peer) == (OURS.name, PEER.name)
    assert best.ratio == pytest.approx(1.5)
    assert (best.low, best.high) == pytest.approx(spread([3, 1.5, 0.75]))
    assert eager.peer == EAGER.name
    assert eager.ratio == pytest.approx(4)


def test_a_ratio_is_of_those_who_shared_a_round() -> None:
    ours, peer = row(OURS, 1, 1, 1, 3, 3), row(PEER, 1.5, 1.5, 4.5, 4.5, 4.5)

    [ratio] = find_ratios(replace(HEAT, rows=(ours, peer)))

    assert ratio.ratio == pytest.approx(1.5)  # the medians, 1 and 4.5, are of different times


def test_eager_stands_once_where_it_is_the_best_peer_too() -> None:
    heat = replace(HEAT, rows=(HEAT.rows[0], HEAT.rows[3]))

    assert len(find_ratios(heat)) == 1


def test_table_names_everybody_the_fastest_first() -> None:
    text = benchmark_table(RESULT)
    lines = text.splitlines()

    assert lines[0] == "resnest50, 224x224, batch 1"
    whos = [line.split(",")[0] for line in lines[2:7]]
    assert whos == ["torchvision resnet50", "resnestkit", "timm", "timm", "timm"]
    assert "20.00" in lines[3]
    assert "1.50  1.12 to 2.25" in text
    assert "one of ours" in text
    assert "it is not there" in text


def test_json_has_every_call() -> None:
    values = json.loads(RESULT.to_json())

    [heat] = values["heats"]
    assert [one["seconds"] for one in heat["rows"]] == [list(r.seconds) for r in HEAT.rows]
    assert heat["rows"][0]["who"] == "resnestkit, OpenVINO"
    assert values["ratios"][0]["ratio"] == pytest.approx(1.5)


@pytest.mark.parametrize("accuracy", [None, 0.8])
def test_drawing_has_a_panel_for_each_batch_size(accuracy: float | None) -> None:
    one = replace(RESULT, heats=(replace(HEAT, accuracy=accuracy),))
    two = replace(one, heats=(*one.heats, replace(one.heats[0], batch=16)))

    narrow, wide = (Image.open(io.BytesIO(draw(result))) for result in (one, two))

    assert wide.width > narrow.width
    colours = np.asarray(narrow.convert("RGB")).reshape(-1, 3)
    assert (colours == (220, 38, 38)).all(1).any()  # ours


def test_race_lets_all_take_turns_in_both_directions_each_once_to_warm_up() -> None:
    calls: list[str] = []
    done: list[int] = []

    seconds = race(
        {name: lambda name=name: calls.append(name) for name in "abc"},  # type: ignore[misc]
        3,
        lambda number, _: done.append(number),
    )

    assert {name: len(times) for name, times in seconds.items()} == dict.fromkeys("abc", 3)
    rounds = ["".join(calls[i : i + 6]) for i in range(0, len(calls), 6)]
    assert rounds == ["ccbbaa", "aabbcc", "ccbbaa", "aabbcc", "ccbbaa"][: WARM + 3]
    assert sum(done) == WARM + 3


def test_plans_are_chosen_by_their_names() -> None:
    assert choose_plans(()) == PLANS
    assert {plan.precision for plan in choose_plans(["*int8"])} == {"int8"}
    assert choose_plans(["timm, eager*"]) == (EAGER,)
    assert choose_plans(["nobody"]) == ()
    assert len({plan.name for plan in PLANS}) == len(PLANS)
