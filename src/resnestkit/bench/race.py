"""Rounds in which all take turns, so that what slows the machine for a while slows all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

WARM = 2
"""Rounds that do not count."""
_PAUSE = 0.05
"""Seconds before each turn: a runtime's threads spin for some time after its work is done.

After 0.002 seconds those of ONNX Runtime took a third of the speed of whoever came next.
"""

KeyT = TypeVar("KeyT")


def race(
    runs: Mapping[KeyT, Callable[[], object]], rounds: int, advance: Callable[[int, str], None]
) -> dict[KeyT, tuple[float, ...]]:
    """Seconds of every call of each, right after another of its own that does not count.

    Every other round goes backwards, so that nobody always comes after the same one.

    Args:
        runs: what to call.
        rounds: how many count; `WARM` more come before.
        advance: called with 1 after every round.
    """
    spent: dict[KeyT, list[float]] = {key: [] for key in runs}
    order = list(runs)
    for number in range(WARM + rounds):
        for key in order if number % 2 else reversed(order):
            time.sleep(_PAUSE)
            runs[key]()  # wakes the processor, and fetches the weights, which others pushed out
            started = time.perf_counter()
            runs[key]()
            spent[key].append(time.perf_counter() - started)
        advance(1, "")
    return {key: tuple(seconds[WARM:]) for key, seconds in spent.items()}
