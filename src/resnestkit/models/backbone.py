"""The backbone contract: what a head may know of a net, whatever the net."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from resnestkit.errors import UserError
from resnestkit.models.headed import Headed
from resnestkit.models.spec import NormPolicy, Spec
from resnestkit.preprocessing import Preprocessing


@dataclass(frozen=True, slots=True)
class Stage:
    """One level of features: name, channels, and how many image pixels a feature pixel spans."""

    name: str
    channels: int
    stride: int
    parts: tuple[str, ...]
    """Names of the modules that belong to it, and to no level before."""


class Backbone(Headed, ABC):
    """A net that gives features by named stage, and logits if it has a classifier.

    Detection and segmentation use `levels`, `stages`, `forward_levels` and `forward_features`, the
    numbers `in_channels`, `output_stride` and `least_side`, and nothing else.
    """

    spec: Spec
    stem_level: Stage
    """What the stem puts out before it pools: finer than every stage, for decoders that want it."""
    stages: tuple[Stage, ...]
    """From the finest to the coarsest, without the stem."""
    in_channels: int
    classes: int
    output_stride: int
    """Image pixels per pixel of the last stage."""
    norm_policy: NormPolicy
    preprocessing: Preprocessing | None
    """How the loaded weights want their images, where that is known."""
    first_weight: str
    """Name of the parameter that meets the image, (o, in_channels, k, k)."""
    head: str
    """Name of the classifier's module."""
    least_side: int = 1
    """Sides of the smallest image that it takes, in pixels."""

    def __init__(self) -> None:
        super().__init__()
        self._frozen: list[nn.Module] = []
        self.preprocessing = None

    @abstractmethod
    def forward_levels(self, x: Float[Tensor, "b i h w"]) -> dict[str, Float[Tensor, "b _ _ _"]]:
        """Features of the stem and of every stage, keyed by `Stage.name`, in order."""

    @abstractmethod
    def forward_features(self, x: Float[Tensor, "b i h w"]) -> dict[str, Float[Tensor, "b _ _ _"]]:
        """Features of every stage, keyed by `Stage.name`, in the order of `stages`."""

    def require_head(self, name: str = "The model") -> None:
        """Raise UserError unless there is a classifier that was loaded or trained."""
        if not self.classes:
            raise UserError(f"{name} has no classifier: it gives features alone.")
        super().require_head(name)

    @property
    def classifier_name(self) -> str:
        """Name of the classifier's module."""
        return self.head

    @property
    def levels(self) -> tuple[Stage, ...]:
        """The stem's level, then the stages."""
        return (self.stem_level, *self.stages)

    @property
    def stage_names(self) -> list[str]:
        """Names of the stages, in order."""
        return [stage.name for stage in self.stages]

    def freeze(self, stages: int) -> None:
        """Freeze the stem and the first so many stages: no gradients, and statistics held.

        What an earlier call froze beyond that is thawed.
        Raises ValueError if there are not so many stages.
        """
        if not 0 <= stages <= len(self.stages):
            raise ValueError(f"cannot freeze {stages} of {len(self.stages)} stages")
        names = [name for level in self.levels[: stages + 1] for name in level.parts]
        for part in self._frozen:
            part.requires_grad_(True)
        self._frozen = [self.get_submodule(name) for name in names]
        for part in self._frozen:
            part.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Backbone:
        """As usual, but what is frozen stays in evaluation mode."""
        super().train(mode)
        for part in self._frozen:
            part.eval()
        return self
