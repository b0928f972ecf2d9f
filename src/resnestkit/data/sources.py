"""Where labelled images come from: a folder, or the digits that are built in.

A folder is one of

* ``train/<class>/*.jpg`` with ``val/<class>/`` or ``test/<class>/`` or both, or
* ``<class>/*.jpg``, of which a seeded share is held out for validation, or
* what `resnestkit.data.packed` reads: tar shards, or Hugging Face's datasets.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from resnestkit.data.files import find_images
from resnestkit.data.images import FileImages, ImageSet, MemoryImages
from resnestkit.data.packed import Packed, load_packed
from resnestkit.data.splits import SPLIT_NAMES
from resnestkit.errors import UserError
from resnestkit.values import is_a

DIGITS = "digits"
"""Name of the data set that is built in."""

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Source:
    """Labelled images in splits, with the names of their classes.

    ``held_out`` says how a single set was divided, or is None where the data brings its splits.
    """

    origin: str
    classes: tuple[str, ...]
    splits: Mapping[str, ImageSet]
    fingerprint: str
    """Digest of the images' names and classes, by which a checkpoint knows its data again."""
    held_out: float | None = None

    @property
    def validation(self) -> str:
        """The split that a training is measured on: val, or test where there is no val."""
        return "val" if "val" in self.splits else "test"


def load_source(data: str, channels: int = 3, holdout: float = 0.2, seed: int = 0) -> Source:
    """Labelled images by name ("digits") or folder, divided for training.

    Raises UserError if the folder is missing, empty, has one class, or its splits disagree.
    """
    packed = None if data == DIGITS else load_packed(data, channels)
    if packed is not None:
        return _divide_packed(_as_source(data, packed), holdout, seed)
    folders = _split_folders(data)
    if len(folders) < 2:
        return _hold_out(_undivided(data, folders, channels), holdout, seed)
    if "train" not in folders:
        raise UserError(f"{data} has {' and '.join(folders)} but no train folder to train on.")
    classes = tuple(list_classes(folders["train"]))
    _check_class_count(classes, folders["train"])
    for folder in folders.values():
        _check_same_classes(classes, folder, folders["train"])
    splits = {split: _image_files(folders[split], classes, channels) for split in folders}
    return Source(data, classes, splits, _fingerprint(splits, Path(data)))


@dataclass(frozen=True, slots=True)
class TrainedOn:
    """What a checkpoint remembers of its data: enough to know it again and divide it alike."""

    origin: str
    fingerprint: str
    held_out: float | None
    seed: int

    @classmethod
    def recall(cls, data: Mapping[str, Any]) -> TrainedOn:
        """From what a card says of its data, which is nothing if it was not trained here."""
        held_out, seed = data.get("held_out"), data.get("seed")
        return cls(
            origin=str(data.get("origin", "")),
            fingerprint=str(data.get("fingerprint", "")),
            held_out=held_out if is_a(held_out, float) else None,
            seed=seed if isinstance(seed, int) else 0,
        )


def load_for_evaluation(
    data: str, channels: int, classes: Sequence[str], trained: TrainedOn, split: str | None = None
) -> tuple[ImageSet, str]:
    """The images to evaluate a trained net on, and words that say which they are.

    Without ``split``: of a folder with splits the test split, else the validation split; of the
    very set that the net was trained on, only what was held out; of another single folder, all.
    Raises UserError if there are classes that the net does not know, or no such split.
    """
    packed = None if data == DIGITS else load_packed(data, channels)
    if packed is not None:
        packed = _relabel(packed, classes, data)
    if packed is not None and "all" not in packed.splits:
        chosen = _choose_split(packed.splits, split, data)
        return packed.splits[chosen], f"{chosen} split of {data}"
    folders = {} if packed else _split_folders(data)
    if len(folders) > 1 or (folders and "train" not in folders):
        chosen = _choose_split(folders, split, data)
        known = _known_classes(classes, list_classes(folders[chosen]), str(folders[chosen]))
        return _image_files(folders[chosen], known, channels), f"{chosen} split of {data}"
    if packed is None:
        whole = _undivided(data, folders, channels, tuple(classes))
    else:
        whole = _as_source(data, packed)
    if split == "all":
        return whole.splits["all"], f"all images of {data}"
    if trained.held_out is not None and whole.fingerprint == trained.fingerprint:
        divided = _hold_out(whole, trained.held_out, trained.seed)
        chosen = _choose_split(divided.splits, split, data)
        words = "held-out images" if chosen == "val" else "training images"
        return divided.splits[chosen], f"{words} of {data}"
    if split is not None:
        raise UserError(f"{data} is a single set without a {split} split; leave --split out.")
    if trained.held_out is not None and data != DIGITS and _is_same(data, trained.origin):
        raise UserError(
            f"The images of {data} changed since the training, so that what was held out can no "
            "longer be told from what was learnt. Give new images, or measure all by --split all."
        )
    return whole.splits["all"], f"all images of {data}"


