"""The compiled kernels against the plain form, in values, gradients, statistics and learning."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from nearness import assert_as_near, make_map, make_norm, run
from torch import Tensor, nn

from resnestkit import UserError, create_model
from resnestkit.folders import cache_folder
from resnestkit.models.attention import SplitAttention
from resnestkit.models.layers import PointwiseConv, norm_relu
from resnestkit.ops import fused, kernels
from resnestkit.ops.fused import use_kernels

WHY = kernels.why_no_kernels()
needs_compiler = pytest.mark.skipif(WHY is not None, reason=f"kernels cannot be compiled: {WHY}")


@pytest.fixture(autouse=True)
def every_map(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels for small maps too."""
    monkeypatch.setattr(fused, "_LEAST", 1)


@needs_compiler
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("shape", [(2, 3, 1, 2), (3, 65, 7, 5), (5, 16, 33, 20), (1, 130, 3, 3)])
def test_norm_relu(shape: tuple[int, ...], threads: int) -> None:
    x, norm = make_map(*shape), make_norm(shape[1])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert_as_near(lambda x: norm_relu(x, norm), [x], norm)
    finally:
        torch.set_num_threads(before)


@needs_compiler
def test_the_end_of_a_block() -> None:
    x, shortcut, norm = make_map(3, 24, 9, 8), make_map(3, 24, 9, 8), make_norm(24)

    def end(x: Tensor, shortcut: Tensor) -> Tensor:
        if fused.fits(norm, x):
            return fused.join_block(x, shortcut, norm)
        return torch.relu(norm(x) + shortcut)

    assert_as_near(end, [x, shortcut], norm)


@needs_compiler
@pytest.mark.parametrize("radix", [1, 2, 3, 4])
@pytest.mark.parametrize("cardinality", [1, 2])
def test_split_attention(radix: int, cardinality: int) -> None:
    attention = SplitAttention(
        12 * cardinality * radix, 68 * cardinality, make_norm, radix=radix, cardinality=cardinality
    ).to(memory_format=torch.channels_last)
    x = make_map(4, 12 * cardinality * radix, 6, 5)
    assert_as_near(attention, [x], attention)


@needs_compiler
def test_a_block_in_bfloat16() -> None:
    net = create_model("resnest14", classes=0, zero_gamma=False).layer2
    net.to(memory_format=torch.channels_last).train()
    x = make_map(8, 256, 12, 12)

    def stage(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=x.dtype != torch.float64):
            out: Tensor = net(x)
        return out.to(x.dtype)

    assert_as_near(stage, [x], net)


@needs_compiler
@pytest.mark.parametrize("bias", [True, False])
def test_a_pointwise_convolution(bias: bool) -> None:
    conv = PointwiseConv(9, 20, 1, bias=bias).to(memory_format=torch.channels_last)
    x = make_map(2, 9, 5, 7)
    assert_as_near(conv, [x], conv)
    with use_kernels():
        assert conv(x).is_contiguous(memory_format=torch.channels_last)


@needs_compiler
def test_statistics_of_a_map_far_from_zero() -> None:
    x, norm = make_map(4, 8, 40, 40, mean=3000.0), make_norm(8)
    with use_kernels():
        norm_relu(x, norm)
    exact = x.detach().double()
    mean = exact.mean((0, 2, 3)) * 0.1
    variance = exact.var((0, 2, 3)) * 0.1 + 0.9
    assert norm.running_var is not None
    torch.testing.assert_close(norm.running_var.double(), variance, rtol=1e-4, atol=0)
    fresh = nn.BatchNorm2d(8)
    with use_kernels():
        norm_relu(x, fresh)
    assert fresh.running_mean is not None
    torch.testing.assert_close(fresh.running_mean.double(), mean, rtol=1e-6, atol=0)
    assert int(fresh.num_batches_tracked) == 1  # type: ignore[arg-type]


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_no_number_stays_none(dtype: torch.dtype) -> None:
    x, norm = make_map(2, 4, 6, 6, dtype=dtype), make_norm(4)
    with torch.no_grad():
        x[1, 2, 3, 3] = float("nan")
    with use_kernels():
        y = norm_relu(x, norm)
    assert y[:, 2].isnan().all()
    assert y[:, [0, 1, 3]].isfinite().all()


