"""Training a segmenter: what it leaves, that it goes on to the same bits, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from masked_pictures import TINY
from torchmetrics.classification import MulticlassJaccardIndex

from resnestkit import (
    SegmentationRecipe,
    UserError,
    create_model,
    evaluate,
    load_recipe,
    load_segmenter,
    resume,
    save_model,
    train,
)
from resnestkit.compute import Compute
from resnestkit.data.findings import Finding
from resnestkit.data.segmentation.check import ClassCounts
from resnestkit.data.segmentation.legend import IGNORE
from resnestkit.data.segmentation.scenes import CLASSES
from resnestkit.data.segmentation.sources import load_segmentation_source
from resnestkit.data.survey import Look
from resnestkit.data.transforms import normalise
from resnestkit.models.zoo import find_net
from resnestkit.preprocessing import Preprocessing
from resnestkit.progress import Reporter
from resnestkit.segmentation.scales import Protocol, known_protocol, score_images
from resnestkit.training import doctor
from resnestkit.training.build import resolve
from resnestkit.training.checkup import check_up
from resnestkit.training.compare import compare
from resnestkit.training.interrupt import Interrupted
from resnestkit.training.loop import Trainer
from resnestkit.training.recipe import ClassWeights, recipe_from_dict
from resnestkit.training.segmentation import count, prepare_segmentation
from resnestkit.training.segmentation_build import make_segmenter, weigh_classes
from resnestkit.weights.checkpoint import SEGMENTER, read_card

QUIET = Reporter(quiet=True)
CPU = Compute(torch.device("cpu"), bfloat16=False, layout=torch.channels_last)


def records(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("asked", "weights"),
    [("none", ()), ("balanced", (0.25, 1.0, 4.0)), ("softened", (0.5, 1.0, 2.0))],
)
def test_classes_weigh_as_asked(asked: ClassWeights, weights: tuple[float, ...]) -> None:
    pixels, ones = np.array([64, 16, 4]), np.ones(3, np.int64)
    counts = ClassCounts(pixels, ones, 100 * ones, ignored=0, blank=0)
    assert weigh_classes(replace(TINY, class_weights=asked), counts) == pytest.approx(weights)


def test_a_run_leaves_a_typed_checkpoint_and_a_report(segmented: Path) -> None:
    run = segmented / "run"
    card = read_card(run / "best.safetensors")
    assert card is not None
    assert (card.kind, card.head_is_new, card.classes) == (SEGMENTER, False, CLASSES)
    assert len(card.palette) == len(CLASSES)
    assert card.preprocessing.size == TINY.crop_size
    assert known_protocol(card.data["protocol"]) == Protocol(side=64)
    assert load_segmenter(run / "best.safetensors")[0].spec.kind == "deeplabv3"
    recipe = load_recipe(str(run / "config.json"))
    assert isinstance(recipe, SegmentationRecipe)
    assert (recipe.model, recipe.scale, recipe.class_weights) == (
        TINY.model,
        TINY.scale,
        "balanced",
    )
    wanted = {"train_loss", "train_pixel_accuracy", "val_miou", "val_loss", "val_mean_accuracy"}
    assert wanted <= set(records(run)[0])
    page = (run / "report.html").read_text()
    assert "Mean IoU" in page
    assert "longer side of 64 pixels" in page
    for name in ("curves.png", "classes.png", "worst.png", "examples.png", "confusion.png"):
        assert (run / name).read_bytes().startswith(b"\x89PNG")
    written = json.loads((run / "evaluation.json").read_text())
    assert written["count"] == 4
    assert written["protocol"] == "single scale, longer side of 64 pixels"


def test_the_heads_learn_faster_and_the_rate_falls_by_its_power(segmented: Path) -> None:
    peak = TINY.lr * TINY.batch_size / 256
    lasts = [record["lr"] for record in records(segmented / "run")]
    assert lasts == pytest.approx([peak * (1 - step / 4) ** 0.9 for step in (1, 3)])
    job = prepare_segmentation(str(segmented / "scenes"), TINY, CPU, QUIET)
    heads = {id(weight) for module in job.heads for weight in module.parameters()}
    trainer = Trainer(
        job.model, job.task, job.recipe, job.loaders, None, job.card, CPU, QUIET,  # type: ignore[arg-type]
        job.heads, job.head_lr,
    )  # fmt: skip
    by_weight = {
        id(weight): group for group in trainer.optimizer.param_groups for weight in group["params"]
    }
    assert len(by_weight) == len(list(job.model.parameters()))
    for name, weight in job.model.named_parameters():
        group = by_weight[id(weight)]
        assert group["rate"] == (2 if id(weight) in heads else 1), name
        assert (group["weight_decay"] == 0) == (weight.ndim == 1), name
        assert (id(weight) in heads) == (not name.startswith("body.")), name


def test_a_stopped_run_goes_on_to_the_same_bits(
    segmented: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer._step

    def stop(self: Trainer[Any, Any], *rest: Any) -> Any:
        if (self.position.epoch, self.position.batch) == (1, 0):
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *rest)

    with monkeypatch.context() as during:
        during.setattr(Trainer, "_step", stop)
        with pytest.raises(Interrupted, match="epoch 2, batch 1, and saved"):
            train(segmented / "scenes", TINY, tmp_path / "run", reporter=QUIET)
    assert "stopped" in (tmp_path / "run/report.html").read_text()
    resume(tmp_path / "run", reporter=QUIET)
    one, two = (
        load_segmenter(root / "run" / "last.safetensors")[0].state_dict()
        for root in (segmented, tmp_path)
    )
    assert all(torch.equal(one[name], two[name]) for name in one)
    fields = {"val_miou", "val_loss", "train_loss", "train_pixel_accuracy", "lr"}
    for before, after in zip(records(segmented / "run"), records(tmp_path / "run"), strict=True):
        assert {name: before[name] for name in fields} == {name: after[name] for name in fields}


@torch.inference_mode()
def test_a_checkpoint_is_measured_as_torchmetrics_does(segmented: Path) -> None:
    file = segmented / "run/best.safetensors"
    result, classes = evaluate(file, segmented / "scenes", reporter=QUIET)
    assert classes == CLASSES
    written = json.loads((segmented / "run/evaluation.json").read_text())
    assert (result.miou, result.confusion) == (written["miou"], written["confusion"])
    model, card = load_segmenter(file)
    theirs = MulticlassJaccardIndex(len(CLASSES), ignore_index=IGNORE)
    images = load_segmentation_source(str(segmented / "scenes")).splits["val"]
    for index in range(len(images)):
        pixels = normalise(images.read(index)[None], card.preprocessing)
        scores = score_images(model, pixels, Protocol(side=64))
        theirs.update(scores, images.mask(index)[None].long())
    # Some pixels may fall to another class, since images of one size were looked at together.
    apart = np.abs(theirs.confmat.numpy() - np.array(result.confusion)).sum()
    assert apart <= 1e-3 * theirs.confmat.sum()
    assert float(theirs.compute()) == pytest.approx(result.miou, abs=1e-3)


def test_an_evaluation_looks_as_it_is_told_to_and_says_how(segmented: Path) -> None:
    file, data = segmented / "run/best.safetensors", segmented / "scenes"
    usual, _ = evaluate(file, data, reporter=QUIET)
    full, _ = evaluate(file, data, scales=(0.5, 1.0, 1.5), flip=True, windows=48, reporter=QUIET)
    assert full.protocol == (
        "3 scales from 0.5 to 1.5, mirrored, windows of 48 pixels, longer side of 64 pixels"
    )
    assert full.confusion != usual.confusion
    assert np.sum(full.confusion) == np.sum(usual.confusion)
    with pytest.raises(UserError, match="--windows is 3"):
        evaluate(file, data, windows=3, reporter=QUIET)


def test_norms_and_weights_that_cannot_be_are_refused(segmented: Path, tmp_path: Path) -> None:
    for changes, words in (
        ({"batch_size": 1}, "--norm group"),
        ({"batch_size": 1, "norm": "group", "head_norm": "batch"}, "two or more images"),
        ({"norm": "frozen"}, "weights"),
        ({"class_weights": (1.0, 2.0)}, "2 numbers for 4 classes"),
    ):
        recipe = replace(TINY, **changes)  # type: ignore[arg-type]
        with pytest.raises(UserError, match=words):
            train(segmented / "scenes", recipe, tmp_path / "run", reporter=QUIET)
        assert not (tmp_path / "run/config.json").exists()


def only(findings: Iterator[Finding], severity: str, *words: str) -> None:
    (finding,) = findings
    assert finding.severity == severity
    assert all(word in str(finding) for word in words), str(finding)


def test_findings_of_a_segmenters_recipe() -> None:
    recipe = SegmentationRecipe()
    assert not list(doctor.find_rate(recipe))
    only(doctor.find_rate(SegmentationRecipe(lr=0.01)), "note", "0.16 becomes")
    only(doctor.find_rate(SegmentationRecipe(lr=16)), "wrong", "peaks at 1")
    assert not list(doctor.find_schedule(recipe, 20_000))

    def of(side: int) -> list[Look]:
        return [Look(side // 2, side, b"", (), (), False, np.zeros(1, np.uint8), 0)]

    assert not list(doctor.find_other_sides(of(600), recipe))
    only(doctor.find_other_sides(of(2048), recipe), "wrong", "260 to 1040", "--test-side 520")
    assert not list(doctor.find_other_sides(of(2048), replace(recipe, test_side=520)))


def test_the_checkup_counts_pixels(segmented: Path) -> None:
    checkup = check_up(segmented / "scenes", TINY, QUIET, speed=False)
    patient = checkup.patient
    images = load_segmentation_source(str(segmented / "scenes")).splits["val"]
    sizes = [images.mask(index).numel() for index in range(len(images))]
    assert patient.counts["val"].total() == sum(sizes)
    assert len(patient.facts["balanced_weights"]) == len(CLASSES)
    assert patient.facts["ignored"] == {"train": 0, "val": 0}
    assert patient.memory is not None
    assert patient.memory.total > 0
    assert "single scale, longer side of 64" in patient.describe()
    assert not checkup.refused
    lonely = check_up(segmented / "scenes", replace(TINY, batch_size=1), QUIET, speed=False)
    assert lonely.refused
    few = replace(TINY, class_weights=(1.0, 2.0))
    assert check_up(segmented / "scenes", few, QUIET, speed=False).refused


def test_a_run_that_goes_on_sees_its_images_as_the_weights_want_them(
    segmented: Path, tmp_path: Path
) -> None:
    wanted = Preprocessing(48, mean=(0.1, 0.2, 0.3), std=(1 / 255,) * 3, channel_order="BGR")
    net = create_model(TINY.model, classes=2)
    save_model(net, tmp_path / "net.safetensors", preprocessing=wanted)
    recipe = resolve(replace(TINY, weights=str(tmp_path / "net.safetensors")), find_net(TINY.model))
    job = prepare_segmentation(str(segmented / "scenes"), recipe, CPU, QUIET)
    recorded = recipe_from_dict(json.loads(json.dumps(job.recipe.to_dict())), "", "segmentation")
    assert isinstance(recorded, SegmentationRecipe)
    again = make_segmenter(recorded, len(job.card.classes)).preprocessing
    assert (again.mean, again.std, again.channel_order) == (wanted.mean, wanted.std, "BGR")
    assert job.card.preprocessing == again


def test_a_batch_of_one_is_trained_on_under_group_norms_and_compared(
    segmented: Path, tmp_path: Path
) -> None:
    recipe = replace(TINY, batch_size=1, norm="group", epochs=1, precise_norm=0, kind="fcn")
    result = train(segmented / "scenes", recipe, tmp_path / "fcn", reporter=QUIET)
    assert np.isfinite(records(tmp_path / "fcn")[0]["train_loss"])
    assert 0 <= result.evaluation.miou <= 1
    comparison = compare([segmented / "run", tmp_path / "fcn"])
    assert comparison.score == "val_miou"
    assert comparison.differences["kind"] == ["deeplabv3", "fcn"]
    costs = [run.cost for run in comparison.runs]
    assert costs == [count(TINY, len(CLASSES)), count(recipe, len(CLASSES))]
