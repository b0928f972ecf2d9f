"""From nothing to the first prediction: one process after the other, each from a file of its own.

Every contender is a new Python process that imports what it needs, opens its model, prepares one
JPEG of 640 x 480 and prints the class: ours from the .xml, .onnx and .safetensors, and timm with
torch from a state dict. All have the same random weights, and must print the same class. Rounds are
interleaved, so that what else the machine does falls on all; the first round, which fills the cache
of the disk, does not count. Time is from the start of the process to its end, as a user waits for
it; memory is the most that it held (VmHWM).

Command: .venv/bin/python scripts/measure_cold_start.py [--net resnest50] [--rounds 12]
             [--threads 2] [--json FILE]                                                (Linux)
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the command line sets it

CLASSES = 1000
TIMM_NAMES = {"resnest14": "resnest14d", "resnest26": "resnest26d", "resnest50": "resnest50d"}

OURS = """
import sys
from resnestkit import Predictor
print(Predictor(sys.argv[1], "cpu", int(sys.argv[3])).predict([sys.argv[2]])[0].label)
"""
TIMM = """
import sys
import timm, torch
from PIL import Image
from safetensors.torch import load_file
from timm.data import create_transform
torch.set_num_threads(int(sys.argv[3]))
net = timm.create_model(sys.argv[4], num_classes={classes})
net.load_state_dict(load_file(sys.argv[1]))
net.eval()
look = create_transform(224, crop_pct=0.875, interpolation="bilinear")
with torch.inference_mode():
    image = look(Image.open(sys.argv[2]).convert("RGB"))
    print("class", net(image.unsqueeze(0)).softmax(1)[0].argmax().item())
""".replace("{classes}", str(CLASSES))
MEMORY = """
import re
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""


def main() -> None:
    """Prepare the files, measure in turn, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--net", choices=TIMM_NAMES, default="resnest50")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--prepare", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.prepare:
        prepare(given.prepare, given.net)
        return
    with tempfile.TemporaryDirectory() as folder:
        prepared = [sys.executable, __file__, "--prepare", folder, "--net", given.net]
        subprocess.run(prepared, check=True)  # in its own process: children start from a small one
        contenders = list_contenders(Path(folder), given.net, given.threads)
        rows = measure(contenders, given.rounds)
    print(describe(given.net, given.threads))
    print_table(rows)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=2))


def prepare(folder: Path, name: str) -> None:
    """A random net in every form, and a picture."""
    import numpy as np  # noqa: PLC0415  (in the preparing process alone)
    import torch  # noqa: PLC0415  (only who prepares)
    from PIL import Image  # noqa: PLC0415  (only who prepares)
    from safetensors.torch import save_file  # noqa: PLC0415  (only who prepares)

    from resnestkit import create_model, save_model  # noqa: PLC0415  (only who prepares)
    from resnestkit.deploy.export import export  # noqa: PLC0415  (only who prepares)

    torch.manual_seed(0)
    net = create_model(name, CLASSES)
    net.head_is_new = False
    save_model(net, folder / "ours.safetensors", [f"class {i}" for i in range(CLASSES)])
    save_file(net.state_dict(), folder / "timm.safetensors")
    export(folder / "ours.safetensors", "openvino")
    export(folder / "ours.safetensors", "onnx")
    coarse = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC)
    picture.save(folder / "picture.jpg", quality=92)


def list_contenders(folder: Path, net: str, threads: int) -> dict[str, list[str]]:
    """A command for each."""
    files = {
        "resnestkit, OpenVINO": (OURS, "ours.xml"),
        "resnestkit, ONNX Runtime": (OURS, "ours.onnx"),
        "resnestkit, torch": (OURS, "ours.safetensors"),
        "timm, torch": (TIMM, "timm.safetensors"),
    }
    tail = [str(folder / "picture.jpg"), str(threads), TIMM_NAMES[net]]
    return {
        name: [sys.executable, "-c", code + MEMORY, str(folder / file), *tail]
        for name, (code, file) in files.items()
    }


def measure(contenders: dict[str, list[str]], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds and megabytes of each process. Stops if the answers differ."""
    rows: dict[str, dict[str, list[float]]] = {
        name: {"seconds": [], "megabytes": []} for name in contenders
    }
    for number in range(rounds + 1):
        said = set()
        for name, command in contenders.items():
            started = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            seconds = time.perf_counter() - started
            label, kilobytes = done.stdout.splitlines()[-2:]
            said.add(label)
            if number:
                rows[name]["seconds"].append(seconds)
                rows[name]["megabytes"].append(int(kilobytes) / 1024)
        if len(said) > 1:
            raise SystemExit(f"They disagree: {sorted(said)}.")
        print(f"round {number} of {rounds} done", file=sys.stderr, flush=True)
    return rows


def describe(net: str, threads: int) -> str:
    """What was measured, on what, by what."""
    packages = ("resnestkit", "torch", "timm", "openvino", "onnxruntime", "numpy", "pillow")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    return (
        f"{net}, 224, batch 1, float32, {threads} threads on {os.cpu_count()} cores of "
        f"{platform.machine()}; Python {platform.python_version()}, {versions}\n"
    )


def print_table(rows: dict[str, dict[str, list[float]]]) -> None:
    """Medians with quartiles, and how many times as long as the first."""
    first = next(iter(rows.values()))["seconds"]
    print("| | seconds (quartiles) | times | MB |")
    print("|---|---|---|---|")
    for name, row in rows.items():
        low, middle, high = statistics.quantiles(row["seconds"], n=4)
        times = statistics.median(a / b for a, b in zip(row["seconds"], first, strict=True))
        memory = statistics.median(row["megabytes"])
        print(f"| {name} | {middle:.2f} ({low:.2f} to {high:.2f}) | {times:.2f} | {memory:.0f} |")


if __name__ == "__main__":
    main()
