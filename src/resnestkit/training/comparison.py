"""A comparison of runs as tables, a picture, a page and plain numbers."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from resnestkit.errors import UserError
from resnestkit.progress import format_rate, format_seconds
from resnestkit.report.comparison import draw_comparison
from resnestkit.report.page import Figure, Section, Table, render_page
from resnestkit.report.words import name_score
from resnestkit.training.compare import Comparison, PastRun, Spread
from resnestkit.training.recipe import DetectionRecipe
from resnestkit.weights.checkpoint import write_whole

SOFTWARE = "resnestkit compare"
"""What a file that this module wrote says of itself, near its beginning."""


def run_table(comparison: Comparison) -> list[list[str]]:
    """A header and a row for each run; the settings that differ are its last columns."""
    words = name_score(comparison.score.removeprefix("val_"))
    # What a detector's heads cost depends on what is found.
    alone = " of the net" * any(isinstance(run.recipe, DetectionRecipe) for run in comparison.runs)
    header = [
        "run", "net", f"parameters{alone}", "multiply-adds", "epochs", f"best {words}", "in epoch",
        f"last {words}", "seed", "images/s", "training",
    ]  # fmt: skip
    settings = [name.replace("_", "-") for name in comparison.differences]
    rows = [
        [*_row(run), *(_value(values[index]) for values in comparison.differences.values())]
        for index, run in enumerate(comparison.runs)
    ]
    return [[*header, *settings], *rows]


def spread_table(comparison: Comparison) -> list[list[str]]:
    """A header and a row for each group of runs that differ in the seed alone."""
    words = name_score(comparison.score.removeprefix("val_"))
    header = ["n", f"best {words}", f"last {words}", "runs that differ in the seed alone"]
    return [header, *(_spread_row(spread) for spread in comparison.spreads)]


def to_dict(comparison: Comparison) -> dict[str, Any]:
    """All numbers, for JSON."""
    runs = []
    for index, run in enumerate(comparison.runs):
        differences = {name: values[index] for name, values in comparison.differences.items()}
        runs.append(
            {
                "run": run.name, "state": run.state, "net": run.net, "data": run.data,
                "parameters": run.cost and run.cost.params,
                "multiply_adds": run.cost and run.cost.macs,
                "epochs": run.epochs, "epochs_wanted": run.recipe.epochs,
                "best": run.best and run.best[1], "best_epoch": run.best and run.best[0],
                "last": run.last, "seed": run.recipe.seed, "images_per_second": run.speed,
                "seconds": run.seconds, "differences": differences,
            }
        )  # fmt: skip
    spreads = [{"n": len(spread.runs), **asdict(spread)} for spread in comparison.spreads]
    return {"score": comparison.score, "runs": runs, "spreads": spreads}


def check_output(path: Path) -> None:
    """Raise UserError if a comparison cannot be written here, or would replace something else."""
    if path.suffix.lower() not in {".png", ".html"}:
        raise UserError(f"--output is {path}; it must end in .png, or in .html for a page.")
    if not path.parent.is_dir():
        raise UserError(f"There is no folder {path.parent} to write {path.name} to.")
    if path.exists() and not _is_ours(path):
        raise UserError(f"{path} exists and is no earlier comparison; choose another --output.")


def write_comparison(comparison: Comparison, path: Path) -> None:
    """Write the picture, or a page with the picture and the tables, by the file's ending.

    Raises UserError as `check_output` does.
    """
    check_output(path)
    curves = {_title(run): run.records for run in comparison.runs}
    words = name_score(comparison.score.removeprefix("val_"))
    png = draw_comparison(curves, comparison.score, words, software=SOFTWARE)
    if path.suffix.lower() == ".png":
        write_whole(path, png)
        return
    caption = (
        f"{words[0].upper()}{words[1:]} of the validation, and loss; the best run is named first."
    )
    sections: list[Section] = [Figure("Curves", png, caption, invertible=True)]
    header, *rows = run_table(comparison)
    sections.append(Table("Runs", header, rows))
    if comparison.spreads:
        header, *rows = spread_table(comparison)
        sections.append(Table("Seeds", header, rows))
    title = f"{SOFTWARE}: {len(comparison.runs)} runs"
    write_whole(path, render_page(title, "", [], sections).encode())


def _is_ours(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return SOFTWARE.encode() in file.read(2000)
    except OSError:
        return False


def _title(run: PastRun) -> str:
    return run.name if run.state == "finished" else f"{run.name} ({_epochs(run)})"


def _epochs(run: PastRun) -> str:
    if run.state == "finished":
        return str(run.epochs)
    return f"{run.epochs} of {run.recipe.epochs}, {run.state}"


def _row(run: PastRun) -> list[str]:
    epoch, best = run.best or (None, None)
    return [
        run.name,
        run.net,
        _count(run.cost.params if run.cost else None),
        _count(run.cost.macs if run.cost else None),
        _epochs(run),
        _share(best),
        _value(epoch),
        _share(run.last),
        str(run.recipe.seed),
        "-" if run.speed is None else format_rate(run.speed),
        format_seconds(run.seconds),
    ]


def _spread_row(spread: Spread) -> list[str]:
    return [
        str(len(spread.runs)),
        f"{spread.best_mean:.2%} ± {spread.best_std:.2%}",
        f"{spread.last_mean:.2%} ± {spread.last_std:.2%}",
        ", ".join(spread.runs),
    ]


def _count(number: int | None) -> str:
    if number is None:
        return "-"
    return f"{number / 1e9:.2f} G" if number >= 1e9 else f"{number / 1e6:.2f} M"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return "-" if value is None else str(value)
