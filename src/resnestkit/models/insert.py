"""Attention in somebody else's net: SE after a layer, SK or split attention for a convolution.

The sources are those of `resnestkit.models.attention`: Hu et al. 2017, Li et al. 2019 and
Zhang et al. 2020.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from resnestkit.errors import UserError, nearest
from resnestkit.models.attention import SelectiveKernel, SplitAttention, SqueezeExcite
from resnestkit.models.cost import Cost, count_cost
from resnestkit.models.layers import norm_factory
from resnestkit.models.spec import NORM_POLICIES, NormPolicy, SelectiveKernelSpec

Kind = Literal["se", "sk", "split"]

_REDUCTION: dict[Kind, int] = {"se": 16, "sk": 16, "split": 4}


@dataclass(frozen=True, slots=True)
class Insertion:
    """What was put where, and the net's cost before and after; ``print`` shows it."""

    kind: Kind
    places: tuple[str, ...]
    before: Cost
    after: Cost

    def __str__(self) -> str:
        names = self.places if len(self.places) < 4 else (*self.places[:2], "...", self.places[-1])
        lines = [f"{self.kind:<15}at {', '.join(names)} ({len(self.places)} in all)"]
        for title, was, now in (
            ("parameters", self.before.params, self.after.params),
            ("multiply-adds", self.before.macs, self.after.macs),
        ):
            change = now / max(was, 1) - 1
            lines.append(f"{title:<15}{was / 1e6:.2f} M -> {now / 1e6:.2f} M ({change:+.1%})")
        return "\n".join(lines)


class LayerWithAttention(nn.Module):
    """A host's ``layer``, whose output goes through ``attention``."""

    def __init__(self, layer: nn.Module, attention: nn.Module) -> None:
        super().__init__()
        self.layer, self.attention = layer, attention

    def forward(self, *inputs: Any, **options: Any) -> Float[Tensor, "b c h w"]:
        """Whatever the layer takes; a map of the shape that the layer puts out."""
        attended: Tensor = self.attention(self.layer(*inputs, **options))
        return attended


def insert_attention(
    model: nn.Module,
    kind: Kind,
    where: str | Sequence[str],
    *,
    reduction: int | None = None,
    radix: int = 2,
    norm: NormPolicy = "batch",
    size: int = 224,
) -> Insertion:
    """Put attention into a model, in place, and say what it costs on one size x size image.

    ``"se"`` stands after any module that puts out a map (b, c, h, w); the module is then found as
    ``<place>.layer``. ``"sk"`` and ``"split"`` replace a convolution and keep its channels, groups
    and geometry, so maps keep their shape; as in the papers they end in norm and ReLU of their own.

    ``where`` is shell patterns of dotted names, one part for one: ``layer*.*.bn2`` matches
    ``layer1.0.bn2``, but no longer name. ``reduction`` is 16 for SE and SK and 4 for split
    attention. New parts take device, type and mode from their place. Load weights first, since
    names change, and make the optimizer after. Under norm "batch", SK and split attention train
    on two or more images at a time, as their gates normalise over the batch alone.

    Raises UserError, and leaves the model as it was, where a setting is none, a pattern matches
    nothing, a place does not take this attention, or the model does not run on such an image.
    """
    part = _Part(kind, _REDUCTION.get(kind, 1) if reduction is None else reduction, radix, norm)
    places = _find(model, where)
    # Everything is first done to a copy without data: it finds channels, costs and faults.
    with _explained(f"the model does not run on an image of {size}x{size}; give another size"):
        trial = deepcopy(model).to("meta", torch.float32).eval()
        image = torch.empty(1, _image_channels(trial, size), size, size, device="meta")
        before = count_cost(trial, image.shape[1], size)
        channels = _channels_put_out(trial, places, image) if kind == "se" else {}
    with _explained(f"the model does not run with {kind} at {', '.join(places)}"):
        _put(trial, part, places, channels)
        after = count_cost(trial, image.shape[1], size)
    _put(model, part, places, channels)
    return Insertion(kind, tuple(places), before, after)


