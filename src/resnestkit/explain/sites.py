"""Where a net attends: every split attention, SE gate and SK choice, named by its block.

All three are read in one form, a *grid* of weights (image, group, split, channel): split attention
has K groups (its heads, the paper's cardinal groups) and R splits, SK one group and a split per
path, and a gate (SE, or split attention of radix 1) one split, which is weighed against nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float32
from numpy.typing import NDArray
from torch import Tensor, nn

from resnestkit.errors import UserError, nearest
from resnestkit.models.attention import (
    SelectiveKernel,
    SplitAttention,
    SqueezeExcite,
)
from resnestkit.models.backbone import Backbone
from resnestkit.models.layers import is_norm

Kind = Literal["split", "se", "sk"]
Grid = Float[Tensor, "b groups splits channels"]

Branch = Literal["split", "path", "gate"]
"""What one of the weighed branches is called: a gate is alone, and weighed against nothing."""


def name_branch(kind: Kind, splits: int) -> Branch:
    """Split attention of radix 1 is one gate for each channel, as SE is (a sigmoid)."""
    if splits == 1:
        return "gate"
    return "path" if kind == "sk" else "split"


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """One attention of a net."""

    block: str
    """The block's name, such as "layer3.2"; of several attentions in one, their modules' own."""
    unit: str
    """The block itself, one of `body_units`."""
    depth: int
    """0 for the first block with attention, in the order in which they run."""
    kind: Kind
    module: nn.Module
    gate: nn.Module
    """Whose output tells the weights: their logits, or the weights themselves (SK)."""
    groups: int
    splits: int

    def read(self, output: Tensor) -> Grid:
        """The weights, as a grid, out of what the gate put out."""
        if self.kind == "sk":
            return output.flatten(2).unsqueeze(1)
        logits = output.view(len(output), self.groups, self.splits, -1)
        return torch.sigmoid(logits) if self.splits == 1 else torch.softmax(logits, 2)

    def write(self, grid: Grid, output: Tensor) -> Tensor:
        """What the gate would have put out for these weights: the inverse of `read`."""
        if self.kind == "sk":
            return grid.squeeze(1).reshape(len(grid), *output.shape[1:]).to(output)
        logits = torch.logit(grid) if self.splits == 1 else torch.log(grid)
        return logits.reshape(len(grid), *output.shape[1:]).to(output)


@dataclass(frozen=True, eq=False)
class Attention:
    """The weights of one block on one or more images."""

    block: str
    kind: Kind
    grid: Float32[NDArray[np.float32], "b groups splits channels"]

    @property
    def weights(self) -> Float32[NDArray[np.float32], b * form]:
        """As the papers write them.

        Split attention: (image, cardinality, radix, channels of a group), over the radix summing to
        1 (Zhang et al. 2020, equation 3). SK: (image, path, channel), over the paths summing to 1
        (Li et al. 2019, equation 5). SE: (image, channel), each from 0 to 1 (Hu et al. 2017,
        equation 3).
        """
        if self.kind == "split":
            return self.grid
        return self.grid[:, 0] if self.kind == "sk" else self.grid[:, 0, 0]

    @property
    def branch(self) -> Branch:
        """What its splits are called."""
        return name_branch(self.kind, self.grid.shape[2])

    @cached_property
    def shares(self) -> Float32[NDArray[np.float32], "b groups shares channels"]:
        """Weights that sum to 1: the grid, or of a gate what it lets through and what it stops."""
        return as_shares(self.grid)

    @property
    def entropy(self) -> float:
        """How far from a choice: 1 where all splits weigh the same, 0 where one takes all."""
        return float(entropy(self.grid).mean())


def as_shares(grid: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weights that sum to 1 over the splits; a gate of one split becomes (open, closed)."""
    if grid.shape[2] > 1:
        return grid
    both: NDArray[np.float32] = np.concatenate([grid, 1 - grid], 2)
    return both


def entropy(
    grid: Float32[NDArray[np.float32], "b g s c"],
) -> Float32[NDArray[np.float32], "b g c"]:
    """Entropy over the splits (or of open and closed), as a share of that of uniform weights."""
    shares = as_shares(grid)
    logs = np.log(np.maximum(shares, np.finfo(np.float32).tiny))
    mixed: NDArray[np.float32] = -(shares * logs).sum(2) / math.log(shares.shape[2])
    return mixed.clip(0, 1)


def body_units(body: Backbone) -> dict[str, nn.Module]:
    """The parts that a net runs one after the other: its stem's layers, its blocks, its head.

    Norms are left out: the ReLU after them works in place, on what they put out.
    """
    stem = {body.get_submodule(name) for name in body.stem_level.parts}
    units: dict[str, nn.Module] = {}
    for name, part in body.named_children():
        if isinstance(part, nn.Sequential) and part not in stem:
            units |= {f"{name}.{child}": block for child, block in part.named_children()}
        elif not is_norm(part):
            units[name] = part
    return units


def find_sites(body: Backbone) -> list[Site]:
    """Every attention of a net, in the order in which they run; none of a plain one."""
    found = [
        (block, name, part)
        for block, unit in body_units(body).items()
        for name, part in unit.named_modules()
        if isinstance(part, SplitAttention | SqueezeExcite | SelectiveKernel)
    ]
    often = Counter(block for block, _, _ in found)
    return [
        _make_site(block if often[block] == 1 else f"{block}.{name}", block, depth, part)
        for depth, (block, name, part) in enumerate(found)
    ]


def choose_sites(sites: list[Site], block: str | None) -> list[Site]:
    """All of them, or the one of a block. Raises UserError if there is no such block."""
    if block is None:
        return sites
    chosen = [site for site in sites if site.block == block]
    if not chosen:
        names = [site.block for site in sites]
        known = f"{names[0]} to {names[-1]}" if names else "none: this net has no attention"
        raise UserError(
            f"There is no block with attention called {block!r}.{nearest(block, names)} "
            f"There are {known}."
        )
    return chosen


def _make_site(block: str, unit: str, depth: int, part: nn.Module) -> Site:
    if isinstance(part, SplitAttention):
        form = (part.cardinality, part.radix)
        return Site(block, unit, depth, "split", part, part.fc2, *form)
    if isinstance(part, SqueezeExcite):
        return Site(block, unit, depth, "se", part, part.fc2, 1, 1)
    assert isinstance(part, SelectiveKernel)
    return Site(block, unit, depth, "sk", part, part.attn, 1, part.attn.paths)
