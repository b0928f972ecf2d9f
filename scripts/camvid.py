"""CamVid's streets: a ResNeSt and its plain twin under DeepLabV3 and under an FPN.

Command: .venv/bin/python scripts/camvid.py DATA/camvid [--kinds ...] [--nets ...] [--seeds ...]
DATA/camvid is made from the public repository by `scripts/get_camvid.py`. Everything is trained
from scratch by the recipe camvid_cpu, at half resolution; IoU is that of the test images at a
single scale without flip, measured once, after the last epoch, over the 11 classes, void ignored.
The runs go to runs/camvid-<kind>-<net>-seed<seed>; one that was stopped goes on by the same
command, and what is finished is kept in runs/camvid.jsonl, from which the tables are printed.
Minutes are the processor's, of the whole process.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the command line sets it

from kept import Kept, train_or_resume, words

from resnestkit import SegmentationRecipe, UserError, evaluate, load_recipe
from resnestkit.segmentation.spec import KINDS, Kind

NETS = ("resnest14", "resnet26d")
DECODERS: tuple[Kind, ...] = ("deeplabv3", "fpn")
KEPT = Kept(Path("runs/camvid.jsonl"))


def main() -> None:
    """Train what is not trained yet, one after the other, and print the results."""
    base = load_recipe("camvid_cpu")
    assert isinstance(base, SegmentationRecipe)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="folder that holds images/ and labels/")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=DECODERS)
    parser.add_argument("--nets", nargs="+", default=NETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--epochs", type=int, default=base.epochs)
    arguments = parser.parse_args()
    for seed in arguments.seeds:
        for kind in arguments.kinds:
            for net in arguments.nets:
                run(arguments.data, of(base, kind, net, seed, arguments.epochs))
    print("| decoder | net | seed | epochs | mIoU | pixel accuracy | CPU minutes |")
    print("|---|---|---|---|---|---|---|")
    print("\n".join(describe(done) for done in KEPT.read().values()))
    print("\nIoU by class, the mean over the seeds:\n")
    print("\n".join(by_class(list(KEPT.read().values()))))


def of(
    base: SegmentationRecipe, kind: Kind, net: str, seed: int, epochs: int
) -> SegmentationRecipe:
    """The recipe for one run; its output stride is DeepLabV3's, any other decoder has its own."""
    stride = base.output_stride if kind == base.kind else None
    return replace(base, kind=kind, model=net, seed=seed, epochs=epochs, output_stride=stride)


def run(data: str, recipe: SegmentationRecipe) -> None:
    """Train, measure on the test images, and keep what came out; nothing if that was done."""
    name = f"{recipe.kind}-{recipe.model}-{recipe.epochs}epochs-seed{recipe.seed}"
    if name in KEPT.read():
        return
    result, minutes = train_or_resume(Path("runs") / f"camvid-{name}", data, recipe)
    measured, classes = evaluate(result.run.last, data, split="test")
    done = {
        "name": name,
        "kind": recipe.kind,
        "net": recipe.model,
        "seed": recipe.seed,
        "epochs": recipe.epochs,
        "miou": measured.miou,
        "pixel_accuracy": measured.pixel_accuracy,
        "protocol": measured.protocol,
        "classes": {k: v.iou for k, v in zip(classes, measured.per_class, strict=True)},
        "val": result.last_score,
        "images_per_second": result.images_per_second,
        "minutes": minutes,
    }
    KEPT.add(done)
    print(describe(done), flush=True)


def describe(done: dict[str, Any]) -> str:
    """One row of the table."""
    return (
        f"| {done['kind']} | {done['net']} | {done['seed']} | {done['epochs']} | "
        f"{done['miou']:.3f} | {done['pixel_accuracy']:.3f} | {words(done['minutes'])} |"
    )


def column_of(done: dict[str, Any]) -> str:
    """What the seeds of one mean have in common."""
    return f"{done['kind']}, {done['net']}, {done['epochs']} epochs"


def by_class(rows: list[dict[str, Any]]) -> list[str]:
    """A row for each class, a column for each decoder, net and length."""
    columns = list(dict.fromkeys(column_of(row) for row in rows))
    lines = [
        "| class | " + " | ".join(columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for name in rows[0]["classes"]:
        values = [
            [row["classes"][name] for row in rows if column_of(row) == column] for column in columns
        ]
        means = " | ".join(f"{sum(found) / len(found):.3f}" for found in values)
        lines.append(f"| {name} | {means} |")
    return lines


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"camvid: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
