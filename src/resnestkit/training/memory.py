"""How much memory a training step needs, told without taking any.

One forward and backward pass runs on fake tensors: they have shapes, types and lifetimes, and no
memory. Every storage that torch would have made is counted from its making to its end, so autocast,
in-place operations, what autograd keeps and what it lets go are all as they will be. To the peak of
that come what lies there throughout: weights, momentum, moving average.

On a CPU the C library's allocator comes on top. It keeps freed blocks below 32 MiB and does not
always find a use for them; larger ones go back to the system at once. `CPU_SLACK` is what that was
measured to cost (tests/training/test_memory.py repeats it). On a GPU the estimate is to be
compared with ``torch.cuda.max_memory_allocated``, which counts tensors and no cache; the workspace
of cuDNN, which it does count, is left to `CUDA_WORKSPACE`.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from resnestkit.compute import Compute

CPU_SLACK = 1.62
"""Memory taken per byte in blocks below 32 MiB that come and go; glibc 2.36, 1.5 to 1.8 seen."""

CUDA_WORKSPACE = 2**26
"""A guess: it was never measured."""

_MAPPED = 32 * 2**20

Loss = Callable[[Any], Tensor]
"""A number to learn from, of what a model gave."""


@dataclass(frozen=True, slots=True)
class StepMemory:
    """Bytes of one training step, by what they hold."""

    weights: int
    """Parameters and statistics."""
    momentum: int
    average: int
    """The moving average of the weights, if there is one."""
    working: int
    """Activations, gradients and what passes, when they are most."""
    slack: int
    """What the allocator or the convolutions take on top."""

    @property
    def total(self) -> int:
        """Everything."""
        return self.weights + self.momentum + self.average + self.working + self.slack


class _Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types here
    """Counts the bytes of all storages alive but those known, small and large blocks apart."""

    def __init__(self, known: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self._known = known
        self._alive: dict[int, int] = {}
        self._small = self._large = 0
        self.peak: tuple[int, int] = (0, 0)
        """Bytes in small and in large blocks, when they were most together."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage())
        return made

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._alive or key in self._known:
            return
        self._alive[key] = storage.nbytes()
        self._count(storage.nbytes())
        weakref.finalize(storage, self._drop, key)
        if self._small + self._large > sum(self.peak):
            self.peak = (self._small, self._large)

    def _drop(self, key: int) -> None:
        self._count(-self._alive.pop(key))

    def _count(self, size: int) -> None:
        if abs(size) < _MAPPED:
            self._small += size
        else:
            self._large += size


def estimate_step(
    model: nn.Module,
    compute: Compute,
    images: tuple[int, int, int, int],
    *,
    momentum: bool = True,
    average: bool = False,
    accumulate: bool = False,
    loss: Loss | None = None,
) -> StepMemory:
    """The memory of training steps.

    Args:
        model: on the meta device, in training mode, frozen where it will be.
        compute: where and in what the step runs.
        images: shape of a batch, (b, c, s, s).
        momentum: the optimiser keeps one.
        average: a moving average is kept.
        accumulate: gradients lie there while the next forward pass runs.
        loss: of what the model gives; None is a classifier's.
    """
    model.to(memory_format=compute.layout)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    sizes = {name: tensor.nbytes for name, tensor in model.state_dict().items()}
    weights, gradients = sum(sizes.values()), sum(sizes[name] for name in trained)
    small, large = _measure(model, compute, images, trained, loss or _classify)
    held = gradients if accumulate else 0
    on_cpu = compute.device.type == "cpu"
    slack = round((CPU_SLACK - 1) * small) if on_cpu else CUDA_WORKSPACE
    return StepMemory(
        weights=weights,
        momentum=gradients if momentum else 0,
        average=weights if average else 0,
        working=small + large + held,
        slack=slack,
    )


def _classify(logits: Tensor) -> Tensor:
    labels = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
    return F.cross_entropy(logits.float(), labels)


def _measure(
    model: nn.Module,
    compute: Compute,
    images: tuple[int, int, int, int],
    trained: set[str],
    loss: Loss,
) -> tuple[int, int]:
    """Bytes in small and large blocks at the peak of one forward and backward pass."""
    # Bare shapes: a meta tensor must not meet fake ones.
    shapes = {n: (t.shape, t.stride(), t.dtype) for n, t in model.state_dict().items()}
    with torch.random.fork_rng(devices=[]), FakeTensorMode():
        state = {
            name: torch.empty_strided(
                shape, stride, dtype=dtype, device=compute.device, requires_grad=name in trained
            )
            for name, (shape, stride, dtype) in shapes.items()
        }
        meter = _Meter({tensor.untyped_storage()._cdata for tensor in state.values()})
        with meter:
            _step(model, state, compute, images, loss)
    return meter.peak


def _step(
    model: nn.Module,
    state: Mapping[str, Tensor],
    compute: Compute,
    images: tuple[int, int, int, int],
    loss: Loss,
) -> None:
    raw = torch.empty(images, dtype=torch.uint8, device=compute.device)
    pixels = raw.to(memory_format=compute.layout).float()
    with compute.autocast():
        outputs = torch.func.functional_call(model, dict(state), (pixels,))
    torch.autograd.backward(loss(outputs))


def free_memory(device: torch.device) -> int | None:
    """Bytes that a program could still take on this device; None where nobody says."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:  # noqa: PTH123  (not a user's file)
            known = dict(line.split(":", 1) for line in lines)
        return int(known["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return _physical_memory()


def _physical_memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
