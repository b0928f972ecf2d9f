"""One process among several: who it is, and what they tell each other.

`torchrun` starts the processes and says in the environment who each is. Without it there is one
process, and everything here is the identity. Tensors travel by NCCL between GPUs, all else by gloo.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from resnestkit.errors import UserError

ValueT = TypeVar("ValueT")

_LOST = ("Connection closed", "Connection reset", "Broken pipe", "NCCL communicator")
"""What gloo and NCCL say when another process is gone."""


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if _joined() else 0


def ranks() -> int:
    """Number of processes."""
    return dist.get_world_size() if _joined() else 1


def is_first() -> bool:
    """Whether this is the process that writes and speaks."""
    return rank() == 0


def local_rank() -> int:
    """This process's number on its machine, which is also its GPU's."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def restarts() -> int:
    """How often torchrun has started this run again after a process died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


@contextmanager
def joined() -> Iterator[None]:
    """Join the other processes, if torchrun started several, and leave them at the end."""
    if _joined() or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    store, number, count = next(rendezvous("env://"))
    # A process that is started again must not find the addresses of those that died.
    life = PrefixStore(f"life-{restarts()}", store)
    dist.init_process_group(backend, store=life, rank=number, world_size=count)
    try:
        yield
    except RuntimeError as error:
        if any(words in str(error) for words in _LOST):
            raise UserError(
                "Another process of this run has ended; its own message says why."
            ) from error
        raise
    finally:
        dist.destroy_process_group()


def gather(value: ValueT) -> list[ValueT]:
    """Everyone's value, in the order of the ranks, on every process."""
    if ranks() == 1:
        return [value]
    values: list[Any] = [None] * ranks()
    dist.all_gather_object(values, value)
    return values


def share(value: ValueT) -> ValueT:
    """The first process's value, on every process."""
    if ranks() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]


def any_of(flags: Sequence[bool]) -> list[bool]:
    """For each flag, whether it is raised on any process; one short message for all."""
    if ranks() == 1:
        return list(flags)
    raised = torch.tensor(flags, dtype=torch.uint8)
    dist.all_reduce(raised, dist.ReduceOp.MAX)
    return [bool(flag) for flag in raised]


def share_tensors(tensors: Sequence[Tensor]) -> None:
    """Overwrite tensors by the first process's."""
    if ranks() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def wait() -> None:
    """Wait until every process is here."""
    if ranks() > 1:
        any_of([False])


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """The sum of everyone's tensor, through which gradients flow."""
    if ranks() == 1:
        return tensor
    summed: Tensor = _Sum.apply(tensor)
    return summed


class _Sum(torch.autograd.Function):
    """All-reduce; everyone's loss depends on everyone's tensor, so gradients are summed too."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:  # noqa: ARG004  (torch's interface)
        summed = tensor.contiguous().clone()
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004  (torch's interface)
        summed = gradient.contiguous().clone()
        dist.all_reduce(summed)
        return summed


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized()
