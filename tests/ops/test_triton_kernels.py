"""Triton's kernels: run in its interpreter, run on a GPU if there is one, compiled for two anyway.

What they must give is in `triton_cases`, which runs in a process of its own.
"""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from resnestkit import UserError
from resnestkit.ops import kernels, triton_calls
from resnestkit.ops.fused import use_kernels

CASES = Path(__file__).with_name("triton_cases.py")
WHY = kernels.why_no_kernels(torch.device("cuda"))
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)
DTYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


@needs_triton
@pytest.mark.parametrize(
    "where",
    [
        "interpreter",
        pytest.param("cuda", marks=pytest.mark.skipif(WHY is not None, reason=f"no GPU: {WHY}")),
    ],
)
def test_the_cases(where: str) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": str(int(where == "interpreter"))}
    # Older interpreters use what NumPy is about to drop.
    flags = ["-x", "-q", "-p", "no:cacheprovider", "-W", "ignore::DeprecationWarning"]
    command = [sys.executable, "-m", "pytest", *flags, str(CASES)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_triton
@pytest.mark.parametrize(
    ("dtype", "capability"), [(torch.bfloat16, 80), (torch.float32, 90)], ids=str
)
def test_they_compile_for_ampere_and_hopper(
    dtype: torch.dtype, capability: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No GPU is needed to see that they can be compiled, as the interpreter cannot tell."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    compiled: list[str] = []

    def compile_one(_self: object, name: str, _programs: int, *values: Any) -> None:
        assert make_code(name, values, capability)
        compiled.append(name)

    monkeypatch.setattr(triton_calls.TritonKernels, "_run", compile_one)
    # On the newer GPU a single image of a map that is a pixel wide: ones are compiled in.
    for name, values in make_calls(dtype, one=capability == 90):
        triton_calls.TritonKernels().call(name, dtype, *values)
    assert len(compiled) == 14


def make_code(name: str, values: tuple[Any, ...], capability: int) -> bytes:
    """A kernel's code for a GPU, from arguments as it would be called with."""
    import triton  # noqa: PLC0415  (not everywhere)
    from triton.backends.compiler import GPUTarget  # noqa: PLC0415  (as above)
    from triton.compiler import ASTSource  # noqa: PLC0415  (as above)

    from resnestkit.ops import triton_kernels  # noqa: PLC0415  (as above)

    function = getattr(triton_kernels, name)
    signature, known, hints = {}, {}, {}
    for place, (parameter, value) in enumerate(zip(function.params, values, strict=True)):
        if parameter.is_constexpr or value is None or (type(value) is int and value == 1):
            signature[parameter.name], known[(place,)] = "constexpr", value
            continue
        if isinstance(value, Tensor):
            signature[parameter.name] = f"*{DTYPES.get(value.dtype, 'fp64')}"
        else:
            signature[parameter.name] = "i32"
        if isinstance(value, Tensor) or value % 16 == 0:
            hints[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(function, signature, known, hints)
    options = {"enable_fp_fusion": False}
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    code: bytes = made.asm["cubin"]
    return code


def make_calls(dtype: torch.dtype, *, one: bool) -> list[tuple[str, tuple[Any, ...]]]:
    """Each function's arguments, with and without what may be left out; nothing is computed."""
    images, height, width = (1, 40, 1) if one else (2, 16, 20)
    pixels, radix, channels = height * width, 2, 64
    x = torch.empty(images, radix * channels, height, width, dtype=dtype)
    wide = torch.empty(images, radix * channels)
    double = wide.double()
    rows = (images * pixels, radix * channels, 0)
    splits, pool = (images, pixels, radix, channels, 0), (height, width, 2)
    norm, gate, four = (wide, wide), (wide, wide), (wide, wide, wide, wide)
    return [
        ("measure", (x, *rows, wide, wide)),  # which merges
        ("normalise", (x, None, *norm, *rows, x)),
        ("normalise", (x, x, *norm, *rows, x)),
        ("reduce", (x, x, x, *norm, wide, *rows, double, double)),
        ("differentiate", (x, x, None, *four, *rows, x, None)),
        ("differentiate", (x, x, x, *four, *rows, x, x)),
        ("squeeze", (x, None, *norm, *splits, wide)),
        ("squeeze", (x, x, *norm, *splits, wide, *pool)),
        ("join", (x, *norm, wide, *splits, x, *pool)),
        ("reduce_splits", (x, x, *norm, wide, *gate, *splits, double, double, *pool)),
        ("differentiate_splits", (x, x, *four, *gate, *splits, x, *pool)),
    ]


def test_why_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def why(device: str) -> str | None:
        triton_calls.load_triton.cache_clear()
        return kernels.why_no_kernels(torch.device(device))

    assert why("meta") == "There are no kernels for meta."
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert why("cuda") == "The kernels for a GPU are for CUDA."
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert why("cuda") == "Tesla T4 is older than Ampere."
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    monkeypatch.setattr(triton_calls, "_try", _fail(RuntimeError("no C compiler.\nAt all")))
    assert why("cuda") == "Triton does not run here: no C compiler."
    monkeypatch.setattr(triton_calls, "TritonKernels", _fail(ImportError("triton")))
    assert why("cuda") == "Triton is not installed."
    triton_calls.load_triton.cache_clear()


def test_a_gpu_with_kernels_needs_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    none = _fail(UserError("There is no C++ compiler (g++)."))
    monkeypatch.setattr(kernels, "load_kernels", none)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(kernels, "load_triton", lambda _: triton_calls.TritonKernels)
    with use_kernels():
        pass
    monkeypatch.setattr(kernels, "load_triton", none)
    with pytest.raises(UserError, match="compiler"), use_kernels():
        pass


def _fail(error: Exception) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail
