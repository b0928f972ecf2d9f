"""How long the command line takes to answer: five warm runs of each, median and spread.

Command: .venv/bin/python scripts/measure_startup.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = (["--help"], ["models"], ["train", "--help"])
RUNS = 5


def main() -> None:
    """Print a table of seconds."""
    program = Path(sys.executable).with_name("resnestkit")
    print("| command | median s | min s | max s |")
    print("|---|---|---|---|")
    for words in COMMANDS:
        measure([str(program), *words])  # the first run fills the caches
        seconds = [measure([str(program), *words]) for _ in range(RUNS)]
        middle = statistics.median(seconds)
        print(
            f"| `resnestkit {' '.join(words)}` | {middle:.2f} | {min(seconds):.2f} | "
            f"{max(seconds):.2f} |"
        )


def measure(command: list[str]) -> float:
    """Seconds of one whole process."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
