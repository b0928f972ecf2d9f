"""BCCD's blood cells: a ResNeSt and its plain twin as the backbone of one Faster R-CNN.

Command: .venv/bin/python scripts/bccd.py DATA/bccd [--ablations]
DATA/bccd is made from the public repository by `scripts/get_bccd.py`. Everything is trained from
scratch; AP is that of the test images, measured once, after the last epoch. The runs go to
runs/bccd-<name>; one that was stopped goes on by the same command, and what is finished is kept in
runs/bccd.jsonl, from which the tables are printed. Minutes are the processor's, of the whole
process: reading, checking, training, evaluating on val after every epoch and drawing.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the command line sets it

from kept import Kept, train_or_resume, words

from resnestkit import DetectionRecipe, UserError, evaluate, load_recipe

NETS = ("resnest14", "resnet26d")
MEAN, STD = (0.737, 0.696, 0.714), (0.061, 0.102, 0.076)
"""Of the training images' channels, as `resnestkit doctor` prints them."""
ABLATIONS: dict[str, dict[str, Any]] = {
    "the recipe": {},
    "ImageNet's normalisation": {"mean": DetectionRecipe().mean, "std": DetectionRecipe().std},
    "no warm-up": {"warmup_steps": 0},
    "norm group": {"norm": "group"},
}
KEPT = Kept(Path("runs/bccd.jsonl"))


def main() -> None:
    """Train what is not trained yet, one after the other, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="folder that holds images/ and annotations/")
    parser.add_argument("--nets", nargs="+", default=NETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--epochs", type=int, default=bccd_recipe().epochs)
    parser.add_argument(
        "--ablations", action="store_true", help="of the first net, half the epochs, first seed"
    )
    arguments = parser.parse_args()
    if arguments.ablations:
        recipe = replace(
            bccd_recipe(),
            model=arguments.nets[0],
            seed=arguments.seeds[0],
            epochs=max(1, arguments.epochs // 2),
        )
        for number, (name, changes) in enumerate(ABLATIONS.items()):
            run(
                f"{recipe.model}-ablation{number}", arguments.data, replace(recipe, **changes), name
            )
    else:
        for seed in arguments.seeds:
            for net in arguments.nets:
                recipe = replace(bccd_recipe(), model=net, seed=seed, epochs=arguments.epochs)
                run(f"{net}-{recipe.epochs}epochs-seed{seed}", arguments.data, recipe, "")
    print("| net | change | seed | epochs | AP | AP50 | AP75 | AP by class | CPU minutes |")
    print("|---|---|---|---|---|---|---|---|---|")
    print("\n".join(describe(done) for done in KEPT.read().values()))


def bccd_recipe() -> DetectionRecipe:
    """The one of the package for a CPU, with these images' own normalisation."""
    recipe = load_recipe("detection_cpu")
    assert isinstance(recipe, DetectionRecipe)
    return replace(recipe, mean=MEAN, std=STD)


def run(name: str, data: str, recipe: DetectionRecipe, change: str) -> None:
    """Train, measure on the test images, and keep what came out; nothing if that was done."""
    if name in KEPT.read():
        return
    result, minutes = train_or_resume(Path("runs") / f"bccd-{name}", data, recipe)
    measured, classes = evaluate(result.run.last, data, split="test", precision="bfloat16")
    done = {
        "name": name,
        "net": recipe.model,
        "change": change,
        "seed": recipe.seed,
        "epochs": recipe.epochs,
        "numbers": asdict(measured.boxes.all),
        "classes": {k: v.ap for k, v in zip(classes, measured.boxes.per_class, strict=True)},
        "val": result.last_score,
        "images_per_second": result.images_per_second,
        "minutes": minutes,
    }
    KEPT.add(done)
    print(describe(done), flush=True)


def describe(done: dict[str, Any]) -> str:
    """One row of the table."""
    numbers, classes = done["numbers"], done["classes"]
    return (
        f"| {done['net']} | {done['change']} | {done['seed']} | {done['epochs']} | "
        f"{numbers['ap']:.3f} | {numbers['ap50']:.3f} | {numbers['ap75']:.3f} | "
        f"{', '.join(f'{name} {ap:.3f}' for name, ap in classes.items())} | "
        f"{words(done['minutes'])} |"
    )


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"bccd: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
