"""Fetching published weights: checked, resumed, from the next mirror if one fails.

A file must begin with the digits that its publisher put in its name, or be what the hub states.
Its whole SHA-256 is then noted beside it (FILE.sha256), and must stay the same. Files lie in one
folder, which RESNESTKIT_CACHE moves. With RESNESTKIT_OFFLINE set nothing is asked of the network. A
file that was put there by hand under its published name serves as well.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any

from resnestkit.errors import UserError
from resnestkit.weights.manifest import Copy, PublishedWeights

CHUNK = 1 << 18
Advance = Callable[[int, int], None]
"""Told the bytes there are and the bytes there will be."""


@dataclass(frozen=True, slots=True)
class Patience:
    """When a slow address is given up."""

    silence: float = 30.0
    """Seconds without a byte."""
    window: float = 30.0
    """Seconds over which the speed is judged."""
    slowest: float = 10_000.0
    """Bytes per second below which a window is too slow."""


class _AddressError(Exception):
    """Why an address did not serve, in words."""


def cache_folder() -> Path:
    """Where weights are kept: $RESNESTKIT_CACHE, else resnestkit in the user's cache folder."""
    if "RESNESTKIT_CACHE" in os.environ:
        return Path(os.environ["RESNESTKIT_CACHE"])
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "resnestkit"


def fetch(
    weights: PublishedWeights,
    *,
    folder: Path | None = None,
    patience: Patience | None = None,
    advance: Advance = lambda _there, _total: None,
) -> Path:
    """The file of published weights, from the cache or the first address that gives it.

    Raises UserError, with what was tried and how it failed, if nothing does.
    """
    home = folder or cache_folder()
    for copy in weights.copies:
        if _is_kept(home / copy.file, copy.digits):
            return home / copy.file
    names = " or ".join(dict.fromkeys(copy.file for copy in weights.copies))
    by_hand = f"Put {names} into {home} by hand, and it will be used."
    if os.environ.get("RESNESTKIT_OFFLINE"):
        raise UserError(f"{names} is not in {home}, and the network is off. {by_hand}")
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"Cannot make the folder {home}: {error.strerror}.") from error
    failures = []
    for copy in weights.copies:
        try:
            _download(copy, home / copy.file, patience or Patience(), advance)
        except _AddressError as failure:
            failures.append(f"{copy.address}: {failure}")
        else:
            return home / copy.file
    raise UserError(f"No address gave {names}. Tried {'; '.join(failures)}. {by_hand}")


def _is_kept(target: Path, digits: str) -> bool:
    """Whether the cache has the file, unchanged since it was first seen."""
    if not target.is_file():
        return False
    digest = _sha256(target)
    if not digest.startswith(_noted(target) or digits):
        return False
    _write_note(target, digest)  # of a file that was put there by hand there is none yet
    return True


def _note(target: Path) -> Path:
    return target.with_name(f"{target.name}.sha256")


def _noted(target: Path) -> str:
    """The SHA-256 that the file had when it was first seen, or "" if it never was."""
    try:
        return _note(target).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _write_note(target: Path, digest: str) -> None:
    with contextlib.suppress(OSError):  # a cache that is only read still serves
        _note(target).write_text(f"{digest}\n", encoding="ascii")


class _Digest(urllib.request.HTTPRedirectHandler):
    """Keeps the SHA-256 that the hub states where it redirects to its store."""

    def __init__(self) -> None:
        self.stated = ""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: Any,
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        self.note(headers)
        return super().redirect_request(req, fp, code, msg, headers, newurl)

    def note(self, headers: Message) -> None:
        """Remember what one answer states, unless an earlier one did."""
        stated = str(headers.get("X-Linked-ETag", "")).strip('"')
        if not self.stated and re.fullmatch("[0-9a-f]{64}", stated):
            self.stated = stated


def _download(copy: Copy, target: Path, patience: Patience, advance: Advance) -> None:
    """Fetch into a partial file, going on where an earlier try broke off, and check it."""
    part = target.with_name(f"{target.name}.part")
    there = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(copy.address)
    if there:
        request.add_header("Range", f"bytes={there}-")
    digest = _Digest()
    opener = urllib.request.build_opener(digest)
    try:
        with opener.open(request, timeout=patience.silence) as response:
            digest.note(response.headers)
            if not (copy.digits or digest.stated):
                raise _AddressError("does not state the SHA-256 of what it serves")
            _receive(response, part, patience, advance)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            # The part is as long as the file, or longer: its hash decides.
            digest.note(error.headers)
            _keep_if_right(part, target, copy.digits or digest.stated)
            return
        raise _AddressError(f"answered {error.code} {error.reason}") from error
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, OSError) as error:
        reason = getattr(error, "reason", None) or error
        raise _AddressError(f"broke off ({reason})") from error
    _keep_if_right(part, target, copy.digits or digest.stated)


def _receive(
    response: http.client.HTTPResponse, part: Path, patience: Patience, advance: Advance
) -> None:
    if "text/html" in response.headers.get("Content-Type", ""):
        raise _AddressError("answered with a web page instead of the file")
    goes_on = response.status == http.HTTPStatus.PARTIAL_CONTENT
    there = part.stat().st_size if goes_on else 0
    length = response.headers.get("Content-Length")
    total = there + int(length) if length else 0
    began, received = time.monotonic(), 0
    with part.open("ab" if goes_on else "wb") as file:
        while chunk := response.read1(CHUNK):
            file.write(chunk)
            there += len(chunk)
            received += len(chunk)
            advance(there, total)
            passed = time.monotonic() - began
            if passed > patience.window:
                if received < patience.slowest * passed:
                    raise _AddressError(
                        f"gave {received / passed:.0f} bytes a second, which is too slow"
                    )
                began, received = time.monotonic(), 0
    if total and there < total:
        raise _AddressError(f"broke off after {there} of {total} bytes")


def _keep_if_right(part: Path, target: Path, digits: str) -> None:
    """Move a whole file into place if its hash is the one to expect (none: nothing is right)."""
    digest, expected = _sha256(part), _noted(target) or digits
    if not expected or not digest.startswith(expected):
        part.unlink()
        wanted = expected[:8] or "a stated one"
        raise _AddressError(f"gave another file (SHA-256 {digest[:8]}..., expected {wanted})")
    part.replace(target)
    _write_note(target, digest)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
