"""Files that a verb writes beside what it prints."""

from __future__ import annotations

import os
from pathlib import Path

from resnestkit.errors import UserError


def check_places(*paths: Path | None, made: Path | None = None) -> None:
    """Raise UserError for a file that cannot be written later, before long work is done for it.

    The folder ``made`` will be there by then.
    """
    for path in paths:
        if path is None or path.parent == made:
            continue
        if path.is_dir():
            raise UserError(f"Cannot write {path}: it is a folder.")
        if not path.parent.is_dir():
            raise UserError(f"Cannot write {path}: there is no folder {path.parent}.")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise UserError(f"Cannot write {path}: Permission denied.")


def write(path: Path, text: str) -> None:
    """Write text; names of files that are no UTF-8 keep their bytes. Raises UserError."""
    write_bytes(path, text.encode("utf-8", errors="surrogateescape"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes. Raises UserError if the file cannot be written."""
    try:
        path.write_bytes(content)
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error.strerror}.") from error
