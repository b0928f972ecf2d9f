"""CIFAR-10: a small ResNeSt and its plain twin by the same recipe; prints the table of the results.

Command: make cifar10 DATA=... where DATA/cifar10 holds train/<class>/ and test/<class>/.
The runs go to runs/cifar10-<net>-seed<seed>. One that was stopped goes on by the same command; one
that is finished is evaluated again and not trained. `scripts/get_cifar10.py` makes the folders.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from resnestkit import TrainResult, UserError, load_recipe, resume, train

NETS = ("resnest23_small", "resnet23_small")


def main() -> None:
    """Train what is not trained yet, one net after the other, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="folder that holds train/ and test/")
    parser.add_argument("--nets", nargs="+", default=NETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    arguments = parser.parse_args()
    recipe = load_recipe("cifar10")
    rows = []
    for seed in arguments.seeds:
        for net in arguments.nets:
            path = Path("runs") / f"cifar10-{net}-seed{seed}"
            if (path / "config.json").exists():
                result = resume(path, arguments.data)
            else:
                result = train(arguments.data, replace(recipe, model=net, seed=seed), path)
            rows.append(describe(net, seed, result))
    print(
        "| net | seed | multiply-adds | test accuracy, last epoch | images/s | training minutes |"
    )
    print("|---|---|---|---|---|---|")
    print("\n".join(rows))


def describe(net: str, seed: int, result: TrainResult) -> str:
    """One row of the table. The last epoch counts: the best would be chosen on the test set."""
    minutes = sum(record["seconds"] for record in result.run.read_records()) / 60
    return (
        f"| {net} | {seed} | {result.cost.macs / 1e6:.1f} M | {result.last_top1:.2%} | "
        f"{result.images_per_second:.0f} | {minutes:.1f} |"
    )


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"cifar10: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
