"""What a stopped training goes on from: weights, average, optimiser, random state, position.

It is one safetensors file, like the models: nothing in it is pickled, so nothing in it can run.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from resnestkit.errors import UserError
from resnestkit.weights.checkpoint import TRAINING_STATE, load_tensors, save_tensors


@dataclass
class Position:
    """How far a run has come."""

    epoch: int = 0
    """Epoch in progress, from 0."""
    batch: int = 0
    """Batches of it that are done."""
    best_score: float = -math.inf
    """Best validation score so far."""
    best_epoch: int = 0
    """Epoch (from 1) that reached it."""
    sums: dict[str, float] = field(default_factory=dict)
    """Sums over the epoch in progress: images, seconds, and what the task counts."""


def save_state(
    path: Path,
    identity: dict[str, Any],
    position: Position,
    model: nn.Module,
    average: nn.Module | None,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write everything that the rest of the run depends on.

    ``identity`` says which data and settings the position belongs to.
    """
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    if average is not None:
        tensors |= {f"average.{name}": tensor for name, tensor in average.state_dict().items()}
    for index, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{name}"] = value
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    metadata = {"kind": TRAINING_STATE, "identity": identity, "position": asdict(position)}
    save_tensors(path, tensors, metadata)


def load_state(
    path: Path,
    identity: dict[str, Any],
    model: nn.Module,
    average: nn.Module | None,
    optimizer: torch.optim.Optimizer,
) -> Position:
    """Put everything back; the inverse of `save_state`.

    Raises UserError if the state is damaged, or the data or settings are not those it was made of.
    """
    metadata, tensors = load_tensors(path)
    if metadata["kind"] != TRAINING_STATE:
        raise UserError(f"{path} is not the state of a training.")
    saved = metadata.get("identity", {})
    changed = [name for name, value in identity.items() if saved.get(name) != value]
    if changed:
        raise UserError(
            f"This run cannot go on: its {' and '.join(changed)} changed since it was stopped. Put "
            "back what it was trained on, or start another run."
        )
    try:
        model.load_state_dict(_below("model.", tensors))
        if average is not None:
            average.load_state_dict(_below("average.", tensors))
        slots: dict[int, dict[str, Any]] = {}
        for name, tensor in _below("optimizer.", tensors).items():
            index, slot = name.split(".", 1)
            slots.setdefault(int(index), {})[slot] = tensor
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": slots, "param_groups": groups})
        torch.set_rng_state(tensors["random.cpu"])
        if torch.cuda.is_available() and "random.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random.cuda"])
        return Position(**metadata["position"])
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        first = " ".join(str(error).split())[:200]
        raise UserError(f"{path} does not belong to this run: {first}") from error


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
