"""What docs/why.md shows: the table of costs with measured times, and every figure.

Command: .venv/bin/python scripts/why.py times [--rounds 12] [--batch 4]   (prints the table)
         .venv/bin/python scripts/why.py figures [--out docs/why]
         .venv/bin/python scripts/why.py attention CHECKPOINT FOLDER [--images 1000]

Nothing here is a number of its own: fields and costs are those of the nets, drawings are made from
the modules that a spec builds, and published accuracies are in `why_figures` with their sources.
Times are of all nets in turn, in one process, so that what slows the machine slows all of them.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the command line sets it

import torch
from why_figures import draw_attention, draw_blocks, draw_groups, draw_published

from resnestkit import UserError, create_model, explain_folder
from resnestkit.bench.race import race
from resnestkit.models.cost import Cost, count_cost
from resnestkit.models.spec import NetSpec
from resnestkit.models.zoo import find_net

SIZE = 224
REFERENCE = "resnet50d"
"""Whose time is 1: the net that ResNeSt changes."""
STEPS: dict[str, str | None] = {
    "resnet50a": None,
    "resnet50": "resnet50a",
    "resnet50c": "resnet50",
    "resnet50d": "resnet50c",
    "resnext50_32x4d": "resnet50",
    "seresnet50": "resnet50",
    "seresnext50_32x4d": "resnext50_32x4d",
    "sknet50": "resnext50_32x4d",
    "resnest50_fast_1s1x64d": "resnet50d",
    "resnest50_fast_2s1x64d": "resnest50_fast_1s1x64d",
    "resnest50": "resnest50_fast_2s1x64d",
    "resnest50_fast_4s1x64d": "resnest50_fast_2s1x64d",
    "resnest50_fast_2s2x40d": "resnest50_fast_2s1x64d",
    "resnest50_fast_4s2x40d": "resnest50_fast_2s2x40d",
}
"""The nets of the walk, and which one each of them changes."""
BLOCKS = {
    "shape": ("resnet50a", "resnet50", "resnet50d", "resnext50_32x4d"),
    "attention": ("seresnet50", "sknet50", "resnest50_fast_1s1x64d"),
    "split": ("resnest50_fast_2s1x64d", "resnest50_fast_2s2x40d", "resnest50"),
}
GROUPS = ("resnet50", "resnext50_32x4d", "sknet50", "resnest50", "resnest50_fast_2s2x40d")


def main() -> None:
    """Print the table, or draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    times = verbs.add_parser("times", help="the table of docs/why.md")
    times.add_argument("--rounds", type=int, default=12)
    times.add_argument("--batch", type=int, default=4)
    figures = verbs.add_parser("figures", help="blocks, groups, published accuracy")
    attention = verbs.add_parser("attention", help="what a trained net's attention does, by depth")
    attention.add_argument("checkpoint")
    attention.add_argument("folder", type=Path, help="of images, at any depth")
    attention.add_argument("--images", type=int, default=1000)
    for one in (figures, attention):
        one.add_argument("--out", type=Path, default=Path("docs/why"))
    given = parser.parse_args()
    if given.verb == "times":
        print_times(given.rounds, given.batch)
    elif given.verb == "figures":
        write_figures(given.out)
    else:
        write_attention(given.checkpoint, given.folder, given.images, given.out)


def spec_of(net: str) -> NetSpec:
    """The row of the table."""
    spec = find_net(net).spec
    assert isinstance(spec, NetSpec)
    return spec


def changes(net: str) -> dict[str, Any]:
    """The fields of a net's spec that differ from those of the one before it."""
    base, spec = STEPS[net], spec_of(net)
    before = NetSpec(spec.layers) if base is None else spec_of(base)
    names = [one.name for one in fields(spec)]
    return {n: getattr(spec, n) for n in names if getattr(spec, n) != getattr(before, n)}


def cost_of(net: str) -> Cost:
    """Parameters and multiply-adds at 224x224."""
    with torch.device("meta"):
        return count_cost(create_model(net), 3, SIZE)


def table(times: Mapping[str, tuple[float, ...]] | None = None, batch: int = 1) -> str:
    """The walk as Markdown, with the seconds of a batch by round where they were measured."""
    head = "| net | changes | of | parameters | multiply-adds | ms per image | time |"
    rows = [head, "|---" * head.count(" | ") + "|---|"]
    for net, base in STEPS.items():
        cost, changed = cost_of(net), changes(net)
        words = ", ".join(f"{name}={value!r}" for name, value in changed.items())
        taken = ("not measured yet", "")
        if times is not None:
            taken = _describe(times[net], times[REFERENCE], batch)
        rows.append(
            f"| {net} | `{words}` | {base or 'the defaults'} | {cost.params:,} | "
            f"{cost.macs / 1e9:.3f} G | {taken[0]} | {taken[1]} |"
        )
    return "\n".join(rows)


def _describe(
    seconds: tuple[float, ...], reference: tuple[float, ...], batch: int
) -> tuple[str, str]:
    """The median, and by round what share of the reference's time it is."""
    median = 1e3 * statistics.median(seconds) / batch
    ratios = sorted(one / other for one, other in zip(seconds, reference, strict=True))
    middle = statistics.median(ratios)
    return f"{median:.1f}", f"{middle:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"


def print_times(rounds: int, batch: int) -> None:
    """Measure all nets in turn, and print the table with the command and the machine."""
    images = torch.randn(batch, 3, SIZE, SIZE).contiguous(memory_format=torch.channels_last)
    runs: dict[str, Callable[[], object]] = {}
    for net in STEPS:
        model = create_model(net).eval().to(memory_format=torch.channels_last)
        runs[net] = partial(model, images)
    with torch.inference_mode():
        times = race(runs, rounds, lambda *_: print(".", end="", file=sys.stderr, flush=True))
    print(file=sys.stderr)
    print(table(times, batch))
    print(
        f"\nPyTorch {torch.__version__}, eager, evaluation, float32, channels_last, batch {batch}, "
        f"{SIZE}x{SIZE}, {torch.get_num_threads()} threads, {rounds} rounds in turn, medians; "
        f"{_processor()}, {date.today()}. Command: scripts/why.py times --rounds {rounds} "
        f"--batch {batch}"
    )


def _processor() -> str:
    """What Linux calls the processor, else its architecture."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def write_figures(out: Path) -> None:
    """Every figure that needs no training."""
    out.mkdir(parents=True, exist_ok=True)
    for name, nets in BLOCKS.items():
        drawn = draw_blocks({net: spec_of(net) for net in nets})
        (out / f"blocks-{name}.png").write_bytes(drawn)
    (out / "groups.png").write_bytes(draw_groups({net: spec_of(net) for net in GROUPS}))
    (out / "published.png").write_bytes(draw_published())


def write_attention(checkpoint: str, folder: Path, images: int, out: Path) -> None:
    """Entropy and spread by block, over images taken evenly from all that there are."""
    found = sorted(path for path in folder.rglob("*") if path.suffix in {".jpg", ".png"})
    if not found:
        raise UserError(f"There are no images (.jpg, .png) under {folder}.")
    step = max(1, len(found) // images)
    statistic = explain_folder(checkpoint, found[::step][:images])
    out.mkdir(parents=True, exist_ok=True)
    (out / "attention.png").write_bytes(draw_attention(statistic))
    for block in statistic.blocks:
        switching = block.switching.mean()
        print(
            f"| {block.block} | {block.entropy:.3f} | {block.spread:.3f} | {switching:.0%} | "
            f"{block.verdict} |"
        )


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"why: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
