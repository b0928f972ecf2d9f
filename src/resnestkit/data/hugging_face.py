"""Hugging Face's datasets as images: read from the hub once, or from ``save_to_disk``'s folder."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
from torch import Tensor

from resnestkit.data.images import ImageSet, UnreadableImage, decode_image, read_image
from resnestkit.data.packed import HUGGING_FACE, Packed, label_packed
from resnestkit.errors import UserError

_USUAL_LABELS = ("label", "labels", "fine_label", "class")


class DatasetImages(ImageSet):
    """Images of a column, undecoded until they are read. ``rows`` are of the data set."""

    def __init__(
        self, dataset: Any, column: str, names: Sequence[str], rows: Sequence[int], channels: int
    ) -> None:
        self.dataset, self.column, self.channels = dataset, column, channels
        self.names, self.rows, self.labels = list(names), list(rows), [0] * len(names)

    def read(self, index: int) -> UInt8[Tensor, "c h w"]:
        """Decode the image, from the table or from the file that it names."""
        held = self.dataset[self.rows[index]][self.column] or {}
        if held.get("bytes"):
            return decode_image(held["bytes"], self.names[index], self.channels)
        if not held.get("path"):
            raise UnreadableImage(self.names[index], "there is no image in the table")
        return read_image(Path(held["path"]), self.channels)

    def subset(self, indices: Sequence[int]) -> DatasetImages:
        """Fewer rows of the same table."""
        names, rows = [self.names[i] for i in indices], [self.rows[i] for i in indices]
        fewer = DatasetImages(self.dataset, self.column, names, rows, self.channels)
        fewer.labels = [self.labels[i] for i in indices]
        return fewer


def load_hugging_face(data: str, channels: int, split_names: Mapping[str, str]) -> Packed:
    """Splits and classes of a data set; the columns are found by their kinds.

    Raises UserError if it cannot be had, or has no column of images or of classes.
    """
    datasets = _import_datasets()
    splits: dict[str, ImageSet] = {}
    words: dict[str, list[str]] = {}
    classes: tuple[str, ...] | None = None
    for name, dataset in _divide(_open(datasets, data), data, split_names).items():
        image, label = _find_columns(datasets, dataset.features, data)
        told = [str(value) for value in dataset[label]]
        if set(told) <= {"-1", "None"}:  # a test split whose answers were kept back
            continue
        classes = _names(dataset.features[label]) or classes
        table = dataset.select_columns([image]).cast_column(image, datasets.Image(decode=False))
        rows = range(len(told))
        splits[name] = DatasetImages(table, image, [f"{name} {i}" for i in rows], rows, channels)
        words[name] = told
    if not splits:
        raise UserError(f"{data} has no labelled images.")
    return label_packed(splits, words, classes, Path())


def _import_datasets() -> Any:
    try:
        import datasets  # noqa: PLC0415  (an extra, and seconds to import)
    except ImportError as error:
        raise UserError(
            "Hugging Face's data sets need the package datasets; install it by "
            "pip install 'resnestkit[datasets]'."
        ) from error
    return datasets


def _open(datasets: Any, data: str) -> Any:
    if not data.startswith(HUGGING_FACE):
        try:
            return datasets.load_from_disk(data)
        except Exception as error:  # whatever a damaged table raises
            raise UserError(f"Cannot read {data}: {_first_line(error)}.") from error
    name, _, config = data.removeprefix(HUGGING_FACE).partition(":")
    offline = bool(os.environ.get("RESNESTKIT_OFFLINE"))
    try:
        how = datasets.DownloadConfig(local_files_only=offline)
        return datasets.load_dataset(name, config or None, download_config=how)
    except Exception as error:  # the hub's, the network's, the builder's: there is no common kind
        raise UserError(f"Cannot load {data}: {_first_line(error)}.") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _divide(opened: Any, data: str, split_names: Mapping[str, str]) -> dict[str, Any]:
    """By our names of the splits; a table without splits, or a lone unknown one, is "all"."""
    if not isinstance(opened, dict):
        return {"all": opened}
    named = {split_names.get(str(name).lower()): part for name, part in opened.items()}
    known = {name: part for name, part in named.items() if name is not None}
    if not known and len(opened) == 1:
        return {"all": next(iter(opened.values()))}
    if not known:
        raise UserError(f"{data} has no train, validation or test split: {', '.join(opened)}.")
    return known


def _find_columns(datasets: Any, features: Mapping[str, Any], data: str) -> tuple[str, str]:
    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    classes = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    labels = [name for name in _USUAL_LABELS if name in (classes or features)] or classes
    shown = [name for name in ("image", "img") if name in images] or images
    if not shown or (len(shown) > 1 and shown == images) or not labels:
        raise UserError(
            f"{data} needs one column of images and one of classes, 'image' and 'label'; it has "
            f"{', '.join(features)}."
        )
    return shown[0], labels[0]


def _names(kind: Any) -> tuple[str, ...] | None:
    """The classes' names, where the column knows them."""
    names = getattr(kind, "names", None)
    return tuple(names) if names else None
