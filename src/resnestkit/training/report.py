"""The pictures and the page of a run, finished or not."""

from __future__ import annotations

from resnestkit.progress import format_rate, format_seconds
from resnestkit.report.page import Figure, Headline, Section, Table, render_page
from resnestkit.tasks.base import TaskReport
from resnestkit.training.recipe import BaseRecipe
from resnestkit.training.run import Record, RunFolder
from resnestkit.weights.checkpoint import ModelCard, write_whole


def write_report(
    run: RunFolder,
    card: ModelCard,
    recipe: BaseRecipe,
    curves: Figure,
    part: TaskReport,
    records: list[Record],
    best_epoch: int,
    state: str = "",
    *,
    reload: int = 0,
) -> None:
    """Write the figures as PNG, and report.html, into the run folder.

    ``state`` says how far the run is, and ``reload`` after how many seconds to look again; both
    are nothing for a finished run.
    """
    for name, png in {"curves.png": curves.png, **part.pictures}.items():
        write_whole(run.path / name, png)
    sections: list[Section] = [curves]
    sections += [*part.sections, _recipe_table(recipe), _version_table(card)]
    headlines = [*part.headlines, *_headlines(records, best_epoch)]
    title = f"{card.net} on {_short(str(card.data['origin']))}"
    write_whole(run.report, render_page(title, state, headlines, sections, reload=reload).encode())


def _headlines(records: list[Record], best_epoch: int) -> list[Headline]:
    seconds = sum(record["seconds"] for record in records)
    speeds = sorted(record["images_per_second"] for record in records)
    return [
        Headline("Best epoch", f"{best_epoch}", f"of {len(records)}, chosen on these images"),
        Headline("Training", format_seconds(seconds), "without validation"),
        Headline("Speed", format_rate(speeds[len(speeds) // 2]), "images per second"),
    ]


def _recipe_table(recipe: BaseRecipe) -> Table:
    rows = [[name.replace("_", "-"), str(value)] for name, value in recipe.to_dict().items()]
    return Table("Recipe", ["setting", "value"], rows, folded=True)


def _version_table(card: ModelCard) -> Table:
    rows = [[name, value] for name, value in card.versions.items()]
    return Table("Versions", ["what", "version"], rows, folded=True)


def _short(origin: str) -> str:
    return origin.rstrip("/").rsplit("/", 1)[-1]
