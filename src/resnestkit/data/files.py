"""Which files are images, told from their names. Imports without torch."""

from __future__ import annotations

from pathlib import Path

IMAGE_SUFFIXES = frozenset(
    f".{ending}"
    for ending in (
        *("apng", "avif", "bmp", "dib", "gif", "j2k", "jfif", "jp2", "jpe", "jpeg", "jpg", "mpo"),
        *("pbm", "pgm", "png", "pnm", "ppm", "tga", "tif", "tiff", "webp"),
    )
)


def is_image_file(path: Path) -> bool:
    """Whether a path has the ending of an image that can be read."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def find_images(folder: Path) -> list[Path]:
    """All image files below a folder, sorted, hidden files and folders left out."""
    found = (path for path in folder.rglob("*") if is_image_file(path))
    shown = (path for path in found if not _is_hidden(path.relative_to(folder)))
    return sorted(path for path in shown if path.is_file())


def _is_hidden(path: Path) -> bool:
    """Whether a part begins with a dot, as the copies that notebooks and desktops keep do."""
    return any(part.startswith(".") for part in path.parts)
