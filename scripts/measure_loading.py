"""Loading resnest269 from a local safetensors file: seconds and peak memory, beside timm.

Ten interleaved rounds, each load in a process of its own. Memory is what the process had at most
while it loaded, beyond what it had after its imports, in multiples of the file.

Command: .venv/bin/python scripts/measure_loading.py    (Linux)
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NAMES = {"resnestkit": "resnest269", "timm": "resnest269e"}
ROUNDS = 10


def main() -> None:
    """Print a table."""
    if len(sys.argv) == 3:
        print(json.dumps(load(*sys.argv[1:])))
        return
    found: dict[str, list[dict[str, float]]] = {name: [] for name in NAMES}
    with tempfile.TemporaryDirectory() as folder:
        file = write_weights(Path(folder))
        for _ in range(ROUNDS):
            for who, runs in found.items():
                command = [sys.executable, __file__, who, str(file)]
                runs.append(json.loads(subprocess.check_output(command)))
        size = file.stat().st_size
    ratios = [
        ours["seconds"] / theirs["seconds"]
        for ours, theirs in zip(found["resnestkit"], found["timm"], strict=True)
    ]
    print(f"file of {size / 1e6:.0f} MB, {ROUNDS} rounds\n")
    print("| who | median s | min s | max s | peak beyond imports, in files | beyond the model |")
    print("|---|---|---|---|---|---|")
    for who, runs in found.items():
        seconds = [run["seconds"] for run in runs]
        peak = statistics.median(run["bytes"] for run in runs) / size
        middle = statistics.median(seconds)
        print(
            f"| {who} | {middle:.2f} | {min(seconds):.2f} | {max(seconds):.2f} | {peak:.2f} | "
            f"{peak - 1:.2f} |"
        )
    middle = statistics.median(ratios)
    print(f"\nours / timm in time, by round: {middle:.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


def write_weights(folder: Path) -> Path:
    """Random weights in the authors' and timm's names."""
    from safetensors.torch import save_file  # noqa: PLC0415  (the measured processes import less)

    from resnestkit import create_model  # noqa: PLC0415  (torch loads here)

    save_file(create_model("resnest269").state_dict(), folder / "resnest269.safetensors")
    return folder / "resnest269.safetensors"


def load(who: str, file: str) -> dict[str, float]:
    """One load in this process: seconds, and the most memory beyond what imports took."""
    import timm  # noqa: PLC0415  (both processes import both, so that both begin alike)
    import torch  # noqa: PLC0415  (as above)
    from safetensors.torch import load_file  # noqa: PLC0415  (as above)

    from resnestkit.factory import create_model  # noqa: PLC0415  (as above)

    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak so far
    before, started = memory("VmRSS"), time.perf_counter()
    model: torch.nn.Module
    if who == "resnestkit":
        model = create_model(NAMES[who], weights=file)
    else:
        model = timm.create_model(NAMES[who])
        model.load_state_dict(load_file(file))
    seconds = time.perf_counter() - started
    assert sum(weight.numel() for weight in model.parameters()) == 110_929_480
    return {"seconds": seconds, "bytes": memory("VmHWM") - before}


def memory(line: str) -> float:
    """A line of this process's status, in bytes."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024.0 * int(status.split(f"{line}:")[1].split()[0])


if __name__ == "__main__":
    main()
