"""Errors that a user can cause: one clear sentence, an exit code, and never a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can mend: the message says what is wrong, where, and what to do.

    The command line prints the message alone and leaves with ``exit_code``.
    """

    exit_code = 2


def nearest(word: str, known: Iterable[str], count: int = 4) -> str:
    """`` Did you mean a, b?`` for the known words closest to ``word``, or an empty string."""
    found = difflib.get_close_matches(word, sorted(known), n=count, cutoff=0.5)
    return f" Did you mean {', '.join(found)}?" if found else ""
