"""What a panoptic net is: one frozen record, from which it is built again. Imports without torch.

Classes count from 0, as in the masks of data. Some are things, which can be counted, and all others
are stuff. The detector inside knows things alone, by labels from 1 in the classes' order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from resnestkit.detection.spec import DetectorSpec, has_masks
from resnestkit.models.spec import NormPolicy, Spec


@dataclass(frozen=True, slots=True)
class PanopticSettings:
    """The choices of the branch for stuff and of the merge.

    The defaults are those with which the authors of ResNeSt train (Detectron2's Panoptic FPN at
    their fork: SEM_SEG_HEAD and PANOPTIC_FPN), which are the paper's on COCO.
    """

    channels: int = 128
    """Of the branch's convolutions."""
    loss_weight: float = 0.5
    """Of the branch's loss; the detector's losses count whole."""
    score: float = 0.5
    """Things below this score are left out of the merge."""
    overlap: float = 0.5
    """Share of a thing that surer ones may hide, before it is left out."""
    stuff_area: int = 4096
    """Stuff of fewer pixels becomes void."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PanopticSettings:
        """The inverse of ``dataclasses.asdict``. Raises TypeError on a field that is not known."""
        return cls(**values)


def light_panoptic_settings() -> PanopticSettings:
    """For small images and few cores: half the channels, and stuff of a few pixels is kept."""
    return PanopticSettings(channels=64, stuff_area=64)


@dataclass(frozen=True, slots=True)
class PanopticSpec:
    """A panoptic net, complete but for how it wants its images, which is a `Preprocessing`."""

    detector: DetectorSpec
    """Net, pyramid and heads of things; its classes are the things alone."""
    things: tuple[bool, ...]
    """Of each class, whether it can be counted."""
    settings: PanopticSettings = PanopticSettings()

    def __post_init__(self) -> None:
        settings, kind = self.settings, self.detector.kind
        for holds, said in (
            (has_masks(kind), f"kind is {kind!r}; it must find masks"),
            (any(self.things), "things are none; a segmenter needs no more than stuff"),
            (not all(self.things), "things are all; a detector needs no stuff"),
            (
                self.detector.classes == sum(self.things),
                f"the detector knows {self.detector.classes} classes, and {sum(self.things)} of "
                "all are things",
            ),
            (settings.channels >= 1, f"channels is {settings.channels}"),
            (settings.loss_weight >= 0, f"loss_weight is {settings.loss_weight}"),
            (0 <= settings.score <= 1, f"score is {settings.score}; it must be from 0 to 1"),
            (0 <= settings.overlap <= 1, f"overlap is {settings.overlap}; it must be from 0 to 1"),
            (settings.stuff_area >= 0, f"stuff_area is {settings.stuff_area}"),
        ):
            if not holds:
                raise ValueError(said)

    @property
    def kind(self) -> str:
        """That of the detector inside."""
        return self.detector.kind

    @property
    def net(self) -> Spec:
        """The backbone."""
        return self.detector.net

    @property
    def norm(self) -> NormPolicy:
        """The backbone's norms."""
        return self.detector.norm

    @property
    def classes(self) -> int:
        """Things and stuff together."""
        return len(self.things)

    @property
    def thing_classes(self) -> tuple[int, ...]:
        """The class of each label of the detector, from label 1 on."""
        return tuple(place for place, thing in enumerate(self.things) if thing)

    @property
    def stuff_classes(self) -> tuple[int, ...]:
        """The class of each channel of the branch for stuff, from channel 1 on."""
        return tuple(place for place, thing in enumerate(self.things) if not thing)

    @property
    def stuff_norm(self) -> NormPolicy:
        """Norms of the branch for stuff: the heads', but the paper's group norms for none.

        A branch that is new has no statistics to freeze either.
        """
        norm = self.detector.head_norm
        return "group" if norm == "none" or norm == "frozen" else norm  # noqa: PLR1714  (mypy)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint's metadata."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PanopticSpec:
        """The inverse of `to_dict`. Raises TypeError or ValueError where nothing can be built."""
        known = dict(values)
        known["detector"] = DetectorSpec.from_dict(dict(known["detector"]))
        known["things"] = tuple(known["things"])
        if "settings" in known:
            known["settings"] = PanopticSettings.from_dict(known["settings"])
        return cls(**known)
