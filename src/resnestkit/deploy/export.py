"""A checkpoint into a file for another runtime, checked before anybody trusts it."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from resnestkit.deploy.checking import check, find_check_images, refuse
from resnestkit.deploy.exporters import FORMATS, Exporter, find_exporter
from resnestkit.deploy.exporters.torch import as_runner, pad_pools, trace
from resnestkit.deploy.form import make_deploy_form
from resnestkit.deploy.placing import check_target, made_aside
from resnestkit.errors import UserError, nearest
from resnestkit.factory import build_from_card, load_model, take_state
from resnestkit.models.backbone import Backbone
from resnestkit.runtime.card import LOGITS, DeployCard, Format, InputForm, write_card
from resnestkit.segmenters import load_segmenter
from resnestkit.weights.checkpoint import (
    BACKBONE,
    DETECTOR,
    PANOPTIC,
    SEGMENTER,
    ModelCard,
    current_versions,
    load_checkpoint,
    read_kind,
)


@dataclass(frozen=True, slots=True)
class Exported:
    """A file that was written, and what it says of itself."""

    path: Path
    card: DeployCard


class Features(nn.Module):
    """A backbone whose call gives the features of its stages, in order."""

    def __init__(self, body: Backbone) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Float[Tensor, "b i h w"]) -> tuple[Float[Tensor, "b _ _ _"], ...]:
        """Features of every stage, the finest first."""
        return tuple(self.body.forward_features(x).values())


@dataclass(frozen=True, slots=True)
class Subject:
    """What is exported."""

    model: nn.Module
    """Images in, `outputs` out, in evaluation mode."""
    card: ModelCard
    kind: Literal["classifier", "segmenter", "backbone"]
    outputs: tuple[str, ...]
    least_side: int
    multiple: int = 1


def export(
    checkpoint: str | Path,
    to: Format,
    output: str | Path | None = None,
    *,
    size: int | Sequence[int] | None = None,
    static: bool = False,
    batch: int | None = None,
    images: str | Path | None = None,
) -> Exported:
    """Write a model in its deploy form for another runtime, and check what was written.

    The file is opened in its runtime and compared with the model in PyTorch, on real images, at
    several batch sizes and shapes. It carries a `DeployCard`: what images it wants, its classes,
    and the table of that comparison.

    Args:
        checkpoint: a classifier, a segmenter or a backbone that this package wrote.
        to: "onnx", "openvino", "torch" (a program of torch.export) or "aot" (the same, compiled
            for this machine).
        output: file to write; beside the checkpoint if not given. OpenVINO's weights go to a .bin
            beside it.
        size: side of the square images, or height and width; what the checkpoint says if not
            given.
        static: whether the file takes images of that size alone, and one at a time, instead of any
            number of any size.
        batch: how many at a time, of a static file.
        images: folder of images for the check; those of the checkpoint's own data if not given.

    Raises:
        UserError: the checkpoint cannot be exported, a library or compiler is not there, or the
            file differs from the model by more than rounding. Then nothing is written, and what was
            there before stays.
    """
    path = Path(checkpoint)
    if to not in FORMATS:
        raise UserError(f"There is no format {to!r}.{nearest(to, FORMATS)}")
    exporter = find_exporter(to)
    target = _choose_target(path, output, to, exporter)
    subject = _load(path)
    form = _choose_input(subject, size, batch, static=static)
    card = _make_card(subject, form, to, exporter)
    origin = str(subject.card.data.get("origin", ""))
    pictures, words = find_check_images(origin, images, form.channels)
    with made_aside(target) as made:
        deployed = make_deploy_form(subject.model, form.channels)
        pad_pools(deployed, averages=not exporter.ROUNDS_UP)
        exporter.write(trace(deployed, form), subject.outputs, made)
        rows = check(
            exporter.open_file(made, torch.get_num_threads()),
            as_runner(subject.model),
            form,
            pictures,
            card.preprocessing,
            decides=subject.kind != BACKBONE,
        )
        refuse(rows, str(target))
        card = replace(card, checked=rows, checked_on=words)
        write_card(made, card)
    return Exported(target, card)


def _choose_target(path: Path, output: str | Path | None, to: Format, exporter: Exporter) -> Path:
    """Where to write. Raises UserError if the ending is another format's, or as `check_target`."""
    ending = f".aot{exporter.SUFFIX}" if to == "aot" else exporter.SUFFIX
    target = path.with_suffix(ending) if output is None else Path(output)
    if target.suffix != exporter.SUFFIX:
        raise UserError(f"--output is {target}; a file for {to} must end in {exporter.SUFFIX}.")
    check_target(target)
    return target


