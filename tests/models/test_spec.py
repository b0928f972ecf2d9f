"""What a net is, as data: round trips, refusals, and the plan of strides and dilations."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from builders import build_shallow
from hypothesis import given
from hypothesis import strategies as st

from resnestkit.models.spec import (
    NetSpec,
    SelectiveKernelSpec,
    StagePlan,
    plan_stages,
    spec_from_dict,
)
from resnestkit.models.zoo import TABLE, Net, find_net

FOUR = (1, 1, 1, 1)


@pytest.mark.parametrize("net", TABLE, ids=lambda net: net.name)
def test_a_spec_survives_json(net: Net) -> None:
    again = spec_from_dict(json.loads(json.dumps(net.spec.to_dict())))
    assert again == net.spec
    assert hash(again) == hash(net.spec)


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(TypeError, match="depth"):
        NetSpec.from_dict({**NetSpec(FOUR).to_dict(), "depth": 50})


def test_from_dict_leaves_its_argument_as_it_was() -> None:
    values = find_net("sknet50").spec.to_dict()
    before = json.dumps(values)
    NetSpec.from_dict(values)
    assert json.dumps(values) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": (1, 1, 1)}, "3 stages of blocks but 4 widths"),
        ({"radix": 2, "sk": SelectiveKernelSpec()}, "not both"),
        ({"block": "basic", "radix": 2}, "takes no radix, but it is 2"),
        ({"block": "basic", "cardinality": 32}, "takes no cardinality"),
        ({"block": "basic", "base_width": 128}, "takes no base_width"),
        ({"block": "basic", "stride_in": "1x1"}, "takes no stride_in, but it is '1x1'"),
        ({"sk": SelectiveKernelSpec(), "se_reduction": 16}, "takes no se_reduction"),
        ({"sk": SelectiveKernelSpec(), "avd": "after"}, "takes no avd"),
        ({"radix": -1}, "radix is -1"),
        ({"block": "octave"}, "must be basic or bottleneck"),
    ],
)
def test_what_does_not_fit_together_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NetSpec(**{"layers": FOUR, **options})  # type: ignore[arg-type]


def test_a_spec_does_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        NetSpec(FOUR).radix = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "mid", "hidden"),
    [
        ("resnest50", (64, 128, 256, 512), (32, 64, 128, 256)),
        ("resnest101", (64, 128, 256, 512), (32, 64, 128, 256)),
        ("resnest50_fast_1s1x64d", (64, 128, 256, 512), (32, 32, 64, 128)),
        ("resnest50_fast_2s1x64d", (64, 128, 256, 512), (32, 64, 128, 256)),
        ("resnest50_fast_4s1x64d", (64, 128, 256, 512), (64, 128, 256, 512)),
        ("resnest50_fast_1s2x40d", (80, 160, 320, 640), (32, 40, 80, 160)),
        ("resnest50_fast_2s2x40d", (80, 160, 320, 640), (40, 80, 160, 320)),
        ("resnest50_fast_4s2x40d", (80, 160, 320, 640), (80, 160, 320, 640)),
        ("resnest50_fast_1s4x24d", (96, 192, 384, 768), (32, 48, 96, 192)),
    ],
)
def test_widths_of_resnest_are_the_published_ones(
    name: str, mid: tuple[int, ...], hidden: tuple[int, ...]
) -> None:
    """Mid width of each stage, and units of its gate."""
    spec = find_net(name).spec
    assert tuple(map(spec.mid_width, range(4))) == mid
    with torch.device("meta"):
        net = build_shallow(name)
    blocks = [net.get_submodule(f"layer{stage + 1}")[-1].conv2 for stage in range(4)]
    assert tuple(block.conv.out_channels // spec.radix for block in blocks) == mid
    assert tuple(block.fc1.out_channels for block in blocks) == hidden


@pytest.mark.parametrize(
    ("name", "mid"),
    [
        ("resnext50_32x4d", (128, 256, 512, 1024)),
        ("resnext101_64x4d", (256, 512, 1024, 2048)),
        ("senet154", (256, 512, 1024, 2048)),
        ("sknet50", (128, 256, 512, 1024)),
        ("wide_resnet50_2", (128, 256, 512, 1024)),
    ],
)
def test_widths_of_the_relatives_are_the_published_ones(name: str, mid: tuple[int, ...]) -> None:
    assert tuple(map(find_net(name).spec.mid_width, range(4))) == mid


def test_senet154_halves_the_first_convolution_of_a_block() -> None:
    with torch.device("meta"):
        net = build_shallow("senet154")
    widths = [net.get_submodule(f"layer{n}")[0].conv1.out_channels for n in (1, 2, 3, 4)]
    assert widths == [128, 256, 512, 1024]


@pytest.mark.parametrize(
    ("name", "hidden"), [("sknet50", [32, 32, 32, 64]), ("seresnet50", [16, 32, 64, 128])]
)
def test_gates_of_the_relatives_have_the_published_units(name: str, hidden: list[int]) -> None:
    with torch.device("meta"):
        net = build_shallow(name)
    blocks = [net.get_submodule(f"layer{n}")[0] for n in (1, 2, 3, 4)]
    gates = [b.conv2.attn.fc_reduce if name == "sknet50" else b.se.fc1 for b in blocks]
    assert [gate.out_channels for gate in gates] == hidden


# --- Strides and dilations --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output_stride", "plans"),
    [
        (32, [(1, 1, 1, 4), (2, 1, 1, 8), (2, 1, 1, 16), (2, 1, 1, 32)]),
        (16, [(1, 1, 1, 4), (2, 1, 1, 8), (2, 1, 1, 16), (1, 1, 2, 16)]),
        (8, [(1, 1, 1, 4), (2, 1, 1, 8), (1, 1, 2, 8), (1, 2, 4, 8)]),
    ],
)
def test_strides_become_dilations_as_in_the_authors_code(
    output_stride: int, plans: list[tuple[int, int, int, int]]
) -> None:
    """Stride, dilation of the first block, dilation of the others, output stride."""
    assert plan_stages(NetSpec(FOUR), output_stride) == [StagePlan(*plan) for plan in plans]


@pytest.mark.parametrize("output_stride", [0, 4, 12, 64, -8])
def test_another_output_stride_is_refused(output_stride: int) -> None:
    with pytest.raises(ValueError, match=f"output_stride is {output_stride}; it must be 8, 16 or"):
        plan_stages(NetSpec(FOUR), output_stride)


def test_a_small_net_strides_eight_times_whatever_is_asked() -> None:
    spec = find_net("resnest23_small").spec
    assert plan_stages(spec, 8) == plan_stages(spec, 32)
    assert plan_stages(spec)[-1].output_stride == 8


@given(
    st.sampled_from([8, 16, 32]),
    st.integers(1, 6),
    st.sampled_from(["7x7", "deep", "small"]),
    st.sampled_from(["max", "max_ceil", "none"]),
)
def test_stride_times_dilation_is_what_the_stride_would_have_been(
    output_stride: int, stages: int, stem: str, pool: str
) -> None:
    """So a dilated net sees as far as the strided one."""
    spec = NetSpec((1,) * stages, widths=(64,) * stages, stem=stem, pool=pool)  # type: ignore[arg-type]
    strided = spec.stem_stride
    for index, plan in enumerate(plan_stages(spec, output_stride)):
        strided *= 1 if index == 0 else 2
        assert plan.output_stride * plan.dilation == strided
        assert plan.output_stride <= output_stride
        assert plan.first_dilation in (plan.dilation, plan.dilation // 2)


@pytest.mark.parametrize(
    ("stem", "pool", "channels", "stride"),
    [
        ("7x7", "max", 32, 4),
        ("deep", "max_ceil", 64, 4),
        ("small", "none", 32, 1),
        ("7x7", "none", 32, 2),
    ],
)
def test_the_stem_says_its_channels_and_stride(
    stem: str, pool: str, channels: int, stride: int
) -> None:
    spec = NetSpec(FOUR, stem=stem, pool=pool, stem_width=32)  # type: ignore[arg-type]
    assert (spec.stem_channels, spec.stem_stride) == (channels, stride)
