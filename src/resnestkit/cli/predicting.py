"""The verb predict: a classifier names, a detector draws, a segmenter labels."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from resnestkit.cli.arguments import PredictArguments, mirrored
from resnestkit.cli.parsing import parse
from resnestkit.cli.tables import (
    detection_csv,
    detection_table,
    panoptic_csv,
    panoptic_table,
    prediction_csv,
    prediction_table,
    segmentation_csv,
    segmentation_table,
)
from resnestkit.cli.writing import check_places, write
from resnestkit.errors import UserError

_SEGMENTERS = ("scales", "flip", "no_flip", "windows", "side", "tile", "max_megapixels")


def predict(arguments: Sequence[str]) -> int:
    """Say what is on images."""
    parsed = parse(PredictArguments, "predict", arguments)
    if not parsed.images:
        raise UserError("Give the images to look at after the checkpoint: files, folders or globs.")
    from resnestkit.deploy.predictor import collect_images  # noqa: PLC0415  (slow to import)

    answers = {"detector": _detect, "segmenter": _segment, "panoptic": _tell_segments}
    kind = _kind_of(parsed.checkpoint)
    named = {"panoptic": "panoptic net"}.get(kind, kind)
    _refuse_foreign_flags(parsed, named if kind in answers else "classifier")
    unreadable = answers.get(kind, _classify)(parsed, collect_images(parsed.images))
    for image in unreadable:
        print(f"resnestkit: cannot read {image}", file=sys.stderr)
    return 1 if unreadable else 0


def _kind_of(checkpoint: Path) -> str:
    """What a checkpoint holds; nothing special of an exported file, whose kinds all are told."""
    if checkpoint.suffix.lower() in {".xml", ".onnx", ".pt2"}:
        return ""
    from resnestkit.weights.checkpoint import read_kind  # noqa: PLC0415  (torch loads here)

    return read_kind(checkpoint)


def _refuse_foreign_flags(parsed: PredictArguments, kind: str) -> None:
    """Raise UserError for a flag of another kind of model than the checkpoint holds."""
    flags = {
        "top": ("classifier",),
        "score": ("detector", "panoptic net"),
        "output": ("detector", "segmenter", "panoptic net"),
        "threads": ("classifier",),
        "precision": ("classifier", "segmenter"),
        **dict.fromkeys(_SEGMENTERS, ("segmenter",)),
    }
    for name, kinds in flags.items():
        value = getattr(parsed, name)  # 0 is said too, and no False
        if kind not in kinds and value is not None and value is not False:
            flag, words = name.replace("_", "-"), " and ".join(f"{one}s" for one in kinds)
            raise UserError(f"--{flag} is for {words}, and {parsed.checkpoint} holds a {kind}.")


def _classify(parsed: PredictArguments, images: Sequence[Path]) -> Sequence[UserError]:
    """Name each image; what could not be read comes back."""
    from resnestkit.data.decoding import UnreadableImage  # noqa: PLC0415  (slow to import)
    from resnestkit.deploy.predictor import Predictor  # noqa: PLC0415  (slow to import)

    top = 3 if parsed.top is None else parsed.top
    if top < 1:
        raise UserError(f"--top is {top}; it must be 1 or more.")
    check_places(parsed.json, parsed.csv)
    unreadable: list[UnreadableImage] = []
    predictor = Predictor(parsed.checkpoint, parsed.device, parsed.threads, parsed.precision)
    predictions = list(predictor.iterate(images, top, unreadable=unreadable))
    if predictions:
        print(prediction_table(predictions))
    if parsed.json is not None:
        write(parsed.json, json.dumps([asdict(p) for p in predictions], indent=2))
    if parsed.csv is not None:
        write(parsed.csv, prediction_csv(predictions))
    return unreadable


def _detect(parsed: PredictArguments, images: Sequence[Path]) -> Sequence[UserError]:
    """Find and draw the objects of each image; what could not be read comes back."""
    from resnestkit.data.images import UnreadableImage  # noqa: PLC0415  (torch loads here)
    from resnestkit.deploy.detection_predictor import DetectionPredictor  # noqa: PLC0415  (torch)
    from resnestkit.deploy.drawings import Drawings, leave_out_drawings  # noqa: PLC0415  (torch)

    images = leave_out_drawings(images)
    folder = parsed.output or Path("detections")
    check_places(parsed.json, parsed.csv, made=folder)
    predictor = DetectionPredictor(parsed.checkpoint, parsed.device, parsed.score)
    drawings = Drawings(folder, images)
    unreadable: list[UnreadableImage] = []
    detections = []
    for one, image in predictor.iterate(images, unreadable):
        drawings.write(one.image, one.draw(image))
        detections.append(one)
    if detections:
        print(detection_table(detections))
        print(f"\nscore       {predictor.score:.2f} or more\ndrawings    {drawings.folder}")
    if parsed.json is not None:
        write(parsed.json, json.dumps(predictor.results(detections)))
    if parsed.csv is not None:
        write(parsed.csv, detection_csv(detections))
    return unreadable


def _segment(parsed: PredictArguments, images: Sequence[Path]) -> Sequence[UserError]:
    """Write the class of every pixel of each image; what could not be read comes back."""
    from resnestkit.data.images import UnreadableImage  # noqa: PLC0415  (torch loads here)
    from resnestkit.data.pictures import MOST_MEGAPIXELS  # noqa: PLC0415  (torch loads here)
    from resnestkit.deploy.drawings import leave_out_drawings  # noqa: PLC0415  (torch loads here)
    from resnestkit.deploy.overlays import MaskFolder  # noqa: PLC0415  (torch loads here)
    from resnestkit.deploy.segmentation_predictor import (  # noqa: PLC0415  (torch loads here)
        SegmentationPredictor,
    )

    images = leave_out_drawings(images)
    folder = parsed.output or Path("segmentation")
    check_places(parsed.json, parsed.csv, made=folder)
    predictor = SegmentationPredictor(
        parsed.checkpoint,
        parsed.device,
        parsed.scales,
        mirrored(parsed),
        parsed.windows,
        parsed.side,
        parsed.tile,
        MOST_MEGAPIXELS if parsed.max_megapixels is None else parsed.max_megapixels,
        parsed.precision or "float32",
    )
    written = MaskFolder(folder, images, predictor.card.classes, predictor.colours)
    unreadable: list[UnreadableImage] = []
    said = []
    for one, picture in predictor.iterate(images, unreadable):
        written.write(one.image, one.labels, picture)
        said.append(one.to_dict())  # and not the mask, which may be large
        del one, picture
    if said:
        print(segmentation_table(said))
        print(f"\nprotocol    {predictor.protocol}\nmasks       {written.folder}")
    if parsed.json is not None:
        write(parsed.json, json.dumps(said, indent=2))
    if parsed.csv is not None:
        write(parsed.csv, segmentation_csv(said))
    return unreadable


def _tell_segments(parsed: PredictArguments, images: Sequence[Path]) -> Sequence[UserError]:
    """Write the segments of each image; what could not be read comes back."""
    from resnestkit.data.images import UnreadableImage  # noqa: PLC0415  (torch loads here)
    from resnestkit.deploy.drawings import leave_out_drawings  # noqa: PLC0415  (torch loads here)
    from resnestkit.deploy.panoptic_folder import SegmentFolder  # noqa: PLC0415  (torch loads here)
    from resnestkit.deploy.panoptic_predictor import (  # noqa: PLC0415  (torch loads here)
        PanopticPredictor,
    )

    images = leave_out_drawings(images)
    folder = parsed.output or Path("panoptic")
    check_places(parsed.json, parsed.csv, made=folder)
    predictor = PanopticPredictor(parsed.checkpoint, parsed.device, parsed.score)
    classes = predictor.card.classes
    written = SegmentFolder(folder, images, classes, predictor.things, predictor.colours)
    unreadable: list[UnreadableImage] = []
    found = []
    for one, image in predictor.iterate(images, unreadable):
        written.write(one, image)
        found.append((one.image, one.counts, one.shares))
    listed = written.finish()
    if found:
        print(panoptic_table(found))
        print(f"\nscore       {predictor.score:.2f} or more\nsegments    {listed}")
    if parsed.json is not None:
        write(parsed.json, json.dumps(written.content(), indent=2))
    if parsed.csv is not None:
        write(parsed.csv, panoptic_csv(written.content()))
    return unreadable
