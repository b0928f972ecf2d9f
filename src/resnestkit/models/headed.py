"""What every model with a classifier shares: whether it was trained, and what to say if not."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from resnestkit.errors import UserError

_ONE_VALUE = "more than 1 value per channel"
"""What torch says where a batch norm has one number to normalise."""


class Headed(nn.Module):
    """A model with a classifier, which may be as it was drawn."""

    head_is_new: bool
    """Whether the classifier is as it was drawn, at random: its answers mean nothing.

    Loading a state that holds the classifier clears this. Whether that state's classifier was ever
    trained only a checkpoint of ours can tell, by its card: the ``state_dict`` of a model that is
    itself untrained clears it too. Who trains one in a loop of their own clears it by hand.
    """

    @property
    @abstractmethod
    def classifier_name(self) -> str:
        """Name of the module that tells the class."""

    def require_head(self, name: str = "The model") -> None:
        """Raise UserError unless the classifier was loaded or trained."""
        if self.head_is_new:
            raise UserError(
                f"{name} has a classifier that was never trained, so its answers would be random. "
                "Train it first (resnestkit train --weights); after a training loop of your own, "
                "set model.head_is_new = False before you save it."
            )

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        """As usual; a classifier that is among the weights, under our prefix, is not new any more.

        torch calls this wherever the model sits: by itself, or inside another module.
        """
        loaded = state_dict.get(f"{prefix}{self.classifier_name}.weight")
        own = getattr(self.get_submodule(self.classifier_name), "weight", None)
        if isinstance(loaded, Tensor) and isinstance(own, Tensor) and loaded.shape == own.shape:
            self.head_is_new = False
        super()._load_from_state_dict(state_dict, prefix, *rest)


@contextmanager
def explain_small_batch(images: int, model: str) -> Iterator[None]:
    """Turn torch's refusal to normalise a single value into a UserError that says what helps."""
    try:
        yield
    except ValueError as error:
        if _ONE_VALUE not in str(error):
            raise
        raise UserError(
            f"A batch of {images} image{'s'[: images != 1]} leaves a norm of this {model} one "
            "value per channel: train on more images at a time, or take norm 'group', or 'frozen' "
            "with weights, or 'sync' on several processes."
        ) from error