def list_classes(folder: Path) -> list[str]:
    """Names of the class folders, sorted. Raises UserError if the folder cannot be listed."""
    try:
        entries = list(folder.iterdir())
    except OSError as error:
        raise UserError(f"Cannot list {folder}: {error.strerror}.") from error
    return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def _split_folders(data: str) -> dict[str, Path]:
    """The train, val and test folders below a folder; none for what is built in."""
    if data == DIGITS:
        return {}
    root = Path(data)
    try:
        exists, is_folder = root.exists(), root.is_dir()
    except OSError as error:
        raise UserError(f"Cannot look at {data}: {error.strerror}.") from error
    if not exists:
        raise UserError(
            f"There is no folder {data}. Give a folder of images by class, or '{DIGITS}'."
        )
    if not is_folder:
        raise UserError(f"{data} is a file; training and evaluation need a folder of images.")
    named = ((SPLIT_NAMES.get(name.lower()), root / name) for name in list_classes(root))
    found = {split: folder for split, folder in named if split and list_classes(folder)}
    return {split: found[split] for split in SPLITS if split in found}


def _as_source(data: str, packed: Packed) -> Source:
    return Source(data, packed.classes, packed.splits, _fingerprint(packed.splits, packed.root))


def _divide_packed(source: Source, holdout: float, seed: int) -> Source:
    if "all" in source.splits:
        return _hold_out(source, holdout, seed)
    if "train" not in source.splits:
        named = " and ".join(source.splits)
        raise UserError(f"{source.origin} has {named} but no train split to train on.")
    return source


def _relabel(packed: Packed, classes: Sequence[str], data: str) -> Packed:
    """The same images with labels that count in a net's classes."""
    known = _known_classes(classes, packed.classes, data)
    places = [known.index(name) for name in packed.classes]
    for images in packed.splits.values():
        images.labels = [places[label] for label in images.labels]
    return Packed(known, packed.splits, packed.root)


def _undivided(
    data: str, folders: dict[str, Path], channels: int, classes: tuple[str, ...] | None = None
) -> Source:
    """Digits, a folder of class folders, or a lone train folder, as one set named "all"."""
    if data == DIGITS:
        source = _digits(channels)
        _known_classes(classes or source.classes, source.classes, DIGITS)
        return source
    root = folders.get("train", Path(data))
    found = list_classes(root)
    if found and all(name.lower() in SPLIT_NAMES for name in found):
        raise UserError(
            f"{root} is divided into {_enumerate(found)}, but these have no folder per class. "
            "Sort the images into one folder per class."
        )
    if classes is None:
        _check_class_count(found, root)
    elif not found:
        raise UserError(f"{root} holds no class folders. It needs one folder of images per class.")
    known = _known_classes(classes, found, str(root)) if classes else tuple(found)
    splits: dict[str, ImageSet] = {"all": _image_files(root, known, channels)}
    return Source(data, known, splits, _fingerprint(splits, root))


def _is_same(one: str, other: str) -> bool:
    return Path(one).resolve() == Path(other).resolve()


def _choose_split(existing: Iterable[str], wanted: str | None, data: str) -> str:
    existing = list(existing)
    if wanted is None:
        return next(split for split in ("test", "val", "train") if split in existing)
    if wanted not in existing:
        raise UserError(f"{data} has no {wanted} split; it has {', '.join(existing)}.")
    return wanted


