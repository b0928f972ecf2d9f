"""`resnestkit explain`: a checkpoint and images in; a page, pictures and numbers out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from resnestkit.data.decoding import UnreadableImage
from resnestkit.deploy.predictor import collect_images
from resnestkit.errors import UserError
from resnestkit.explain.activation import require_captum
from resnestkit.explain.folder import FolderStatistics, explain_folder
from resnestkit.explain.page import Part, folder_part, image_part
from resnestkit.explain.picture import ImageExplanation, explain_image
from resnestkit.explain.sites import choose_sites, find_sites
from resnestkit.explain.subject import Subject, open_subject
from resnestkit.explain.words import describe_folder, describe_image, short
from resnestkit.progress import Reporter
from resnestkit.report.page import Headline, Section, render_page
from resnestkit.weights.checkpoint import current_versions, write_whole

MOST_SINGLE = 8
"""Images that are explained one by one; where more are given, only all together."""
_ALL = "all"


@dataclass(frozen=True, slots=True)
class Explained:
    """What was made."""

    report: Path
    lines: list[str]
    """What was found, for a person."""
    unreadable: list[UnreadableImage]


def explain(
    checkpoint: str | Path,
    images: Sequence[str],
    output: Path = Path("explanation"),
    *,
    target: str | None = None,
    block: str | None = None,
    device: str = "auto",
    reporter: Reporter | None = None,
) -> Explained:
    """Explain images with a checkpoint, and write report.html, explain.json and pictures.

    Files that are named, up to `MOST_SINGLE`, are explained one by one; several images, and those
    of folders and globs, all together. A net without attention has no more than activation maps:
    of the first images.

    Raises:
        UserError: as `explain_image` and `explain_folder`; nothing is found, or the output cannot
            be written.
    """
    reporter = reporter or Reporter(quiet=True)
    paths = _leave_out(collect_images(images), output)
    subject = open_subject(checkpoint, device=device)
    sites = choose_sites(find_sites(subject.body), block)
    named = {Path(name) for name in images}
    single = [path for path in paths if path in named]
    single = single if len(single) <= MOST_SINGLE else []
    if not sites:
        single = paths[:MOST_SINGLE]
    _check_target(subject, target, single)
    if single:
        require_captum()  # now, and not after the first image
    _make_folder(output)
    unreadable: list[UnreadableImage] = []
    pictures = _explain_each(subject, single, unreadable, target, block, reporter)
    statistics = None
    if sites and (len(paths) > 1 or not single):
        failed = {error.name for error in unreadable}
        left = [path for path in paths if str(path) not in failed]
        statistics = explain_folder(
            subject, left, block=block, unreadable=unreadable, reporter=reporter
        )
    elif not pictures:
        raise unreadable[0]
    report = _write(
        subject, Path(checkpoint), output, pictures, statistics, heads=block is not None
    )
    return Explained(report, _lines(pictures, statistics), unreadable)


def _leave_out(paths: Sequence[Path], output: Path) -> list[Path]:
    """The images that do not lie in the folder of what was made of them."""
    inside = output.resolve()
    left = [path for path in paths if inside not in path.resolve().parents]
    if not left:
        raise UserError(
            f"All of the images lie in {output}, where the explanation goes; give another --output."
        )
    return left


def _check_target(subject: Subject, target: str | None, single: Sequence[Path]) -> None:
    """Raise UserError for a class that there is not, or that nothing would be asked of."""
    if target is None:
        return
    subject.find_class(target)
    if not single:
        raise UserError(
            f"--class is for images that are explained one by one; name 1 to {MOST_SINGLE} image "
            "files, instead of folders or globs."
        )


def _make_folder(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"Cannot make the folder {output}: {error.strerror}.") from error


def _explain_each(
    subject: Subject,
    paths: Sequence[Path],
    unreadable: list[UnreadableImage],
    target: str | None,
    block: str | None,
    reporter: Reporter,
) -> list[ImageExplanation]:
    found = []
    with reporter.track("images", len(paths)) as advance:
        for path in paths:
            try:
                found.append(explain_image(subject, path, target=target, block=block))
            except UnreadableImage as error:
                unreadable.append(error)
            advance(1, path.name)
    return found


def _lines(pictures: Sequence[ImageExplanation], statistics: FolderStatistics | None) -> list[str]:
    lines: list[str] = []
    for one in pictures:
        lines += [f"image       {one.image}", *describe_image(one)]
    return lines + (describe_folder(statistics) if statistics else [])


def _write(
    subject: Subject,
    checkpoint: Path,
    output: Path,
    pictures: Sequence[ImageExplanation],
    statistics: FolderStatistics | None,
    *,
    heads: bool,
) -> Path:
    """Page, pictures and numbers; where the page is."""
    parts: dict[str, Part] = {} if statistics is None else {_ALL: folder_part(statistics)}
    for one in pictures:
        title = short(one.image) if len(pictures) > 1 or statistics else ""
        name = _free(Path(one.image).stem, parts)
        parts[name] = image_part(one, title, heads=heads)
    for name, part in parts.items():
        for ending, png in part.pictures.items():
            write_whole(output / f"{name}.{ending}", png)
    numbers = _numbers(subject, checkpoint, pictures, statistics)
    text = json.dumps(numbers, ensure_ascii=False, allow_nan=False)
    write_whole(output / "explain.json", text.encode("utf-8", errors="surrogateescape"))
    sections: list[Section] = [section for part in parts.values() for section in part.sections]
    few = next(iter(parts.values())).headlines if statistics or len(pictures) == 1 else []
    tiles = few or [Headline(short(one.image), one.label, f"{one.score:.1%}") for one in pictures]
    shown = short(pictures[0].image) if len(parts) == 1 and pictures else f"{len(pictures)} images"
    if statistics:
        shown = f"{statistics.images:,} images"
    title = f"What {subject.net} attends to on {shown}"
    subtitle = f"The {subject.kind} of {checkpoint.name}"
    report = output / "report.html"
    write_whole(report, render_page(title, subtitle, tiles, sections).encode())
    return report


def _free(stem: str, taken: dict[str, Part]) -> str:
    """A name for an image's pictures that no other image has."""
    names = (stem if number == 1 else f"{stem}-{number}" for number in count(1))
    return next(name for name in names if name not in taken)


def _numbers(
    subject: Subject,
    checkpoint: Path,
    pictures: Sequence[ImageExplanation],
    statistics: FolderStatistics | None,
) -> dict[str, Any]:
    return {
        "checkpoint": str(checkpoint),
        "kind": subject.kind,
        "net": subject.net,
        "score": subject.answer,
        "images": [one.to_dict() for one in pictures],
        "folder": statistics.to_dict() if statistics else None,
        "versions": current_versions(),
    }
