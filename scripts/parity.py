"""Compare every net with every library that has it, and write the table: docs/results/parity.md.

Usage: python scripts/parity.py [PATTERN]    (make parity)

In float64, with random weights and living norms: features of every stage and logits in evaluation;
logits, running statistics and all gradients in training. With a shell pattern of our names only
those nets are compared, and nothing is written. Leaves with 1 if any difference is too large.
"""

from __future__ import annotations

import datetime
import fnmatch
import importlib.metadata
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "models"))

from comparison import (  # noqa: E402  (they live beside the tests, which use them too)
    TOLERANCE,
    Difference,
    compare_function,
    compare_nets,
    give_weights,
)
from published import Pair, build_published, is_offered, pairs  # noqa: E402  (after the path)

from resnestkit import create_model, list_models  # noqa: E402  (after the path)
from resnestkit.models.spec import InceptionSpec, NetSpec  # noqa: E402  (after the path)
from resnestkit.models.zoo import find_net  # noqa: E402  (after the path)

TARGET = ROOT / "docs" / "results" / "parity.md"
BATCH = 4
STRIDED_APART = "timm", ("resnet50d", "resnest50d", "resnest101e")
"""Where timm goes another way at output stride 8 and 16; the difference is shown, not hidden."""


@dataclass(frozen=True)
class Row:
    """One comparison."""

    pair: Pair
    output_stride: int
    difference: Difference


def main() -> None:
    """Compare, print, and write."""
    pattern = sys.argv[1] if len(sys.argv) > 1 else "*"
    chosen = [(p, s) for p, s in comparisons() if fnmatch.fnmatchcase(p.ours, pattern)]
    rows, began = [], time.monotonic()
    for number, (pair, output_stride) in enumerate(chosen, 1):
        row = Row(pair, output_stride, compare(pair, output_stride))
        rows.append(row)
        print(
            f"{number:3}/{len(chosen)}  {pair.ours} = {pair.library} {pair.theirs} "
            f"at stride {output_stride}: {row.difference.worst:.1e}  "
            f"({time.monotonic() - began:.0f} s)",
            flush=True,
        )
    if pattern == "*":
        TARGET.write_text(page(rows), encoding="utf-8")
        print(f"wrote {TARGET}")
    sys.exit(any(row.difference.worst > TOLERANCE for row in rows))


def comparisons() -> Iterator[tuple[Pair, int]]:
    """Every pair, at every output stride for which the library promises what the authors do."""
    for pair in pairs():
        yield pair, 32
        if pair.library == "resnest" or _dilates_alike(pair):
            yield from ((pair, stride) for stride in (16, 8))


def _dilates_alike(pair: Pair) -> bool:
    """Whether a library that is not the authors' dilates this net at all, and in the same way."""
    spec = find_net(pair.ours).spec
    if not isinstance(spec, NetSpec) or spec.block == "basic" or spec.pool == "max_ceil":
        return False
    return pair.library == "torchvision" or spec.shortcut != "avg"


def compare(pair: Pair, output_stride: int) -> Difference:
    """One pair, in float64."""
    torch.manual_seed(0)
    with torch.random.fork_rng():
        theirs = build_published(pair, output_stride).double()
    ours = create_model(pair.ours, output_stride=output_stride, dropout=0.0).double()
    give_weights(ours, theirs)
    side = 160 if isinstance(ours.spec, InceptionSpec) else 64
    return compare_nets(ours, theirs, torch.randn(BATCH, 3, side, side, dtype=torch.float64))


def page(rows: list[Row]) -> str:
    """The table as Markdown."""
    kinds = [field.name for field in fields(Difference)]
    worst = max(rows, key=lambda row: row.difference.worst)
    lines = [
        "# Parity: what loads computes what its authors computed",
        "",
        f"{len(rows)} comparisons of {len({row.pair.ours for row in rows})} nets. The largest "
        f"difference of all is {worst.difference.worst:.1e} ({worst.pair.ours} against "
        f"{worst.pair.library} at output stride {worst.output_stride}); the bound is "
        f"{TOLERANCE:.0e}.",
        "",
        "```sh",
        "make parity",
        "```",
        "",
        f"{datetime.date.today()}, {platform.machine()}, CPU, {torch.get_num_threads()} threads. "
        f"{_versions()}.",
        "",
        "Both nets hold the same random weights, with norms as in a trained net: random weights "
        "and biases, statistics of images. The library's state dict loads strictly. Then, in "
        "float64, on "
        f"the same {BATCH} random images (64x64; 160x160 for Inception), the largest absolute "
        "difference relative to the largest value: **features** of every stage and **logits** in "
        "evaluation; logits in **training**, running **statistics** after that step (relative to "
        "the largest of their own norm), and **gradients** of all parameters (relative to the "
        "net's largest) and of the images. Inputs on which a stage is 1x1 are not used: there a "
        "norm sees so few values that rounding becomes noise.",
        "",
        f"| net | library | its name | stride | {' | '.join(kinds)} |",
        f"|---|---|---|---|{'---|' * len(kinds)}",
    ]
    for row in rows:
        numbers = " | ".join(f"{value:.1e}" for value in astuple(row.difference))
        name = row.pair.theirs if is_offered(row.pair) else "not offered: made of its parts"
        lines.append(
            f"| {row.pair.ours} | {row.pair.library} | {name} | {row.output_stride} | {numbers} |"
        )
    return "\n".join([*lines, "", *_remarks(rows), ""])


def _remarks(rows: list[Row]) -> list[str]:
    peers = {
        row.pair.ours for row in rows if row.pair.library != "resnest" and is_offered(row.pair)
    }
    offered = {row.pair.ours for row in rows if is_offered(row.pair)}
    authors = [n for n in list_models("resnest*") if n in offered - peers]
    assembled = sorted({row.pair.ours for row in rows} - offered)
    alone = [name for name in list_models() if name not in {row.pair.ours for row in rows}]
    library, names = STRIDED_APART
    apart = [
        f"{name} {_apart(Pair(library, name, find_net(name).name), stride):.2g} (stride {stride})"
        for name in names
        for stride in (16, 8)
    ]
    return [
        "## Not offered by any peer",
        "",
        f"- Neither timm nor torchvision has {', '.join(authors)}; the authors' package does.",
        f"- No library has {', '.join(assembled)} by name. resnet50a and resnet101a are compared "
        "with torchvision's ResNet whose stride was moved to the first 1x1, sknet101 with a net of "
        "timm's SK blocks, resnest14 and resnest26 also with the authors' class at that depth.",
        f"- No library has {', '.join(alone)}: no oracle; the contract tests hold them.",
        "",
        "## Where timm goes another way",
        "",
        "At output stride 8 and 16, timm drops the average pool of ResNeSt's stride-1 first blocks "
        "and pools 2x2 in averaged shortcuts, where the authors' code keeps the one and pools "
        "nothing in the other. We follow the authors. In evaluation timm differs from us by "
        f"{', '.join(apart)}.",
    ]


def _apart(pair: Pair, output_stride: int) -> float:
    torch.manual_seed(0)
    theirs = build_published(pair, output_stride).double()
    ours = create_model(pair.ours, output_stride=output_stride).double()
    give_weights(ours, theirs)
    found: float = compare_function(ours, theirs, torch.randn(2, 3, 64, 64, dtype=torch.float64))
    return found


def _versions() -> str:
    packages = ("torch", "torchvision", "timm", "resnest")
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)


if __name__ == "__main__":
    main()
