"""COCO's evaluation, by faster-coco-eval: its numbers are those of pycocotools."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnestkit.data.detection.results import Found
from resnestkit.data.detection.rle import EXTRA, mask_area
from resnestkit.data.detection.table import Annotations
from resnestkit.extras import require
from resnestkit.tasks.detection_evaluation import ClassNumbers, CocoNumbers, Measured

Pair = tuple[Annotations, Found]
_AT_75 = 5
"""Place of IoU 0.75 among 0.5, 0.55, ..."""


def measure(pairs: Sequence[Pair], classes: Sequence[str], *, masks: bool) -> Measured:
    """The twelve numbers, and each class's, of the boxes or the masks found in some images.

    Images are numbered anew, and so are annotations: several files may have the same numbers, and
    COCO's tools take annotation 0 for none.
    """
    require("faster_coco_eval", EXTRA)
    from faster_coco_eval import COCOeval_faster  # noqa: PLC0415  (an extra)

    truth = _dataset(pairs, classes, _true_objects(pairs, masks=masks))
    found = _dataset(pairs, classes, _found_objects(pairs, masks=masks))
    judge = COCOeval_faster(truth, found, "segm" if masks else "bbox")
    judge.run()
    objects = np.bincount(
        np.concatenate([np.zeros(0, np.int64)] + [one.labels[~one.crowd] for one, _ in pairs]),
        minlength=len(classes) + 1,
    )
    precision, recall = np.asarray(judge.eval["precision"]), np.asarray(judge.eval["recall"])
    return Measured(
        CocoNumbers(*(float(value) for value in judge.stats[:12])),
        tuple(
            _measure_class(int(objects[k + 1]), precision[:, :, k, 0, -1], recall[:, k, 0, -1])
            for k in range(len(classes))
        ),
    )


def _measure_class(
    objects: int, precision: NDArray[np.float64], recall: NDArray[np.float64]
) -> ClassNumbers:
    """From precision (thresholds, recalls) and recall (thresholds,)."""
    return ClassNumbers(
        objects=objects,
        ap=_mean(precision),
        ap50=_mean(precision[0]),
        ap75=_mean(precision[_AT_75]),
        ar100=_mean(recall),
        precision50=[float(p) for p in precision[0] if p >= 0],
        precision75=[float(p) for p in precision[_AT_75] if p >= 0],
    )


def _mean(values: NDArray[np.float64]) -> float:
    known = values[values > -1]
    return float(known.mean()) if known.size else -1.0


def _dataset(
    pairs: Sequence[Pair], classes: Sequence[str], annotations: list[dict[str, Any]]
) -> Any:
    from faster_coco_eval import COCO  # noqa: PLC0415  (an extra)

    coco = COCO()
    coco.dataset = {
        "images": [
            {"id": number, "height": one.height, "width": one.width}
            for number, (one, _) in enumerate(pairs, 1)
        ],
        "categories": [{"id": label, "name": name} for label, name in enumerate(classes, 1)],
        "annotations": [{"id": i, **one} for i, one in enumerate(annotations, 1)],
    }
    coco.createIndex()
    return coco


def _true_objects(pairs: Sequence[Pair], *, masks: bool) -> list[dict[str, Any]]:
    return [
        {
            "image_id": number,
            "category_id": int(one.labels[i]),
            "bbox": one.boxes[i].tolist(),
            "area": float(one.areas[i]),
            "iscrowd": int(one.crowd[i]),
            **({"segmentation": _segmentation(one, i)} if masks else {}),
        }
        for number, (one, _) in enumerate(pairs, 1)
        for i in range(len(one.labels))
    ]


def _segmentation(one: Annotations, i: int) -> Any:
    """As the file has it; a crowd may come without, and covers its box then."""
    if one.segmentations[i]:
        return json.loads(one.segmentations[i])
    left, top, width, height = one.boxes[i].tolist()
    right, bottom = left + width, top + height
    return [[left, top, right, top, right, bottom, left, bottom]]


def _found_objects(pairs: Sequence[Pair], *, masks: bool) -> list[dict[str, Any]]:
    """As COCO's tools read results: the area is the box's, or, of masks, the mask's."""
    objects = []
    for number, (_, found) in enumerate(pairs, 1):
        for i in range(len(found.scores)):
            left, top, right, bottom = (float(value) for value in found.boxes[i])
            box = [left, top, right - left, bottom - top]
            one = {"image_id": number, "category_id": int(found.labels[i]), "bbox": box}
            one |= {"score": float(found.scores[i]), "iscrowd": 0, "area": box[2] * box[3]}
            if masks:
                assert found.masks is not None
                one |= {"segmentation": found.masks[i], "area": mask_area(found.masks[i])}
            objects.append(one)
    return objects
