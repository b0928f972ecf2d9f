"""A classifier into int8, on the user's own images, with what that costs in accuracy."""

from __future__ import annotations

import importlib.metadata
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from resnestkit.data.check import check_images, refuse_unreadable
from resnestkit.data.images import ImageSet
from resnestkit.data.sources import TrainedOn, load_for_evaluation
from resnestkit.deploy.export import export
from resnestkit.deploy.placing import check_target, made_aside
from resnestkit.deploy.quantisers import find_quantiser
from resnestkit.deploy.quantising import Cost, Samples, Work
from resnestkit.errors import UserError
from resnestkit.progress import Reporter
from resnestkit.runtime.card import DeployCard, write_card
from resnestkit.runtime.classifier import read_classifier_card
from resnestkit.runtime.loading import SUFFIXES, load
from resnestkit.weights.checkpoint import read_card as read_model_card

QuantisedFormat = Literal["openvino", "onnx"]

_BATCH = 32
"""Images at a time, where they are measured by a file that takes any number."""


@dataclass(frozen=True, slots=True)
class Quantised:
    """A file that was written, what it says of itself, and what it cost."""

    path: Path
    card: DeployCard
    """Its ``quantised`` has the cost, by which images it was measured, the number of ``layers``
    (convolutions and matrix products), and which of them were ``kept`` in float32."""
    cost: Cost


def quantise(
    model: str | Path,
    data: str | Path | None = None,
    to: QuantisedFormat | None = None,
    output: str | Path | None = None,
    *,
    max_drop: float = 0.003,
    images: int = 300,
    split: Literal["train", "val", "test", "all"] | None = None,
    reporter: Reporter | None = None,
) -> Quantised:
    """Write a classifier in int8, and measure what that costs on images that were held out.

    Args:
        model: a checkpoint, which is exported first, or an exported .xml or .onnx in float32.
        data: images by class, as for `resnestkit evaluate`; what a checkpoint was trained on if not
            given. Training images are looked at to learn the ranges of the maps; where there are
            none, some of the images are set apart for that.
        to: "openvino" or "onnx"; an exported file's own format, else "openvino", if not given.
        output: file to write; beside the model, with .int8 in its name, if not given.
        max_drop: accuracy that may be lost: 0.003 is 0.3 points. Layers stay in float32 until no
            more is.
        images: how many training images are looked at.
        split: which images measure the cost; if not given, as `resnestkit evaluate` chooses.
        reporter: where progress goes; None prints to standard output.

    Raises:
        UserError: for anything the user can mend; or the bound was not met. Then nothing is
            written, and what was there before stays.
    """
    path, reporter = Path(model), reporter or Reporter()
    _check_numbers(max_drop, images)
    to = _choose_format(path, to)
    quantiser = find_quantiser(to)
    target = _choose_target(path, output, to)
    with made_aside(target) as made:
        source = path
        if path.suffix.lower() not in SUFFIXES:
            source = made.parent / "float32" / target.name
            reporter.say(f"exporting   {path}")
            export(path, to, source)
        card = _read_float_card(source)
        load(source)  # which says it where the file is damaged
        origin, trained = _find_data(path, data)
        learnt, held, words = _choose_images(origin, trained, card, images, split)
        learnt = _read_all(learnt, "training images", reporter)
        held = _read_all(held, words, reporter)
        work = Work(
            quantiser, Samples(learnt, card, 1), Samples(held, card, _BATCH), max_drop, reporter
        )
        cost, layers = work.run(source, made)
        card = _describe(card, cost, layers, max_drop, len(learnt), words)
        write_card(made, card)
    return Quantised(target, card, cost)


def _check_numbers(max_drop: float, images: int) -> None:
    if not 0 <= max_drop < 1:
        raise UserError(f"--max-drop is {max_drop:g}; it is a share of the accuracy, from 0 to 1.")
    if images < 1:
        raise UserError(f"--images is {images}; it must be 1 or more.")


