"""A Faster R-CNN beside torchvision's fasterrcnn_resnet50_fpn, on a CPU: seconds per image.

Both have a ResNet-50 and the very same weights (drawn at random, so that both give the same boxes
to the heads), torchvision's settings and 91 labels. Ours runs eager, and compiled in parts, which
is backbone and pyramid alone; so does torchvision's, compiled in the same way. Ours has the
kernels that `evaluate` and `predict` turn on. A ResNeSt-50 stands beside them for its price. Rounds
are interleaved in one process; every round is one batch of each, of photographs' sizes that differ
from round to round, so that a net that is traced anew for a size shows it.

Command: .venv/bin/python scripts/measure_detection.py [--rounds 12] [--batch 2] [--side 480]
                                                       [--precision float32 bfloat16]
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the command line sets it

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import fasterrcnn_resnet50_fpn

from resnestkit import create_detector
from resnestkit.detection.compiled import compile_detector
from resnestkit.ops.fused import use_kernels

SHAPES = ((480, 640), (640, 480), (480, 600), (427, 640), (375, 500), (500, 500))
"""Height and width, of a batch's first image; the next image has the next."""
COMPILED = ", backbone compiled"
PEER, OURS, PRICE = "torchvision, resnet50", "resnestkit, resnet50", "resnestkit, resnest50"
WHO = (PEER, OURS, PEER + COMPILED, OURS + COMPILED, PRICE, PRICE + COMPILED)


def main() -> None:
    """Measure each precision, and print a table of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--side", type=int, default=480, help="pixels of an image's short side")
    parser.add_argument("--precision", nargs="+", default=["float32", "bfloat16"])
    given = parser.parse_args()
    print(
        f"torch {torch.__version__}, torchvision {torchvision.__version__}, "
        f"{torch.get_num_threads()} threads, batch {given.batch}, short side {given.side}"
    )
    for precision in given.precision:
        show(precision, measure(precision, given.rounds, given.batch, given.side))


def measure(precision: str, rounds: int, batch: int, side: int) -> dict[str, list[float]]:
    """Seconds of interleaved rounds, after one pass over every size that does not count."""
    runners = {who: prepare(who, precision, side) for who in WHO}
    seconds: dict[str, list[float]] = {who: [] for who in WHO}
    generator = torch.Generator().manual_seed(1)
    batches = [
        [
            torch.rand(3, *SHAPES[(first + n) % len(SHAPES)], generator=generator)
            for n in range(batch)
        ]
        for first in range(len(SHAPES))
    ]
    for number in range(len(SHAPES) + rounds):
        for who, find in runners.items():
            started = time.perf_counter()
            found = find(batches[number % len(SHAPES)])
            if number >= len(SHAPES):
                seconds[who].append((time.perf_counter() - started) / batch)
            elif number == 0:
                print(f"{who}: {[len(one['boxes']) for one in found]} boxes", flush=True)
    return seconds


def prepare(
    who: str, precision: str, side: int
) -> Callable[[list[Tensor]], list[dict[str, Tensor]]]:
    """A detector, ready to be called."""
    torch.manual_seed(0)
    theirs = fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, min_size=side, max_size=1333
    )
    model: nn.Module = theirs
    if who.startswith(PEER):
        if who.endswith(COMPILED):
            theirs.backbone.compile(dynamic=True)
    else:
        net = who.removesuffix(COMPILED).split(", ")[1]
        ours = create_detector(
            "faster_rcnn", net, 90, settings="torchvision", min_size=side, max_size=1333
        )
        if net == "resnet50":
            missing = ours.load_state_dict(theirs.state_dict(), strict=False)
            lost = [n for n in missing.missing_keys if not n.endswith("num_batches_tracked")]
            assert not lost, lost
            assert not missing.unexpected_keys, missing.unexpected_keys
        model = compile_detector(ours) if who.endswith(COMPILED) else ours
    model = model.to(memory_format=torch.channels_last).eval()

    @torch.inference_mode()
    def find(images: list[Tensor]) -> list[dict[str, Tensor]]:
        with (
            torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"),
            use_kernels(enabled=not who.startswith(PEER)),
        ):
            found: list[dict[str, Tensor]] = model(images)
        return found

    return find


def show(precision: str, seconds: dict[str, list[float]]) -> None:
    """Medians, spread, and the ratio to torchvision's of the same kind, round by round."""
    print(f"\n{precision}\n")
    print("| detector | ms per image, median | quartiles | torchvision's time over it, median |")
    print("|---|---|---|---|")
    for who, times in seconds.items():
        low, middle, high = statistics.quantiles(times, n=4)
        peer = seconds[PEER + COMPILED if who.endswith(COMPILED) else PEER]
        ratios = [their / own for their, own in zip(peer, times, strict=True)]
        print(
            f"| {who} | {1000 * middle:.0f} | {1000 * low:.0f} to {1000 * high:.0f} | "
            f"{statistics.median(ratios):.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
