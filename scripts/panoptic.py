"""From end to end: a Panoptic FPN learns the built-in scenes from nothing.

Command: make panoptic
Fails if the panoptic quality on the validation pictures after the last epoch, by which nothing was
chosen, is below 0.60, by COCO's rule for void or by torchmetrics'. The run goes to runs/panoptic;
one that was stopped goes on by the same command. Minutes are the processor's, of the whole call.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the command line sets it

from kept import train_or_resume, words

from resnestkit import UserError, evaluate, load_recipe
from resnestkit.cli.tables import panoptic_evaluation_table

BAR = 0.60


def main() -> int:
    """Train, print what came out, and say by the exit code whether it was enough."""
    print(f"bar: panoptic quality {BAR}", flush=True)
    recipe = load_recipe("panoptic_cpu")
    result, minutes = train_or_resume(Path("runs") / "panoptic", "scenes:2880", recipe)
    measured, classes = evaluate(result.run.last, "scenes")
    reached = min(measured.all.pq, measured.torchmetrics.pq)
    print(panoptic_evaluation_table(measured, classes))
    print(
        f"\npanoptic quality {reached:.3f}; {recipe.epochs} epochs, CPU minutes {words(minutes)}",
        flush=True,
    )
    return 0 if reached >= BAR else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print(f"panoptic: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