def _load(path: Path) -> Subject:
    """The model of a checkpoint, as it is called. Raises UserError if it cannot be exported."""
    kind = read_kind(path)
    if kind in {DETECTOR, PANOPTIC}:
        held = "a detector" if kind == DETECTOR else "a panoptic net"
        raise UserError(
            f"{path} holds {held}, whose boxes no runtime but PyTorch is given here: predict "
            "with it by `resnestkit predict`, or export a classifier, a segmenter or a backbone."
        )
    if kind == SEGMENTER:
        return _load_segmenter(path)
    if kind == BACKBONE:
        return _load_backbone(path)
    model, card = load_model(path)
    model.require_head(str(path))
    return Subject(model, card, "classifier", (LOGITS,), _least_side(model))


def _load_segmenter(path: Path) -> Subject:
    model, card = load_segmenter(path)
    model.require_head(str(path))
    model.auxiliary = None  # training's alone
    return Subject(model, card, "segmenter", (LOGITS,), _least_side(model.body), model.multiple)


def _load_backbone(path: Path) -> Subject:
    card, tensors = load_checkpoint(path, BACKBONE)
    with torch.device("meta"):
        body = build_from_card(card)
    take_state(body, path, tensors)
    model = Features(body).eval()
    return Subject(model, card, "backbone", tuple(body.stage_names), _least_side(body))


def _least_side(body: Backbone) -> int:
    """Of images of every size. The last stage has more than one pixel: tracers see one as special.

    A static file may be smaller.
    """
    return max(body.least_side, body.output_stride + 1)


def _choose_input(
    subject: Subject, size: int | Sequence[int] | None, batch: int | None, *, static: bool
) -> InputForm:
    """Which images the file takes. Raises UserError for what no file could take."""
    given = subject.card.preprocessing.size if size is None else size
    sides = [given] if isinstance(given, int) else list(given)
    if not 1 <= len(sides) <= 2 or min(sides) < 1:
        raise UserError(f"--size is {sides}; it must be one side, or height and width, in pixels.")
    if sides[0] != sides[-1] and subject.kind == "classifier":
        raise UserError(f"--size is {sides}; a classifier looks at squares, so give one side.")
    if batch is not None and (batch < 1 or not static):
        raise UserError(f"--batch is {batch}; it must be 1 or more, and goes with --static alone.")
    least = 1 if static else subject.least_side
    height, width = (
        -(-max(side, least) // subject.multiple) * subject.multiple
        for side in (sides[0], sides[-1])
    )
    return InputForm(
        channels=subject.card.preprocessing.channels,
        height=height,
        width=width,
        batch=(batch or 1) if static else None,
        dynamic=not static,
        least_side=least,
        multiple=subject.multiple,
    )


def _make_card(subject: Subject, form: InputForm, to: Format, exporter: Exporter) -> DeployCard:
    card = subject.card
    library = exporter.LIBRARY
    settings = {"test_side": card.data["test_side"]} if "test_side" in card.data else {}
    images = card.preprocessing
    if subject.kind == "classifier":
        images = replace(images, size=form.height)
    return DeployCard(
        kind=subject.kind,
        net=card.net,
        classes=card.classes,
        preprocessing=images,
        input=form,
        outputs=subject.outputs,
        format=to,
        palette=card.palette,
        settings=settings,
        versions=current_versions() | {library: importlib.metadata.version(library)},
    )
