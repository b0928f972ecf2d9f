"""Fetching published weights: checked, resumed, from the next mirror if one fails.

What lies in the cache, and when it is right, is in `resnestkit.weights.cache`. With
RESNESTKIT_OFFLINE set nothing is asked of the network. A file that was put into the cache by hand
under its published name serves as well. Processes that want the same file wait for one another.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any

from resnestkit.errors import UserError
from resnestkit.folders import cache_folder
from resnestkit.progress import error_reporter, track_bytes
from resnestkit.weights.cache import (
    accept,
    describe_other,
    digest_of,
    expect,
    is_kept,
)
from resnestkit.weights.lock import locked
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


class _OtherFileError(_AddressError):
    """What came is not the file: its hash says so."""


def fetch(
    weights: PublishedWeights,
    *,
    folder: Path | None = None,
    patience: Patience | None = None,
    advance: Advance | None = None,
) -> Path:
    """The file of published weights, from the cache or the first address that gives it.

    ``advance`` is told how a download goes on; without it a bar shows on standard error.
    Raises UserError, with what was tried and how it failed, if nothing does.
    """
    home = folder or cache_folder()
    for copy in weights.copies:
        if is_kept(home / copy.file, copy.digits):
            return home / copy.file
    if os.environ.get("RESNESTKIT_OFFLINE"):
        names = " or ".join(dict.fromkeys(copy.file for copy in weights.copies))
        raise UserError(
            f"{names} is not in {home}, and the network is off.{_advise(weights, home)}"
        )
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"Cannot make the folder {home}: {error.strerror}.") from error
    failures = []
    for copy in weights.copies:
        target = home / copy.file
        with locked(home / f"{copy.file}.lock"):
            if is_kept(target, copy.digits):  # another process fetched it while we waited
                return target
            try:
                with _shown(copy, advance) as told:
                    _download(copy, target, patience or Patience(), told)
            except _AddressError as failure:
                failures.append(f"{copy.address}: {failure}")
            else:
                return target
    names = " or ".join(dict.fromkeys(copy.file for copy in weights.copies))
    advice = _advise(weights, home)
    raise UserError(f"No address gave {names}. Tried {'; '.join(failures)}.{advice}")


def _shown(copy: Copy, advance: Advance | None) -> AbstractContextManager[Advance]:
    if advance is not None:
        return contextlib.nullcontext(advance)
    return track_bytes(error_reporter(), f"downloading {copy.file}")


def _advise(weights: PublishedWeights, home: Path) -> str:
    """What the user can do without a network."""
    copies = {copy.file: copy.digits for copy in weights.copies}
    others = "".join(describe_other(home / file, digits) for file, digits in copies.items())
    by_hand = [file for file, digits in copies.items() if digits]
    if not by_hand:
        return f"{others} Fetch it by other means, and give the file by its path."
    return f"{others} Put {' or '.join(by_hand)} into {home} by hand, and it will be used."


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
    """Fetch and check a file, going on where an earlier try broke off.

    If what an earlier try left was no part of it, the same address is asked once more from zero.
    """
    if target.is_dir():
        raise UserError(f"{target} is a folder, where the file of that name would be kept.")
    part = target.with_name(f"{target.name}.part")
    resumes = part.exists()
    try:
        _attempt(copy, part, target, patience, advance)
    except _OtherFileError:
        if not resumes:
            raise
        _attempt(copy, part, target, patience, advance)


def _attempt(copy: Copy, part: Path, target: Path, patience: Patience, advance: Advance) -> None:
    there = part.stat().st_size if part.exists() else 0
    digest = _Digest()
    try:
        if not copy.address.startswith(("http://", "https://")):
            raise _AddressError("is no http address; look at HF_ENDPOINT")
        request = urllib.request.Request(copy.address)
        if there:
            request.add_header("Range", f"bytes={there}-")
        opener = urllib.request.build_opener(digest)
        with opener.open(request, timeout=patience.silence) as response:
            digest.note(response.headers)
            if not (copy.digits or digest.stated):
                raise _AddressError("does not state the SHA-256 of what it serves")
            _receive(response, part, patience, advance)
    except urllib.error.HTTPError as error:
        if not there or error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise _AddressError(f"answered {error.code} {error.reason}") from error
        digest.note(error.headers)  # the part is as long as the file, or longer: its hash decides
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _broke_off(error) from error
    _keep_if_right(part, target, copy.digits or digest.stated)


def _broke_off(error: Exception) -> _AddressError:
    return _AddressError(f"broke off ({getattr(error, 'reason', None) or error})")


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """What fails on this machine is no address's fault: no other one is asked."""
    try:
        yield
    except OSError as error:
        raise UserError(f"Cannot write to {folder}: {error.strerror or error}.") from error


def _receive(
    response: http.client.HTTPResponse, part: Path, patience: Patience, advance: Advance
) -> None:
    if "text/html" in response.headers.get("Content-Type", ""):
        raise _AddressError("answered with a web page instead of the file")
    goes_on = response.status == http.HTTPStatus.PARTIAL_CONTENT
    there = part.stat().st_size if goes_on and part.exists() else 0
    length = response.headers.get("Content-Length")
    total = there + int(length) if length else 0
    with _writing(part.parent), part.open("ab" if goes_on else "wb") as file:
        for chunk in _chunks(response, patience):
            file.write(chunk)
            there += len(chunk)
            advance(there, total)
    if total and there < total:
        raise _AddressError(f"broke off after {there} of {total} bytes")


def _chunks(response: http.client.HTTPResponse, patience: Patience) -> Iterator[bytes]:
    """What an address gives, as long as it gives it fast enough."""
    began, received = time.monotonic(), 0
    while True:
        try:
            chunk = response.read1(CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise _broke_off(error) from error
        if not chunk:
            return
        yield chunk
        received += len(chunk)
        passed = time.monotonic() - began
        if passed > patience.window:
            if received < patience.slowest * passed:
                speed = f"{received / passed:.0f} bytes a second"
                raise _AddressError(f"gave {speed}, which is too slow")
            began, received = time.monotonic(), 0


def _keep_if_right(part: Path, target: Path, digits: str) -> None:
    """Move a whole file into place if its hash is the one to expect; else drop it."""
    digest, expected = digest_of(part), expect(target, digits)
    with _writing(part.parent):
        if expected.fits(digest):
            accept(part, target, digest)
            return
        part.unlink()
    raise _OtherFileError(f"gave another file (SHA-256 {digest[:12]}..., but {expected})")
