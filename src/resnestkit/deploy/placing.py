"""Where a made file goes: it is written aside, and gets its name when it is whole and trusted."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from resnestkit.errors import UserError


def check_target(target: Path) -> None:
    """Make the folder of a file to be. Raises UserError if it cannot be, or would cost another's.

    OpenVINO's weights go to a .bin beside the .xml, and others call their checkpoints so too.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"Cannot make {target.parent}: {error.strerror}.") from error
    weights = target.with_suffix(".bin")
    for path in (target, weights) if target.suffix == ".xml" else (target,):
        if path.is_dir():
            raise UserError(f"{path} is a folder; give another name by --output.")
    if target.suffix == ".xml" and weights.exists() and not target.exists():
        raise UserError(
            f"{weights} would be replaced, and is not of an earlier {target.name}; move it, or "
            "give another name by --output."
        )


@contextmanager
def made_aside(target: Path) -> Iterator[Path]:
    """A path to write a file to, in a folder of its own beside the target.

    In the end all that lies in that folder, but not in folders below it, is moved to the target's.
    If anything is raised, nothing is. Raises UserError where it cannot be written.
    """
    with explain_writing(target):
        folder = tempfile.TemporaryDirectory(dir=target.parent, prefix=".export-")
    with folder as name:
        yield Path(name) / target.name
        with explain_writing(target):
            for part in sorted(Path(name).iterdir()):  # the .bin before the .xml that names it
                if part.is_file():
                    part.replace(target.parent / part.name)


@contextmanager
def explain_writing(target: Path) -> Iterator[None]:
    """Turn what a library raises that could not write into UserError; OpenVINO's is no OSError."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        lines = str(getattr(error, "strerror", None) or error).strip().splitlines()
        reason = lines[-1] if lines else type(error).__name__
        raise UserError(f"Cannot write {target.name}: {reason.rstrip('.')}.") from error
