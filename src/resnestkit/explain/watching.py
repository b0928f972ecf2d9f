"""Looking at the attention while a net runs, by hooks: the net itself does as it always does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from resnestkit.explain.sites import Attention, Grid, Kind, Site

Energy = Float[Tensor, "b groups splits h w"]


@dataclass(slots=True)
class Watched:
    """What the attention did in the last run, by block."""

    grids: dict[str, Grid] = field(default_factory=dict)
    energies: dict[str, Energy] = field(default_factory=dict)
    """What each split looks at: its features, each times its weight, as the mean magnitude over the
    channels. Of a gate, what it lets through."""
    kinds: dict[str, Kind] = field(default_factory=dict)

    def attention(self, block: str) -> Attention:
        """The weights of a block."""
        grid = self.grids[block].float().cpu().numpy()
        return Attention(block, self.kinds[block], grid)


@contextmanager
def watch(sites: Sequence[Site], *, energies: bool = False) -> Iterator[Watched]:
    """See the attention of what runs inside, and with ``energies`` also what it is paid to.

    Energies need maps of the size of the features: they are for few images at a time, and for
    evaluation mode, since a training may compute splits that nobody sees. Within
    `resnestkit.explain.force`, what was forced is seen.
    """
    seen = Watched(kinds={site.block: site.kind for site in sites})
    with ExitStack() as stack:
        for site in sites:
            maps: list[Tensor] = []
            for hook in _hooks(site, seen, maps, energies=energies):
                stack.callback(hook.remove)
        yield seen


def _hooks(
    site: Site, seen: Watched, maps: list[Tensor], *, energies: bool
) -> Iterator[RemovableHandle]:
    yield site.gate.register_forward_hook(partial(_see_gate, site, seen, maps))
    if not energies:
        return
    if site.kind == "se":
        yield site.module.register_forward_hook(partial(_see_gated, site, seen))
    parts = {"split": ["bn0"], "sk": [f"paths.{path}" for path in range(site.splits)], "se": []}
    for name in parts[site.kind]:
        yield site.module.get_submodule(name).register_forward_hook(partial(_keep, maps))


def _keep(maps: list[Tensor], _module: nn.Module, _inputs: Any, out: Tensor) -> None:
    maps.append(out)


def _see_gate(
    site: Site, seen: Watched, maps: list[Tensor], _module: nn.Module, _inputs: Any, out: Tensor
) -> None:
    """The weights; and, if maps of the splits were kept, what the weights make of them."""
    grid = site.read(out.detach())
    seen.grids[site.block] = grid
    if maps:
        # Of split attention one map of all splits, before its ReLU; of SK, one for each path.
        features = torch.cat([one.detach() for one in maps], 1).relu()
        order = (site.splits, site.groups)
        by_split = features.view(len(features), *order, -1, *features.shape[2:]).transpose(1, 2)
        weighed = torch.einsum("bgschw,bgsc->bgshw", by_split, grid.to(by_split.dtype))
        seen.energies[site.block] = weighed / grid.shape[3]
        maps.clear()


def _see_gated(site: Site, seen: Watched, _module: nn.Module, _inputs: Any, out: Tensor) -> None:
    seen.energies[site.block] = out.detach().abs().mean(1)[:, None, None]
