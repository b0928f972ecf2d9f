"""The pictures and the page of a finished run."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np

from resnestkit.data.images import ImageSet
from resnestkit.report.figures import Picture, draw_confusion, draw_curves, draw_gallery
from resnestkit.report.page import Figure, Headline, Section, Table, render_page
from resnestkit.tasks.classification import Evaluation
from resnestkit.training.progress import format_seconds
from resnestkit.training.recipe import Recipe
from resnestkit.training.run import Record, RunFolder
from resnestkit.weights.checkpoint import ModelCard, write_whole


def write_report(
    run: RunFolder,
    card: ModelCard,
    recipe: Recipe,
    evaluation: Evaluation,
    images: ImageSet,
    records: list[Record],
    split: str,
) -> None:
    """Write evaluation.json, the figures as PNG, and report.html, into the run folder."""
    curves = draw_curves(records)
    confusion = draw_confusion(evaluation.confusion, card.classes)
    write_whole(run.path / "curves.png", curves)
    write_whole(run.path / "confusion.png", confusion)
    run.write_json("evaluation.json", {"classes": card.classes, **asdict(evaluation)})
    sections: list[Section] = [
        Figure(
            "Training",
            curves,
            "Loss, accuracy, learning rate and speed, by epoch.",
            invertible=True,
        ),
        Figure(
            "Confusion",
            confusion,
            f"True class by row, predicted by column; {split} images.",
            invertible=True,
        ),
    ]
    if evaluation.mistakes:
        gallery = draw_gallery(_pictures(card, evaluation, images))
        sections.append(
            Figure("Worst mistakes", gallery, "The wrong guesses that the net is surest of.")
        )
    sections += [_class_table(card, evaluation), _recipe_table(recipe), _version_table(card)]
    headlines = _headlines(card, evaluation, records, split)
    page = render_page(f"{card.net} on {_short(str(card.data['origin']))}", "", headlines, sections)
    write_whole(run.report, page.encode())


def _headlines(
    card: ModelCard, evaluation: Evaluation, records: list[Record], split: str
) -> list[Headline]:
    best = max(records, key=lambda record: record["val_top1"])
    seconds = sum(record["seconds"] for record in records)
    speeds = sorted(record["images_per_second"] for record in records)
    return [
        Headline("Accuracy", f"{evaluation.top1:.2%}", f"{evaluation.count} {split} images"),
        Headline("Top 5", f"{evaluation.top5:.2%}", f"of {len(card.classes)} classes"),
        Headline("Best epoch", f"{best['epoch']:.0f}", f"of {len(records)}"),
        Headline("Training", format_seconds(seconds), "without validation"),
        Headline("Speed", f"{speeds[len(speeds) // 2]:.0f}", "images per second"),
    ]


def _pictures(card: ModelCard, evaluation: Evaluation, images: ImageSet) -> list[Picture]:
    pictures = []
    for mistake in evaluation.mistakes:
        pixels = images.read(mistake.index).permute(1, 2, 0).numpy()
        if pixels.shape[2] == 1:
            pixels = np.repeat(pixels, 3, axis=2)
        said, true = card.classes[mistake.predicted], card.classes[mistake.label]
        pictures.append(Picture(pixels, f"{said} {mistake.confidence:.0%}", f"is {true}"))
    return pictures


def _class_table(card: ModelCard, evaluation: Evaluation) -> Table:
    rows = []
    for index, (name, share) in enumerate(zip(card.classes, evaluation.per_class, strict=True)):
        others = [(count, i) for i, count in enumerate(evaluation.confusion[index]) if i != index]
        count, taken_for = max(others)
        often = f"{card.classes[taken_for]} ({count})" if count else ""
        total = sum(evaluation.confusion[index])
        rows.append([name, str(total), f"{share:.1%}", often])
    return Table("Classes", ["class", "images", "recognised", "most often taken for"], rows)


def _recipe_table(recipe: Recipe) -> Table:
    rows = [[name.replace("_", "-"), str(value)] for name, value in recipe.to_dict().items()]
    return Table("Recipe", ["setting", "value"], rows, folded=True)


def _version_table(card: ModelCard) -> Table:
    rows = [[name, value] for name, value in card.versions.items()]
    return Table("Versions", ["what", "version"], rows, folded=True)


def _short(origin: str) -> str:
    return origin.rstrip("/").rsplit("/", 1)[-1]
