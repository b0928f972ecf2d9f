"""The deploy form of every net of the table against the net, whole, in float64.

Norms are as a trained net's would be, images are of an odd size, in a batch. Prints the largest
difference of the logits as a share of the largest logit, and fails if it is more than rounding.

    python scripts/check_forms.py                 # all, about a quarter of an hour on two cores
    python scripts/check_forms.py 'resnest*'      # some
"""

from __future__ import annotations

import argparse
import fnmatch
import sys
from pathlib import Path

import torch

from resnestkit.cli.tables import columns
from resnestkit.deploy.form import make_deploy_form
from resnestkit.models.build import build_net
from resnestkit.models.zoo import TABLE, Net

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "models"))

from builders import randomize_norms

MOST = 1e-12
SIDES, LARGER = (65, 71), (75, 81)


def main() -> None:
    """Compare net by net."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pattern", nargs="?", default="*")
    pattern = parser.parse_args().pattern
    rows = [["net", "parameters", "image", "difference"]]
    worst = 0.0
    for net in TABLE:
        if fnmatch.fnmatchcase(net.name, pattern):
            sides, difference = compare(net)
            rows.append([net.name, f"{net.params:,}", " x ".join(map(str, sides)), difference])
            print("  ".join(rows[-1]), file=sys.stderr, flush=True)
            worst = max(worst, float(difference))
    print(columns(rows, frozenset({1, 3})))
    sys.exit(worst > MOST)


def compare(net: Net) -> tuple[tuple[int, int], str]:
    """The size of the image, and the difference."""
    torch.manual_seed(0)
    model = build_net(net.spec, classes=10).double().eval()
    sides = LARGER if model.least_side > min(SIDES) else SIDES
    randomize_norms(model, torch.randn(2, 3, *sides, dtype=torch.float64))
    images = torch.randn(2, 3, *sides, dtype=torch.float64)
    with torch.inference_mode():
        expected = model(images)
        found = make_deploy_form(model)(images)
    return sides, f"{float((found - expected).abs().max() / expected.abs().max()):.1e}"


if __name__ == "__main__":
    main()
