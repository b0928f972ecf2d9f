"""How a set of images that show many classes each is divided, and divided alike again.

Of a set without splits a share is held out, drawn by a seed. Who measures what was learnt of it
finds the same images again. (`resnestkit.data.sources` divides images by class class by class.)
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch

from resnestkit.data.sources import Source, TrainedOn
from resnestkit.errors import UserError

SourceT = TypeVar("SourceT", bound=Source)


def divide(source: SourceT, holdout: float, seed: int) -> SourceT:
    """A source with splits to train on. Raises UserError if there are none."""
    if "all" in source.splits:
        source = hold_out(source, holdout, seed)
    if "train" not in source.splits:
        named = " and ".join(source.splits)
        raise UserError(f"{source.origin} has {named} but no train split to train on.")
    return source


def hold_out(source: SourceT, share: float, seed: int) -> SourceT:
    """Divide a single set: a share of the images is held out, drawn by the seed."""
    whole = source.splits["all"]
    if len(whole) < 2:
        raise UserError(
            f"{source.origin} has one image; two are needed, one to train on and one to hold out."
        )
    take = min(max(1, round(len(whole) * share)), len(whole) - 1)
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(seed)).tolist()
    held, train = sorted(order[:take]), sorted(order[take:])
    splits = {"train": whole.subset(train), "val": whole.subset(held)}
    return replace(source, splits=splits, held_out=share)


def choose_split(
    source: SourceT, trained: TrainedOn, split: str | None, truth: str
) -> tuple[SourceT, str, str]:
    """The split to evaluate a trained model on.

    Args:
        source: undivided, as its files are.
        trained: what the checkpoint remembers of its data.
        split: as the user asks, or None: the test split, else the validation split; of the very
            set that was trained on, what was held out; of another single set, all.
        truth: what the images come with, such as "annotations".

    Returns:
        The source, divided where need be, the split's name, and words that say which images it is.

    Raises:
        UserError: there is no such split.
    """
    data = source.origin
    if "all" not in source.splits:
        order = [split] if split else ["test", "val", "train"]
        found = [name for name in order if name in source.splits]
        if not found:
            raise UserError(f"{data} has no {split} split; it has {', '.join(source.splits)}.")
        return source, found[0], f"{found[0]} split of {data}"
    if split == "all":
        return source, "all", f"all images of {data}"
    if trained.held_out is not None and source.fingerprint == trained.fingerprint:
        divided = hold_out(source, trained.held_out, trained.seed)
        name = split or "val"
        if name not in divided.splits:
            raise UserError(f"{data} has no {name} split; it was divided into train and val.")
        words = "held-out images" if name == "val" else "training images"
        return divided, name, f"{words} of {data}"
    if split is not None:
        raise UserError(f"{data} is a single set without a {split} split; leave --split out.")
    if trained.held_out is not None and Path(data).resolve() == Path(trained.origin).resolve():
        raise UserError(
            f"The {truth} of {data} changed since the training, so that what was held out can no "
            "longer be told from what was learnt. Give new images, or measure all by --split all."
        )
    return source, "all", f"all images of {data}"


def name_by_data(known: Sequence[str], found: Sequence[str]) -> tuple[str, ...]:
    """A checkpoint's classes, by the data's names where its own are numbers, and as many.

    Files of other codes do not name their classes: what they learnt is told by its place alone.
    """
    counts = ([f"class {i + first}" for i in range(len(found))] for first in (0, 1))
    return tuple(found) if list(known) in counts else tuple(known)


def check_known(found: Sequence[str], known: Sequence[str], data: str) -> None:
    """Raise UserError if data has classes that a checkpoint does not know."""
    foreign = sorted(set(found) - set(known))
    if foreign:
        raise UserError(
            f"{data} has classes that the checkpoint does not know: {', '.join(foreign)}. "
            f"It was trained on {', '.join(known)}."
        )


def digest_names(digest: hashlib._Hash, names: Sequence[str], root: Path) -> None:
    """Add names of images to a digest, without the folder that they lie in."""
    for name in names:
        known = root != Path() and Path(name).is_relative_to(root)
        relative = Path(name).relative_to(root) if known else name
        digest.update(os.fsencode(f"{relative}\0"))
