"""Where things are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path

from resnestkit.errors import UserError


def cache_folder() -> Path:
    """Downloads and what was compiled: $RESNESTKIT_CACHE, else a folder in the user's cache.

    Raises UserError where there is neither.
    """
    if "RESNESTKIT_CACHE" in os.environ:
        return Path(os.environ["RESNESTKIT_CACHE"])
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"]) / "resnestkit"
    try:
        return Path.home() / ".cache" / "resnestkit"
    except RuntimeError as error:  # a container's user may have none
        raise UserError(
            "There is no home folder to keep a cache in; name a folder by RESNESTKIT_CACHE."
        ) from error
