"""What a stopped training goes on from: weights, average, optimiser, random states, position.

It is one safetensors file, like the models: nothing in it is pickled, so nothing in it can run. It
carries a digest of its content, and the one before it is kept: whatever moment a run dies at, and
whatever the disk did, the newest state that is whole is gone back to.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from resnestkit.errors import UserError
from resnestkit.ranks import gather, is_first, rank
from resnestkit.training import randomness
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
    skipped: int = 0
    """Batches left out so far, because their loss was no number."""
    sums: dict[str, float] = field(default_factory=dict)
    """Sums over the epoch in progress: images, seconds, and what the task counts."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What changes while a training goes on."""

    model: nn.Module
    average: nn.Module | None
    optimizer: torch.optim.Optimizer

    def tensors(self) -> dict[str, Tensor]:
        """All of it, by name."""
        found = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        if self.average is not None:
            states = self.average.state_dict()
            found |= {f"average.{name}": tensor for name, tensor in states.items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            for name, value in values.items():
                if isinstance(value, Tensor):
                    found[f"optimizer.{index}.{name}"] = value
        return found

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse. Raises RuntimeError, KeyError or ValueError if they are another net's."""
        self.model.load_state_dict(_below("model.", tensors))
        if self.average is not None:
            self.average.load_state_dict(_below("average.", tensors))
        slots: dict[int, dict[str, Any]] = {}
        for name, tensor in _below("optimizer.", tensors).items():
            index, slot = name.split(".", 1)
            slots.setdefault(int(index), {})[slot] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": slots, "param_groups": groups})


def save_state(
    paths: Sequence[Path], identity: dict[str, Any], position: Position, trained: Trained
) -> None:
    """Write everything that the rest of the run depends on; every process calls this.

    Args:
        paths: the newest state's file, then older ones', into which the earlier states move.
        identity: which data and settings the position belongs to.
        position: how far the run has come.
        trained: model, average and optimiser.

    Raises UserError if the disk is full or the folder is read-only; the states before stay.
    """
    states = gather(randomness.capture())
    if not is_first():
        return
    tensors = trained.tensors()
    for number, captured in enumerate(states):
        tensors |= {f"random.{number}.{name}": tensor for name, tensor in captured.items()}
    metadata = {
        "kind": TRAINING_STATE,
        "identity": identity,
        "position": asdict(position),
        "threads": torch.get_num_threads(),
        "digest": _digest(tensors),
    }
    written = paths[0].with_name(f"new-{paths[0].name}")
    save_tensors(written, tensors, metadata)
    _rotate([written, *paths])


def _rotate(paths: Sequence[Path]) -> None:
    """Move each file to the next name, the oldest first: none is ever without a whole one."""
    try:
        for newer, older in reversed(list(itertools.pairwise(paths))):
            if newer.exists():
                newer.replace(older)
    except OSError as error:
        raise UserError(f"Cannot write {paths[0].parent}: {error.strerror}.") from error


def load_state(
    paths: Sequence[Path], identity: dict[str, Any], trained: Trained
) -> tuple[Position, list[str]]:
    """Put everything back from the newest whole state; the inverse of `save_state`.

    Returns the position, and what was wrong with newer states, in words.
    Raises UserError if no state is whole, or the data or settings are not those it was made of.
    """
    wrong: list[str] = []
    for path in (path for path in paths if path.exists()):
        try:
            metadata, tensors = _read(path)
        except UserError as error:
            wrong.append(str(error))
            continue
        _check_identity(metadata.get("identity", {}), identity)
        return _put_back(path, metadata, tensors, trained), wrong
    raise UserError(" ".join(wrong) or f"There is no state {paths[0]} to go on from.")


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    metadata, tensors = load_tensors(path)
    if metadata["kind"] != TRAINING_STATE:
        raise UserError(f"{path} is not the state of a training.")
    if metadata.get("digest") != _digest(tensors):
        raise UserError(f"{path} is damaged: its content is not what was written.")
    return metadata, tensors


def _check_identity(saved: dict[str, Any], identity: dict[str, Any]) -> None:
    changed = [name for name, value in identity.items() if saved.get(name) != value]
    if changed:
        raise UserError(
            f"This run cannot go on: its {' and '.join(changed)} changed since it was stopped. Put "
            "back what it was trained on, or start another run."
        )


def _put_back(
    path: Path, metadata: dict[str, Any], tensors: Mapping[str, Tensor], trained: Trained
) -> Position:
    try:
        trained.load(tensors)
        randomness.restore(_below(f"random.{rank()}.", tensors))
        # Another number of threads sums in another order: the bits would differ.
        torch.set_num_threads(metadata["threads"])
        return Position(**metadata["position"])
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        first = " ".join(str(error).split())[:200]
        raise UserError(f"{path} does not belong to this run: {first}") from error


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and bytes."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
