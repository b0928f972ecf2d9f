"""What evaluating a checkpoint of any kind shares: what was asked for, and what the card tells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from resnestkit.data.check import Checked, refuse_unreadable
from resnestkit.data.images import ImageSet
from resnestkit.data.sources import TrainedOn
from resnestkit.errors import UserError
from resnestkit.progress import Reporter
from resnestkit.training.recipe import Precision
from resnestkit.weights.checkpoint import ModelCard


@dataclass(frozen=True, slots=True)
class Asked:
    """What to measure, on what, and how; as the arguments of `evaluate`."""

    checkpoint: Path
    data: str | None
    split: str | None
    batch_size: int
    precision: Precision
    device: str
    skip_unreadable: bool
    results: Path | None = None
    scales: tuple[float, ...] | None = None
    flip: bool | None = None
    windows: int | None = None
    side: int | None = None

    def origin(self, trained: TrainedOn) -> str:
        """Where the images are. Raises UserError if neither the user nor the card says it."""
        if self.data is not None:
            return self.data
        if not trained.fingerprint:
            raise UserError(
                f"{self.checkpoint} does not say what it was trained on; give DATA to measure."
            )
        return trained.origin


def trained_on(card: ModelCard) -> TrainedOn:
    """What the card says of the data, which is nothing for a model that was not trained here."""
    return TrainedOn.recall(card.data)


def read_all(
    check: Callable[..., Checked], images: ImageSet, words: str, asked: Asked, reporter: Reporter
) -> Checked:
    """Read every image once; refuse the unreadable, or name those that are left out."""
    with reporter.track(f"reading {words}", len(images)) as advance:
        checked = check(images, cache_bytes=2**31, advance=lambda done: advance(done, ""))
    if not asked.skip_unreadable:
        refuse_unreadable([checked])
    for image in checked.unreadable:
        reporter.say(f"left out    {image}")
    reporter.say(f"images      {len(checked.images)}, {words}")
    return checked
