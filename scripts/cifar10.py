"""CIFAR-10: small nets of one cost by the same recipe; prints the table of the results.

Command: make cifar10 DATA=... where DATA/cifar10 holds train/<class>/ and test/<class>/.
With --cpu-minutes each net trains as many epochs as fit into that much time of the processor, which
other work on the machine shifts less than the clock's. The runs go to
runs/cifar10-<net>-seed<seed>. One that was stopped goes on by the same command; one
that is finished is evaluated again and not trained. `scripts/get_cifar10.py` makes the folders.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the command line sets it

import torch

from resnestkit import Recipe, TrainResult, UserError, load_recipe, resume, train
from resnestkit.compute import choose_compute
from resnestkit.models.zoo import find_net
from resnestkit.ops.fused import use_kernels
from resnestkit.progress import Reporter
from resnestkit.training.build import make_model, resolve
from resnestkit.training.recipe import BaseRecipe

NETS = ("resnest23_small", "resnet23_small")
IMAGES = 50_000
PROBED = 30


def main() -> None:
    """Train what is not trained yet, one net after the other, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="folder that holds train/ and test/")
    parser.add_argument("--nets", nargs="+", default=NETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--cpu-minutes", type=float, help="time per net, instead of 10 epochs")
    arguments = parser.parse_args()
    rows = []
    for seed in arguments.seeds:
        for net in arguments.nets:
            path = Path("runs") / f"cifar10-{net}-seed{seed}"
            before = time.process_time()
            if (path / "config.json").exists():
                result = resume(path, arguments.data)
            else:
                recipe = replace(load_recipe("cifar10"), model=net, seed=seed)
                if arguments.cpu_minutes:
                    recipe = fit_epochs(recipe, arguments.cpu_minutes)
                    before = time.process_time()
                result = train(arguments.data, recipe, path)
            rows.append(describe(net, seed, result, time.process_time() - before))
            print(f"\n{rows[-1]}\n", flush=True)
    print(
        "| net | seed | multiply-adds | epochs | test accuracy, last epoch | images/s | "
        "training minutes | CPU minutes, all told |"
    )
    print("|---|---|---|---|---|---|---|---|")
    print("\n".join(rows))


def fit_epochs(recipe: BaseRecipe, minutes: float) -> BaseRecipe:
    """The recipe with as many epochs, after a fifth of warm-up, as the processor has time for."""
    net = find_net(recipe.model)
    recipe = resolve(recipe, net)
    assert isinstance(recipe, Recipe)
    compute = choose_compute(recipe.device, recipe.precision)
    model = make_model(net, recipe, 10, compute, Reporter(quiet=True), load=False).train()
    images = torch.randn(recipe.batch_size, 3, 32, 32).contiguous(memory_format=compute.layout)
    for number in range(PROBED + 5):
        if number == 5:
            started = time.process_time()
        with use_kernels(enabled=bool(recipe.kernels)), compute.autocast():
            loss = model(images).float().logsumexp(1).mean()
        loss.backward()
        model.zero_grad(set_to_none=True)
    per_step = (time.process_time() - started) / PROBED
    # A tenth more for reading, moving the weights and evaluating.
    epochs = int(60 * minutes / (1.1 * per_step * IMAGES / recipe.batch_size))
    return replace(recipe, epochs=max(1, epochs), warmup_epochs=max(1, epochs) / 5)


def describe(net: str, seed: int, result: TrainResult, seconds: float) -> str:
    """One row of the table. The last epoch counts: the best would be chosen on the test set."""
    records = result.run.read_records()
    minutes = sum(record["seconds"] for record in records) / 60
    return (
        f"| {net} | {seed} | {result.cost.macs / 1e6:.1f} M | {len(records)} | "
        f"{result.last_score:.2%} | {result.images_per_second:.0f} | {minutes:.1f} | "
        f"{seconds / 60:.1f} |"
    )


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"cifar10: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
