"""The two questions of docs/why.md, asked of a small net on CIFAR-10: which gate, which weights.

Command: .venv/bin/python scripts/why_experiments.py DATA/cifar10 [--seeds 0 1] [--epochs 2]
DATA/cifar10 is made from the public archive by `scripts/get_cifar10.py`. All arms are one net with
2 splits in each of 2 cardinal groups; only the gate differs, by a class that takes the place of
`SplitAttention`, so that everything else is built, drawn and trained as ever. Accuracy is that of
the last epoch on the test images, in float32: nothing is chosen by them. The runs go to
runs/why-<arm>-<epochs>epochs-seed<seed>; one that was stopped goes on by the same command, and what
is finished is kept in runs/why.jsonl, from which the tables are printed. Minutes are the
processor's, of training and evaluating. Checkpoints of other gates than ResNeSt's do not load.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the command line sets it

import torch
from jaxtyping import Float
from kept import Kept, words
from torch import Tensor, nn

from resnestkit import Recipe, UserError, load_recipe
from resnestkit.compute import choose_compute
from resnestkit.data.check import Checked
from resnestkit.data.sources import Source, load_source
from resnestkit.explain.sites import entropy
from resnestkit.models import blocks
from resnestkit.models.attention import SplitAttention
from resnestkit.models.backbone import Backbone
from resnestkit.models.build import build_net
from resnestkit.models.cost import Cost, count_cost
from resnestkit.models.layers import NormFactory
from resnestkit.models.spec import NetSpec
from resnestkit.models.zoo import find_net
from resnestkit.progress import Reporter
from resnestkit.training.build import make_card, make_preprocessing, make_task, resolve
from resnestkit.training.loop import Trainer
from resnestkit.training.prepare import make_loaders, read_images
from resnestkit.training.run import RunFolder
from resnestkit.weights.checkpoint import current_versions

_SMALL = find_net("resnest23_small")
assert isinstance(_SMALL.spec, NetSpec)
NET = replace(
    _SMALL,
    name="resnest23_small_2s2x40d",
    spec=replace(_SMALL.spec, cardinality=2, base_width=40),
)
"""Of every arm: 2s2x40d, which has the multiply-adds of 2s1x64d."""
KEPT = Kept(Path("runs/why.jsonl"))

Logits = Float[Tensor, "b KRc 1 1"]
Weights = Float[Tensor, "b K R c"]


class Trial(SplitAttention):
    """Split attention as it is, with the one step apart that an arm may take otherwise."""

    def gate(self, squeezed: Float[Tensor, "b C 1 1"]) -> Float[Tensor, "b RC 1 1"]:
        """As split attention's own, by `weigh`."""
        logits = self.fc2(torch.relu(self.bn1(self.fc1(squeezed))))
        return self.weigh(logits).transpose(1, 2).reshape(len(logits), -1, 1, 1)

    def weigh(self, logits: Logits) -> Weights:
        """Softmax over the splits, of each group and channel."""
        return torch.softmax(self.by_split(logits), 2)

    def by_split(self, logits: Logits) -> Weights:
        """Logits come cardinality-major."""
        return logits.view(len(logits), self.cardinality, self.radix, -1)


class Sigmoid(Trial):
    """Every split is gated for itself: its weight does not depend on the others' logits."""

    def __init__(self, *sizes: Any, **options: Any) -> None:
        super().__init__(*sizes, **options)
        self.register_buffer("sigmoid", torch.ones(()))  # so that it loads as no published net

    def weigh(self, logits: Logits) -> Weights:
        """Each from 0 to 1, their sum from 0 to the radix."""
        return torch.sigmoid(self.by_split(logits))


class OneGate(Trial):
    """One gate reads all groups; with K times fewer hidden units it has as many weights as K."""

    def __init__(self, in_channels: int, channels: int, norm: NormFactory, **options: Any) -> None:
        super().__init__(in_channels, channels, norm, **options)
        hidden = self.fc1.out_channels // self.cardinality
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.bn1 = norm(hidden)
        self.fc2 = nn.Conv2d(hidden, channels * self.radix, 1)


class OneDense(Trial):
    """The splits share the last dense layer: their logits are equal, and so are their weights."""

    def __init__(self, in_channels: int, channels: int, norm: NormFactory, **options: Any) -> None:
        super().__init__(in_channels, channels, norm, **options)
        self.fc2 = nn.Conv2d(self.fc1.out_channels, channels, 1, groups=self.cardinality)

    def by_split(self, logits: Logits) -> Weights:
        """The same for every split."""
        shared = logits.view(len(logits), self.cardinality, 1, -1)
        return shared.expand(-1, -1, self.radix, -1)


ARMS: dict[str, tuple[type[Trial], str]] = {
    "own": (Trial, "a gate for each group, softmax (ResNeSt)"),
    "one-gate": (OneGate, "one gate for both groups, softmax"),
    "sigmoid": (Sigmoid, "a gate for each group, sigmoid"),
    "one-dense": (OneDense, "one dense-c for both splits: all weights are 1/2"),
}


