"""What int8 costs a really trained net: accuracy and equal decisions on images it never saw.

Each checkpoint is quantised for OpenVINO and for ONNX Runtime as `resnestkit quantise` does it, and
compared with the same net in float32 on all test images. The bars: at most 0.3 points of accuracy
lost, at least 98.5% of decisions equal.

Command: .venv/bin/python scripts/measure_int8.py CHECKPOINT... --data FOLDER [--images 300]
             [--max-drop 0.003]
For instance the checkpoints of `make cifar10` with DATA/cifar10.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import tempfile
from itertools import product
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the command line sets it

from resnestkit.deploy.quantise import Quantised, QuantisedFormat, quantise
from resnestkit.progress import Reporter

FORMATS: tuple[QuantisedFormat, ...] = ("openvino", "onnx")
MOST_LOST, LEAST_EQUAL = 0.003, 0.985


def main() -> None:
    """Print a row for each checkpoint and runtime; leave with 1 if one misses a bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--data", required=True)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--max-drop", type=float, default=MOST_LOST)
    given = parser.parse_args()
    rows = []
    quiet = Reporter(quiet=True)
    print("| net | runtime | float32 | int8 | points lost | equal decisions | layers in int8 |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for checkpoint, to in product(given.checkpoints, FORMATS):
            target = Path(folder) / ("int8.xml" if to == "openvino" else "int8.onnx")
            settings = {"max_drop": given.max_drop, "images": given.images, "reporter": quiet}
            rows.append(quantise(checkpoint, given.data, to, target, **settings))
            print(describe_row(rows[-1]), flush=True)
    print(f"\n{describe(rows[0])}")
    if any(row.cost.drop > MOST_LOST or row.cost.agreement < LEAST_EQUAL for row in rows):
        raise SystemExit("A bar was missed: 0.3 points, 98.5% of decisions.")


def describe(row: Quantised) -> str:
    """On which images, by which versions."""
    said = row.card.quantised or {}
    packages = ("nncf", "openvino", "onnxruntime", "torch")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    return (
        f"{row.cost.images} images ({said['measured_on']}), ranges from {said['learnt_from']} "
        f"training images; {versions}; {platform.machine()}"
    )


def describe_row(row: Quantised) -> str:
    """One net in one runtime."""
    cost, said = row.cost, row.card.quantised or {}
    layers = f"{said['layers'] - len(said['kept'])} of {said['layers']}"
    return (
        f"| {row.card.net} | {row.card.format} | {cost.float32:.2%} | {cost.int8:.2%} | "
        f"{100 * cost.drop:.2f} | {cost.agreement:.2%} | {layers} |"
    )


if __name__ == "__main__":
    main()
