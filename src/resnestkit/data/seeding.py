"""Randomness keyed by (seed, epoch, image).

An image meets the same crop whatever worker reads it, in whatever order, and after a resume.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Draw from torch's generator as if seeded by this key, and leave its state as it was."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(mix_seed(*key))
    try:
        yield
    finally:
        torch.set_rng_state(state)


def mix_seed(*key: int) -> int:
    """One 63-bit seed from several numbers (the finaliser of splitmix64, folded over the key)."""
    mask, mixed = (1 << 64) - 1, 0
    for part in key:
        mixed = (mixed + (part & mask) + 0x9E3779B97F4A7C15) & mask
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & mask
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & mask
        mixed ^= mixed >> 31
    return mixed >> 1
