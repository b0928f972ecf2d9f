"""Which annotation files and image folders make a data set, told from their names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from resnestkit.data.drawn import is_drawn
from resnestkit.data.files import is_image_file
from resnestkit.data.splits import SPLIT_NAMES
from resnestkit.errors import UserError

SHAPES = "shapes"
"""Name of the data set that is made on the fly."""

_ENDING = ".json"
_ROBOFLOW = "_annotations.coco.json"
_SPLIT = re.compile(r"(?:instances_?)?(train|training|val|valid|validation|test)_?(\d{4})?")
_LOOKED_AT = 20


def looks_like_coco(data: str | Path) -> bool:
    """Whether data is for detection: the built-in shapes, or a folder or file of COCO's form.

    A folder is known by the names of its files; a JSON file of a common name is looked into.
    """
    if is_drawn(data, SHAPES):
        return True
    path = Path(data)
    if path.is_file():
        return path.suffix == _ENDING and _has_coco_keys(path)
    if not path.is_dir():
        return False
    named = [file for _, file in _split_files(path)]
    if any(file.parent.name == "annotations" or file.name == _ROBOFLOW for file in named):
        return True
    lone = named[0] if named else _lone_file(path)
    return lone is not None and _has_coco_keys(lone)


def looks_like_detection(data: str | Path) -> bool:
    """Whether data is of boxes: of COCO's form, or of VOC's, which is to be converted first."""
    try:
        return looks_like_coco(data) or looks_like_voc(data)
    except OSError:  # no name of a file at all, or a closed folder
        return False


def may_be_annotations(data: str | Path) -> bool:
    """Whether data of no form known can only be meant as annotations: whoever reads it says more.

    So is any JSON file, a folder with some in annotations/, and one with images and a single JSON
    file, but not class folders with one beside them.
    """
    path = Path(data)
    try:
        if path.is_file():
            return path.suffix == _ENDING
        if list_json_files(path / "annotations"):
            return True
        return _lone_file(path) is not None and _holds_bare_images(path)
    except OSError:  # no name of a file at all, or a closed folder
        return False


def looks_like_voc(data: str | Path) -> bool:
    """Whether a folder is of Pascal VOC's form: Annotations of XML, and JPEGImages."""
    path = Path(data)
    return (path / "Annotations").is_dir() and (path / "JPEGImages").is_dir()


def find_annotation_files(data: str | Path) -> dict[str, Path]:
    """Annotation files by split: train, val and test, or "all" for a single file.

    Raises UserError if there is none, or several for one split.
    """
    path = Path(data)
    if path.is_file():
        return {"all": path}
    if not path.is_dir():
        raise UserError(f"There is no folder {data}. Give a COCO folder or file, or '{SHAPES}'.")
    found = _split_files(path)
    if found:
        splits: dict[str, Path] = {}
        for split, file in found:
            if split in splits:
                raise UserError(
                    f"{path} has two annotation files for {split}: {splits[split].name} and "
                    f"{file.name}. Give one of them, or remove the other."
                )
            splits[split] = file
        return {"all": splits["train"]} if set(splits) == {"train"} else splits
    lone = _lone_file(path)
    if lone is None:
        raise UserError(_say_missing(path))
    return {"all": lone}


def find_image_folder(
    annotations: Path, root: Path, file_names: Sequence[str], prefix: str = "instances_"
) -> Path:
    """The folder that holds most of a file's images: of the split, of all, or the file's own.

    The split's folder is named as the file is, without the ``prefix``.

    Raises UserError if not one of the first images is in any folder looked at.
    """
    looked = list(file_names[:: max(1, len(file_names) // _LOOKED_AT)])
    best, most = root, 0
    for folder in _image_folders(annotations, root, prefix):
        there = sum((folder / name).is_file() for name in looked)
        if there > most:
            best, most = folder, there
    if not most:
        raise UserError(
            f"None of the images of {annotations} was found, such as {looked[0]}. They belong into "
            f"{root / 'images'}."
        )
    return best


def _image_folders(annotations: Path, root: Path, prefix: str) -> Iterator[Path]:
    name = annotations.name.removesuffix(_ENDING)
    stems = [name.removeprefix(prefix), name]
    match = _SPLIT.fullmatch(stems[0])
    if match:
        stems.append(match.group(1))
    for stem in dict.fromkeys(stems):
        yield root / stem
        yield root / "images" / stem
    yield from (root / "images", annotations.parent, root)
    if annotations.parent.name == "annotations":
        yield annotations.parent.parent / "images"


def _split_files(root: Path) -> list[tuple[str, Path]]:
    """Annotation files whose names tell their split, in the order of the splits."""
    found = []
    for file in list_json_files(root / "annotations") or list_json_files(root):
        match = _SPLIT.fullmatch(file.name.removesuffix(_ENDING).lower())
        if match:
            found.append((SPLIT_NAMES[match.group(1)], file))
    if not found:
        found = [
            (SPLIT_NAMES[folder.name.lower()], folder / _ROBOFLOW)
            for folder in sorted(root.iterdir())
            if folder.name.lower() in SPLIT_NAMES and (folder / _ROBOFLOW).is_file()
        ]
    return sorted(found, key=lambda one: ("train", "val", "test").index(one[0]))


def _lone_file(root: Path) -> Path | None:
    files = list_json_files(root / "annotations") or list_json_files(root)
    return files[0] if len(files) == 1 else None


def _holds_bare_images(root: Path) -> bool:
    """Whether images lie in a folder, or in its folder images/, and in no other below it."""
    entries = [entry for entry in root.iterdir() if not entry.name.startswith(".")]
    folders = {entry.name for entry in entries if entry.is_dir()}
    return folders == {"images"} or (not folders and any(map(is_image_file, entries)))


def list_json_files(folder: Path) -> list[Path]:
    """JSON files of a folder, sorted; none if it is not there."""
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix == _ENDING and path.is_file() and not path.name.startswith(".")
    )


def _has_coco_keys(path: Path) -> bool:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    if not isinstance(content, dict) or not {"images", "annotations"} <= set(content):
        return False
    annotations = content["annotations"]
    first = annotations[0] if isinstance(annotations, list) and annotations else None
    # Panoptic files have the same keys; `resnestkit.data.segmentation` reads them.
    return not (isinstance(first, dict) and "segments_info" in first)


def _say_missing(root: Path) -> str:
    if looks_like_voc(root):
        return (
            f"{root} is of Pascal VOC's form. Convert it first, to a new folder: resnestkit data "
            f"convert {root} TARGET."
        )
    files = list_json_files(root / "annotations") or list_json_files(root)
    if files:
        named = ", ".join(file.name for file in files[:3])
        return (
            f"{root} has annotation files, but none is for object detection by its name ({named}). "
            "Name them instances_train.json and instances_val.json, or give one file."
        )
    return (
        f"{root} has no annotation files. It needs annotations/instances_train.json and "
        "instances_val.json beside its images."
    )
