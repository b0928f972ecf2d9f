"""Pascal VOC's folders become COCO's.

VOC: Everingham et al., *The Pascal Visual Object Classes Challenge*, 2010. Its boxes count pixels
from 1 and include the last: xmin 1, xmax 10 is ten pixels from the left edge. Objects marked
"difficult" become crowd regions, which are neither learnt nor counted, as VOC's rules have it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from PIL import Image

from resnestkit.data.detection.layout import looks_like_voc
from resnestkit.data.files import is_image_file
from resnestkit.errors import UserError

_SPLITS = ("train", "val", "test")
_EDGES = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True, slots=True)
class VocConversion:
    """What was written."""

    folder: Path
    classes: tuple[str, ...]
    images: dict[str, int]
    """By split; "all" where the folder has no splits."""
    objects: int
    difficult: int
    """Of the objects; they became crowd regions."""
    left_out: tuple[str, ...]
    """What has no place in the new files, and why."""


@dataclass(slots=True)
class _Found:
    """One image with its objects, as VOC has them."""

    name: str
    size: tuple[int, int]
    """Height and width."""
    objects: list[tuple[str, list[float], bool]] = field(default_factory=list)
    """Class, edges, difficult."""


def convert_voc(source: str | Path, target: str | Path) -> VocConversion:
    """Write COCO annotation files for a folder of VOC's form; images stay where they are.

    ``target`` gets annotations/instances_*.json, and a link named images. Where links are not
    allowed, the files name the images by their whole paths.
    Raises UserError if the source is not of that form, or the target is not new.
    """
    root, folder = Path(source), Path(target)
    if not looks_like_voc(root):
        raise UserError(f"{source} has no Annotations and JPEGImages; it is not of VOC's form.")
    if folder.resolve() == root.resolve() or (folder / "annotations").exists():
        raise UserError(f"{target} has annotations already. Give a new folder to write to.")
    left_out: list[str] = []
    splits = _read_splits(root, left_out)
    objects = [one for those in splits.values() for found in those for one in found.objects]
    classes = sorted({name for name, *_ in objects})
    if not classes:
        raise UserError(f"{source} has no object in any of its annotation files.")
    try:
        _write(folder, splits, classes, root / "JPEGImages")
    except OSError as error:
        raise UserError(
            f"Cannot write to {target}: {error.strerror}. Give a new folder to write to."
        ) from error
    return VocConversion(
        folder,
        tuple(classes),
        {split: len(found) for split, found in splits.items()},
        len(objects),
        sum(difficult for *_, difficult in objects),
        tuple(left_out),
    )


def _write(
    folder: Path, splits: Mapping[str, Sequence[_Found]], classes: Sequence[str], images: Path
) -> None:
    """Write annotation files, and a link to the images if links are allowed."""
    (folder / "annotations").mkdir(parents=True)
    prefix = "" if _link(folder / "images", images) else f"{images.resolve()}/"
    for split, found in splits.items():
        name = "instances.json" if split == "all" else f"instances_{split}.json"
        text = json.dumps(_to_coco(found, classes, prefix), ensure_ascii=False)
        (folder / "annotations" / name).write_text(text, encoding="utf-8")


def _read_splits(root: Path, left_out: list[str]) -> dict[str, list[_Found]]:
    lists = {split: root / "ImageSets" / "Main" / f"{split}.txt" for split in _SPLITS}
    named = {split: _read_list(path) for split, path in lists.items() if path.is_file()}
    whole = root / "ImageSets" / "Main" / "trainval.txt"
    if "train" not in named and whole.is_file():
        named["train"] = _read_list(whole)
    if not named:
        named = {"all": sorted(path.stem for path in (root / "Annotations").glob("*.xml"))}
    splits = {}
    for split, names in named.items():
        there = [name for name in names if (root / "Annotations" / f"{name}.xml").is_file()]
        if names and not there:
            left_out.append(f"the {split} split, whose {len(names)} images have no annotations")
            continue
        lost = sorted(set(names) - set(there))
        if lost:
            raise UserError(
                f"{len(lost)} images of the {split} split have no annotation file, such as "
                f"{root / 'Annotations' / (lost[0] + '.xml')}. Add them, or take the images out "
                "of ImageSets/Main."
            )
        splits[split] = [_read_image(root, name, left_out) for name in there]
    return splits


def _read_list(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no list of names in UTF-8; save it anew as such.") from error
    return list(dict.fromkeys(line.split()[0] for line in lines if line.strip()))


def _read_image(root: Path, name: str, left_out: list[str]) -> _Found:
    path = root / "Annotations" / f"{name}.xml"
    tree = _parse(path)
    image = _find_picture(root / "JPEGImages", name, tree.findtext("filename"))
    found = _Found(image.name, _read_size(tree, image))
    for number, one in enumerate(tree.iter("object"), 1):
        label, edges = (one.findtext("name") or "").strip(), _read_edges(one)
        if not label or edges is None:
            left_out.append(f"object {number} of {path}, which lacks a name or a box")
            continue
        found.objects.append((label, edges, (one.findtext("difficult") or "0").strip() == "1"))
    return found


def _find_picture(folder: Path, name: str, said: str | None) -> Path:
    """The image of an annotation file: of its name, whatever the ending, else what it says."""
    candidates = [folder / f"{name}.jpg", *sorted(folder.glob(f"{_escape(name)}.*"))]
    if said:
        candidates.append(folder / Path(said.strip()).name)
    for path in candidates:
        if is_image_file(path) and path.is_file():
            return path
    return candidates[0]  # named with the missing ones when the data are read


def _escape(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _read_size(tree: Element, image: Path) -> tuple[int, int]:
    said = [_number(tree.findtext(f"size/{side}")) for side in ("height", "width")]
    if all(side is not None and side >= 1 for side in said):
        return int(said[0] or 0), int(said[1] or 0)
    try:
        with Image.open(image) as opened:
            return opened.height, opened.width
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return 0, 0  # such an image is named when the data are read


def _read_edges(one: Element) -> list[float] | None:
    edges = [_number(one.findtext(f"bndbox/{edge}")) for edge in _EDGES]
    return None if None in edges else [edge for edge in edges if edge is not None]


def _number(text: str | None) -> float | None:
    """A finite number, or none."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _parse(path: Path) -> Element:
    """An XML file without a document type: entities, which can grow without end, need one."""
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data

    def refuse(*_told: Any) -> None:
        raise UserError(f"{path} declares a document type, which no annotation file needs.")

    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(path.read_bytes(), True)
        return builder.close()
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}.") from error
    except (expat.ExpatError, LookupError, ValueError) as error:  # the last two of encodings
        raise UserError(f"{path} is not XML: {error}.") from error


def _to_coco(found: Sequence[_Found], classes: Sequence[str], prefix: str) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    for number, image in enumerate(found, 1):
        for label, (left, top, right, bottom), difficult in image.objects:
            width, height = right - left + 1, bottom - top + 1
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": classes.index(label) + 1,
                    "bbox": [left - 1, top - 1, width, height],
                    "area": width * height,
                    "iscrowd": int(difficult),
                }
            )
    return {
        "images": [
            {
                "id": number,
                "file_name": prefix + image.name,
                "height": image.size[0],
                "width": image.size[1],
            }
            for number, image in enumerate(found, 1)
        ],
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in enumerate(classes, 1)],
    }


def _link(link: Path, folder: Path) -> bool:
    try:
        link.symlink_to(folder.resolve(), target_is_directory=True)
    except OSError:
        return False
    return True
