"""What a training of a panoptic net is known by before it starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import ClassVar

from torch import nn

from resnestkit.data.check import refuse_unreadable
from resnestkit.data.findings import Finding
from resnestkit.data.segmentation.check import check_classes
from resnestkit.data.segmentation.sources import SegmentationSource
from resnestkit.progress import Reporter
from resnestkit.tasks.panoptic import PanopticTask
from resnestkit.training.panoptic_build import make_loaders, make_panoptic
from resnestkit.training.preflight import Patient, Trial
from resnestkit.training.prepare import check_norm
from resnestkit.training.recipe import PanopticRecipe
from resnestkit.training.segmentation_build import class_counts


@dataclass(frozen=True)
class PanopticPatient(Patient):
    """A panoptic net to be trained on images with segments."""

    things: ClassVar[str] = "labelled pixels"
    source: SegmentationSource
    recipe: PanopticRecipe

    @cached_property
    def counts(self) -> Mapping[str, Counter[int]]:
        """Labelled pixels by class."""
        shown = {split: class_counts(one).pixels for split, one in self.checked.items()}
        return {split: Counter(dict(enumerate(one.tolist()))) for split, one in shown.items()}

    @property
    def few(self) -> str:
        """Pixels are not added one by one."""
        return "Look at each class's panoptic quality."

    @property
    def memory(self) -> None:
        """Not told: what the heads take depends on what is found."""

    def describe(self) -> str:
        """The net and the sizes."""
        recipe = self.recipe
        low, high = min(recipe.short_sides), max(recipe.short_sides)
        trained = f"{low}" if low == high else f"{low} to {high}"
        return (
            f"Panoptic FPN of {recipe.kind} on {self.net.name}; short side {trained} pixels in "
            f"training, {recipe.test_side} in evaluation"
        )

    def find_own(self) -> Iterator[Finding]:
        """What is wrong with the masks."""
        yield from self.source.findings
        counts = {split: class_counts(one) for split, one in self.checked.items()}
        yield from check_classes(counts, self.source.classes)

    def refusals(self) -> list[Callable[[], object]]:
        """Unreadable images, norms without statistics."""
        checks: list[Callable[[], object]] = []
        if not self.recipe.skip_unreadable:
            checks.append(partial(refuse_unreadable, self.checked.values()))
        return [*checks, partial(check_norm, self.train, self.recipe)]

    def load(self, reporter: Reporter) -> nn.Module:
        """The panoptic net, with the recipe's weights if it names any."""
        return make_panoptic(self.recipe, self.source.things, reporter)

    def prepare_trial(self) -> Trial:
        """A net as it will be: frozen norms and stages need their weights."""
        drawn = replace(self.recipe, norm="batch") if self.recipe.norm == "sync" else self.recipe
        model = self.compute.place(make_panoptic(drawn, self.source.things))
        source = self.source
        loaders = make_loaders(self.checked, source.validation, self.recipe, source.things)
        return Trial(model.train(), PanopticTask(source.classes, source.things), loaders)

    def twin_labels(self, split: str) -> Sequence[int]:
        """None: an image shows many classes."""
        return [0] * len(self.checked[split].images)
