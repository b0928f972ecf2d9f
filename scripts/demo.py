"""Train a small ResNeSt and its plain twin on real handwritten digits, and use what comes out.

Command: make demo. Needs no download; what it makes goes to demo/ in this folder.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

from PIL import Image

from resnestkit import Predictor, Recipe, TrainResult, UserError, load_recipe, train
from resnestkit.data.sources import load_source
from resnestkit.report.comparison import draw_comparison

FOLDER = Path(__file__).parents[1] / "demo"
EPOCHS = 12
NETS = {"ResNeSt": "resnest23_small", "ResNet": "resnet23_small"}


def main() -> None:
    """Train both nets, write a digit as PNG, and let the ResNeSt read it."""
    if FOLDER.exists():
        shutil.rmtree(FOLDER)
    recipe = load_recipe("digits")
    assert isinstance(recipe, Recipe)
    recipe = replace(recipe, epochs=EPOCHS)
    results = {}
    for title, net in NETS.items():
        print(f"\n{title} on handwritten digits", flush=True)
        results[title] = train("digits", replace(recipe, model=net), FOLDER / net)
    print_table(results)
    curves = {title: result.run.read_records() for title, result in results.items()}
    (FOLDER / "comparison.png").write_bytes(draw_comparison(curves))
    picture, label = write_digit(recipe)
    run = results["ResNeSt"].run
    guess = Predictor(run.last).predict([picture])[0]
    print(f"\nThe digit of {short(picture)} is a {label}; ", end="")
    print(f"the ResNeSt reads {guess.label} ({guess.score:.1%}).")
    print(f"\nLook at     {short(run.report)}")
    print(f"and at      {short(FOLDER / 'comparison.png')}")
    print(f"Go on with  .venv/bin/resnestkit predict {short(run.last)} {short(picture)}")


def write_digit(recipe: Recipe) -> tuple[Path, str]:
    """Write the first held-out digit, which no net was trained on, as a PNG."""
    source = load_source("digits", 1, recipe.holdout, recipe.seed)
    held_out = source.splits["val"]
    path = FOLDER / "digit.png"
    Image.fromarray(held_out.read(0)[0].numpy()).save(path)
    return path, source.classes[held_out.labels[0]]


def print_table(results: dict[str, TrainResult]) -> None:
    """Both nets beside each other, after their last epoch: nothing was chosen by these digits."""
    print(f"\n{'net':<10}{'held-out accuracy':>19}{'multiply-adds':>15}{'images/s':>10}")
    for title, result in results.items():
        print(
            f"{title:<10}{result.last_score:>19.2%}{result.cost.macs / 1e6:>13.1f} M"
            f"{result.images_per_second:>10.0f}"
        )


def short(path: Path) -> str:
    """The path as seen from this folder."""
    return str(path.relative_to(FOLDER.parent))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"demo: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