@needs_compiler
@pytest.mark.parametrize("name", ["resnest14", "resnet18", "seresnet50", "skresnet18"])
def test_nets_learn_alike(name: str) -> None:
    images = torch.randn(4, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    labels = torch.tensor([0, 1, 2, 0])
    curves = []
    for enabled in (False, True):
        torch.manual_seed(3)
        net = create_model(name, classes=3).to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.02)
        losses = []
        for _ in range(3):
            with use_kernels(enabled=enabled):
                loss = nn.functional.cross_entropy(net(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        curves.append(losses)
    assert curves[1] == pytest.approx(curves[0], rel=2e-3)
    assert curves[0][-1] != curves[0][0]


@needs_compiler
def test_kernels_compute_only_where_they_are_on_and_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(fused, "_call", lambda name, *_: calls.append(name))
    x, norm = make_map(2, 4, 6, 6).detach(), make_norm(4)
    fit = {"x": x, "norm": norm}
    hooked, seen = make_norm(4), []
    hooked.register_forward_hook(lambda *_: seen.append(1))
    unfit = [
        fit | {"x": x.double(), "norm": make_norm(4).double()},
        fit | {"x": x.contiguous()},
        fit | {"norm": make_norm(4).eval()},
        fit | {"norm": nn.BatchNorm2d(4, momentum=None)},
        fit | {"norm": nn.BatchNorm2d(4, affine=False)},
        fit | {"norm": nn.BatchNorm2d(4, track_running_stats=False)},
        fit | {"norm": nn.GroupNorm(2, 4)},
        fit | {"norm": hooked},
    ]
    norm_relu(x, norm)
    with use_kernels():
        for one in unfit:
            norm_relu(one["x"], one["norm"])  # type: ignore[arg-type]
        with use_kernels(enabled=False):
            norm_relu(x, norm)
        assert not calls
        assert seen
        norm_relu(x, norm)
    assert calls == ["measure", "normalise"]


@needs_compiler
def test_a_small_map_is_left_to_the_plain_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with use_kernels():
        assert not fused.fits(make_norm(4), make_map(2, 4, 6, 6))
        assert fused.fits(make_norm(64), make_map(2, 64, 32, 32))


@needs_compiler
def test_the_same_bits_every_time() -> None:
    x, norm = make_map(3, 40, 31, 17), make_norm(40)
    with use_kernels():
        first, second = (run(lambda x: norm_relu(x, norm), [x], norm) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_without_a_compiler_one_sentence_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RESNESTKIT_CACHE", str(tmp_path))
    kernels.load_kernels.cache_clear()
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert kernels.why_no_kernels() == "There is no C++ compiler no-such-compiler."
    with pytest.raises(UserError, match="no-such-compiler"), use_kernels():
        pass
    broken = tmp_path / "c++"
    script = ["#!/bin/sh", 'case "$*" in *--version) exit 0;; esac', "echo error: no OpenMP >&2"]
    broken.write_text("\n".join([*script, "exit 1"]))
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    assert kernels.why_no_kernels() == "The kernels do not compile: error: no OpenMP."
    assert not list((tmp_path / "kernels").iterdir())
    kernels.load_kernels.cache_clear()


@needs_compiler
def test_two_processes_may_compile_at_once(tmp_path: Path) -> None:
    environment = {**os.environ, "RESNESTKIT_CACHE": str(tmp_path)}
    program = "from resnestkit.ops.kernels import load_kernels; load_kernels()"
    started = [subprocess.Popen([sys.executable, "-c", program], env=environment) for _ in range(2)]
    assert [process.wait() for process in started] == [0, 0]
    kept = list((tmp_path / "kernels").iterdir())
    assert len(kept) == 1


@needs_compiler
def test_a_compiled_or_exported_net_is_of_the_plain_form() -> None:
    attention = SplitAttention(16, 32, make_norm).to(memory_format=torch.channels_last)
    x = make_map(2, 16, 4, 4)
    with use_kernels():
        compiled = torch.compile(attention, backend="aot_eager", fullgraph=True)
        compiled(x).sum().backward()
        torch.export.export(attention, (x.detach(),))
    assert attention.fc1.weight.grad is not None


@needs_compiler
def test_a_stem_that_was_changed_runs_as_it_is() -> None:
    stem = create_model("resnet50d", classes=0).conv1.to(memory_format=torch.channels_last)
    x = make_map(2, 3, 16, 16).detach()
    seen: list[int] = []
    stem[5].register_forward_hook(lambda *_: seen.append(1))
    stem[2] = nn.SiLU()
    plain = nn.Sequential(*stem)
    with use_kernels():
        torch.testing.assert_close(stem(x), plain(x), rtol=1e-4, atol=1e-5)
        assert stem[:3](x).shape == (2, 32, 8, 8)
    assert seen == [1, 1]


@needs_compiler
def test_a_strided_or_padded_pointwise_convolution_keeps_its_form() -> None:
    x = make_map(2, 4, 5, 5).detach()
    for options in ({"padding": 1}, {"stride": 2}):
        conv = PointwiseConv(4, 4, 1, **options).to(memory_format=torch.channels_last)
        with use_kernels():
            assert torch.equal(conv(x), nn.Conv2d.forward(conv, x))


@needs_compiler
def test_backward_twice() -> None:
    attention = SplitAttention(8, 16, make_norm).to(memory_format=torch.channels_last)
    x = make_map(2, 8, 4, 4)
    with use_kernels():
        out = attention(x).sum()
    first = torch.autograd.grad(out, [x], retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(out, [x])[0])


@needs_compiler
def test_a_net_of_bfloat16_with_norms_of_float32() -> None:
    attention = SplitAttention(8, 16, make_norm).to(torch.bfloat16)
    attention.bn0.float()
    attention.bn1 = nn.Identity()
    x = make_map(2, 8, 4, 4, dtype=torch.bfloat16)
    with use_kernels():
        attention(x.contiguous(memory_format=torch.channels_last)).sum().backward()
    assert attention.fc1.weight.grad is not None


def test_a_user_without_a_home_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("RESNESTKIT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", fail)
    with pytest.raises(UserError, match="RESNESTKIT_CACHE"):
        cache_folder()


@needs_compiler
def test_a_compiler_with_words_behind_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RESNESTKIT_CACHE", str(tmp_path))
    monkeypatch.setenv("CXX", "env c++ -O1")
    kernels.load_kernels.cache_clear()
    assert kernels.why_no_kernels() is None
    kernels.load_kernels.cache_clear()
