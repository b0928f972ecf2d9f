"""From end to end: a Mask R-CNN and a Cascade Mask R-CNN learn the built-in shapes from nothing.

Command: make masks
Fails if the mask AP50 of either, on the validation pictures after the last epoch, is below 0.80.
The runs go to runs/masks-<kind>; one that was stopped goes on by the same command. Minutes are the
processor's, of the whole call.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the command line sets it

from kept import train_or_resume, words

from resnestkit import DetectionRecipe, UserError, evaluate, load_recipe

BAR = 0.80
Kind = Literal["mask_rcnn", "cascade_mask_rcnn"]
DATA: dict[Kind, str] = {"mask_rcnn": "shapes:2880", "cascade_mask_rcnn": "shapes:2350"}
"""Twice through so many pictures teaches more than twelve times through 480."""


def main() -> int:
    """Train both, print what came out, and say by the exit code whether it was enough."""
    print(f"bar: mask AP50 {BAR}", flush=True)
    scores = [learn(kind) for kind in DATA]
    return 0 if min(scores) >= BAR else 1


def learn(kind: Kind) -> float:
    """The mask AP50 of a training."""
    base = load_recipe("detection_cpu")
    assert isinstance(base, DetectionRecipe)
    recipe = replace(
        base,
        kind=kind,
        fpn_channels=64,
        # Every picture has colours of its own: norms over a batch of few learn to lean on them,
        # and their running means fit none.
        norm="group",
        epochs=2,
        batch_size=2,
        lr=4.0,
        short_sides=(88, 110),
        test_side=112,  # masks gain from finer maps than they were taught on
        max_side=168,
        jitter=0.0,
    )
    path = Path("runs") / f"masks-{kind}"
    result, minutes = train_or_resume(path, DATA[kind], recipe)
    measured, _ = evaluate(result.run.last, "shapes")
    assert measured.masks is not None
    boxes, masks = measured.boxes.all, measured.masks.all
    print(
        f"{kind}: box AP {boxes.ap:.3f}, AP50 {boxes.ap50:.3f}; mask AP {masks.ap:.3f}, "
        f"AP50 {masks.ap50:.3f}; {recipe.epochs} epochs, CPU minutes {words(minutes)}",
        flush=True,
    )
    return float(masks.ap50)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print(f"masks: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
