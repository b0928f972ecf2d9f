"""What if: a split's attention forced to a value, and the rest of the net as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor, nn

from resnestkit.errors import UserError
from resnestkit.explain.sites import Site, choose_sites, find_sites
from resnestkit.models.backbone import Backbone

VALUES = (0.0, 0.5, 1.0)
"""To which attention is forced: off, a half, all."""

Choice = tuple[int, ArrayLike]
"""A split, from 0, and the weight that it gets: a number, or one (groups, channels) each."""


@contextmanager
def force(body: Backbone, split: int, value: ArrayLike, block: str | None = None) -> Iterator[None]:
    """Force the weight of a split in a block, or in all of them, as long as this lasts.

    The other splits share what is left in proportion to their own weights, so that all still sum
    to 1, as after the softmax; a gate (SE, radix 1) has no others. It ends with the context, after
    an error too.

    Args:
        body: the net, or a detector's or segmenter's backbone.
        split: which split, from 0; 0 for a gate.
        value: from 0 to 1, for all channels, or an array (groups, channels).
        block: name of a block, as `find_sites` gives it; all if None.

    Raises:
        UserError: there is no such block or split, or the value is not from 0 to 1.
    """
    sites = choose_sites(find_sites(body), block)
    if not sites:
        raise UserError("This net has no attention that could be forced.")
    for site in sites:
        if not 0 <= split < site.splits:
            raise UserError(f"{site.block} has no split {split}; give 0 to {site.splits - 1}.")
    with force_rows(sites, [(split, value)]):
        yield


@contextmanager
def force_rows(sites: Sequence[Site], choices: Sequence[Choice]) -> Iterator[None]:
    """As `force`, each image of a batch by its own choice; a single choice is for all of them."""
    for _, value in choices:
        weights = torch.as_tensor(value)
        if not bool(((weights >= 0) & (weights <= 1)).all()):
            raise UserError("Attention is forced to a value from 0 to 1, and this is none.")
    with ExitStack() as stack:
        for site in sites:
            hook = site.gate.register_forward_hook(partial(_force_gate, site, choices))
            stack.callback(hook.remove)
        yield


def _force_gate(
    site: Site, choices: Sequence[Choice], _module: nn.Module, _inputs: Any, out: Tensor
) -> Tensor:
    grid = site.read(out.detach()).clone()
    each = choices if len(choices) == len(grid) else list(choices) * len(grid)
    for row, (split, value) in zip(grid, each, strict=True):
        row.copy_(_share(row, split, torch.as_tensor(value, dtype=grid.dtype, device=grid.device)))
    return site.write(grid, out)


def _share(
    row: Float[Tensor, "groups splits channels"], split: int, value: Tensor
) -> Float[Tensor, "groups splits channels"]:
    """One split's weight, and the rest among the others."""
    value = value.expand(row[:, 0].shape)
    if row.shape[1] == 1:
        return value.unsqueeze(1)
    others = row.clone()
    others[:, split] = 0
    total = others.sum(1, keepdim=True)
    even = torch.full_like(others, 1 / (row.shape[1] - 1))
    even[:, split] = 0
    shared = torch.where(total > 0, others / total, even) * (1 - value).unsqueeze(1)
    shared[:, split] = value
    return shared


class Replay:
    """Runs a net again from a block on: all before it gives what it gave when it was recorded.

    Forcing a block changes nothing before it. ``units`` are in the order in which they run.
    """

    def __init__(self, units: dict[str, nn.Module]) -> None:
        self._units = units
        self._outputs: dict[str, Tensor] = {}

    @contextmanager
    def record(self) -> Iterator[None]:
        """Keep what each unit puts out."""
        with ExitStack() as stack:
            for name, unit in self._units.items():
                hook = unit.register_forward_hook(partial(self._keep, name))
                stack.callback(hook.remove)
            yield

    @contextmanager
    def before(self, name: str, rows: int) -> Iterator[None]:
        """Let units before this one answer from memory, for so many images that are the same."""
        names = list(self._units)
        earlier = [one for one in names[: names.index(name)] if one in self._outputs]
        with ExitStack() as stack:
            for one in earlier:
                unit = self._units[one]
                # An instance's own attribute comes before its class's method, and goes without a
                # trace; a hook could change an output, but not spare its computation.
                vars(unit)["forward"] = _constant(self._outputs[one], rows)
                stack.callback(vars(unit).pop, "forward")
            stack.callback(self._units[name].register_forward_pre_hook(_lay_out).remove)
            yield

    def _keep(self, name: str, _unit: nn.Module, _inputs: Any, out: Tensor) -> None:
        self._outputs[name] = out.detach()


def _constant(output: Tensor, rows: int) -> Callable[..., Tensor]:
    whole = output.expand(rows, *output.shape[1:])
    return lambda *_inputs, **_options: whole


def _lay_out(_unit: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Images that share their memory, each on its own, as convolutions are quickest with.

    Where gradients are asked for, they begin here: what is before has none.
    """
    first, *rest = inputs
    last = first[:1].is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format
    return (first.contiguous(memory_format=layout).requires_grad_(torch.is_grad_enabled()), *rest)