@dataclass(frozen=True, slots=True)
class _Part:
    """One choice of attention, of which every place gets its own."""

    kind: Kind
    reduction: int
    radix: int
    norm: NormPolicy

    def __post_init__(self) -> None:
        for name, value, known in (
            ("kind", self.kind, get_args(Kind)),
            ("norm", self.norm, NORM_POLICIES),
        ):
            if value not in known:
                raise UserError(f"{name} is {value!r}; it must be one of {', '.join(known)}.")
        for name, number in (("reduction", self.reduction), ("radix", self.radix)):
            if number < 1:
                raise UserError(f"{name} is {number}; it must be 1 or more.")

    def build(self, place: str, layer: nn.Module, channels: int) -> nn.Module:
        """The attention for a layer that puts out so many channels (0 where it is replaced)."""
        if self.kind == "se":
            return SqueezeExcite(channels, self.reduction)
        conv, geometry = _square(place, self.kind, layer)
        norm, ends = norm_factory(self.norm), (conv.in_channels, conv.out_channels)
        if self.kind == "sk":
            choices = SelectiveKernelSpec(reduction=self.reduction)
            return SelectiveKernel(*ends, choices, norm, groups=conv.groups, **geometry)
        options = {"radix": self.radix, "reduction": self.reduction, **geometry}
        try:
            return SplitAttention(*ends, norm, cardinality=conv.groups, **options)
        except ValueError as error:
            raise UserError(
                f"{place} has {conv.in_channels} input channels and {conv.groups} group(s); split "
                "attention needs a multiple of radix x groups = "
                f"{self.radix * conv.groups} input channels, and of the groups in the units of its "
                f"gate (reduction {self.reduction}): give another radix or reduction, or kind "
                "'sk', which takes any groups."
            ) from error


def _square(place: str, kind: Kind, layer: nn.Module) -> tuple[nn.Conv2d, dict[str, int]]:
    """A convolution and its geometry, one number for both axes, or a UserError."""
    # A subclass may pad or weigh in its own way, which would be lost without a word.
    if type(layer) is nn.Conv2d and layer.padding_mode == "zeros":
        same = layer.dilation[0] * (layer.kernel_size[0] - 1) // 2
        named = {"same": (same, same), "valid": (0, 0)}
        padding = named[layer.padding] if isinstance(layer.padding, str) else layer.padding
        pairs = (layer.kernel_size, layer.stride, layer.dilation, padding)
        kernel, stride, dilation, border = (pair[0] for pair in pairs)
        if kernel > 1 and kernel % 2 and all(pair[0] == pair[1] for pair in pairs):
            numbers = {"kernel": kernel, "stride": stride, "dilation": dilation, "padding": border}
            return layer, numbers
    shown = layer if isinstance(layer, nn.Conv2d) else f"a {type(layer).__name__}"
    raise UserError(
        f"{place} is {shown}; {kind!r} replaces a plain nn.Conv2d whose kernel is odd and larger "
        "than 1x1, which is the same in both directions and pads with zeros, so give patterns that "
        "match such alone."
    )


def _find(model: nn.Module, where: str | Sequence[str]) -> list[str]:
    """The names that match, in the model's order, each of a module with that name alone."""
    named = dict(model.named_modules(remove_duplicate=False))
    named.pop("", None)
    patterns = [where] if isinstance(where, str) else list(where)
    if not patterns:
        raise UserError("where is empty; give a pattern of module names, such as 'layer*.*.bn2'.")
    for pattern in patterns:
        if not any(_matches(name, pattern) for name in named):
            raise UserError(f"no module's name matches {pattern!r}.{nearest(pattern, named)}")
    found = [name for name in named if any(_matches(name, pattern) for pattern in patterns)]
    for name in found:
        twins = [other for other in named if other != name and named[other] is named[name]]
        if twins:
            raise UserError(
                f"{name} and {twins[0]} are one and the same module; give each its own (with "
                "copy.deepcopy) or leave them out."
            )
    return found


