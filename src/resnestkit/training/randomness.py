"""The random states of this process, as tensors, so that a resumed run draws what it would have.

Reading processes have none: what they draw is keyed by seed, epoch and image (`data.seeding`).
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def capture() -> dict[str, Tensor]:
    """Python's, NumPy's and torch's states; CUDA's too where there is a GPU."""
    version, words, spare = random.getstate()
    numpy: tuple[Any, ...] = tuple(np.random.get_state(legacy=True))
    kind, keys, place, has_spare, numpy_spare = numpy
    assert (version, kind) == (3, "MT19937")
    states = {
        "python": torch.tensor(words),
        "python.spare": torch.tensor(math.nan if spare is None else spare, dtype=torch.float64),
        "numpy": torch.tensor([*keys.tolist(), place, has_spare]),
        "numpy.spare": torch.tensor(numpy_spare, dtype=torch.float64),
        "cpu": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def restore(states: Mapping[str, Tensor]) -> None:
    """The inverse of `capture`. Raises KeyError or RuntimeError if these are no states."""
    spare = states["python.spare"].item()
    words = tuple(states["python"].tolist())
    random.setstate((3, words, None if math.isnan(spare) else spare))
    *keys, place, has_spare = states["numpy"].tolist()
    numpy_spare = states["numpy.spare"].item()
    np.random.set_state(("MT19937", np.array(keys, np.uint32), place, has_spare, numpy_spare))
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
