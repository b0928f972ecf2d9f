"""AOTInductor: a program compiled ahead of time, for the machine that compiles it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.export import ExportedProgram

from resnestkit.deploy.exporters.torch import as_runner
from resnestkit.errors import UserError
from resnestkit.runtime.loading import Run

SUFFIX = ".pt2"
LIBRARY = "torch"
ROUNDS_UP = False


def write(program: ExportedProgram, outputs: Sequence[str], target: Path) -> None:  # noqa: ARG001
    """Compile the program. Raises UserError where there is no C++ compiler, or it fails."""
    compiler = os.environ.get("CXX", "g++").split()[0]  # as torch finds it
    if shutil.which(compiler) is None:
        raise UserError(
            f"There is no C++ compiler {compiler}, which --to aot needs; install one, or give "
            "--to torch, which needs none."
        )
    try:
        torch._inductor.aoti_compile_and_package(program, package_path=str(target))
    except torch._inductor.exc.InductorError as error:
        raise UserError(f"The compiler failed: {_first_error(str(error))}") from error


def open_file(path: Path, threads: int) -> Run:  # noqa: ARG001  (torch's are the process's)
    """Load a compiled program."""
    return as_runner(torch._inductor.aoti_load_package(str(path)))


def _first_error(text: str) -> str:
    lines = text.strip().splitlines()
    return next((line.strip() for line in lines if "error:" in line), lines[0] if lines else "")