def _check_class_count(classes: Sequence[str], folder: Path) -> None:
    if not classes:
        images = next(iter(find_images(folder)), None)
        found = "images, but no folder per class" if images else "no images"
        raise UserError(f"{folder} holds {found}. It needs one folder of images per class.")
    if len(classes) == 1:
        raise UserError(
            f"{folder} has one class, {classes[0]!r}. A classifier needs two or more class folders."
        )


def _check_same_classes(expected: Sequence[str], folder: Path, train: Path) -> None:
    found = list_classes(folder)
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or extra:
        said = [f"lacks {_enumerate(missing)}"] if missing else []
        said += [f"has {_enumerate(extra)} besides"] if extra else []
        raise UserError(
            f"The classes of {folder} and {train} differ: {folder.name} {' and '.join(said)}. "
            "Give both the same class folders."
        )


def _known_classes(known: Sequence[str], found: Sequence[str], where: str) -> tuple[str, ...]:
    foreign = sorted(set(found) - set(known))
    if foreign:
        raise UserError(
            f"{where} has classes that the checkpoint does not know: {_enumerate(foreign)}. "
            f"It was trained on {_enumerate(known)}."
        )
    return tuple(known)


def _enumerate(names: Sequence[str], most: int = 5) -> str:
    shown = ", ".join(repr(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _image_files(folder: Path, classes: Sequence[str], channels: int) -> FileImages:
    paths: list[Path] = []
    labels: list[int] = []
    empty = []
    for label, name in enumerate(classes):
        found = find_images(folder / name)
        paths += found
        labels += [label] * len(found)
        if not found and (folder / name).exists():
            empty.append(name)
    if not paths:
        raise UserError(f"{folder} holds no images. It needs one folder of images per class.")
    if empty:
        raise UserError(
            f"{folder} has no images of {_enumerate(empty)}. Fill or remove the folder."
        )
    return FileImages(paths, labels, channels)


def _digits(channels: int) -> Source:
    """1,797 handwritten digits of 8x8, from the UCI repository, shipped with scikit-learn."""
    from sklearn.datasets import load_digits  # noqa: PLC0415  (a second's import, here alone)

    bunch = load_digits()
    grey = np.clip(bunch.images * 255.0 / 16.0 + 0.5, 0, 255).astype(np.uint8)
    images = torch.from_numpy(grey).unsqueeze(1).expand(-1, channels, -1, -1)
    names = [f"digit {number}" for number in range(len(images))]
    labels = [int(label) for label in bunch.target]
    whole = MemoryImages(list(images), labels, names)
    classes = tuple(str(label) for label in bunch.target_names)
    return Source(DIGITS, classes, {"all": whole}, _fingerprint({"all": whole}, Path()))


def _hold_out(source: Source, share: float, seed: int) -> Source:
    """Divide an undivided source: of every class the same share is held out, drawn by the seed."""
    whole = source.splits["all"]
    generator = torch.Generator().manual_seed(seed)
    by_class: dict[int, list[int]] = {}
    for index, label in enumerate(whole.labels):
        by_class.setdefault(label, []).append(index)
    counts = Counter(whole.labels)
    train: list[int] = []
    held: list[int] = []
    for label, indices in sorted(by_class.items()):
        if counts[label] < 2:
            raise UserError(
                f"Class {source.classes[label]!r} of {source.origin} has one image; two are "
                "needed, one to train on and one to hold out."
            )
        take = min(max(1, round(len(indices) * share)), len(indices) - 1)
        order = torch.randperm(len(indices), generator=generator).tolist()
        held += [indices[i] for i in order[:take]]
        train += [indices[i] for i in order[take:]]
    splits = {"train": whole.subset(sorted(train)), "val": whole.subset(sorted(held))}
    return Source(source.origin, source.classes, splits, source.fingerprint, share)


def _fingerprint(splits: Mapping[str, ImageSet], root: Path) -> str:
    digest = hashlib.sha256()
    for split, images in sorted(splits.items()):
        for name, label in zip(images.names, images.labels, strict=True):
            relative = Path(name).relative_to(root) if root != Path() else name
            digest.update(os.fsencode(f"{split}\0{relative}\0{label}\n"))
    return digest.hexdigest()
