"""Checkpoints as the service asks them: classifiers with their attention, detectors, segmenters."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from resnestkit.data.decoding import load_by_pillow
from resnestkit.data.images import decode_image
from resnestkit.data.pictures import Picture
from resnestkit.deploy.detection_predictor import DetectionPredictor, Detections
from resnestkit.deploy.overlays import mask_image
from resnestkit.deploy.segmentation_predictor import Segmentation, SegmentationPredictor
from resnestkit.deploy.torch_classifier import TorchClassifier
from resnestkit.errors import UserError
from resnestkit.explain import subject_of
from resnestkit.runtime.session import Choice
from resnestkit.serve.batching import Task
from resnestkit.serve.models import ClassifierModel, ServedModel, Work
from resnestkit.serve.schemas import (
    Detected,
    Explained,
    FoundObject,
    RunLengths,
    Segmented,
    Share,
)
from resnestkit.serve.uploads import Upload, decoding
from resnestkit.serve.views import Explainer
from resnestkit.weights.checkpoint import DETECTOR, PANOPTIC, SEGMENTER, read_kind


class Explaining(ServedModel):
    """A checkpoint, which can say what its attention does."""

    _explainer: Explainer

    def explain(self, works: Sequence[Work]) -> Sequence[Explained | Exception]:
        """As `ServedModel.explain`."""
        return [_attempt(self._explainer.explain, work) for work in works]


class TorchClassifierModel(Explaining, ClassifierModel):
    """A classifier's checkpoint, or a program of torch.export."""

    def __init__(self, path: Path, classifier: TorchClassifier) -> None:
        super().__init__(path, classifier)
        if classifier.model is not None:
            self.why_not = ""
            self._explainer = Explainer(subject_of(classifier.model, classifier.card, self.classes))


class OneByOne(ServedModel):
    """A model of images of any size: each is decoded when its turn comes, to hold but one."""

    def prepare(self, upload: Upload) -> Upload:
        """The file as it is."""
        return upload

    def compute(self, works: Sequence[Work]) -> Sequence[Any]:
        """As `ServedModel.compute`."""
        return [_attempt(self.look, work) for work in works]

    def tasks(self, batch_size: int) -> tuple[Task[Work, Any], Task[Work, Any]]:
        """One at a time: so each is answered when it is done, and who gave up is left out."""
        del batch_size
        return super().tasks(1)

    def look(self, work: Work) -> Any:
        """A result for one. Raises UserError, or whatever a decoder does."""
        raise NotImplementedError


class DetectorModel(Explaining, OneByOne):
    """A detector's checkpoint."""

    kind = "detector"
    answer = Detected

    def __init__(self, path: Path, device: str) -> None:
        self._predictor = DetectionPredictor(path, device)
        super().__init__(path, self._predictor.card)
        self._explainer = Explainer(
            subject_of(self._predictor.model, self._predictor.card, self.classes)
        )

    def look(self, work: Work) -> Detected:
        """Its objects."""
        channels = self._predictor.card.preprocessing.channels
        with decoding(work.image):
            image = decode_image(work.image.content, work.name, channels)
        found = Detections(work.name, self._predictor.find(image), self.classes)
        objects = [
            FoundObject(
                label=one.label,
                score=one.score,
                box=list(one.box),
                mask=None if one.mask is None else _run_lengths(one.mask),
            )
            for one in found.objects
        ]
        height, width = image.shape[1:]
        return Detected(image=work.name, width=width, height=height, objects=objects)


class SegmenterModel(Explaining, OneByOne):
    """A segmenter's checkpoint."""

    kind = "segmenter"
    answer = Segmented

    def __init__(self, path: Path, device: str) -> None:
        self._predictor = SegmentationPredictor(path, device)
        super().__init__(path, self._predictor.card)
        self._explainer = Explainer(
            subject_of(self._predictor.model, self._predictor.card, self.classes)
        )
        colours = self._predictor.colours
        self._colours = dict(zip(self.classes, map(_hex, colours), strict=True))

    def look(self, work: Work) -> Segmented:
        """Its classes, pixel by pixel."""
        channels = self._predictor.card.preprocessing.channels
        content = io.BytesIO(work.image.content)
        with decoding(work.image):
            picture = Picture(load_by_pillow(content, work.name, channels))
        labels, tiling = self._predictor.segment(picture, work.name)
        seen = Segmentation(work.name, labels, self.classes, tiling)
        shares = [
            Share(label=label, share=share, colour=self._colours[label])
            for label, share in seen.shares.items()
        ]
        drawn = io.BytesIO()
        mask_image(labels, self._predictor.colours).save(drawn, "PNG")
        return Segmented(
            image=work.name,
            width=picture.width,
            height=picture.height,
            shares=shares,
            mask=base64.b64encode(drawn.getvalue()).decode(),
        )


def open_checkpoint(
    path: Path, device: str, threads: int | None, precision: Choice | None
) -> ServedModel:
    """As `resnestkit.serve.models.open_model`, of a .safetensors."""
    kind = read_kind(path) if path.is_file() else ""
    kinds: dict[str, type[DetectorModel | SegmenterModel]] = {
        DETECTOR: DetectorModel,
        SEGMENTER: SegmenterModel,
    }
    if kind == PANOPTIC:
        raise UserError(f"{path} holds a {kind}; classifiers, detectors and segmenters are served.")
    if kind not in kinds:
        return TorchClassifierModel(path, TorchClassifier(path, device, threads, precision))
    if precision not in {None, "float32"}:
        raise UserError(f"--precision is for classifiers, and {path} holds a {kind}.")
    if threads is not None:
        if threads < 1:
            raise UserError(f"--threads is {threads}; it must be 1 or more.")
        torch.set_num_threads(threads)
    return kinds[kind](path, device)


def _attempt(look: Any, work: Work) -> Any:
    """A result, or why there is none: an image's fault is not its neighbours'."""
    try:
        return look(work)
    except Exception as error:  # who sent it is told, and the log
        return error


def _run_lengths(mask: dict[str, Any]) -> RunLengths:
    counts = mask["counts"]
    text = counts.decode("ascii") if isinstance(counts, bytes) else str(counts)
    return RunLengths(size=[int(side) for side in mask["size"]], counts=text)


def _hex(colour: Sequence[int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
