"""What scripts say of where and when they measured."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from datetime import date
from pathlib import Path


def describe_machine(*packages: str) -> dict[str, str]:
    """Date, processor, the cores that this process may use, and versions of some packages."""
    versions = {name: importlib.metadata.version(name) for name in packages}
    return {
        "date": date.today().isoformat(),
        "processor": _name_processor(),
        "cores": f"{count_cores()} of {os.cpu_count()}",
        "python": platform.python_version(),
        **versions,
    }


def count_cores() -> int:
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def print_machine(said: dict[str, str]) -> None:
    """Two lines for a person."""
    first = ("date", "processor", "cores")
    print(f"{said['date']}, {said['processor']}, {said['cores']} cores")
    print(", ".join(f"{name} {value}" for name, value in said.items() if name not in first))


def _name_processor() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