def _matches(name: str, pattern: str) -> bool:
    parts, wanted = name.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


@contextmanager
def _explained(problem: str) -> Iterator[None]:
    """Turn what a foreign forward may raise, which is anything, into a sentence."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{problem} ({reason}).") from error


class _ReachedError(Exception):
    """A convolution is reached: the rest of the run is of no interest."""


def _image_channels(trial: nn.Module, size: int) -> int:
    """Channels of the images, which the first convolution that runs decides."""
    reached: list[int] = []

    def stop(conv: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(conv, nn.Conv2d)
        # Three were right where a host rearranges the image before its first convolution.
        reached.append(3 if inputs[0].shape[1] == conv.in_channels else conv.in_channels)
        raise _ReachedError

    convs = [part for part in trial.modules() if isinstance(part, nn.Conv2d)]
    hooks = [conv.register_forward_pre_hook(stop) for conv in convs]
    try:
        trial(torch.empty(1, 3, size, size, device="meta"))
    except _ReachedError:
        return reached[0]
    finally:
        for hook in hooks:
            hook.remove()
    raise UserError("the model runs no nn.Conv2d, so nobody knows the channels of its images.")


def _channels_put_out(trial: nn.Module, places: list[str], image: Tensor) -> dict[str, int]:
    """Channels of the map that each place puts out, seen in one run."""
    seen: dict[str, set[int | str]] = {place: set() for place in places}
    for place, found in seen.items():
        trial.get_submodule(place).register_forward_hook(partial(_note, found))
    with torch.no_grad():
        trial(image)
    return {place: _only_width(place, found) for place, found in seen.items()}


def _note(found: set[int | str], _layer: nn.Module, _inputs: Any, out: Any) -> None:
    """Remember the channels of a map, or in words what is put out instead."""
    if not isinstance(out, Tensor):
        found.add(f"a {type(out).__name__}")
    else:
        found.add(out.shape[1] if out.ndim == 4 else f"a tensor of {out.ndim} dimensions")


def _only_width(place: str, found: set[int | str]) -> int:
    """The one number of channels; raises UserError where there is none, or are several."""
    words = sorted(f"{width} channels" if isinstance(width, int) else width for width in found)
    width = found.pop() if len(found) == 1 else None
    if isinstance(width, int):
        return width
    raise UserError(
        f"{place} puts out {' and '.join(words) or 'nothing, as it does not run in eval mode'}; SE "
        "stands after a module that puts out maps (b, c, h, w) of one number of channels, so leave "
        "it out."
    )


def _put(model: nn.Module, part: _Part, places: list[str], channels: dict[str, int]) -> None:
    """Build every part, and only then change the model."""
    made: dict[str, nn.Module] = {}
    for place in places:
        layer, home = model.get_submodule(place), _home(model, place)
        with torch.device(home.device):
            new = part.build(place, layer, channels.get(place, 0)).to(home.dtype)
        new.train(layer.training)
        if part.kind == "se":
            new = LayerWithAttention(layer, new)
            # Not train(), which would reach into the host's layer and change what is frozen there.
            new.training = layer.training
        made[place] = new
    for place in reversed(places):  # a place inside another goes first, while its name still holds
        model.set_submodule(place, made[place])


def _home(model: nn.Module, place: str) -> Tensor:
    """A parameter of the place, or else of the nearest module around it."""
    names = place.split(".")
    for count in range(len(names), -1, -1):
        around = model.get_submodule(".".join(names[:count])).parameters()
        floating = [weight for weight in around if weight.is_floating_point()]
        if floating:
            return floating[-1]
    return torch.empty(0)
