"""The folder that keeps downloads: which of its files are what was published.

A file is right if its SHA-256 begins with the digits that its publisher put in its name. Its whole
SHA-256 is noted beside it when it arrives (FILE.sha256), and must stay the same; a file whose
publisher gives no digits is right by its note alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

from resnestkit.errors import UserError
from resnestkit.weights.checkpoint import write_whole
from resnestkit.weights.manifest import PublishedWeights
from resnestkit.weights.tensors import is_file


@dataclass(frozen=True, slots=True)
class Expected:
    """What the SHA-256 of a file must begin with, and who says so."""

    digits: str
    """"" where nobody says."""
    origin: str

    def fits(self, digest: str) -> bool:
        """Whether it is the right file; none is where nobody says what is right."""
        return bool(self.digits) and digest.startswith(self.digits)

    def __str__(self) -> str:
        return f"{self.origin} says {self.digits[:12]}" if self.digits else self.origin


def expect(target: Path, digits: str) -> Expected:
    """The note's SHA-256, unless it is none or contradicts the publisher's digits; else these."""
    note = _note(target)
    try:
        noted = note.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        noted = ""
    if re.fullmatch("[0-9a-f]{64}", noted) and noted.startswith(digits):
        return Expected(noted, f"the note {note}, made when it was first seen,")
    return Expected(digits, "its publisher" if digits else "nobody says what it should be")


def is_kept(target: Path, digits: str) -> bool:
    """Whether the cache has the right file. Raises UserError if it is there and unreadable."""
    if not is_file(target):
        return False
    digest, expected = digest_of(target), expect(target, digits)
    if expected.fits(digest) and expected.digits != digest:
        write_note(target, digest)  # of a file that was put there by hand there is none yet
    return expected.fits(digest)


def describe_other(target: Path, digits: str) -> str:
    """What is wrong with a file that is there and not kept, in a sentence; "" if there is none."""
    if not is_file(target):
        return ""
    expected = expect(target, digits)
    return (
        f" {target} is there, but its SHA-256 begins with {digest_of(target)[:12]}, and {expected};"
        " to use it as it is, give it by its path."
    )


def accept(part: Path, target: Path, digest: str) -> None:
    """Move a whole and right file into place; another that lies there is moved aside."""
    aside = target.with_name(f"{target.name}.other") if target.exists() else None
    if aside:
        target.replace(aside)
    part.replace(target)
    write_note(target, digest)
    if aside:
        said = f"{target} was not what was published; it was moved to {aside}."
        warnings.warn(said, stacklevel=2)


def write_note(target: Path, digest: str) -> None:
    """Note a file's SHA-256 beside it."""
    with contextlib.suppress(UserError):  # a cache that is only read still serves
        write_whole(_note(target), f"{digest}\n".encode())


def digest_of(path: Path) -> str:
    """A file's SHA-256. Raises UserError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}.") from error


def is_published(path: Path, weights: PublishedWeights) -> bool:
    """Whether a file is those published weights, by its hash and not only by its name."""
    digits = [copy.digits for copy in weights.copies if copy.file == path.name]
    return any(expect(path, each).fits(digest_of(path)) for each in digits)


def _note(target: Path) -> Path:
    return target.with_name(f"{target.name}.sha256")