def _choose_format(path: Path, to: QuantisedFormat | None) -> QuantisedFormat:
    formats: dict[str, QuantisedFormat] = {".xml": "openvino", ".onnx": "onnx"}
    own = formats.get(path.suffix.lower())
    if own and to not in {None, own}:
        raise UserError(f"{path} is for {own}; give the checkpoint that it was made of for {to}.")
    if path.suffix.lower() == ".pt2":
        raise UserError(f"{path} is for PyTorch; give the checkpoint that it was made of.")
    return to or own or "openvino"


def _choose_target(path: Path, output: str | Path | None, to: QuantisedFormat) -> Path:
    """Where to write. Raises UserError if the ending is another format's, or as `check_target`."""
    ending = ".xml" if to == "openvino" else ".onnx"
    target = path.with_suffix(f".int8{ending}") if output is None else Path(output)
    if target.suffix != ending:
        raise UserError(f"--output is {target}; a file for {to} must end in {ending}.")
    if target == path or (target.exists() and path.exists() and target.samefile(path)):
        raise UserError(f"--output is {target} itself, which is read; give another name.")
    check_target(target)
    return target


def _read_float_card(path: Path) -> DeployCard:
    card = read_classifier_card(path)
    if card.quantised is not None:
        raise UserError(f"{path} is in int8 already; give the file or checkpoint it was made of.")
    return card


def _find_data(path: Path, data: str | Path | None) -> tuple[str, TrainedOn]:
    """Where the images are, and what a checkpoint remembers of them.

    Raises UserError if neither the user nor the checkpoint says it.
    """
    model = None if path.suffix.lower() in SUFFIXES else read_model_card(path)
    trained = TrainedOn.recall(model.data if model else {})
    if data is None and not trained.fingerprint:
        raise UserError(f"{path} does not say what it was trained on; give the images by --data.")
    return trained.origin if data is None else str(data), trained


def _choose_images(
    data: str, trained: TrainedOn, card: DeployCard, count: int, split: str | None
) -> tuple[ImageSet, ImageSet, str]:
    """At most ``count`` training images, the images to measure by, and words that say which."""
    known = (data, card.preprocessing.channels, card.classes, trained)
    held, words = load_for_evaluation(*known, split)
    try:
        learnt, _ = load_for_evaluation(*known, "train")
    except UserError as error:  # none, or it cannot be told which: they are taken from the others
        if len(held) < 2:
            raise UserError(
                f"{data} holds one image; quantising takes one to learn from, and another."
            ) from error
        order = _shuffle(len(held))
        share = min(count, len(held) // 2)
        return held.subset(order[:share]), held.subset(sorted(order[share:])), f"others, {words}"
    return learnt.subset(_shuffle(len(learnt))[:count]), held, words


def _shuffle(count: int) -> list[int]:
    order: list[int] = np.random.default_rng(0).permutation(count).tolist()
    return order


def _read_all(images: ImageSet, words: str, reporter: Reporter) -> ImageSet:
    """The images, in memory where they fit. Raises UserError if one cannot be read."""
    with reporter.track(f"reading {words}", len(images)) as advance:
        checked = check_images(images, cache_bytes=2**31, advance=lambda done: advance(done, ""))
    refuse_unreadable([checked])
    return checked.images


def _describe(
    card: DeployCard,
    cost: Cost,
    layers: dict[str, bool],
    max_drop: float,
    learnt: int,
    words: str,
) -> DeployCard:
    """The card of the file in int8. What was compared and timed was the one in float32."""
    quantised = {
        **asdict(cost),
        "measured_on": words,
        "learnt_from": learnt,
        "max_drop": max_drop,
        "layers": len(layers),
        "kept": _kept(layers),
    }
    return replace(
        card,
        precision="int8",
        quantised=quantised,
        quickest={},
        checked=(),
        checked_on="",
        versions=card.versions | {"nncf": importlib.metadata.version("nncf")},
    )


def _kept(layers: dict[str, bool]) -> list[str]:
    return [name for name, is_int8 in layers.items() if not is_int8]
