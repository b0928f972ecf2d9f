"""Shards for tests: tar files in the WebDataset convention."""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image


def picture(number: int, kind: str = "JPEG", grey: bool = False) -> bytes:
    pixels = np.full((20, 30) if grey else (20, 30, 3), 3 * number % 256, dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def samples(numbers: Iterable[int], classes: int = 2) -> list[tuple[str, bytes]]:
    return [
        member
        for number in numbers
        for member in (
            (f"{number:04}.jpg", picture(number)),
            (f"{number:04}.cls", str(number % classes).encode()),
        )
    ]
