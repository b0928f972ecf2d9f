"""Sets that bring images and classes together: tar shards, and Hugging Face's datasets.

* a folder of ``*.tar``, or of ``train/*.tar`` and ``val/*.tar``, or a pattern such as
  ``shards/train-*.tar``; the split is the folder's or a word of the file's name;
* ``hf:NAME`` or ``hf:NAME:CONFIG``, or a folder written by ``save_to_disk``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path

from resnestkit.data.images import ImageSet
from resnestkit.data.shards import ShardImages, index_shard
from resnestkit.data.splits import SPLIT_NAMES
from resnestkit.errors import UserError

HUGGING_FACE = "hf:"
"""How the name of a data set on the hub begins."""


CLASS_FILE = "classes.txt"
"""Names of the classes, one a line, beside the shards."""


@dataclass(frozen=True, slots=True)
class Packed:
    """Splits with classes; "all" is a set that is not divided. Names are below ``root``."""

    classes: tuple[str, ...]
    splits: Mapping[str, ImageSet]
    root: Path


def load_packed(data: str, channels: int) -> Packed | None:
    """The set, or None if ``data`` is none of these. Raises UserError for what is wrong in it."""
    root = Path(data)
    if data.startswith(HUGGING_FACE) or is_saved_dataset(root):
        from resnestkit.data.hugging_face import load_hugging_face  # noqa: PLC0415  (an extra)

        return load_hugging_face(data, channels, SPLIT_NAMES)
    shards = find_shards(data)
    if not shards:
        return None
    while has_magic(str(root)):
        root = root.parent
    return _load_shards(shards, root, channels)


def is_saved_dataset(folder: Path) -> bool:
    """Whether ``save_to_disk`` of Hugging Face's datasets wrote this folder."""
    try:
        table = all((folder / name).is_file() for name in ("state.json", "dataset_info.json"))
        return table or (folder / "dataset_dict.json").is_file()
    except OSError:  # no name of a file at all: whoever looks for class folders says so
        return False


def find_shards(data: str) -> list[Path]:
    """The tar files that a folder or pattern stands for, sorted; none if it holds none."""
    if has_magic(data) and not Path(data).exists():
        found = sorted(Path(name) for name in glob(data) if name.endswith(".tar"))  # noqa: PTH207
        if not found:
            raise UserError(f"No .tar file matches {data}.")
        return found
    try:
        below = [path for path in Path(data).iterdir() if path.is_dir()]
        splits = [path for path in below if path.name.lower() in SPLIT_NAMES]
        return sorted(path for folder in (Path(data), *splits) for path in _tars(folder))
    except OSError:  # missing, closed or no folder: whoever looks for class folders says so
        return []


def _tars(folder: Path) -> list[Path]:
    """Its tar files; none beside class folders, where they are what these were unpacked from."""
    entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
    if any(path.is_dir() for path in entries if path.name.lower() not in SPLIT_NAMES):
        return []
    return [path for path in entries if path.suffix == ".tar" and path.is_file()]


def _load_shards(shards: Sequence[Path], root: Path, channels: int) -> Packed:
    named = [_split_of(path, root) for path in shards]
    if "all" in named and set(named) != {"all"}:
        odd = shards[named.index("all")]
        raise UserError(f"{odd} names no split, other shards do; call it train-... or val-...")
    splits: dict[str, ImageSet] = {}
    words: dict[str, list[str]] = {}
    for split in sorted(set(named)):
        own = [path for path, name in zip(shards, named, strict=True) if name == split]
        indices = [index_shard(path) for path in own]
        splits[split] = ShardImages(own, indices, channels)
        words[split] = [entry.label for entries in indices for entry in entries]
        if not words[split]:
            raise UserError(f"{own[0]} and the like hold no images (key.jpg with key.cls).")
    classes = read_classes(root)
    return label_packed(splits, words, classes, root)


def _split_of(path: Path, root: Path) -> str:
    """A folder below the root says it, or a word of the file's name."""
    above = path.relative_to(root).parts[:-1]
    words = [*above, *re.split(r"[-_.\d]+", path.stem)]
    named = (SPLIT_NAMES[word.lower()] for word in words if word.lower() in SPLIT_NAMES)
    return next(named, "all")


def read_classes(root: Path) -> tuple[str, ...] | None:
    """The names in the file of classes; None where there is none."""
    try:
        text = (root / CLASS_FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeError) as error:
        raise UserError(f"Cannot read {root / CLASS_FILE}: {error}.") from error
    names = tuple(line.strip() for line in text.splitlines() if line.strip())
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or len(names) < 2:
        what = f"{twice[0]!r} twice" if twice else "fewer than two classes"
        raise UserError(f"{root / CLASS_FILE} has {what}.")
    return names


def label_packed(
    splits: Mapping[str, ImageSet],
    words: Mapping[str, Sequence[str]],
    classes: tuple[str, ...] | None,
    root: Path,
) -> Packed:
    """Give every image its class: by number or name of ``classes``, or of what is found.

    Without a list the classes are those of the training images: numbers in their order, else names.
    A lone training split is not divided.
    """
    if classes is None:
        first = words.get("train") or next(iter(words.values()))
        classes = tuple(sorted(set(first), key=_by_number))
        known = {word: label for label, word in enumerate(classes)}
        if len(classes) < 2:
            raise UserError(f"{root} has one class, {classes[0]!r}. A classifier needs two.")
    else:
        known = {name: label for label, name in enumerate(classes)}
        known |= {str(label): label for label in range(len(classes))}
    for split, images in splits.items():
        odd = next((i for i, word in enumerate(words[split]) if word not in known), None)
        if odd is not None:
            raise UserError(
                f"{images.names[odd]} is of class {words[split][odd]!r}, which is none of the "
                f"{len(classes)} classes ({classes[0]!r} to {classes[-1]!r})."
            )
        images.labels = [known[word] for word in words[split]]
    lone = set(splits) == {"train"}
    return Packed(classes, {"all": splits["train"]} if lone else splits, root)


def _by_number(word: str) -> tuple[int, str]:
    return (int(word), "") if word.isdecimal() else (-1, word)
