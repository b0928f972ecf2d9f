"""Names of data that is drawn on the fly: "shapes", or "shapes:2000" for so many to train on.

Imports without torch.
"""

from __future__ import annotations

import re
from pathlib import Path

from resnestkit.errors import UserError


def is_drawn(data: str | Path, name: str) -> bool:
    """Whether data is the drawn set of this name, however many pictures are asked for."""
    return str(data).partition(":")[0] == name


def count_pictures(data: str, usual: int) -> int:
    """How many pictures to train on are asked for. Raises UserError if it is no such number."""
    name, colon, asked = data.partition(":")
    if not colon:
        return usual
    if not re.fullmatch(r"[1-9]\d{0,4}", asked):
        raise UserError(f"--data is {data}; after '{name}:' give 1 to 99999 training pictures.")
    return int(asked)
