"""What a task brings to a training: all that the way from data to a report asks of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic

from torch import nn

from resnestkit.data.images import ImageSet
from resnestkit.data.loaders import Loaders
from resnestkit.models.cost import Cost
from resnestkit.tasks.base import BatchT, ResultT, Task
from resnestkit.training.recipe import BaseRecipe
from resnestkit.weights.checkpoint import ModelCard


@dataclass(frozen=True, slots=True)
class Job(Generic[BatchT, ResultT]):
    """A training, ready to begin: everything the user could mend has been looked at."""

    recipe: BaseRecipe
    """As it will run."""
    model: nn.Module
    """On its device, with the weights that it starts from."""
    task: Task[BatchT, ResultT]
    loaders: Loaders[BatchT]
    card: ModelCard
    """What the checkpoints say of themselves; metrics are filled in as they come."""
    validation: ImageSet
    split: str
    """What the validation images are called."""
    cost: Cost
    load: Callable[[Path], nn.Module]
    """A checkpoint's model."""
    heads: Sequence[nn.Module] = ()
    """Parts of the model that learn at ``head_lr`` times the rate of the rest."""
    head_lr: float = 1.0
