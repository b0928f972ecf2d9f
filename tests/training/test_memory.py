"""The estimate of a step's memory, beside what real steps take in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from resnestkit.compute import choose_compute
from resnestkit.factory import create_model
from resnestkit.training.memory import StepMemory, estimate_step

PROGRAM = """
import sys, torch
from pathlib import Path
from torch.nn import functional as F
from resnestkit.compute import choose_compute
from resnestkit.factory import create_model
from resnestkit.training.optimizer import parameter_groups

name, size, batch, precision = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
compute = choose_compute("cpu", precision)
torch.set_num_threads(1)

def train(name, size, batch, steps):
    model = compute.place(create_model(name, 10)).train()
    groups = parameter_groups(model, 1e-4)
    optimizer = torch.optim.SGD(groups, lr=1e-4, momentum=0.9, nesterov=True)
    for _ in range(steps):
        images = torch.zeros(batch, 3, size, size).contiguous(memory_format=compute.layout)
        with compute.autocast():
            logits = model(images)
        F.cross_entropy(logits.float(), torch.zeros(batch, dtype=torch.long)).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024

train("resnet23_small", 16, 2, 1)  # loads what torch loads at first use
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
train(name, size, batch, 4)
print(status("VmHWM") - before)
"""


def estimate(name: str, size: int, batch: int, precision: str) -> StepMemory:
    with torch.device("meta"):
        model = create_model(name, 10).train()
    compute = choose_compute("cpu", precision)  # type: ignore[arg-type]
    return estimate_step(model, compute, (batch, 3, size, size))


@pytest.mark.skipif(
    sys.platform != "linux" or not os.access("/proc/self/clear_refs", os.W_OK),
    reason="peaks are read from Linux's /proc",
)
@pytest.mark.parametrize(
    ("name", "size", "batch", "precision"),
    [
        ("resnest14", 96, 8, "float32"),
        ("resnest14", 96, 8, "bfloat16"),
        ("seresnet50", 64, 8, "float32"),
    ],
)
def test_the_estimate_is_within_a_fifth_of_what_is_taken(
    name: str, size: int, batch: int, precision: str
) -> None:
    words = [sys.executable, "-c", PROGRAM, name, str(size), str(batch), precision]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    taken, told = int(done.stdout), estimate(name, size, batch, precision).total
    print(f"{name} {size} x{batch} {precision}: {told / 2**20:.0f} of {taken / 2**20:.0f} MiB")
    assert 0.8 < told / taken < 1.2


def test_parts_are_what_they_are_called() -> None:
    compute = choose_compute("cpu", "float32")

    def of(**options: bool) -> StepMemory:
        with torch.device("meta"):
            model = create_model("resnet18", 10).train()
        return estimate_step(model, compute, (4, 3, 64, 64), **options)

    plain = of()
    params = sum(weight.nbytes for weight in create_model("resnet18", 10).parameters())
    assert plain.momentum == params < plain.weights
    assert plain.average == 0
    assert of(average=True).average == plain.weights
    assert of(momentum=False).total == plain.total - params
    assert of(accumulate=True).working == plain.working + params
    torch.manual_seed(0)
    drawn = torch.rand(1)
    torch.manual_seed(0)
    of()
    assert torch.equal(torch.rand(1), drawn)


def test_bfloat16_takes_less_and_frozen_stages_take_less(tmp_path: Path) -> None:
    assert estimate("resnet18", 96, 16, "bfloat16").total < (
        0.9 * estimate("resnet18", 96, 16, "float32").total
    )
    compute = choose_compute("cpu", "float32")
    with torch.device("meta"):
        model = create_model("resnet18", 10)
    model.freeze(4)
    frozen = estimate_step(model.train(), compute, (16, 3, 96, 96))
    assert frozen.total < 0.6 * estimate("resnet18", 96, 16, "float32").total
