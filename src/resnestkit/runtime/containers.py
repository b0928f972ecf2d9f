"""A line of text inside a model's file, read and written without the libraries that made it.

========  ==================================================================
.onnx     an entry of the protobuf field ``metadata_props``
.xml      OpenVINO's ``rt_info``
.pt2      a file of its zip archive, where torch.export keeps its extra files
========  ==================================================================
"""

from __future__ import annotations

import contextlib
import os
import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from resnestkit.errors import UserError

KEY = "resnestkit"
"""Under which the text lies, as in a checkpoint."""

SUFFIXES = (".onnx", ".xml", ".pt2")

_PROPS = 14
"""Number of ``metadata_props`` in ONNX's ModelProto; an entry has a key, 1, and a value, 2."""
_FIXED = {1: 8, 5: 4}
"""Bytes of the protobuf's wire types of a fixed length."""
_VARINT, _BYTES = 0, 2


def read_text(path: Path) -> str | None:
    """The text of a file; None if it carries none.

    Raises UserError if it is missing, damaged, or of another form.
    """
    reader = {".onnx": _read_onnx, ".xml": _read_xml, ".pt2": _read_zip}[_form(path)]
    with _explain(path, "read"):
        return reader(path)


def write_text(path: Path, text: str) -> None:
    """Put the text into a file, in place of one that it carries; as a whole or not at all.

    Raises UserError as `read_text`, or if it cannot be written.
    """
    writer = {".onnx": _write_onnx, ".xml": _write_xml, ".pt2": _write_zip}[_form(path)]
    part = path.with_name(f".{path.name}.part")
    with _explain(path, "write"):
        try:
            writer(path, part, text)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def _form(path: Path) -> str:
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path} is no exported model: these end in {', '.join(SUFFIXES)}.")
    return path.suffix.lower()


@contextlib.contextmanager
def _explain(path: Path, verb: str) -> Iterator[None]:
    """Turn what readers and writers raise for a file into UserError."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"There is no file {path}.") from error
    except OSError as error:
        raise UserError(f"Cannot {verb} {path}: {error.strerror or error}.") from error
    except (ET.ParseError, zipfile.BadZipFile, IndexError, StopIteration, ValueError) as error:
        raise UserError(f"{path} is damaged, or not what its ending says ({error}).") from error


def _read_xml(path: Path) -> str | None:
    entry = ET.parse(path).find(f"rt_info/{KEY}")
    return None if entry is None else entry.get("value")


def _write_xml(path: Path, part: Path, text: str) -> None:
    tree = ET.parse(path)
    root = tree.getroot()
    info = root.find("rt_info")
    info = ET.SubElement(root, "rt_info") if info is None else info
    entry = info.find(KEY)
    entry = ET.SubElement(info, KEY) if entry is None else entry
    entry.set("value", text)
    tree.write(part, encoding="utf-8", xml_declaration=True)


def _read_zip(path: Path) -> str | None:
    with zipfile.ZipFile(path) as archive:
        name = _place(archive)
        return archive.read(name).decode() if name in archive.namelist() else None


def _write_zip(path: Path, part: Path, text: str) -> None:
    """Copy the archive; its entries keep their extra fields, by which torch aligns them."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(part, "w") as target:
        name = _place(source)
        for entry in source.infolist():
            if entry.filename != name:
                target.writestr(entry, source.read(entry))
        target.writestr(name, text)


def _place(archive: zipfile.ZipFile) -> str:
    """Name of the text's file. All others lie below one folder, whose name torch chooses."""
    names = archive.namelist()
    if not names:
        raise ValueError("it is empty")
    return f"{names[0].split('/', maxsplit=1)[0]}/extra/{KEY}"


def _read_onnx(path: Path) -> str | None:
    found: list[str] = []
    with path.open("rb") as file:
        for number, start, end in _walk_file(file):
            if number == _PROPS:
                file.seek(start)
                found += _take_entry(file.read(end - start))
                file.seek(end)
    return found[-1] if found else None


def _write_onnx(path: Path, part: Path, text: str) -> None:
    """Copy every field of the model but the old entry, and append the new one: order is free."""
    with path.open("rb") as source, part.open("wb") as target:
        before = 0
        for number, start, end in _walk_file(source):
            source.seek(start)
            if number != _PROPS or not _take_entry(source.read(end - start)):
                source.seek(before)
                target.write(source.read(end - before))
            source.seek(end)
            before = end
        target.write(_field(_PROPS, _field(1, KEY.encode()) + _field(2, text.encode())))


def _walk_file(file: BinaryIO) -> Iterator[tuple[int, int, int]]:
    """Number, start of the content and end of each field. Raises ValueError if one is broken."""
    size = os.fstat(file.fileno()).st_size
    read = file.read
    while file.tell() < size:
        tag = _take_varint(lambda: read(1)[0])
        number, wire = tag >> 3, tag & 7
        length = _FIXED.get(wire, 0)
        start = file.tell()
        if wire == _VARINT:
            _take_varint(lambda: read(1)[0])
            length = file.tell() - start
        elif wire == _BYTES:
            length = _take_varint(lambda: read(1)[0])
            start = file.tell()
        if not number or not (length or wire == _BYTES) or start + length > size:
            raise ValueError("a field is broken")
        yield number, start, start + length
        file.seek(start + length)


def _take_entry(content: bytes) -> list[str]:
    """The value of an entry of ours, a key and a value; nothing of another's."""
    pairs: dict[int, bytes] = {}
    rest = iter(content)
    for tag in rest:
        length = _take_varint(lambda: next(rest))
        pairs[tag >> 3] = bytes(next(rest) for _ in range(length))
    return [pairs[2].decode()] if pairs.get(1) == KEY.encode() and 2 in pairs else []


def _take_varint(take: Callable[[], int]) -> int:
    """A whole number, seven bits a byte, the lowest first."""
    value = shift = 0
    while True:
        byte = take()
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    digits = []
    while value >= 0x80:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*digits, value])
