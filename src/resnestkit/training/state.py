"""What a stopped training goes on from: weights, average, optimiser, random state, position.

It is one safetensors file, like the models: nothing in it is pickled, so nothing in it can run.
"""

from __future__ import annotations

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
    best_top1: float = -1.0
    """Best validation accuracy so far."""
    best_epoch: int = 0
    """Epoch (from 1) that reached it."""
    sums: dict[str, float] = field(default_factory=dict)
    """Sums over the epoch in progress: loss, correct, images, seconds."""


def save_state(
    path: Path,
    position: Position,
    model: nn.Module,
    average: nn.Module | None,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write everything that the rest of the run depends on."""
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
    save_tensors(path, tensors, {"kind": TRAINING_STATE, "position": asdict(position)})


def load_state(
    path: Path,
    model: nn.Module,
    average: nn.Module | None,
    optimizer: torch.optim.Optimizer,
) -> Position:
    """Put everything back; the inverse of `save_state`. Raises UserError if it does not fit."""
    metadata, tensors = load_tensors(path)
    if metadata["kind"] != TRAINING_STATE:
        raise UserError(f"{path} is not the state of a training.")
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
        raise UserError(f"{path} does not belong to this run: {error}") from error


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
