"""Training a detector: what it leaves, that it goes on to the same bits, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from boxed_pictures import NUMBERS, TINY
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import nn

from resnestkit import (
    DetectionPredictor,
    DetectionRecipe,
    UserError,
    create_detector,
    create_model,
    evaluate,
    load_detector,
    load_recipe,
    resume,
    save_detector,
    save_model,
    train,
)
from resnestkit.cli.tables import detection_evaluation_table
from resnestkit.compute import Compute
from resnestkit.data.detection.results import Found
from resnestkit.data.detection.sources import load_detection_source
from resnestkit.data.detection.table import Annotations
from resnestkit.data.findings import Finding
from resnestkit.detection.spec import paper_settings
from resnestkit.models.zoo import find_net
from resnestkit.preprocessing import Preprocessing
from resnestkit.progress import Reporter
from resnestkit.tasks.base import score_name
from resnestkit.tasks.detection import DetectionTask
from resnestkit.training import doctor
from resnestkit.training.build import resolve
from resnestkit.training.checkup import check_up
from resnestkit.training.detection import prepare_detection
from resnestkit.training.detection_build import make_detector
from resnestkit.training.interrupt import Interrupted
from resnestkit.training.loop import Trainer
from resnestkit.training.optimizer import rate_at
from resnestkit.training.precise import retake_statistics
from resnestkit.training.recipe import recipe_from_dict
from resnestkit.weights.checkpoint import DETECTOR, read_card

QUIET = Reporter(quiet=True)


def records(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_a_typed_checkpoint_and_a_report(found: Path) -> None:
    run = found / "run"
    card = read_card(run / "best.safetensors")
    assert card is not None
    assert (card.kind, card.head_is_new) == (DETECTOR, False)
    assert card.classes == tuple(sorted(NUMBERS, key=NUMBERS.__getitem__))
    assert card.data["category_ids"] == [10, 20, 30]
    assert 0 <= card.metrics["threshold"] <= 1
    assert load_detector(run / "best.safetensors")[0].spec.kind == "faster_rcnn"
    recipe = load_recipe(str(run / "config.json"))
    assert isinstance(recipe, DetectionRecipe)
    assert (recipe.model, recipe.short_sides) == (TINY.model, TINY.short_sides)
    assert {"train_loss", "train_loss_classifier", "val_ap", "val_ap50"} <= set(records(run)[0])
    assert "val_threshold" not in records(run)[0]
    page = (run / "report.html").read_text()
    assert "average precision" in page
    assert "ccuracy" not in page
    for name in ("curves.png", "precision_recall.png", "examples.png"):
        assert (run / name).read_bytes().startswith(b"\x89PNG")
    written = json.loads((run / "evaluation.json").read_text())
    assert written["count"] == 4


def test_the_rate_rises_by_steps_and_falls_at_milestones(found: Path) -> None:
    rates = [
        rate_at(step, peak=1.0, warmup=2, total=12, milestones=(0.5, 0.75)) for step in range(12)
    ]
    assert rates[:3] == pytest.approx([1 / 3, 2 / 3, 1])
    assert rates[5:] == pytest.approx([1, *[0.1] * 3, *[0.01] * 3])
    # Four steps in all: the thousand of the warm-up are cut to two, and two thirds is step 3.
    peak = TINY.lr * TINY.batch_size / 256
    assert [one["lr"] for one in records(found / "run")] == pytest.approx([peak * 2 / 3, peak / 10])


def test_a_stopped_run_goes_on_to_the_same_bits(
    found: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer._step

    def stop(self: Trainer[Any, Any], *rest: Any) -> Any:
        if (self.position.epoch, self.position.batch) == (1, 0):
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *rest)

    with monkeypatch.context() as during:
        during.setattr(Trainer, "_step", stop)
        with pytest.raises(Interrupted, match="epoch 2, batch 1, and saved"):
            train(found / "shapes", TINY, tmp_path / "run", reporter=QUIET)
    assert "stopped" in (tmp_path / "run/report.html").read_text()
    resume(tmp_path / "run", reporter=QUIET)
    one, two = (
        load_detector(root / "run" / "last.safetensors")[0].state_dict()
        for root in (found, tmp_path)
    )
    assert all(torch.equal(one[name], two[name]) for name in one)
    fields = {"val_ap", "train_loss", "lr"}
    for before, after in zip(records(found / "run"), records(tmp_path / "run"), strict=True):
        assert {name: before[name] for name in fields} == {name: after[name] for name in fields}


def test_the_average_of_a_detector_is_what_is_evaluated_and_kept(
    found: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "roi_heads.box_predictor.cls_score.weight"
    evaluated: list[torch.Tensor] = []
    moved: list[torch.Tensor] = []
    evaluate_one, move = DetectionTask.evaluate, Trainer._move_weights

    def watch(self: DetectionTask, model: Any, *rest: Any, **more: Any) -> Any:
        evaluated.append(model.get_parameter(name).detach().clone())
        return evaluate_one(self, model, *rest, **more)

    def follow(self: Trainer[Any, Any]) -> None:
        move(self)
        moved.append(self.model.get_parameter(name).detach().clone())

    monkeypatch.setattr(DetectionTask, "evaluate", watch)
    monkeypatch.setattr(Trainer, "_move_weights", follow)
    recipe = replace(TINY, epochs=1, ema=0.9)
    result = train(found / "shapes", recipe, tmp_path / "run", reporter=QUIET)
    assert len(moved) == 2
    average = moved[0].lerp(moved[1], 9 / 11)  # the second of an average that starts quickly
    assert not torch.allclose(average, moved[1])
    torch.testing.assert_close(evaluated[0], average)
    kept = load_detector(result.run.last)[0].get_parameter(name)
    assert torch.equal(kept, evaluated[0])


def test_whole_weights_bring_their_settings_and_channels(found: Path) -> None:
    best = str(found / "run/best.safetensors")
    recipe = DetectionRecipe(model=TINY.model, weights=best)
    assert (recipe.settings, recipe.fpn_channels) == (None, None)
    again = make_detector(recipe, len(NUMBERS)).spec
    known = load_detector(best)[0].spec
    assert (again.fpn_channels, again.settings) == (known.fpn_channels, known.settings)
    new = make_detector(DetectionRecipe(model=TINY.model), 3).spec
    assert (new.fpn_channels, new.settings) == (256, paper_settings("faster_rcnn"))
    older = recipe_from_dict({"settings": "paper", "fpn_channels": 16}, "config.json", "detection")
    assert isinstance(older, DetectionRecipe)
    assert make_detector(replace(older, model=TINY.model, weights=best), 3).spec.settings == (
        known.settings
    )


def test_precise_statistics_are_the_mean_over_batches() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4))
    norm, frozen = net[1], net[2]
    batches = [torch.randn(size, 3, 6, 6) * size for size in (2, 3, 4)]

    def steps() -> Iterator[Any]:
        for batch in batches:
            frozen.eval()  # as the stages that a recipe freezes
            yield lambda batch=batch: (torch.rand(5), net(batch))

    frozen.eval()
    before = torch.get_rng_state()
    held = frozen.running_mean.clone()
    retake_statistics(net.train(), steps(), seed=3)
    maps = [net[0](batch).detach() for batch in batches]
    means = torch.stack([one.mean((0, 2, 3)) for one in maps]).mean(0)
    variances = torch.stack([one.var((0, 2, 3)) for one in maps]).mean(0)
    torch.testing.assert_close(norm.running_mean, means)
    torch.testing.assert_close(norm.running_var, variances)
    assert norm.momentum == 0.1
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(held, means)


def test_results_are_measured_alike_by_cocos_tools(found: Path, tmp_path: Path) -> None:
    written = tmp_path / "results.json"
    measured, classes = evaluate(
        found / "run/best.safetensors", found / "shapes", results=written, reporter=QUIET
    )
    assert classes == ("rectangle", "triangle", "circle")
    results = json.loads(written.read_text())
    assert {one["category_id"] for one in results} <= set(NUMBERS.values())
    assert {one["image_id"] for one in results} <= {1000, 1001, 1002, 1003}
    true = COCO(found / "shapes/annotations/instances_val.json")
    theirs = COCOeval(true, true.loadRes(str(written)), "bbox")
    theirs.evaluate()
    theirs.accumulate()
    theirs.summarize()
    ours = measured.boxes.all
    assert ours.ar100 > 0.02  # it finds something, so that there is something to measure
    numbers = [getattr(ours, name) for name in ours.__slots__]
    assert numbers == pytest.approx(theirs.stats.tolist(), abs=1e-6)


def test_a_predictor_answers_in_the_files_terms(found: Path, tmp_path: Path) -> None:
    picture = found / "shapes/images/val0.png"
    predictor = DetectionPredictor(found / "run/best.safetensors", "cpu", score=0.06)
    (one,) = predictor.predict([picture])
    assert one.objects
    assert sum(one.counts.values()) == len(one.objects)
    scores = [thing.score for thing in one.objects]
    assert scores == sorted(scores, reverse=True)
    assert min(scores) >= 0.06
    results = predictor.results([one])
    assert {result["image_id"] for result in results} == {str(picture)}
    names = {number: name for name, number in NUMBERS.items()}
    assert [names[result["category_id"]] for result in results] == [t.label for t in one.objects]
    left, top, right, bottom = one.objects[0].box
    assert results[0]["bbox"] == pytest.approx([left, top, right - left, bottom - top])
    usual = DetectionPredictor(found / "run/best.safetensors", "cpu").score
    assert usual == read_card(found / "run/best.safetensors").metrics["threshold"]  # type: ignore[union-attr]
    with pytest.raises(UserError, match=r"--score is 1\.5"):
        DetectionPredictor(found / "run/best.safetensors", "cpu", score=1.5)
    new = create_detector("faster_rcnn", "resnest14", 3, fpn_channels=8)
    save_detector(new, tmp_path / "new.safetensors")
    with pytest.raises(UserError, match="never trained"):
        DetectionPredictor(tmp_path / "new.safetensors", "cpu")


def test_masks_are_measured_written_and_drawn(found: Path, tmp_path: Path) -> None:
    model = create_detector(
        "mask_rcnn", "resnest14", 3, fpn_channels=8, norm="group", min_size=64, max_size=96
    )
    model.head_is_new = False
    file, written = tmp_path / "masks.safetensors", tmp_path / "found.json"
    save_detector(model, file, ["rectangle", "triangle", "circle"])
    measured, classes = evaluate(file, found / "shapes", results=written, reporter=QUIET)
    table = detection_evaluation_table(measured, classes)
    assert table.index("class, by masks") < table.index("class, by boxes")
    assert "COCO       masks  boxes" in table
    boxes = json.loads(written.read_text())
    masks = json.loads((tmp_path / "found.masks.json").read_text())
    assert len(boxes) == len(masks) > 0
    assert all("segmentation" in one and "bbox" not in one for one in masks)
    assert {one["category_id"] for one in masks} <= set(NUMBERS.values())
    predictor = DetectionPredictor(file, "cpu", score=0.0)
    assert predictor.category_ids == (1, 2, 3)  # of a file that says nothing of its data
    ((one, image),) = predictor.iterate([found / "shapes/images/val0.png"])
    height, width = image.shape[1:]
    result = predictor.results([one])[0]
    assert result["segmentation"]["size"] == [height, width]
    assert len(result["bbox"]) == 4
    assert one.draw(image).shape[2] == 3


def test_norms_without_statistics_are_refused(found: Path, tmp_path: Path) -> None:
    for changes, words in (
        ({"batch_size": 1}, "--norm group"),
        ({"norm": "frozen"}, "weights"),
        ({"norm": "sync", "batch_size": 1}, "two or more images"),
    ):
        recipe = replace(TINY, **changes)  # type: ignore[arg-type]
        with pytest.raises(UserError, match=words):
            train(found / "shapes", recipe, tmp_path / "run", reporter=QUIET)


def leave_objects(root: Path, split: str, *image_ids: int) -> None:
    """Make the annotations of all other images of a split crowds, which do not count."""
    path = root / f"annotations/instances_{split}.json"
    content = json.loads(path.read_text())
    for one in content["annotations"]:
        one["iscrowd"] = int(one["image_id"] not in image_ids)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(("split", "what"), [("train", "learn from"), ("val", "be measured by")])
def test_a_split_without_an_object_is_refused(
    found: Path, tmp_path: Path, split: str, what: str
) -> None:
    data = shutil.copytree(found / "shapes", tmp_path / "shapes")
    leave_objects(data, split)
    said = f"The {split} split, . images, has no object to {what}: annotate some"
    with pytest.raises(UserError, match=said):
        train(data, TINY, tmp_path / "run", reporter=QUIET)
    assert not (tmp_path / "run/config.json").exists()
    (refused,) = (one for one in check_up(data, TINY, QUIET, speed=False).findings if one.refused)
    assert what in refused.text


@pytest.mark.parametrize(
    ("split", "said"),
    [("train", "be measured by: hold out more"), ("val", "learn from: hold out less")],
)
def test_a_share_without_an_object_is_refused(
    found: Path, tmp_path: Path, split: str, said: str
) -> None:
    data = shutil.copytree(found / "shapes", tmp_path / "shapes")
    (data / "annotations/instances_val.json").unlink()
    divided = load_detection_source(str(data), holdout=TINY.holdout, seed=TINY.seed)
    leave_objects(data, "train", int(divided.splits[split].annotations(0).image_id))
    with pytest.raises(UserError, match=rf"{said} \(--holdout\), or draw another --seed"):
        train(data, TINY, tmp_path / "run", reporter=QUIET)


@pytest.mark.parametrize("masks", [False, True])
def test_images_without_an_object_have_a_score_all_the_same(masks: bool) -> None:
    none = np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.float32), ()
    bare = Annotations(
        1, 20, 20, np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0), np.zeros(0, bool), ()
    )
    task = DetectionTask(("a",), masks=masks)
    judged = task.judge([(0, bare, Found(*none))])
    assert judged.metrics == ({"mask_ap": 0.0, "ap": 0.0} if masks else {"ap": 0.0})
    assert score_name(judged.metrics) == next(iter(judged.metrics))
    assert judged.score == 0
    assert "AP  0.00%" in task.words(judged.metrics)
    assert score_name({"loss": 1.0}) == "loss"


def only(findings: Iterator[Finding], severity: str, *words: str) -> None:
    (finding,) = findings
    assert finding.severity == severity
    assert all(word in str(finding) for word in words), str(finding)


def test_findings_of_a_detectors_recipe() -> None:
    recipe = DetectionRecipe()
    assert not list(doctor.find_rate(recipe))
    only(doctor.find_rate(DetectionRecipe(lr=0.02)), "note", "0.32 becomes", "to 0.00125")
    only(doctor.find_rate(DetectionRecipe(lr=6.4)), "wrong", "peaks at 0.4", "Lower --lr to 5.1")
    assert not list(doctor.find_schedule(recipe, 118_000))
    only(doctor.find_schedule(recipe, 1600), "note", "--warmup-steps 1000", "cut to 600")
    assert not list(doctor.find_tiny_boxes([16.0] * 9 + [15.0], 32, recipe))
    only(doctor.find_tiny_boxes([16.0, 8.0], 32, recipe), "wrong", "50% of the boxes", "1.8 times")
    assert doctor.share_tiny([], 32) == 0


def test_the_checkup_counts_objects(found: Path) -> None:
    checkup = check_up(found / "shapes", TINY, QUIET, speed=False)
    patient = checkup.patient
    val = json.loads((found / "shapes/annotations/instances_val.json").read_text())
    assert patient.counts["val"].total() == len(val["annotations"])
    assert patient.facts["smallest_anchor"] == 32
    assert not checkup.refused
    lonely = check_up(found / "shapes", replace(TINY, batch_size=1), QUIET, speed=False)
    assert lonely.refused


def test_a_run_that_goes_on_sees_its_images_as_the_weights_want_them(
    found: Path, tmp_path: Path
) -> None:
    wanted = Preprocessing(mean=(0.1, 0.2, 0.3), std=(1 / 255,) * 3, channel_order="BGR")
    net = create_model("resnest14", classes=2)
    save_model(net, tmp_path / "net.safetensors", preprocessing=wanted)
    recipe = resolve(replace(TINY, weights=str(tmp_path / "net.safetensors")), find_net(TINY.model))
    compute = Compute(torch.device("cpu"), bfloat16=False, layout=torch.channels_last)
    job = prepare_detection(str(found / "shapes"), recipe, compute, QUIET)
    recorded = recipe_from_dict(json.loads(json.dumps(job.recipe.to_dict())), "", "detection")
    assert isinstance(recorded, DetectionRecipe)
    again = make_detector(recorded, len(job.card.classes)).preprocessing
    assert (again.mean, again.std, again.channel_order) == (wanted.mean, wanted.std, "BGR")
    assert job.card.preprocessing == again