def main() -> None:
    """Train what is not trained yet, one after the other, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="folder that holds train/ and test/")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--epochs", type=int, default=2)
    given = parser.parse_args()
    recipe = load_recipe("cifar10")
    assert isinstance(recipe, Recipe)
    recipe = replace(recipe, epochs=given.epochs, warmup_epochs=given.epochs / 5)
    recipe = resolve(recipe, NET)
    read: tuple[Source, dict[str, Checked]] | None = None
    for seed in given.seeds:
        for arm in given.arms:
            name = f"{arm}-{recipe.epochs}epochs-seed{seed}"
            if name not in KEPT.read():
                read = read or read_data(given.data, recipe)
                KEPT.add(run(name, arm, replace(recipe, seed=seed), *read))
                print(describe([KEPT.read()[name]]), flush=True)
    print_tables(given.epochs)


def read_data(data: str, recipe: Recipe) -> tuple[Source, dict[str, Checked]]:
    """The images, once for all arms and seeds."""
    source = load_source(data, 3, recipe.holdout, recipe.seed)
    return source, read_images(source, recipe, Reporter())


def build(arm: str, classes: int) -> Backbone:
    """The net with an arm's gate: its blocks find the arm's class where they look for their own."""
    with mock.patch.object(blocks, "SplitAttention", ARMS[arm][0]):
        return build_net(NET.spec, classes=classes)


def cost_of(arm: str) -> Cost:
    """Parameters and multiply-adds."""
    with torch.device("meta"):
        return count_cost(build(arm, NET.classes), 3, NET.size)


def run(
    name: str, arm: str, recipe: Recipe, source: Source, checked: dict[str, Checked]
) -> dict[str, Any]:
    """Train an arm, or go on with it, and measure it after its last epoch."""
    torch.manual_seed(recipe.seed)
    compute = choose_compute(recipe.device, recipe.precision)
    preprocessing = make_preprocessing(recipe, NET)
    card = make_card(NET, source, recipe, preprocessing)
    model, folder = (
        compute.place(build(arm, len(source.classes))),
        RunFolder(Path(f"runs/why-{name}")),
    )
    loaders = make_loaders(checked, source.validation, recipe, preprocessing)
    reporter = Reporter()
    trainer = Trainer(
        model, make_task(recipe, card), recipe, loaders, folder, card, compute, reporter
    )
    begun = folder.state.exists()
    if begun:
        trainer.resume()
    elif not folder.config.exists():  # one that was stopped before its first state begins anew
        folder.check_free()
        folder.take(source.origin, recipe, current_versions())
    before = time.process_time()
    trainer.fit()
    with watch(model) as seen:
        result = trainer.evaluate(model, replace(compute, bfloat16=False))
    return {
        "name": name,
        "arm": arm,
        "seed": recipe.seed,
        "epochs": recipe.epochs,
        "top1": result.top1,
        "loss": result.loss,
        "blocks": {block: one.numbers() for block, one in seen.items()},
        "minutes": None if begun else (time.process_time() - before) / 60,
    }


class Seen:
    """Sums of a block's weights over the images that passed."""

    def __init__(self) -> None:
        self.images, self.mixed = 0, 0.0
        self.total, self.square = torch.zeros(()), torch.zeros(())

    def add(self, weights: Weights) -> None:
        """Take in a batch."""
        weights = weights.detach().float().cpu()
        sums = weights.sum(2, keepdim=True)
        self.images += len(weights)
        self.mixed += float(entropy((weights / sums).numpy()).mean((1, 2)).sum())
        self.total = self.total + weights.sum(0, dtype=torch.float64)
        self.square = self.square + weights.square().sum(0, dtype=torch.float64)

    def numbers(self) -> dict[str, float]:
        """Entropy of the shares, spread between images, and what the splits' weights sum to."""
        mean = self.total / self.images
        deviation = (self.square / self.images - mean.square()).clamp(0).sqrt()
        return {
            "entropy": self.mixed / self.images,
            "spread": float(deviation.mean()),
            "sum": float(mean.sum(1).mean()),
        }


@contextmanager
def watch(model: nn.Module) -> Iterator[dict[str, Seen]]:
    """What every gate does with the images that pass."""
    seen: dict[str, Seen] = {}
    hooks = []

    def look(trial: Trial, one: Seen, _fc2: nn.Module, _inputs: Any, logits: Logits) -> None:
        one.add(trial.weigh(logits))

    for name, part in model.named_modules():
        if isinstance(part, Trial):
            seen[name] = Seen()
            hooks.append(part.fc2.register_forward_hook(partial(look, part, seen[name])))
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def print_tables(epochs: int) -> None:
    """A row for each arm, then a row for each of its runs."""
    done = [one for one in KEPT.read().values() if one["epochs"] == epochs]
    done.sort(key=lambda one: int(one["seed"]))  # lanes of one seed each end in any order
    print(
        "\n| gate | seeds | parameters | multiply-adds | test accuracy | entropy | spread | "
        "sum of the weights | CPU minutes |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for arm in ARMS:
        runs = [one for one in done if one["arm"] == arm]
        if len(runs) > 1:
            print(describe(runs))
    for one in done:
        print(describe([one]))


def describe(runs: list[dict[str, Any]]) -> str:
    """A row: one run, or the mean of several of an arm with their lowest and highest accuracy."""
    arm = runs[0]["arm"]
    cost, scores = cost_of(arm), sorted(one["top1"] for one in runs)
    values = [value for one in runs for value in one["blocks"].values()]
    entropies, spreads, sums = (
        statistics.mean(value[key] for value in values) for key in ("entropy", "spread", "sum")
    )
    span = f" ({scores[0]:.2%} to {scores[-1]:.2%})" if len(runs) > 1 else ""
    minutes = [one["minutes"] for one in runs]
    seeds = ", ".join(str(one["seed"]) for one in runs)
    return (
        f"| {ARMS[arm][1]} | {seeds} | {cost.params:,} | {cost.macs / 1e6:.2f} M | "
        f"{statistics.mean(scores):.2%}{span} | {entropies:.3f} | {spreads:.3f} | {sums:.2f} | "
        f"{', '.join(words(one) for one in minutes)} |"
    )


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"why_experiments: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
