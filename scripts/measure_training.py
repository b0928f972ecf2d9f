"""A training step beside timm's, on a CPU: seconds per step, memory, and the losses of both.

Ours runs as `resnestkit train` would by default; timm in float32 and bfloat16, contiguous and
channels_last. All begin from the same weights and see the same batches of labelled noise, so that
their losses can be compared step by step. Rounds are interleaved in one process; every round is one
step of each. Memory is what a process of its own holds at most, beyond what it held after imports.

Command: .venv/bin/python scripts/measure_training.py [NET ...] [--rounds 12] [--batch 8]
                                                      [--size 224] [--curve FILE.png]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the command line sets it

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resnestkit.factory import create_model
from resnestkit.models.zoo import find_net
from resnestkit.ops.fused import use_kernels
from resnestkit.training.build import resolve
from resnestkit.training.recipe import Recipe

BATCHES = 4
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
OURS = "resnestkit, default"
PLAIN = "resnestkit, --kernels False"
PEERS = [f"timm, {p}, {f}" for p in ("float32", "bfloat16") for f in FORMATS]
WHO = [*PEERS, PLAIN, OURS]


@dataclass
class Runner:
    """One way to train, and what it showed."""

    step: Callable[[int], float]
    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)


def main() -> None:
    """Measure every net, and print a table of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("nets", nargs="*", default=["resnest50", "resnest26", "resnest14"])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--curve", type=Path)
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.memory:
        print(json.dumps(measure_memory(given.nets[0], given.memory, given.batch, given.size)))
        return
    curves = {}
    for net in given.nets:
        runners = measure(net, given.rounds, given.batch, given.size)
        peaks = {who: ask_memory(net, who, given.batch, given.size) for who in WHO}
        show(net, runners, peaks, given.batch, given.size)
        curves[net] = runners
    if given.curve:
        draw(curves, given.curve)


def measure(net: str, rounds: int, batch: int, size: int) -> dict[str, Runner]:
    """Interleaved steps, after two of each that do not count."""
    runners = {who: Runner(prepare(net, who, batch, size)) for who in WHO}
    for number in range(rounds + 2):
        for runner in runners.values():
            started = time.perf_counter()
            runner.losses.append(runner.step(number))
            if number >= 2:
                runner.seconds.append(time.perf_counter() - started)
    return runners


def prepare(net: str, who: str, batch: int, size: int) -> Callable[[int], float]:
    """A model with its optimiser; the result takes a step and gives the loss."""
    recipe = resolve(Recipe(model=net, kernels=None if who == OURS else False), find_net(net))
    if who in PEERS:
        _, precision, layout = who.split(", ")
    else:
        precision, layout = recipe.precision, "channels_last" if recipe.channels_last else ""
    torch.manual_seed(0)
    ours = create_model(net)
    model: nn.Module = ours
    if who in PEERS:
        model = timm.create_model(find_net(net).aliases[0])
        model.load_state_dict(ours.state_dict())
    model = model.to(memory_format=FORMATS[layout]).train()
    batches = make_batches(batch, size, FORMATS[layout])
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.02, momentum=0.9, nesterov=True, weight_decay=1e-4
    )

    def step(number: int) -> float:
        images, labels = batches[number % BATCHES]
        with use_kernels(enabled=bool(recipe.kernels) and who == OURS):
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
                logits = model(images)
            loss = F.cross_entropy(logits.float(), labels)
            torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def make_batches(batch: int, size: int, layout: torch.memory_format) -> list[tuple[Tensor, Tensor]]:
    """Noise with labels: what costs is the same as with photographs."""
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(batch, 3, size, size, generator=generator).contiguous(memory_format=layout),
            torch.randint(0, 1000, (batch,), generator=generator),
        )
        for _ in range(BATCHES)
    ]


def ask_memory(net: str, who: str, batch: int, size: int) -> float:
    """Peak of two steps in a process of its own, in MB."""
    flags = ["--memory", who, "--batch", str(batch), "--size", str(size)]
    return float(json.loads(subprocess.check_output([sys.executable, __file__, net, *flags])))


def measure_memory(net: str, who: str, batch: int, size: int) -> float:
    """Peak beyond what imports took, in MB."""
    before = read_status("VmRSS")
    step = prepare(net, who, batch, size)
    step(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak so far
    step(1)
    return (read_status("VmHWM") - before) / 1000


def read_status(line: str) -> float:
    """A line of this process's status, in kB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return float(status.split(f"{line}:")[1].split()[0])


def show(
    net: str, runners: dict[str, Runner], peaks: dict[str, float], batch: int, size: int
) -> None:
    """A table, and how the losses differ."""
    best = min(PEERS, key=lambda who: statistics.median(runners[who].seconds))
    count, threads = len(runners[OURS].seconds), torch.get_num_threads()
    print(f"\n## {net}, {size}x{size}, batch {batch}, {threads} threads, {count} rounds\n")
    print("| who | median ms | min | max | speed, best of timm = 1 (by round) | peak MB |")
    print("|---|---|---|---|---|---|")
    for who, runner in runners.items():
        ms = [1000 * second for second in runner.seconds]
        pairs = zip(runners[best].seconds, runner.seconds, strict=True)
        ratios = sorted(theirs / ours for theirs, ours in pairs)
        middle = statistics.median(runners[best].seconds) / statistics.median(runner.seconds)
        print(
            f"| {who} | {statistics.median(ms):.0f} | {min(ms):.0f} | {max(ms):.0f} | "
            f"{middle:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) | {peaks[who]:.0f} |"
        )
    print("\n| loss at step | " + " | ".join(str(n + 1) for n in range(0, count + 2, 3)) + " |")
    print("|---" * (len(range(0, count + 2, 3)) + 1) + "|")
    for who in ("timm, float32, contiguous", "timm, bfloat16, contiguous", PLAIN, OURS):
        print(f"| {who} | " + " | ".join(f"{x:.3f}" for x in runners[who].losses[::3]) + " |")


def draw(curves: dict[str, dict[str, Runner]], path: Path) -> None:
    """The losses of all, one panel a net."""
    import matplotlib.pyplot as plt  # noqa: PLC0415  (only here)

    figure, axes = plt.subplots(1, len(curves), figsize=(4 * len(curves), 3), squeeze=False)
    for panel, (net, runners) in zip(axes[0], curves.items(), strict=True):
        for who, runner in runners.items():
            panel.plot(range(1, len(runner.losses) + 1), runner.losses, label=who, alpha=0.7)
        panel.set(title=net, xlabel="step")
    axes[0][0].set_ylabel("loss")
    axes[0][0].legend(fontsize=6)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
