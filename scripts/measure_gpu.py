"""Training and inference beside timm's, on a GPU: images per second, peak memory, share of a floor.

All run in bfloat16 (by autocast) on the same noise. Ours trains as `resnestkit train` would by
default, without kernels, and compiled; it infers as `Predictor` does, and in the same deploy form
compiled. timm runs contiguous and in channels_last, eager and compiled (in inference with CUDA
graphs). Rounds are interleaved in one process; a round is some calls of each. A batch that does not
fit is halved, for all.

Peak memory is the most that torch counts during a contender's first calls, weights and recording
included.

The floor is how long the memory would take if nothing but the convolutions and the last layer
touched it: each reads its input and writes its output once (in training three times: forward, and
for the gradients of input and weight), in bfloat16, at the bandwidth of a large copy, which is
measured on the spot.

Nobody has run this on a GPU yet.

Command: .venv/bin/python scripts/measure_gpu.py [NET ...] [--rounds 12] [--batch 128] [--size 224]
                                                 [--what training inference] [--json FILE]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resnestkit.compute import choose_compute
from resnestkit.deploy.gpu_form import choose_form, make_runner
from resnestkit.factory import create_model
from resnestkit.models.zoo import find_net
from resnestkit.ops.fused import use_kernels
from resnestkit.ops.kernels import why_no_kernels

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
OURS = "resnestkit, default"
PLAIN, COMPILED = "resnestkit, --kernels False", "resnestkit, --kernels False, compiled"
FORM = "resnestkit, deploy form, compiled"
HOWS = ("eager", "compiled")
PEERS = [f"timm, {layout}, {how}" for layout in FORMATS for how in HOWS]
CALLS = {"training": 4, "inference": 16}
"""Of a round, each."""
WARM = 4
"""Calls that do not count, in which there is compiling, recording and choosing."""
GIGABYTE = 2**30

Call = Callable[[], object]


@dataclass
class Result:
    """What a contender showed."""

    who: str
    batch: int
    peak_mb: float
    seconds: list[float] = field(default_factory=list)
    """Of a call, by round."""

    @property
    def middle(self) -> float:
        """The median of the seconds."""
        return statistics.median(self.seconds)


def main() -> None:
    """Measure, and print a table for each net and kind of work."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Plain)
    parser.add_argument("nets", nargs="*", default=["resnest50", "resnest101"])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--what", nargs="+", choices=list(CALLS), default=list(CALLS))
    parser.add_argument("--json", type=Path, help="write every round's seconds there")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("There is no CUDA here: this measures on a GPU.")
    device = {"gpu": torch.cuda.get_device_name(), "bandwidth_gb_s": measure_copy() / 1e9}
    print(f"{device['gpu']}, torch {torch.__version__}, CUDA {torch.version.cuda}")
    print(f"A copy of 1 GiB moves {device['bandwidth_gb_s']:.0f} GB/s (read and written).")
    records = []
    for net in given.nets:
        for what in given.what:
            results = measure(net, what, given.batch, given.size, given.rounds)
            floor = find_floor(net, what, results[0].batch, given.size) / measure_copy()
            show(net, what, results, given.size, floor)
            rows = [asdict(result) for result in results]
            records.append({"net": net, "what": what, "floor_seconds": floor, "results": rows})
    text = json.dumps({**device, "size": given.size, "records": records})
    print(f"\n```json\n{text}\n```")
    if given.json:
        given.json.write_text(text, encoding="utf-8")


class _Plain(argparse.RawDescriptionHelpFormatter):
    """The text above as it stands."""


