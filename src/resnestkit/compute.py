"""Where and in what arithmetic to compute."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import nn

from resnestkit.errors import UserError
from resnestkit.ranks import local_rank, ranks

ModelT = TypeVar("ModelT", bound=nn.Module)


@dataclass(frozen=True, slots=True)
class Compute:
    """Device, precision of the forward pass, and memory layout."""

    device: torch.device
    bfloat16: bool
    layout: torch.memory_format

    def place(self, model: ModelT) -> ModelT:
        """The model on the device, its weights in the chosen layout."""
        model.to(self.device)
        model.to(memory_format=self.layout)
        return model

    def autocast(self) -> torch.autocast:
        """A context in which convolutions run in the chosen precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16)

    def __str__(self) -> str:
        precision = "bfloat16" if self.bfloat16 else "float32"
        layout = "channels_last" if self.layout == torch.channels_last else "contiguous"
        threads = f", {torch.get_num_threads()} threads" if self.device.type == "cpu" else ""
        return f"{self.device}{threads}, {precision}, {layout}"


def choose_compute(
    device: str = "auto",
    precision: Literal["auto", "float32", "bfloat16"] = "auto",
    *,
    channels_last: bool = True,
) -> Compute:
    """Resolve "auto": a GPU if there is one, bfloat16 if the processor multiplies in it.

    Raises UserError if the device does not exist.
    """
    chosen = choose_device(device)
    bfloat16 = has_fast_bfloat16(chosen) if precision == "auto" else precision == "bfloat16"
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return Compute(chosen, bfloat16, layout)


def choose_device(device: str = "auto") -> torch.device:
    """A device by name; "auto" is a GPU if there is one. Raises UserError if it does not exist."""
    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if name == "cuda" and ranks() > 1:
        name = f"cuda:{local_rank()}"
    try:
        chosen = torch.device(name)
        torch.empty(1, device=chosen).item()
    except (RuntimeError, AssertionError) as error:
        first = str(error).split("\n", maxsplit=1)[0]
        raise UserError(f"--device {device} cannot be used here: {first}") from error
    return chosen


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 products run in hardware; emulated, they are slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Older releases of torch cannot tell: float32 is then the safe answer.
    ask = getattr(torch.cpu, "get_capabilities", dict)
    capabilities: Mapping[str, object] = ask()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


@contextmanager
def explain_memory(advice: str) -> Iterator[None]:
    """Turn running out of memory, on a GPU or a CPU, into one sentence with advice."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise UserError(f"Out of memory. {advice}") from error
    except RuntimeError as error:
        # The CPU's allocator has no exception of its own.
        if "can't allocate memory" not in str(error):
            raise
        raise UserError(f"Out of memory. {advice}") from error
