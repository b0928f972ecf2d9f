"""Files that a verb writes beside what it prints."""

from __future__ import annotations

from pathlib import Path

from resnestkit.errors import UserError


def write(path: Path, text: str) -> None:
    """Write text; names of files that are no UTF-8 keep their bytes. Raises UserError."""
    write_bytes(path, text.encode("utf-8", errors="surrogateescape"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes. Raises UserError if the file cannot be written."""
    try:
        path.write_bytes(content)
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error.strerror}.") from error
