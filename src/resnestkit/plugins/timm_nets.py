"""Two faces over a net: what timm expects of a classifier, and of one built for features only.

A face is a subclass made of the net's own class, so that modules and parameter names stay as they
are. timm's ``forward_features`` gives the last map, and not the contract's dictionary of stages:
a net with a face is for timm and what is built on it, and is no longer for our tasks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any, ClassVar, cast

from jaxtyping import Float
from timm.models import FeatureInfo
from torch import Tensor, nn
from torch.nn import functional as F

from resnestkit.errors import UserError
from resnestkit.models.backbone import Backbone

Indices = int | Sequence[int]
"""Levels to take: the last so many, or these, counted from 0 (the stem) or from -1 (the last)."""


class TimmNet(Backbone):
    """What both faces share."""

    pretrained_cfg: dict[str, Any]
    """Where weights come from and how images are prepared for them, in timm's words."""
    default_cfg: dict[str, Any]
    """The same under timm's older name."""
    face_of: ClassVar[type[Backbone]]

    @property
    def in_chans(self) -> int:
        """Channels of the image."""
        return self.in_channels

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:  # noqa: ARG002  (timm's)
        """Patterns that group parameters by level, for learning rates that decay by depth."""
        stem, *stages = (
            rf"^(?:{'|'.join(map(re.escape, level.parts))})\." for level in self.levels
        )
        return {"stem": stem, "blocks": [(name, (depth,)) for depth, name in enumerate(stages)]}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Raises UserError if it is to be enabled: these nets cannot recompute."""
        if enable:
            raise UserError("The nets of resnestkit do not support gradient checkpointing.")

    def forward_intermediates(
        self,
        x: Float[Tensor, "b i h w"],
        indices: Indices | None = None,
        norm: bool = False,  # noqa: ARG002  (timm's interface; there is no final norm)
        stop_early: bool = False,  # noqa: ARG002  (levels come together)
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Maps of the levels that ``indices`` take, after the last map unless they alone are asked.

        Raises UserError for a level that there is not, or another format than NCHW.
        """
        if output_fmt != "NCHW":
            raise UserError(f"Features come as NCHW, not as {output_fmt}.")
        maps = list(self.forward_levels(x).values())
        taken = [maps[index] for index in take_levels(self, indices)]
        return taken if intermediates_only else (maps[-1], taken)

    def __reduce__(self) -> tuple[Any, ...]:
        # The class of a face is made at run time, where pickle cannot find it by name.
        return _blank, (type(self).__mro__[1], self.face_of), self.__dict__


class TimmClassifier(TimmNet):
    """A net as timm's classifiers are."""

    drop_rate: float
    global_pool: str
    """"avg", or "" for the maps as they are, which goes without a classifier only."""

    @property
    def num_classes(self) -> int:
        """Number of logits; 0 without a classifier."""
        return self.classes

    @property
    def num_features(self) -> int:
        """Channels of the last stage."""
        return self.stages[-1].channels

    @property
    def head_hidden_size(self) -> int:
        """Channels that the classifier reads."""
        return self.num_features

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """Channels, stride and last module of every level, as timm words it."""
        return level_info(self)

    def get_classifier(self, name_only: bool = False) -> str | nn.Module:
        """The classifier's module, or its name."""
        return self.head if name_only else self.get_submodule(self.head)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Begin a new classifier, or none for 0 classes.

        Raises UserError if the pooling is neither "avg" nor "", or "" with a classifier.
        """
        pool = self.global_pool if global_pool is None else global_pool
        check_pool(pool, num_classes)
        self.global_pool, self.classes = pool, num_classes
        self.head_is_new = num_classes > 0
        like = next(self.parameters())
        head = (
            nn.Linear(self.num_features, num_classes, device=like.device, dtype=like.dtype)
            if num_classes
            else nn.Identity()
        )
        self.set_submodule(self.head, head.train(self.training))

    def forward_features(  # type: ignore[override]  # timm's meaning of the name
        self, x: Float[Tensor, "b i h w"]
    ) -> Float[Tensor, "b c h2 w2"]:
        """The last stage's map."""
        *_, last = self.forward_levels(x).values()
        return last

    def forward_head(
        self, x: Float[Tensor, "b c h w"], pre_logits: bool = False
    ) -> Float[Tensor, "b ..."]:
        """Logits of the last stage's map, or what the classifier reads."""
        if self.global_pool:
            x = x.mean((2, 3))
        x = F.dropout(x, self.drop_rate, self.training)
        return x if pre_logits else cast(Tensor, self.get_submodule(self.head)(x))

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b ..."]:
        """Logits."""
        return self.forward_head(self.forward_features(x))


class TimmFeatures(TimmNet):
    """A net as timm's ``features_only`` gives it: called, it gives a list of maps."""

    feature_info: FeatureInfo
    out_indices: list[int]

    def forward(self, x: Float[Tensor, "b i h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        """Maps of the chosen levels."""
        maps = list(self.forward_levels(x).values())
        return [maps[index] for index in self.out_indices]


@cache
def _join(face: type[TimmNet], base: type[Backbone]) -> type[TimmNet]:
    name = f"{face.__name__}Of{base.__name__}"
    return cast(type[TimmNet], type(name, (face, base), {"face_of": base}))


def _blank(face: type[TimmNet], base: type[Backbone]) -> TimmNet:
    joined = _join(face, base)
    return joined.__new__(joined)


def to_classifier(net: Backbone, drop_rate: float, global_pool: str) -> TimmClassifier:
    """The same net, from now on with a classifier's face."""
    net.__class__ = _join(TimmClassifier, type(net))
    faced = cast(TimmClassifier, net)
    faced.drop_rate, faced.global_pool = drop_rate, global_pool
    return faced


def to_features(net: Backbone, out_indices: Indices | None) -> TimmFeatures:
    """The same net, built without a classifier, for the maps of some levels.

    What comes after the last of them is dropped. Raises UserError for a level that there is not.
    """
    taken = take_levels(net, out_indices)
    for level in net.levels[max(taken) + 1 :]:
        for part in level.parts:
            net.set_submodule(part, nn.Sequential())  # passes its input on, and has no parameters
    net.__class__ = _join(TimmFeatures, type(net))
    faced = cast(TimmFeatures, net)
    faced.out_indices = taken
    faced.feature_info = FeatureInfo(level_info(net), tuple(taken))
    return faced


def level_info(net: Backbone) -> list[dict[str, Any]]:
    """Channels, stride and last module of every level, as timm words it."""
    return [
        {"num_chs": level.channels, "reduction": level.stride, "module": level.parts[-1]}
        for level in net.levels
    ]


def take_levels(net: Backbone, indices: Indices | None) -> list[int]:
    """Positions of levels, counted from 0; all for None.

    Raises UserError for a level that there is not.
    """
    last = len(net.levels) - 1
    if indices is None:
        return list(range(last + 1))
    wanted = range(-indices, 0) if isinstance(indices, int) else indices
    taken = [index if index >= 0 else last + 1 + index for index in wanted]
    if not taken or min(taken) < 0 or max(taken) > last:
        raise UserError(f"out_indices is {indices}; there are levels 0 (the stem) to {last}.")
    return taken


def check_pool(pool: str, classes: int) -> None:
    """Raises UserError if a net cannot pool so."""
    if pool not in {"avg", ""}:
        raise UserError(f"global_pool is {pool!r}; it must be 'avg', or '' for maps.")
    if not pool and classes:
        raise UserError("global_pool='' goes with num_classes=0 only: a classifier reads a mean.")
