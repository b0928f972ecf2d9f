"""Triton's kernels against the plain form: in its interpreter, or on the GPU that is there.

`test_triton_kernels` runs this file in a process of its own, since Triton decides at its import
whether it interprets. A value passes if it is as near to float64 as the plain form's, within a
factor of 5 (or, where that is next to nothing, within 1e-6 of the largest).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from nearness import assert_as_near, make_norm, run
from nearness import make_map as make_map_on
from torch import Tensor, nn

from resnestkit.models.attention import SplitAttention
from resnestkit.models.blocks import BlockPlace, Bottleneck
from resnestkit.models.layers import norm_relu
from resnestkit.models.zoo import find_net
from resnestkit.ops import fused, kernels, triton_calls
from resnestkit.ops.fused import use_kernels

DEVICE = "cpu" if triton_calls.interprets() else "cuda"
LOW = [torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def every_map(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels for small maps too, and products in float32 that are nothing less."""
    monkeypatch.setattr(fused, "_LEAST", 1)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Names of the functions called, and how many arguments each had."""
    made: list[tuple[str, int]] = []
    call = triton_calls.TritonKernels.call

    def spy(self: Any, name: str, dtype: torch.dtype, *values: Any) -> None:
        made.append((name, len(values)))
        call(self, name, dtype, *values)

    monkeypatch.setattr(triton_calls.TritonKernels, "call", spy)
    return made


def make_map(*shape: int, dtype: torch.dtype = torch.float32, mean: float = 0.0) -> Tensor:
    return make_map_on(*shape, dtype=dtype, mean=mean, device=DEVICE)


def make_attention(width: int, radix: int, cardinality: int = 1) -> SplitAttention:
    inputs = 4 * cardinality * radix
    made = SplitAttention(inputs, width, make_norm, radix=radix, cardinality=cardinality)
    # Over few images a variance may be next to nothing, and rounding by as much the larger.
    made.bn1.eps = 1.0
    return made.to(DEVICE, memory_format=torch.channels_last)


def end(norm: nn.BatchNorm2d) -> Callable[[Tensor, Tensor], Tensor]:
    def joined(x: Tensor, shortcut: Tensor) -> Tensor:
        if fused.fits(norm, x):
            return fused.join_block(x, shortcut, norm)
        return torch.relu(norm(x) + shortcut)

    return joined


def test_they_are_tritons() -> None:
    found = kernels.find_kernels(torch.device(DEVICE))
    assert isinstance(found, triton_calls.TritonKernels)


@pytest.mark.parametrize("shape", [(2, 1, 3, 7), (3, 24, 5, 5), (1, 65, 7, 4)])
def test_norm_relu(shape: tuple[int, ...], calls: list[tuple[str, int]]) -> None:
    x, norm = make_map(*shape), make_norm(shape[1]).to(DEVICE)
    assert_as_near(lambda x: norm_relu(x, norm), [x], norm)
    assert [name for name, _ in calls] == ["measure", "normalise", "reduce", "differentiate"]


def test_the_end_of_a_block() -> None:
    x, shortcut, norm = make_map(3, 24, 5, 3), make_map(3, 24, 5, 3), make_norm(24).to(DEVICE)
    assert_as_near(end(norm), [x, shortcut], norm)


@pytest.mark.parametrize("dtype", LOW)
def test_16_bits(dtype: torch.dtype) -> None:
    x, shortcut = (make_map(2, 16, 5, 7, dtype=dtype) for _ in range(2))
    norm = make_norm(16).to(DEVICE)
    assert_as_near(lambda x: norm_relu(x, norm), [x], norm)
    assert_as_near(end(norm), [x, shortcut], norm)


@pytest.mark.parametrize(
    ("radix", "cardinality", "stride"),
    [(1, 1, 0), (2, 1, 0), (4, 1, 0), (2, 2, 0), (4, 2, 1), (1, 2, 2), (2, 1, 2)],
)
def test_split_attention_and_a_pool(
    radix: int, cardinality: int, stride: int, calls: list[tuple[str, int]]
) -> None:
    attention = make_attention(12, radix, cardinality)
    pool = nn.AvgPool2d(3, stride, padding=1) if stride else None
    x = make_map(3, 4 * cardinality * radix, 5, 6 + radix % 2)
    assert_as_near(lambda x: attention(x, pool), [x], attention)
    taken = 3 if stride else 0
    at = 10 + taken
    assert ("join", at) in calls
    assert ("reduce_splits", 14 + taken) in calls
    assert ("differentiate_splits", 14 + taken) in calls


def test_split_attention_in_bfloat16() -> None:
    attention = make_attention(16, 2)
    pool = nn.AvgPool2d(3, 2, padding=1)
    x = make_map(4, 8, 7, 5)

    def mixed(x: Tensor) -> Tensor:
        with torch.autocast(DEVICE, torch.bfloat16, enabled=x.dtype != torch.float64):
            out: Tensor = attention(x, pool)
        return out.to(x.dtype)

    assert_as_near(mixed, [x], attention)


@pytest.mark.parametrize("programs", [1, 2048])
def test_sums_over_many_runs_or_long_ones(programs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_calls, "_PROGRAMS", programs)
    monkeypatch.setattr(triton_calls, "_TILE", 256)
    attention = make_attention(4, 2)
    x = make_map(2, 8, 11, 9)
    assert_as_near(attention, [x], attention)
    norm = make_norm(8).to(DEVICE)
    assert_as_near(lambda x: norm_relu(x, norm), [x], norm)


def test_statistics_of_a_map_far_from_zero() -> None:
    x, norm = make_map(4, 8, 20, 20, mean=3000.0), nn.BatchNorm2d(8).to(DEVICE)
    with use_kernels():
        norm_relu(x, norm)
    exact = x.detach().double()
    mean, variance = exact.mean((0, 2, 3)) * 0.1, exact.var((0, 2, 3)) * 0.1 + 0.9
    assert norm.running_mean is not None
    assert norm.running_var is not None
    torch.testing.assert_close(norm.running_mean.double(), mean, rtol=1e-6, atol=0)
    torch.testing.assert_close(norm.running_var.double(), variance, rtol=1e-4, atol=0)
    assert int(norm.num_batches_tracked) == 1  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float32, *LOW])
def test_what_is_no_number_stays_none(dtype: torch.dtype) -> None:
    x, norm = make_map(2, 4, 6, 6, dtype=dtype), make_norm(4).to(DEVICE)
    with torch.no_grad():
        x[1, 2, 3, 3] = float("nan")
    with use_kernels():
        y = norm_relu(x, norm)
    assert y[:, 2].isnan().all()
    assert y[:, [0, 1, 3]].isfinite().all()


def test_the_same_bits_every_time() -> None:
    attention, x = make_attention(8, 2), make_map(3, 8, 9, 7)
    with use_kernels():
        first, second = (run(attention, [x], attention) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_block_learns_alike(calls: list[tuple[str, int]]) -> None:
    spec = replace(find_net("resnest14").spec, widths=(4, 4, 4, 4))
    place = BlockPlace(1, is_first=True, in_channels=8, stride=2, dilation=1, first_dilation=1)
    x = make_map(4, 8, 9, 7).detach()
    curves, moved = [], []
    for enabled in (False, True):
        torch.manual_seed(3)
        block = Bottleneck(spec, place, make_norm).to(DEVICE, memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(block.parameters(), lr=0.02)
        losses = []
        for _ in range(2):
            with use_kernels(enabled=enabled):
                loss = (block(x) - 1).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        curves.append(losses)
        moved.append(block.state_dict())
    assert curves[1] == pytest.approx(curves[0], rel=1e-4)
    assert curves[0][1] < curves[0][0]
    for name, value in moved[0].items():
        torch.testing.assert_close(moved[1][name], value, rtol=1e-3, atol=1e-4)
    # Norm and ReLU, attention with its average pool, and the block's end.
    forward = ["measure", "normalise", "measure", "squeeze", "join", "measure", "normalise"]
    names = [name for name, _ in calls]
    assert names[:7] == forward
    assert ("join", 13) in calls
    assert len(calls) == 2 * (7 + 7)


def test_a_pool_of_another_kind_is_left_to_torch() -> None:
    x = make_map(1, 8, 6, 6)
    with use_kernels():
        assert fused.pools(x, nn.AvgPool2d(3, 2, padding=1))
        for other in (
            nn.Identity(),
            nn.MaxPool2d(3, 2, padding=1),
            nn.AvgPool2d(2, 2),
            nn.AvgPool2d(3, 2, padding=1, ceil_mode=True),
            nn.AvgPool2d(3, 2, padding=1, count_include_pad=False),
            nn.AvgPool2d(3, 2, padding=1, divisor_override=1),
        ):
            assert not fused.pools(x, other)
        watched = nn.AvgPool2d(3, 2, padding=1)
        watched.register_forward_hook(lambda *_: None)
        assert not fused.pools(x, watched)
    assert not fused.pools(x, nn.AvgPool2d(3, 2, padding=1))
