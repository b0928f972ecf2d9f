"""The kernels of the C++ files beside: compiled once for this processor, kept, and called.

A second of the system's C++ compiler is all they need: they know neither torch nor Python, take
addresses, and share OpenMP's threads with torch. Where there is no compiler there are no kernels,
and the plain form computes.

A GPU's are `triton_calls`; `find_kernels` knows which are whose.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from resnestkit.errors import UserError
from resnestkit.folders import cache_folder
from resnestkit.ops.triton_calls import TritonKernels, interprets, load_triton

_CPU = torch.device("cpu")
_CUDA = torch.device("cuda")
_SOURCES = tuple(Path(__file__).with_name(name) for name in ("kernels.cpp", "regions.cpp"))
_HEADER = Path(__file__).with_name("maps.h")
_SECONDS = 120
_TYPES = {torch.bfloat16: "bfloat16", torch.float32: "float32"}

# What each function takes: t a tensor or None, n a whole number, f a fraction, i a C int (the
# threads).
_TAKES = {
    "measure": "tnnitt",
    "normalise": "ttttnnit",
    "reduce": "ttttttnnitt",
    "differentiate": "tttttttnnitt",
    "squeeze": "ttttnnnnit",
    "join": "ttttnnnnit",
    "reduce_splits": "tttttttnnnnitt",
    "differentiate_splits": "ttttttttnnnnit",
    "pool": "tttnnnnnnnfnnnit",
    "spread": "tttnnnnnnnfnnnit",
}
_KINDS = {"t": ctypes.c_void_p, "n": ctypes.c_long, "f": ctypes.c_float, "i": ctypes.c_int}


class Kernels:
    """The compiled functions: ``kernels.call("join", dtype, tensors and numbers)``."""

    types = frozenset(_TYPES)
    """Of the maps that they take."""
    pools = False
    """Whether those of splits take height, width and stride of a pool behind their arguments."""

    def __init__(self, library: Path) -> None:
        loaded = ctypes.CDLL(str(library))
        self._functions: dict[tuple[str, torch.dtype], Callable[..., None]] = {}
        for name, takes in _TAKES.items():
            for dtype, suffix in _TYPES.items():
                function = getattr(loaded, f"{name}_{suffix}")
                function.argtypes, function.restype = [_KINDS[kind] for kind in takes], None
                self._functions[name, dtype] = function

    def call(self, name: str, dtype: torch.dtype, *values: Tensor | float | None) -> None:
        """Run a function on tensors, which lie as it expects them, and numbers."""
        plain = [v.data_ptr() if isinstance(v, Tensor) else v for v in values]
        self._functions[name, dtype](*plain)


Computing: TypeAlias = Kernels | TritonKernels
"""A GPU's are called as a CPU's are."""


@functools.cache
def load_kernels() -> Kernels:
    """The kernels, compiled if they are not kept yet.

    Raises UserError, in one sentence, where they cannot be had.
    """
    command = [*_find_compiler(), *_flags()]
    library = cache_folder() / "kernels" / f"{_digest(command)}.so"
    if not library.is_file():
        _compile(command, library)
    try:
        return Kernels(library)
    except (OSError, AttributeError) as error:
        raise UserError(f"The kernels in {library} cannot be loaded: {error}.") from error


def find_kernels(device: torch.device) -> Computing:
    """A device's: compiled ones for a CPU, Triton's for a GPU (in its interpreter, for either).

    Raises UserError, in one sentence, where they cannot be had.
    """
    if device.type not in {"cpu", "cuda"}:
        raise UserError(f"There are no kernels for {device.type}.")
    return load_triton(device) if device.type == "cuda" or interprets() else load_kernels()


def why_no_kernels(device: torch.device = _CPU) -> str | None:
    """Why kernels cannot be had, in a sentence; None where they can."""
    try:
        find_kernels(device)
    except UserError as error:
        return str(error)
    return None


def has_kernels(device: torch.device) -> bool:
    """Whether there are kernels for a device: a CPU with a compiler, a GPU from Ampere on."""
    return why_no_kernels(device) is None


def require_kernels() -> None:
    """Make sure that there are some, for a GPU or the CPU. Raises UserError if there are none."""
    if not (torch.cuda.is_available() and has_kernels(_CUDA)):
        find_kernels(_CPU)


def _find_compiler() -> list[str]:
    """The compiler, and what $CXX gives along with it, such as ``ccache g++ -O2``."""
    asked = os.environ.get("CXX")
    for words in [shlex.split(asked)] if asked else [["c++"], ["g++"], ["clang++"]]:
        found = shutil.which(words[0])
        if found:
            return [found, *words[1:]]
    raise UserError(
        f"There is no C++ compiler {asked}." if asked else "There is no C++ compiler (g++)."
    )


def _flags() -> list[str]:
    flags = ["-O3", "-std=c++17", "-march=native", "-fopenmp", "-shared", "-fPIC"]
    # Nobody reads what errors these would keep apart, and without them loops become vectors.
    flags += ["-fno-math-errno", "-fno-trapping-math"]
    if platform.machine() in {"x86_64", "AMD64"}:
        flags.append("-mprefer-vector-width=512")
    return flags


def _digest(command: list[str]) -> str:
    """Of all that decides the code: the sources, the compiler, its flags and the processor."""
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in (*_SOURCES, _HEADER)))
    for text in (*command, _run([*command, "--version"]), _processor()):
        digest.update(f"\0{text}".encode())
    return digest.hexdigest()[:32]


def _processor() -> str:
    """What the processor can do: a home folder may be shared by several kinds."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _compile(command: list[str], library: Path) -> None:
    """Write the library, whole or not at all: other processes may be doing the same."""
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            made = Path(folder) / library.name
            _run([*command, *map(str, _SOURCES), "-o", str(made)])
            made.replace(library)
    except OSError as error:
        raise UserError(f"Cannot write the kernels to {library}: {error.strerror}.") from error


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_SECONDS, check=True
        )
    except subprocess.CalledProcessError as error:
        words: Any = (error.stderr or "").strip().splitlines()
        said = next((line for line in words if "error" in line), f"exit code {error.returncode}")
        raise UserError(f"The kernels do not compile: {said}.") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"The compiler {command[0]} does not run: {error}.") from error
    return done.stdout
