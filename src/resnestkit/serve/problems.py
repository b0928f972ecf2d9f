"""What a client is told when it gets no answer: a status and one clear sentence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

RETRY = {"Retry-After": "1"}
HANG_UP = {"Connection": "close"}


class Problem(Exception):  # noqa: N818  (it is told, not logged)
    """A request that is refused. ``headers`` go with the answer."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, dict(headers or {})


class Allowance:
    """So much of something that all requests share: images in the house, or bytes.

    Args:
        most: what may be taken at a time.
        refusal: the sentence for who asks for more.
    """

    def __init__(self, most: int, refusal: str) -> None:
        self.most, self.taken = most, 0
        self._refusal = refusal

    @contextmanager
    def open(self) -> Iterator[Share]:
        """A share of nothing yet; what it takes is given back at the end."""
        share = Share(self)
        try:
            yield share
        finally:
            self.taken -= share.amount

    def take(self, amount: int) -> None:
        """Raises Problem, 429, if there is not so much left."""
        if self.taken + amount > self.most:
            raise Problem(429, self._refusal, RETRY)
        self.taken += amount


class Share:
    """What one request has of an allowance."""

    def __init__(self, allowance: Allowance) -> None:
        self.amount = 0
        self._allowance = allowance

    def take(self, amount: int) -> None:
        """So much more. Raises Problem, 429, if there is not so much left."""
        self._allowance.take(amount)
        self.amount += amount
