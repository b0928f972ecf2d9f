"""Train a small ResNeSt and its plain twin on real handwritten digits, and use what comes out.

Command: make demo. Needs no download; what it makes goes to demo/.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

from PIL import Image

from resnestkit import Predictor, Recipe, UserError, load_recipe, train
from resnestkit.data.sources import load_source
from resnestkit.training.train import TrainResult

FOLDER = Path("demo")
EPOCHS = 12
NETS = {"ResNeSt": "resnest23_small", "ResNet": "resnet23_small"}


def main() -> None:
    """Train both nets, write a digit as PNG, and let the ResNeSt read it."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    recipe = replace(load_recipe("digits"), epochs=EPOCHS)
    results = {}
    for title, net in NETS.items():
        print(f"\n{title} on handwritten digits")
        results[title] = train("digits", replace(recipe, model=net), FOLDER / net)
    print_table(results)
    picture, label = write_digit(recipe)
    best = results["ResNeSt"].run
    guess = Predictor(best.best).predict([picture])[0]
    print(f"\n{picture} shows a {label}; the ResNeSt reads {guess.label} ({guess.score:.1%}).")
    print(f"Look at {best.report}")
    print(f"Go on:  .venv/bin/resnestkit predict {best.best} {picture}")


def write_digit(recipe: Recipe) -> tuple[Path, str]:
    """Write the first held-out digit, which no net was trained on, as a PNG."""
    source = load_source("digits", 1, recipe.holdout, recipe.seed)
    held_out = source.splits["val"]
    path = FOLDER / "digit.png"
    Image.fromarray(held_out.read(0)[0].numpy()).save(path)
    return path, source.classes[held_out.labels[0]]


def print_table(results: dict[str, TrainResult]) -> None:
    """Both nets beside each other."""
    print(f"\n{'net':<10}{'held-out accuracy':>19}{'multiply-adds':>15}{'images/s':>10}")
    for title, result in results.items():
        print(
            f"{title:<10}{result.evaluation.top1:>19.2%}{result.cost.macs / 1e6:>13.1f} M"
            f"{result.images_per_second:>10.0f}"
        )


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"demo: {error}")