def measure_copy() -> float:
    """Bytes per second, read and written, of the best of ten large copies."""
    source = torch.empty(GIGABYTE, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * GIGABYTE / min(time_calls(lambda: target.copy_(source), 4) for _ in range(10))


def time_calls(call: Call, count: int) -> float:
    """Seconds of one of so many calls, of which the GPU is done with the last."""
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(count):
        call()
    torch.cuda.synchronize()
    return (time.perf_counter() - started) / count


def choose_contenders(what: str) -> list[str]:
    """Who runs here, with a line for each who cannot."""
    ours = [OURS, FORM] if what == "inference" else [OURS, PLAIN, COMPILED]
    chosen = [*ours, *PEERS]
    if importlib.util.find_spec("timm") is None:
        print("\ntimm is not installed: ours runs alone.")
        chosen = ours
    why = why_no_kernels(torch.device("cuda"))
    if why is not None and what == "training":
        print(f"\nThe default here is without kernels. {why}")
        chosen.remove(OURS)
    return chosen


def measure(net: str, what: str, batch: int, size: int, rounds: int) -> list[Result]:
    """Interleaved rounds of all, with a batch that is halved until all fit."""
    while True:
        try:
            return _measure(net, what, batch, size, rounds)
        except torch.OutOfMemoryError:
            if batch == 1:
                sys.exit(f"{net} does not fit, even with one image.")
        batch //= 2  # out here, where the error holds no tensors any more
        print(f"\nToo little memory: {batch} images at a time.")


def _measure(net: str, what: str, batch: int, size: int, rounds: int) -> list[Result]:
    torch.compiler.reset()
    torch.cuda.empty_cache()
    prepare = prepare_training if what == "training" else prepare_inference
    results, calls = [], []
    for who in choose_contenders(what):
        print(f"  {who} gets ready", file=sys.stderr)
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call = prepare(net, who, batch, size)
        for _ in range(WARM):
            call()
        results.append(Result(who, batch, (torch.cuda.max_memory_allocated() - before) / 1e6))
        calls.append(call)
    for _ in range(rounds):
        for result, call in zip(results, calls, strict=True):
            result.seconds.append(time_calls(call, CALLS[what]))
    return results


def make_net(net: str, who: str) -> tuple[nn.Module, torch.memory_format]:
    """A contender's model on the GPU, in its layout."""
    torch.manual_seed(0)
    if who not in PEERS:
        return create_model(net), torch.channels_last
    import timm  # noqa: PLC0415  (need not be there)

    model: nn.Module = timm.create_model(find_net(net).aliases[0])
    return model, FORMATS[who.split(", ")[1]]


def make_images(batch: int, size: int, layout: torch.memory_format) -> Tensor:
    """Noise: what it costs is the same as with photographs."""
    return torch.randn(batch, 3, size, size, device="cuda").contiguous(memory_format=layout)


def prepare_training(net: str, who: str, batch: int, size: int) -> Call:
    """A step of SGD."""
    model, layout = make_net(net, who)
    model = model.to("cuda").to(memory_format=layout).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, nesterov=True)
    images = make_images(batch, size, layout)
    labels = torch.randint(0, 1000, (batch,), device="cuda")
    forward: Callable[[Tensor], Tensor] = model
    if who.endswith("compiled"):
        forward = torch.compile(model)

    def step() -> None:
        with use_kernels(enabled=who == OURS):
            with torch.autocast("cuda", torch.bfloat16):
                logits = forward(images)
            torch.autograd.backward(F.cross_entropy(logits.float(), labels))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def prepare_inference(net: str, who: str, batch: int, size: int) -> Call:
    """A forward pass in evaluation; ours in the form in which `Predictor` runs it."""
    model, layout = make_net(net, who)
    compute = choose_compute("cuda", "bfloat16")
    forward: Callable[[Tensor], Tensor]
    if who == OURS:
        forward = make_runner(model.eval(), compute, 3)
    elif who == FORM:
        forward = compute.place(choose_form(model.eval(), compute, 3))
    else:
        forward = model.to("cuda").to(memory_format=layout).eval()
    if who.endswith("compiled"):
        forward = torch.compile(forward, mode="reduce-overhead")
    images = make_images(batch, size, layout)

    def infer() -> Tensor:
        with torch.inference_mode(), compute.autocast():
            return forward(images)

    return infer


def find_floor(net: str, what: str, batch: int, size: int) -> float:
    """Bytes that the convolutions and the last layer move at least, as the file's head says."""
    moved = 0

    def count(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal moved
        moved += inputs[0].numel() + output.numel()

    with torch.device("meta"):
        model: Any = create_model(net).eval()
        for part in model.modules():
            if isinstance(part, (nn.Conv2d, nn.Linear)):
                part.register_forward_hook(count)
        model(torch.empty(batch, 3, size, size))
    return 2 * moved * (3 if what == "training" else 1)


def show(net: str, what: str, results: Sequence[Result], size: int, floor: float) -> None:
    """A table: speeds, and each beside timm's best eager and best compiled."""
    count, batch = len(results[0].seconds), results[0].batch
    print(f"\n## {net}, {what}, bfloat16, {size}x{size}, batch {batch}, {count} rounds\n")
    peers = {how: [r for r in results if r.who in PEERS and r.who.endswith(how)] for how in HOWS}
    best = {how: min(found, key=lambda r: r.middle) for how, found in peers.items() if found}
    heads = [f"best of timm {how} = 1 (by round)" for how in best]
    columns = ["who", "images/s", "least", "most", *heads, "peak MB", "share of floor"]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for result in results:
        speeds = [batch / second for second in result.seconds]
        cells = [result.who, *(f"{s:.0f}" for s in (batch / result.middle, min(speeds)))]
        cells += [f"{max(speeds):.0f}", *(compare(result, other) for other in best.values())]
        cells += [f"{result.peak_mb:.0f}", f"{floor / result.middle:.2f}"]
        print(f"| {' | '.join(cells)} |")


def compare(ours: Result, theirs: Result) -> str:
    """How many times as fast, by the medians, and the least and the most of the rounds."""
    ratios = [other / own for own, other in zip(ours.seconds, theirs.seconds, strict=True)]
    middle = theirs.middle / ours.middle
    return f"{middle:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


if __name__ == "__main__":
    main()
