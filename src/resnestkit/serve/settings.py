"""What the service takes on: how much, how large, for how long."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from resnestkit.errors import UserError

_MOST_MEGAPIXELS = 178
"""Pillow refuses to decode larger images."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Every one is above 0; beyond a limit a request is refused in words.

    Raises:
        UserError: one is not, or cannot be kept.
    """

    batch_size: int = 16
    """Images that are computed at a time, at most."""
    queue: int = 256
    """Images in the house: being received, waiting, or computed."""
    max_megabytes: float = 20.0
    """Of one request."""
    max_megapixels: float = 40.0
    """Of one image."""
    timeout: float = 30.0
    """Seconds for a request, from its headers to its answer."""
    images: int = 64
    """Of one request; ``queue`` if that is less."""
    held_megabytes: float = 256.0
    """Of all uploads together while they are held, each twice; one of ``max_megabytes`` fits."""
    connections: int = 2000
    """Open at a time."""
    header_seconds: float = 10.0
    """For the headers of a request."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 < value < math.inf:
                flag = field.name.replace("_", "-")
                raise UserError(f"--{flag} is {value:g}; it must be above 0.")
        if self.max_megapixels > _MOST_MEGAPIXELS:
            raise UserError(
                f"--max-megapixels is {self.max_megapixels:g}; {_MOST_MEGAPIXELS} is the most."
            )

    @property
    def request_bytes(self) -> int:
        """Of one request's body."""
        return int(self.max_megabytes * 1e6)

    @property
    def held_bytes(self) -> int:
        """Of all bodies together."""
        return max(int(self.held_megabytes * 1e6), 2 * self.request_bytes)

    @property
    def pixels(self) -> int:
        """Of one image."""
        return int(self.max_megapixels * 1e6)

    @property
    def request_images(self) -> int:
        """Of one request."""
        return min(self.images, self.queue)
