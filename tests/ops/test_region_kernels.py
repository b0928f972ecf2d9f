"""RoIAlign's kernels against torchvision's operator in float64, which is the truth."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor
from torchvision.ops import roi_align

from resnestkit.ops import kernels
from resnestkit.ops.fused import use_kernels
from resnestkit.ops.regions import Cut, fits, pool_regions

WHY = kernels.why_no_kernels()
needs_compiler = pytest.mark.skipif(WHY is not None, reason=f"kernels cannot be compiled: {WHY}")

SCALE = 0.25


def make_map(channels: int, dtype: torch.dtype = torch.float32) -> Tensor:
    made = torch.randn(3, channels, 19, 26, dtype=dtype)
    return made.contiguous(memory_format=torch.channels_last).requires_grad_()


def make_regions(count: int = 40) -> Tensor:
    """On images of 104x76: some reach beyond, some have no size, or a negative one, or are huge."""
    centres = torch.rand(count, 2) * torch.tensor([124.0, 96.0]) - 10
    sides = 90 * torch.rand(count, 2) ** 3
    sides[:4] = 0
    sides[4:6] *= -1
    sides[6] = 300
    centres[7] = -400
    image = torch.arange(count)[:, None] % 3
    return torch.cat([image, centres - sides / 2, centres + sides / 2], dim=1)


def run(x: Tensor, regions: Tensor, cut: Cut, level_of: Tensor | None = None) -> list[Tensor]:
    """What is pooled by kernels, and the map's gradient."""
    level_of = torch.zeros(len(regions), dtype=torch.int64) if level_of is None else level_of
    with use_kernels():
        assert fits([x], regions)
        pooled = pool_regions([x], regions, level_of, cut)
    return [pooled.detach(), *torch.autograd.grad(pooled, x, wanted(pooled))]


def run_plainly(x: Tensor, regions: Tensor, cut: Cut) -> list[Tensor]:
    """The same by torchvision."""
    pooled = roi_align(x, regions.to(x.dtype), cut.side, cut.scales[0], cut.ratio, cut.aligned)
    return [pooled.detach(), *torch.autograd.grad(pooled, x, wanted(pooled))]


def wanted(like: Tensor) -> Tensor:
    made = torch.randn(like.shape, generator=torch.Generator().manual_seed(1))
    return made.to(like.dtype)


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@needs_compiler
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 1, 2, 3])
@pytest.mark.parametrize(("side", "channels"), [(7, 64), (14, 5), (2, 70), (1, 129)])
def test_as_near_to_the_truth_as_torchvision(
    side: int, channels: int, ratio: int, aligned: bool
) -> None:
    x, regions = make_map(channels), make_regions()
    cut = Cut((SCALE,), side, ratio, aligned, planes=bool(side % 2))
    exact = run_plainly(x.detach().double().requires_grad_(), regions, cut)
    plain, ours = run_plainly(x, regions, cut), run(x, regions, cut)
    for true, one, other in zip(exact, plain, ours, strict=True):
        assert other.shape == true.shape
        error = float((one - true).abs().max())
        assert float((other - true).abs().max()) <= max(3 * error, 1e-6 * float(true.abs().max()))


@needs_compiler
@pytest.mark.parametrize("planes", [True, False])
def test_what_is_pooled_lies_as_asked(planes: bool) -> None:
    layout = torch.contiguous_format if planes else torch.channels_last
    cut = Cut((SCALE,), 3, 2, aligned=True, planes=planes)
    pooled, gradient = run(make_map(6), make_regions(), cut)
    assert pooled.is_contiguous(memory_format=layout)
    assert gradient.is_contiguous(memory_format=torch.channels_last)


@needs_compiler
def test_bfloat16_is_rounded_once() -> None:
    x, regions = make_map(70, torch.bfloat16), make_regions()
    cut = Cut((SCALE,), 7, 2, aligned=True, planes=True)
    pooled, gradient = run(x, regions, cut)
    wide = x.detach().float().requires_grad_()
    level_of = torch.zeros(len(regions), dtype=torch.int64)
    with use_kernels():
        exact = pool_regions([wide], regions, level_of, cut)
    assert torch.equal(pooled, exact.bfloat16())
    (expected,) = torch.autograd.grad(exact, wide, wanted(pooled).float())
    assert torch.equal(gradient, expected.bfloat16())


@needs_compiler
def test_the_same_bits_every_time_on_any_number_of_threads() -> None:
    x, regions = make_map(140), make_regions(200)
    cut = Cut((SCALE,), 7, 0, aligned=True, planes=False)
    first = run(x, regions, cut)
    for count in (1, 2, 3):
        with threads(count):
            again = run(x, regions, cut)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@needs_compiler
def test_no_regions_at_all() -> None:
    cut = Cut((SCALE,), 7, 2, aligned=True, planes=False)
    pooled, gradient = run(make_map(8), torch.zeros(0, 5), cut)
    assert pooled.shape == (0, 8, 7, 7)
    assert not gradient.any()


@needs_compiler
@pytest.mark.parametrize("ratio", [0, 2])
def test_what_is_no_box_or_of_no_level_holds_nothing(ratio: int) -> None:
    nan, inf = float("nan"), float("inf")
    regions = torch.tensor(
        [[0, nan, nan, nan, nan], [0, 0, 0, inf, inf], [0, -inf, 0, inf, 9], [0, 0, 0, 50, 50]]
    )
    cut = Cut((SCALE,), 2, ratio, aligned=True, planes=False)
    pooled, gradient = run(make_map(8), regions, cut, torch.tensor([0, 0, 0, 1]))
    assert not pooled.any()
    assert not gradient.any()


@needs_compiler
def test_a_level_that_does_not_learn_gets_no_gradient() -> None:
    fixed, learnt = make_map(8).detach(), make_map(8)
    regions = make_regions()
    level_of = torch.arange(len(regions)) % 2
    cut = Cut((SCALE, SCALE / 2), 3, 2, aligned=True, planes=False)
    with use_kernels():
        pooled = pool_regions([fixed, learnt], regions, level_of, cut)
    pooled.sum().backward()
    assert fixed.grad is None
    assert learnt.grad is not None


@needs_compiler
def test_a_second_derivative_is_refused() -> None:
    x, regions = make_map(8), make_regions()
    cut = Cut((SCALE,), 3, 2, aligned=True, planes=False)
    with use_kernels():
        pooled = pool_regions([x], regions, torch.zeros(len(regions), dtype=torch.int64), cut)
    (gradient,) = torch.autograd.grad(pooled.pow(2).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@needs_compiler
def test_who_is_left_to_torchvision() -> None:
    x, regions = make_map(8), make_regions()
    assert not fits([x], regions)
    with use_kernels():
        assert fits([x, x], regions)
        assert not fits([x.double()], regions)
        assert not fits([x], regions.double())
        assert not fits([x.half()], regions)
        assert not fits([x, x.bfloat16()], regions)
        assert not fits([x, x.contiguous()], regions)
        with use_kernels(enabled=False):
            assert not fits([x], regions)


@needs_compiler
def test_a_compiler_of_graphs_sees_torchvisions_operator() -> None:
    x, regions = make_map(8).detach(), make_regions()

    def which(x: Tensor) -> Tensor:
        return x * 2 if fits([x], regions) else x * 3

    with use_kernels():
        assert torch.equal(which(x), x * 2)
        compiled = torch.compile(which, backend="eager", fullgraph=True)
        assert torch.equal(compiled(x), x * 3)
