"""Where things are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Downloads and what was compiled: $RESNESTKIT_CACHE, else a folder in the user's cache."""
    if "RESNESTKIT_CACHE" in os.environ:
        return Path(os.environ["RESNESTKIT_CACHE"])
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "resnestkit"
