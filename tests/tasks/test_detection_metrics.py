"""Our numbers are pycocotools' on the same annotation and results files."""

import contextlib
import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from resnestkit.data.detection.coco import read_coco
from resnestkit.data.detection.results import Found, results_json, write_results
from resnestkit.data.detection.rle import decode_mask, encode_mask
from resnestkit.data.detection.table import Annotations
from resnestkit.tasks.detection_coco import measure

# pycocotools itself, with numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

NUMBERS = (11, 5, 40)
"""Of three categories, in the file's order."""


def make_truth(random: np.random.Generator, images: int, side: int = 240) -> dict[str, Any]:
    """Objects of all sizes, crowds, polygons and run lengths, and images without any."""
    things: list[dict[str, Any]] = []
    for image in range(images):
        for _ in range(int(random.integers(0, 7))):
            size = random.uniform(4, 150, 2)
            start = random.uniform(0, np.maximum(1, side - size))
            box = [float(v) for v in (*start, *np.minimum(size, side - start))]
            left, top, width, height = box
            right, bottom = left + width, top + height
            shape: Any = [[left, top, right, top, right, bottom, left, bottom]]
            crowd = bool(random.random() < 0.15)
            if crowd or random.random() < 0.3:
                shape = encode_mask(decode_mask(json.dumps(shape).encode(), side, side))
            things.append(
                {
                    "id": len(things) + 1, "image_id": 100 + image, "iscrowd": int(crowd),
                    "category_id": int(random.choice(NUMBERS)), "bbox": box,
                    "area": width * height * float(random.uniform(0.5, 1)), "segmentation": shape,
                }
            )  # fmt: skip
    return {
        "images": [
            {"id": 100 + i, "file_name": f"{i}.png", "width": side, "height": side}
            for i in range(images)
        ],
        "annotations": things,
        "categories": [{"id": number, "name": f"c{number}"} for number in NUMBERS],
    }


def detect(random: np.random.Generator, one: Annotations, extra: int) -> Found:
    """Most objects, about where they are, mostly of the right class, and some wild ones."""
    size = np.array([one.width, one.height] * 2, np.float32)
    kept = random.random(len(one.labels)) < 0.85
    boxes = np.concatenate([one.boxes[:, :2], one.boxes[:, :2] + one.boxes[:, 2:]], 1)[kept]
    boxes = boxes + random.normal(0, 6, boxes.shape)
    count = int(random.integers(0, extra + 1))
    wild = random.uniform(0, 200, (count, 4))
    wild[:, 2:] = wild[:, :2] + random.uniform(2, 80, (count, 2))
    boxes = np.clip(np.concatenate([boxes, wild]), 0, size).astype(np.float32)
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    labels = np.concatenate([one.labels[kept], random.integers(1, 4, count)])
    labels = np.where(random.random(len(labels)) < 0.1, random.integers(1, 4, len(labels)), labels)
    # Few different scores: equal ones must be ranked alike.
    scores = (random.integers(1, 12, len(labels)) / 12).astype(np.float32)
    masks = []
    for left, top, right, bottom in boxes:
        mask = np.zeros((one.height, one.width), np.uint8)
        mask[int(top) : int(bottom) + 1, int(left) : int(right) + 1] = 1
        masks.append(encode_mask(mask))
    return Found(boxes, labels, scores, tuple(masks))


def judge_by_pycocotools(truth: Path, results: Path, kind: str) -> tuple[list[float], Any]:
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = COCO(str(truth))
        judge = COCOeval(theirs, theirs.loadRes(str(results)), kind)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return [float(value) for value in judge.stats], judge.eval["precision"]


def pairs_of(
    path: Path, random: np.random.Generator, extra: int = 4
) -> tuple[list[tuple[Annotations, Found]], tuple[str, ...], tuple[int, ...]]:
    file = read_coco(path)
    classes = tuple(category.name for category in file.categories)
    table = file.table({name: i for i, name in enumerate(classes, 1)}, file.sizes)
    rows = [table[row] for row in range(len(table))]
    pairs = [(one, detect(random, one, extra)) for one in rows]
    return pairs, classes, tuple(int(c.number) for c in file.categories)


