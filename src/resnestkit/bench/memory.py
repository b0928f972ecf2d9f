"""The peak of memory of a process that does nothing but run one contender.

`python -m resnestkit.bench.memory JSON` is that process.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np

from resnestkit.bench.contenders import Contender, Plan, open_contender

_CALLS = 3


def ask_peak(contender: Contender, threads: int, batch: int, size: int) -> float | None:
    """Megabytes of such a process, its libraries included; None if it failed."""
    asked = {"contender": asdict(contender), "threads": threads, "batch": batch, "size": size}
    command = [sys.executable, "-m", "resnestkit.bench.memory", json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return float(done.stdout.split()[-1]) if done.returncode == 0 else None


def main(text: str) -> None:
    """Run a contender a few times, and print the peak in megabytes."""
    asked = json.loads(text)
    contender = Contender(**{**asked["contender"], "plan": Plan(**asked["contender"]["plan"])})
    size = asked["size"]
    run = open_contender(contender, asked["threads"], size)
    images = np.zeros((asked["batch"], contender.channels, size, size), np.float32)
    for _ in range(_CALLS):
        run(images)
    print(read_peak())


def read_peak() -> float:
    """This process's peak so far, in megabytes."""
    status = Path("/proc/self/status")
    if status.exists():  # for Linux lets ru_maxrss begin with what the parent process held
        return float(status.read_text(encoding="ascii").split("VmHWM:")[1].split()[0]) / 1e3
    unit = 1e6 if sys.platform == "darwin" else 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


if __name__ == "__main__":
    main(sys.argv[1])
