"""Who runs, in what precision, and how each is opened. Imports no torch unless a torch model runs.

A contender is plain data, so that a process of its own can open it and tell how much memory that
takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from resnestkit.runtime.loading import Arithmetic, Run, load

Precision = Literal["float32", "bfloat16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "int8")
Library = Literal["resnestkit", "timm", "torchvision"]
"""Whose code describes the net."""
Runtime = Literal["eager", "torch.compile", "ONNX Runtime", "OpenVINO"]

RESNET = "resnet50"
"""Which net of torchvision runs beside all others."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A way to run a net, of which a contender is made."""

    library: Library
    runtime: Runtime
    precision: Precision = "float32"

    @property
    def who(self) -> str:
        """Such as "timm, OpenVINO"; torchvision's net is another, so its name is said."""
        library = f"{self.library} {RESNET}" if self.library == "torchvision" else self.library
        return f"{library}, {self.runtime}"

    @property
    def name(self) -> str:
        """Such as "timm, OpenVINO, int8"."""
        return f"{self.who}, {self.precision}"

    @property
    def is_ours(self) -> bool:
        """Whether this is the deploy form."""
        return self.library == "resnestkit"


PLANS = (
    Plan("resnestkit", "OpenVINO", "int8"),
    Plan("timm", "OpenVINO", "int8"),
    Plan("resnestkit", "OpenVINO", "bfloat16"),
    Plan("timm", "OpenVINO", "bfloat16"),
    Plan("resnestkit", "OpenVINO"),
    Plan("timm", "OpenVINO"),
    Plan("timm", "ONNX Runtime", "int8"),
    Plan("timm", "ONNX Runtime"),
    Plan("timm", "torch.compile"),
    Plan("timm", "eager"),
    Plan("torchvision", "OpenVINO", "int8"),
    Plan("torchvision", "OpenVINO", "bfloat16"),
    Plan("torchvision", "OpenVINO"),
    Plan("torchvision", "eager"),
)
"""All, in the order in which they take turns: those that are compared stand side by side."""


def choose_plans(patterns: Sequence[str]) -> tuple[Plan, ...]:
    """Those whose name fits one of some shell patterns; all if there are none."""
    if not patterns:
        return PLANS
    return tuple(plan for plan in PLANS if any(fnmatchcase(plan.name, p) for p in patterns))


@dataclass(frozen=True, slots=True)
class Contender:
    """A net that is ready to be opened."""

    plan: Plan
    path: str
    """The file of a runtime, or the weights of a torch model."""
    net: str
    """Name in its library."""
    classes: int
    channels: int
    macs: int
    """Multiply-adds of an image."""


def open_contender(contender: Contender, threads: int, size: int) -> Run:
    """Load a contender for square images, any number at a time.

    Raises UserError if its library is not installed, or it cannot run here.
    """
    plan = contender.plan
    if plan.runtime in {"OpenVINO", "ONNX Runtime"}:
        arithmetic: Arithmetic = "bfloat16" if plan.precision == "bfloat16" else "float32"
        shape = (-1, contender.channels, size, size)
        return load(Path(contender.path), arithmetic, threads, shape)
    from resnestkit.bench.subjects import open_torch  # noqa: PLC0415  (torch loads here)

    return open_torch(contender, threads)
