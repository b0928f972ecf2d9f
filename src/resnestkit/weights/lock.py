"""One process at a time: others wait, in this program and in any other on this machine."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from resnestkit.errors import UserError


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a file's lock; the file stays, empty, since others may wait for it.

    Where the file system has no locks there is none. Raises UserError if the file cannot be made.
    """
    try:
        file = path.open("a")
    except OSError as error:
        raise UserError(f"Cannot write to {path.parent}: {error.strerror}.") from error
    with file:
        with contextlib.suppress(OSError):
            _lock(file)
        yield  # closing the file gives the lock back, and so does the end of the process


if sys.platform == "win32":
    import msvcrt
    import time

    def _lock(file: IO[str]) -> None:
        while True:
            try:
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            except PermissionError:  # another holds it
                time.sleep(0.2)
            else:
                return

else:
    import fcntl

    def _lock(file: IO[str]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX)
