"""Runs beside each other: finished, going and stopped ones, and runs that differ in the seed."""

import io
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from resnestkit import Recipe, UserError
from resnestkit.training.compare import compare
from resnestkit.training.comparison import (
    check_output,
    run_table,
    spread_table,
    to_dict,
    write_comparison,
)
from resnestkit.training.run import RunFolder

RECIPE = Recipe(model="resnest23_small", epochs=3, size=16)


def make_run(
    path: Path, recipe: Recipe = RECIPE, scores: tuple[float, ...] = (0.5, 0.7, 0.6), **extra: float
) -> Path:
    """A run folder as a training leaves it, without the models."""
    path.mkdir()
    run = RunFolder(path)
    run.take("digits", recipe, {})
    run.write_records(
        [
            {
                "epoch": epoch, "val_loss": 1 / epoch, "val_top1": score, "val_top5": 1.0,
                "images_per_second": 100.0 + epoch, "seconds": 20.0, **extra,
            }
            for epoch, score in enumerate(scores, 1)
        ]
    )  # fmt: skip
    return path


def age(run: Path, seconds: float) -> None:
    path = run / "metrics.jsonl"
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))


def test_a_row_says_what_a_run_reached(tmp_path: Path) -> None:
    comparison = compare([make_run(tmp_path / "one")])
    header, row = run_table(comparison)
    cells = dict(zip(header, row, strict=True))
    assert cells == {
        "run": "one", "net": "resnest23_small", "parameters": "-", "multiply-adds": "-",
        "epochs": "3", "best accuracy": "70.00%", "in epoch": "2", "last accuracy": "60.00%",
        "seed": "0", "images/s": "102", "training": "1:00",
    }  # fmt: skip


def test_only_settings_that_differ_have_a_column(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one")
    two = make_run(tmp_path / "two", replace(RECIPE, lr=0.3, clip_norm=5.0, seed=4))
    comparison = compare([one, two])
    assert comparison.differences == {"lr": [0.1, 0.3], "clip_norm": [None, 5.0]}
    header, *rows = run_table(comparison)
    assert header[-2:] == ["lr", "clip-norm"]
    assert [row[-2:] for row in rows] == [["0.1", "-"], ["0.3", "5.0"]]
    assert comparison.spreads == []


def test_runs_that_differ_in_the_seed_alone_have_a_mean_and_a_spread(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / f"seed{seed}", replace(RECIPE, seed=seed, workers=seed), (score,) * 3)
        for seed, score in enumerate((0.7, 0.8, 0.9))
    ]
    again = make_run(tmp_path / "again", RECIPE, (0.1,) * 3)
    other = make_run(tmp_path / "other", replace(RECIPE, lr=1.0))
    unfinished = make_run(tmp_path / "unfinished", replace(RECIPE, seed=9), (0.2,))
    comparison = compare([*runs, again, other, unfinished])
    (spread,) = comparison.spreads
    assert spread.runs == ["seed0", "seed1", "seed2"]
    assert spread.best_mean == pytest.approx(0.8)
    assert spread.best_std == pytest.approx(0.1)
    assert spread_table(comparison)[1][:2] == ["3", "80.00% ± 10.00%"]


def test_an_unfinished_run_is_going_or_stopped(tmp_path: Path) -> None:
    going = make_run(tmp_path / "going", scores=(0.5,))
    stopped = make_run(tmp_path / "stopped", scores=(0.5,))
    begun = make_run(tmp_path / "begun", scores=())
    (begun / "metrics.jsonl").unlink()
    age(stopped, 3600)
    comparison = compare([going, stopped, begun])
    epochs = [row[4] for row in run_table(comparison)[1:]]
    assert epochs == ["1 of 3, going", "1 of 3, stopped", "0 of 3, going"]
    assert run_table(comparison)[3][5:8] == ["-", "-", "-"]
    write_comparison(comparison, tmp_path / "comparison.png")


def test_any_score_of_the_validation_will_do(tmp_path: Path) -> None:
    run = make_run(tmp_path / "boxes")
    records = [{"epoch": 1, "val_loss": 1.0, "val_box_loss": 1.0, "val_map": 0.4, "val_map50": 0.6}]
    RunFolder(run).write_records(records)
    comparison = compare([run])
    assert comparison.score == "val_map"
    assert run_table(comparison)[0][5] == "best map"
    write_comparison(comparison, tmp_path / "comparison.png")
    with pytest.raises(UserError, match="boxes by val_map and other by val_top1 are measured"):
        compare([run, make_run(tmp_path / "other")])


def test_runs_of_one_name_are_told_apart_and_one_given_twice_counts_once(tmp_path: Path) -> None:
    for parent in ("a", "b"):
        (tmp_path / parent).mkdir()
        make_run(tmp_path / parent / "run")
    a, b = tmp_path / "a/run", tmp_path / "b/run"
    assert [run.name for run in compare([a, b, tmp_path / "b/../a/run"]).runs] == [str(a), str(b)]


def test_what_holds_no_run_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with pytest.raises(UserError, match="holds no run"):
        compare([run, tmp_path])
    (run / "metrics.jsonl").write_text("[1]\n")
    with pytest.raises(UserError, match=r"metrics.jsonl is damaged"):
        compare([run])


def test_only_an_earlier_comparison_is_written_over(tmp_path: Path) -> None:
    comparison = compare([make_run(tmp_path / "run")])
    for name in ("comparison.png", "comparison.html"):
        for _ in range(2):
            write_comparison(comparison, tmp_path / name)
    with Image.open(io.BytesIO((tmp_path / "comparison.png").read_bytes())) as image:
        assert image.info["Software"] == "resnestkit compare"
    page = (tmp_path / "comparison.html").read_text()
    assert "70.00%" in page
    assert "data:image/png;base64," in page
    Image.new("RGB", (4, 4)).save(tmp_path / "holiday.png")
    with pytest.raises(UserError, match="no earlier comparison"):
        check_output(tmp_path / "holiday.png")
    with pytest.raises(UserError, match=r"must end in \.png"):
        check_output(tmp_path / "comparison.jpg")
    with pytest.raises(UserError, match="There is no folder"):
        check_output(tmp_path / "nowhere" / "comparison.png")


def test_the_numbers_are_plain(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one")
    two = make_run(tmp_path / "two", replace(RECIPE, seed=1, mean=(0.5,), std=(0.5,)), ())
    values = json.loads(json.dumps(to_dict(compare([one, two]))))
    first, second = values["runs"]
    assert (first["best"], first["best_epoch"], first["last"]) == (0.7, 2, 0.6)
    assert (second["best"], second["images_per_second"], second["seconds"]) == (None, None, 0)
    assert second["differences"]["mean"] == [0.5]
