"""What a classifier does on a set of images, to look at."""

from __future__ import annotations

from resnestkit.data.images import ImageSet
from resnestkit.report.confusion import draw_confusion
from resnestkit.report.figures import Picture, draw_gallery
from resnestkit.report.page import Figure, Headline, Section, Table
from resnestkit.tasks.base import TaskReport, read_picture
from resnestkit.tasks.evaluation import Evaluation


def describe(
    result: Evaluation, classes: tuple[str, ...], images: ImageSet, split: str
) -> TaskReport:
    """Headlines, confusion matrix, worst mistakes and the table of classes."""
    confusion = draw_confusion(result.confusion, classes)
    pictures = {"confusion.png": confusion}
    caption = f"True class by row, predicted by column; {split} images."
    sections: list[Section] = [Figure("Confusion", confusion, caption, invertible=True)]
    if result.mistakes:
        gallery = draw_gallery(_mistakes(result, classes, images))
        sections.append(
            Figure("Worst mistakes", gallery, "The wrong guesses that the net is surest of.")
        )
    sections.append(_class_table(result, classes))
    headlines = [
        Headline("Accuracy", f"{result.top1:.2%}", f"{result.count} {split} images"),
        Headline("Top 5", f"{result.top5:.2%}", f"of {len(classes)} classes"),
    ]
    return TaskReport(headlines, sections, pictures)


def _mistakes(result: Evaluation, classes: tuple[str, ...], images: ImageSet) -> list[Picture]:
    pictures = []
    for mistake in result.mistakes:
        pixels = read_picture(images, mistake.index)
        said, true = classes[mistake.predicted], classes[mistake.label]
        pictures.append(Picture(pixels, f"{said} {mistake.confidence:.0%}", f"is {true}"))
    return pictures


def _class_table(result: Evaluation, classes: tuple[str, ...]) -> Table:
    rows = []
    for index, (name, share) in enumerate(zip(classes, result.per_class, strict=True)):
        counts = result.confusion[index]
        others = [(count, i) for i, count in enumerate(counts) if i != index]
        count, taken_for = max(others)
        often = f"{classes[taken_for]} ({count})" if count else ""
        rows.append([name, str(sum(counts)), f"{share:.1%}" if sum(counts) else "-", often])
    return Table("Classes", ["class", "images", "recognised", "most often taken for"], rows)
