"""How long does a person wait for the explanation of one image?

Apart, in one process: `explain_image` of a net that is loaded already, and the pictures and the
page of what it found. And as a person waits: `resnestkit explain CHECKPOINT IMAGE` as a new process
from its start to its end. All by as many threads as cores; runs take turns, and the first, which
fills the caches, does not count. It ends with 1 if the whole command takes more than --most seconds
in the median.

Command: .venv/bin/python scripts/random_nets.py FOLDER --no-int8     (random weights cost the same)
         .venv/bin/python scripts/measure_explain.py FOLDER/resnest50.safetensors
             "FOLDER/images/class 0/00.jpg" [--cores 2] [--runs 7] [--most 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from machine import describe_machine, print_machine

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the command line sets it

T = TypeVar("T")
PACKAGES = ("resnestkit", "torch", "captum", "matplotlib", "numpy")
EXPLAIN, PAGE, COMMAND = "explain_image", "pictures and page", "whole command"


def main() -> None:
    """Measure in turn, print a table, and judge."""
    asked = read_arguments()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: asked.cores])
    os.environ["OMP_NUM_THREADS"] = str(asked.cores)  # before torch is imported, here or there
    machine = describe_machine(*PACKAGES)
    print_machine(machine)
    rows = measure(asked.checkpoint, asked.image, asked.runs)
    print("| | seconds (quartiles) |")
    print("|---|---|")
    for name, seconds in rows.items():
        low, middle, high = statistics.quantiles(seconds, n=4)
        print(f"| {name} | {middle:.2f} ({low:.2f} to {high:.2f}) |")
    whole = statistics.median(rows[COMMAND])
    met = whole <= asked.most
    print(f"{'met' if met else 'NOT MET':<12}at most {asked.most:g} s, {COMMAND}: {whole:.2f} s")
    if asked.json:
        said = {"checkpoint": str(asked.checkpoint), "machine": machine, "seconds": rows}
        asked.json.write_text(json.dumps(said, indent=2))
    raise SystemExit(0 if met else 1)


def read_arguments() -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--most", type=float, default=5.0)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def measure(checkpoint: Path, image: Path, runs: int) -> dict[str, list[float]]:
    """Seconds of each part in each run."""
    # Torch counts its threads when it is imported.
    from resnestkit.explain import explain_image, open_subject  # noqa: PLC0415  (as said)
    from resnestkit.explain.page import image_part  # noqa: PLC0415  (as said)
    from resnestkit.report.page import render_page  # noqa: PLC0415  (as said)

    subject = open_subject(checkpoint, device="cpu")
    rows: dict[str, list[float]] = {EXPLAIN: [], PAGE: [], COMMAND: []}

    def draw() -> None:
        part = image_part(found)
        render_page("An explanation", "", part.headlines, part.sections)

    for number in range(runs + 1):
        spent, found = clock(lambda: explain_image(subject, image))
        drawn, _ = clock(draw)
        waited, _ = clock(lambda: run_command(checkpoint, image))
        if number:
            for name, seconds in zip(rows, (spent, drawn, waited), strict=True):
                rows[name].append(seconds)
        print(f"run {number} of {runs}", file=sys.stderr, flush=True)
    return rows


def run_command(checkpoint: Path, image: Path) -> None:
    """`resnestkit explain`, which must end without fault."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["explain", str(checkpoint), str(image), "--output", folder, "--device", "cpu"]
        subprocess.run(
            [sys.executable, "-m", "resnestkit", *words], check=True, stdout=subprocess.DEVNULL
        )


def clock(work: Callable[[], T]) -> tuple[float, T]:
    """Seconds that something takes, and what it gives."""
    start = time.perf_counter()
    made = work()
    return time.perf_counter() - start, made


if __name__ == "__main__":
    main()
