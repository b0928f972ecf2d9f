"""What a neighbour costs a training on the CPU, with OpenMP's spinning as it is and cut short.

Command: .venv/bin/python scripts/measure_sharing.py
Trains resnest23_small on random images for a few steps in a process of its own, alone and beside
as many busy processes as there are cores less one, with and without GOMP_SPINCOUNT=1000 (which the
command line sets). Rounds are interleaved; the table gives medians of images per second.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections import defaultdict

STEPS, BATCH = 5, 128
LIMIT = 60
"""Seconds after which a measurement counts as no more than what was then done: none."""

WORKER = f"""
import time, torch
from torch.nn import functional as F
from resnestkit import create_model
model = create_model("resnest23_small", 10).train().to(memory_format=torch.channels_last)
images = torch.randn({BATCH}, 3, 32, 32).contiguous(memory_format=torch.channels_last)
labels = torch.randint(0, 10, ({BATCH},))
seconds = []
for _ in range({STEPS} + 1):
    started = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16):
        loss = F.cross_entropy(model(images).float(), labels)
    loss.backward()
    seconds.append(time.perf_counter() - started)
print({BATCH} * {STEPS} / sum(seconds[1:]))
"""


def main() -> None:
    """Print a table: rows are the neighbours, columns the two settings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    rounds: int = parser.parse_args().rounds
    neighbours = max(1, (os.cpu_count() or 2) - 1)
    speeds: dict[tuple[int, str], list[float]] = defaultdict(list)
    for number in range(rounds):
        for busy in (0, neighbours):
            for setting in ("as it is", "1000"):
                speeds[busy, setting].append(measure(busy, setting))
        print(f"round {number + 1} of {rounds} done", file=sys.stderr, flush=True)
    print("| busy neighbours | images/s as it is | with GOMP_SPINCOUNT=1000 |")
    print("|---|---|---|")
    for busy in (0, neighbours):
        cells = " | ".join(describe(speeds[busy, setting]) for setting in ("as it is", "1000"))
        print(f"| {busy} | {cells} |")


def measure(busy: int, setting: str) -> float:
    """Images per second of one process beside busy ones; 0 if it does not finish in time."""
    environment = {k: v for k, v in os.environ.items() if k != "GOMP_SPINCOUNT"}
    if setting != "as it is":
        environment["GOMP_SPINCOUNT"] = setting
    loop = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(loop) for _ in range(busy)]
    try:
        done = subprocess.run(
            [sys.executable, "-c", WORKER],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=LIMIT,
        )
        return float(done.stdout)
    except subprocess.TimeoutExpired:
        return 0.0
    finally:
        for other in others:
            other.kill()
            other.wait()


def describe(speeds: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(speeds):.0f} ({min(speeds):.0f} to {max(speeds):.0f})"


if __name__ == "__main__":
    main()
