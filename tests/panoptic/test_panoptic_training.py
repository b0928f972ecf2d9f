"""A panoptic net's whole way: train, evaluate, predict, by Python and by command."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from masked_pictures import draw_masked_scenes
from PIL import Image
from segment_files import TINY, draw_panoptic_scenes
from torchmetrics.detection import PanopticQuality

from resnestkit import (
    PanopticPredictor,
    PanopticRecipe,
    UserError,
    evaluate,
    load_panoptic,
    load_recipe,
    train,
)
from resnestkit.compute import Compute
from resnestkit.data.panoptic.sources import load_panoptic_source
from resnestkit.data.segmentation.panoptic import read_panoptic
from resnestkit.data.segmentation.scenes import CLASSES, THINGS
from resnestkit.progress import Reporter
from resnestkit.report.page import Table
from resnestkit.tasks.panoptic import PanopticTask, read_segments
from resnestkit.training.checkup import check_up
from resnestkit.training.panoptic import prepare_panoptic
from resnestkit.weights.checkpoint import read_card

QUIET = Reporter(quiet=True)
Run = Callable[..., tuple[int, str, str]]
CPU = Compute(torch.device("cpu"), bfloat16=False, layout=torch.channels_last)
VOID = len(CLASSES)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a tiny panoptic net on scenes; its folder of images lies beside it."""
    root = tmp_path_factory.mktemp("told")
    draw_panoptic_scenes(root / "scenes", {"train": 8, "val": 4})
    train(root / "scenes", TINY, root / "run", reporter=QUIET)
    return root


def test_a_run_leaves_a_typed_checkpoint_and_a_report(told: Path) -> None:
    run = told / "run"
    card = read_card(run / "best.safetensors")
    assert card is not None
    assert (card.kind, card.head_is_new, card.classes) == ("panoptic", False, CLASSES)
    assert len(card.palette) == len(CLASSES)
    model, _ = load_panoptic(run / "best.safetensors")
    assert model.spec.things == THINGS
    assert (model.spec.settings.channels, model.spec.settings.stuff_area) == (64, 64)
    recipe = load_recipe(str(run / "config.json"))
    assert isinstance(recipe, PanopticRecipe)
    assert (recipe.model, recipe.kind, recipe.short_sides) == (TINY.model, TINY.kind, (48, 64))
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    wanted = {"train_loss_semantic", "train_loss_mask", "val_pq", "val_pq_things", "val_sq"}
    assert wanted <= set(records[0])
    assert records[-1]["train_loss"] < records[0]["train_loss"]
    page = (run / "report.html").read_text()
    assert "Panoptic quality" in page
    for name in ("curves.png", "worst.png", "examples.png"):
        assert (run / name).read_bytes().startswith(b"\x89PNG")
    assert json.loads((run / "evaluation.json").read_text())["count"] == 4


def test_what_is_measured_is_torchmetrics_of_what_the_net_says(told: Path) -> None:
    measured, classes = evaluate(told / "run" / "last.safetensors", reporter=QUIET)
    assert classes == CLASSES
    assert measured.count == 4
    model, _ = load_panoptic(told / "run" / "last.safetensors")
    images = load_panoptic_source(str(told / "scenes")).splits["val"]
    metric = PanopticQuality({1, 2, 3}, {0}, allow_unknown_preds_category=True)
    for index in range(len(images)):
        with torch.inference_mode():
            (output,) = model([images.read(index).float() / 255])
        pair = []
        for segments in (read_segments(output)[0], images.segments(index)):
            table = torch.full((100, 2), VOID)
            for one in segments.segments:
                table[one.number] = torch.tensor([one.label, one.number])
            pair.append(table[segments.numbers.long()][None])
        metric.update(*pair)
    expected = metric.compute().nan_to_num(0).item()
    assert measured.metrics["pq_torchmetrics"] == pytest.approx(expected, abs=1e-6)


def test_an_oracle_has_all_the_quality_and_its_report_says_so(told: Path) -> None:
    job = prepare_panoptic(str(told / "scenes"), TINY, CPU, QUIET)
    task = job.task
    assert isinstance(task, PanopticTask)
    images = load_panoptic_source(str(told / "scenes")).splits["val"]

    class Oracle(torch.nn.Module):
        shown = 0

        def forward(self, batch: list[torch.Tensor]) -> list[dict[str, object]]:
            answers = []
            for _ in batch:
                true = images.segments(self.shown)
                listed = [_Scored(one.number, one.label, one.is_thing) for one in true.segments]
                answers.append({"segments": true.numbers, "segments_info": listed})
                self.shown += 1
            return answers

    result = task.evaluate(Oracle(), job.loaders.validation, CPU)
    assert result.metrics == dict.fromkeys(result.metrics, 1.0)
    assert task.words(result.metrics).startswith("PQ 100.00%")
    part = task.report(result, images, "val")
    assert [one.value for one in part.headlines] == ["100.0%"] * 3
    tables = [one for one in part.sections if isinstance(one, Table)]
    assert [row[:2] for row in tables[0].rows] == [
        [name, "thing" if thing else "stuff"] for name, thing in zip(CLASSES, THINGS, strict=True)
    ]


