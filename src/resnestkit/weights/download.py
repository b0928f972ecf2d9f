"""Fetching published weights: checked, resumed, from the next mirror if one fails.

Files lie in one folder, which RESNESTKIT_CACHE moves. With RESNESTKIT_OFFLINE set nothing is asked
of the network. A file that was put there by hand under its published name serves as well.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from resnestkit.errors import UserError
from resnestkit.weights.manifest import PublishedWeights

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
    target = (folder or cache_folder()) / weights.file
    if target.is_file() and _sha256(target).startswith(weights.hash_prefix):
        return target
    by_hand = f"Put {weights.file} into {target.parent} by hand, and it will be used."
    if os.environ.get("RESNESTKIT_OFFLINE"):
        raise UserError(
            f"{weights.file} is not in {target.parent}, and the network is off. {by_hand}"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"Cannot make the folder {target.parent}: {error.strerror}.") from error
    failures = []
    for address in weights.addresses:
        try:
            _download(address, target, weights.hash_prefix, patience or Patience(), advance)
        except _AddressError as failure:
            failures.append(f"{address}: {failure}")
        else:
            return target
    raise UserError(f"No address gave {weights.file}. Tried {'; '.join(failures)}. {by_hand}")


def _download(
    address: str, target: Path, prefix: str, patience: Patience, advance: Advance
) -> None:
    """Fetch into a partial file, going on where an earlier try broke off, and check it."""
    part = target.with_name(f"{target.name}.part")
    there = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(address)
    if there:
        request.add_header("Range", f"bytes={there}-")
    try:
        with urllib.request.urlopen(request, timeout=patience.silence) as response:
            _receive(response, part, patience, advance)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            # The part is as long as the file, or longer: its hash decides.
            _keep_if_right(part, target, prefix)
            return
        raise _AddressError(f"answered {error.code} {error.reason}") from error
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, OSError) as error:
        reason = getattr(error, "reason", None) or error
        raise _AddressError(f"broke off ({reason})") from error
    _keep_if_right(part, target, prefix)


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


def _keep_if_right(part: Path, target: Path, prefix: str) -> None:
    digest = _sha256(part)
    if not digest.startswith(prefix):
        part.unlink()
        raise _AddressError(f"gave another file (SHA-256 {digest[:8]}..., expected {prefix}...)")
    part.replace(target)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