def compare(folder: Path, seed: int, *, masks: bool, images: int = 12, extra: int = 4) -> None:
    random = np.random.default_rng(seed)
    truth, results = folder / f"truth{seed}.json", folder / f"results{seed}.json"
    truth.write_text(json.dumps(make_truth(random, images)))
    pairs, classes, numbers = pairs_of(truth, random, extra)
    assert numbers == (5, 11, 40)
    write_results(results, [(one.image_id, found) for one, found in pairs], numbers, masks=masks)
    ours = measure(pairs, classes, masks=masks)
    stats, precision = judge_by_pycocotools(truth, results, "segm" if masks else "bbox")
    assert list(asdict(ours.all).values()) == pytest.approx(stats, abs=1e-6)
    for k, one in enumerate(ours.per_class):
        theirs = precision[:, :, k, 0, -1]
        known = theirs[theirs > -1]
        assert one.ap == pytest.approx(known.mean() if known.size else -1, abs=1e-6)
        if known.size:
            assert one.precision50 == pytest.approx(theirs[0].tolist(), abs=1e-6)
            assert one.precision75 == pytest.approx(theirs[5].tolist(), abs=1e-6)
        shown = [a for a, _ in pairs]
        assert one.objects == sum(int(((a.labels == k + 1) & ~a.crowd).sum()) for a in shown)


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_numbers_are_pycocotools(tmp_path: Path, seed: int, masks: bool) -> None:
    compare(tmp_path, seed, masks=masks)


def test_more_than_a_hundred_detections_an_image(tmp_path: Path) -> None:
    compare(tmp_path, 50, masks=False, images=4, extra=700)


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), masks=st.booleans())
def test_numbers_are_pycocotools_on_anything(
    tmp_path_factory: pytest.TempPathFactory, seed: int, masks: bool
) -> None:
    random = np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp("coco")
    truth = folder / "truth.json"
    truth.write_text(json.dumps(make_truth(random, 3)))
    pairs, classes, numbers = pairs_of(truth, random)
    found = [(one.image_id, found) for one, found in pairs]
    written = results_json(found, numbers, masks=masks)
    if not written:  # pycocotools cannot read results without any
        return
    write_results(folder / "results.json", found, numbers, masks=masks)
    assert json.loads((folder / "results.json").read_text()) == written
    ours = measure(pairs, classes, masks=masks).all
    stats, _ = judge_by_pycocotools(truth, folder / "results.json", "segm" if masks else "bbox")
    assert list(asdict(ours).values()) == pytest.approx(stats, abs=1e-6)


@pytest.mark.parametrize("masks", [False, True])
def test_nothing_found_is_zero_and_nothing_there_is_unmeasured(masks: bool) -> None:
    nothing = Found(
        np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.float32), ()
    )
    bare = Annotations(
        1, 20, 20, np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0), np.zeros(0, bool), ()
    )
    one = Annotations(
        2, 20, 20, np.array([[1.0, 1, 5, 5]]), np.array([1]), np.array([25.0]), np.array([False]),
        (b"[[1, 1, 6, 1, 6, 6, 1, 6]]",),
    )  # fmt: skip
    empty = measure([(bare, nothing)], ("a", "b"), masks=masks)
    assert empty.all.ap == -1
    assert empty.all.named() == {}
    missed = measure([(bare, nothing), (one, nothing)], ("a", "b"), masks=masks)
    assert missed.all.ap == missed.all.ar100 == 0
    assert [one.ap for one in missed.per_class] == [0, -1]
    assert [one.objects for one in missed.per_class] == [1, 0]
    right = Found(
        np.array([[1, 1, 6, 6]], np.float32), np.array([1]), np.array([0.5], np.float32),
        (encode_mask(decode_mask(one.segmentations[0], 20, 20)),),
    )  # fmt: skip
    assert measure([(one, right)], ("a", "b"), masks=masks).all.ap == pytest.approx(1)


def test_numbers_of_annotations_do_not_matter() -> None:
    """COCO's tools take the annotation of number 0 for none; here it counts like any other."""
    one = Annotations(
        "a.png", 20, 20, np.array([[1.0, 1, 5, 5]]), np.array([1]), np.array([25.0]),
        np.array([False]), (b"",),
    )  # fmt: skip
    found = Found(np.array([[1, 1, 6, 6]], np.float32), np.array([1]), np.array([0.5], np.float32))
    assert measure([(one, found), (one, found)], ("a",), masks=False).all.ap == pytest.approx(1)