class _Scored:
    score = 1.0

    def __init__(self, number: int, label: int, is_thing: bool) -> None:
        self.number, self.label, self.is_thing = number, label, is_thing


def test_predictions_are_files_of_cocos_form(told: Path, tmp_path: Path, run: Run) -> None:
    best, folder = told / "run" / "best.safetensors", tmp_path / "out"
    said = tmp_path / "segments.csv"
    code, out, _ = run(
        "predict", best, told / "scenes" / "val", "--output", folder, "--score", "0.2",
        "--csv", said, "--json", tmp_path / "a.json",
    )  # fmt: skip
    assert code == 0
    assert "score       0.20 or more" in out
    file = read_panoptic(folder / "panoptic.json")
    assert json.loads((tmp_path / "a.json").read_text())["annotations"]
    assert [one.name for one in file.categories] == list(CLASSES)
    assert file.things == THINGS
    predictor = PanopticPredictor(best, score=0.2)
    paths = sorted((told / "scenes" / "val").glob("*.png"))
    lines = said.read_text().splitlines()
    assert len(lines) == 1 + sum(len(rows) for rows in file.rows)
    for path, one in zip(paths, predictor.predict(paths), strict=True):
        place = [Path(name).name for name in file.file_names].index(path.name)
        mask = file.mask_names[place]
        assert mask is not None
        colours = np.asarray(Image.open(folder / mask)).astype(np.int64)
        assert np.array_equal(colours @ [1, 256, 65_536], one.numbers)
        rows = [[s.number, s.label, 0] for s in one.segments]
        assert file.rows[place].tolist() == rows
        assert (folder / f"{path.stem}.overlay.jpg").is_file()
        assert sum(one.counts.values()) == sum(s.is_thing for s in one.segments)
    code, _, err = run("predict", best, paths[0], "--tile", "64")
    assert code == 2
    assert "--tile is for segmenters" in err


def test_evaluate_and_doctor_by_command(told: Path, run: Run) -> None:
    best = told / "run" / "best.safetensors"
    code, out, _ = run("evaluate", best)
    assert code == 0
    assert "held-out" not in out
    assert "torchmetrics is as all" in out
    assert "triangle" in out
    code, _, err = run("evaluate", best, "--flip")
    assert code == 2
    assert "--flip is for segmenters" in err
    code, out, _ = run("doctor", told / "scenes", "--task", "panoptic", "--no-speed")
    assert code in {0, 2}
    assert "Panoptic FPN of mask_rcnn on resnest50" in out


def test_data_that_counts_other_classes_is_refused(told: Path, tmp_path: Path) -> None:
    stuff = (*THINGS[:-1], False)
    root = draw_panoptic_scenes(tmp_path / "scenes", {"train": 2, "val": 1}, stuff)
    best = told / "run" / "best.safetensors"
    with pytest.raises(UserError, match=rf"do not agree which .* stuff: {CLASSES[-1]};"):
        evaluate(best, str(root))


def test_a_training_of_masks_without_segments_is_refused(tmp_path: Path, run: Run) -> None:
    root = draw_masked_scenes(tmp_path / "scenes", {"train": 2, "val": 1})
    code, _, err = run("train", "--data", root, "--task", "panoptic", "--model", "resnet18")
    assert code == 2
    assert "give COCO's panoptic form" in err
    checkup = check_up(root, replace(TINY, batch_size=2), QUIET, speed=False)
    assert checkup.refused


def test_flags_are_checked() -> None:
    with pytest.raises(UserError, match="--semantic-weight is -1"):
        PanopticRecipe(semantic_weight=-1.0)
    with pytest.raises(UserError, match="--kind is faster_rcnn"):
        PanopticRecipe(kind="faster_rcnn")  # type: ignore[arg-type]  # what is refused
    with pytest.raises(UserError, match="--stuff-area is -3"):
        PanopticRecipe(stuff_area=-3)


def test_the_recipe_for_a_cpu_is_one() -> None:
    recipe = load_recipe("panoptic_cpu")
    assert isinstance(recipe, PanopticRecipe)
    assert recipe.task == "panoptic"
