"""The backbone contract: what a head may know of a net, whatever the net."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Stage:
    """One level of features: its name, its channels, and image pixels per feature pixel."""

    name: str
    channels: int
    stride: int


class Backbone(nn.Module, ABC):
    """A net that gives features by named stage, and logits if it has a classifier.

    Detection and segmentation use `stages` and `forward_features` and nothing else.
    """

    stages: tuple[Stage, ...]
    """From the finest to the coarsest, without the stem."""
    in_channels: int
    output_stride: int
    """Image pixels per pixel of the last stage."""

    @abstractmethod
    def forward_features(self, x: Float[Tensor, "b i h w"]) -> dict[str, Float[Tensor, "b _ _ _"]]:
        """Features of every stage, keyed by `Stage.name`, in the order of `stages`."""

    @abstractmethod
    def freeze(self, stages: int) -> None:
        """Freeze the stem and the first so many stages: no gradients, and statistics held."""

    @property
    def stage_names(self) -> list[str]:
        """Names of the stages, in order."""
        return [stage.name for stage in self.stages]
