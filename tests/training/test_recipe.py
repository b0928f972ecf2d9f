"""Defaults, files, and what is refused."""

import json
from pathlib import Path

import pytest

from resnestkit.errors import UserError
from resnestkit.progress import Reporter
from resnestkit.training import train
from resnestkit.training.recipe import (
    DetectionRecipe,
    Recipe,
    SegmentationRecipe,
    list_recipes,
    load_recipe,
    recipe_from_dict,
)


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_loads_and_states_its_command(name: str) -> None:
    recipe = load_recipe(name)
    assert isinstance(recipe, Recipe | DetectionRecipe | SegmentationRecipe)
    module = __import__(f"resnestkit.recipes.{name}", fromlist=["recipe"])
    assert "Command:" in (module.__doc__ or "")
    assert "Expected:" in (module.__doc__ or "")


def test_recipes_survive_json(tmp_path: Path) -> None:
    recipe = load_recipe("cifar10")
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"data": "x", "recipe": recipe.to_dict()}))
    assert load_recipe(str(path)) == recipe
    path.write_text(json.dumps(recipe.to_dict()))
    assert load_recipe(str(path)) == recipe


def test_a_python_file_is_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("from resnestkit import Recipe\ndef recipe():\n    return Recipe(epochs=7)\n")
    assert load_recipe(str(path)).epochs == 7


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("def recipe():\n    return 3\n", "needs a function recipe"),
        ("x = 1\n", "needs a function recipe"),
        ("1 / 0\n", "ZeroDivisionError"),
        ("from resnestkit import Recipe\ndef recipe(): return Recipe(epoch=3)\n", "epoch"),
        ("from resnestkit import Recipe\nRecipe(epochs=0)\n", "--epochs is 0"),
    ],
)
def test_a_file_that_is_no_recipe(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(content)
    with pytest.raises(UserError, match=words):
        load_recipe(str(path))


def test_unknown_names_and_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Did you mean cifar10"):
        load_recipe("cifar")
    with pytest.raises(UserError, match="no recipe file"):
        load_recipe("missing.py")
    with pytest.raises(UserError, match="Cannot read"):
        load_recipe("missing.json")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        load_recipe(str(tmp_path / "a.json"))
    with pytest.raises(UserError, match=r"unknown setting 'epoch'.*epochs"):
        recipe_from_dict({"epoch": 3}, "a.json")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("batch_size", -1),
        ("lr", 0.0),
        ("ema", 1.0),
        ("label_smoothing", -0.1),
        ("holdout", 1.0),
        ("size", 4),
        ("mean", (0.5, 0.5)),
        ("std", (0.5,)),
        ("std", (0.0, 1.0, 1.0)),
        ("min_area", 1.5),
        ("workers", -1),
        ("clip_norm", -1.0),
        ("dropout", 1.5),
        ("seed", 2**64),
        ("crop", "resize"),
        ("precision", "fp16"),
        ("norm", "layer"),
        ("model", 5),
        ("epochs", 2.5),
        ("flip", "no"),
        ("mean", (0.5, "a", 0.5)),
        ("auto_augment", "trivial"),
        ("rand_ops", 0),
        ("rand_magnitude", 31),
        ("rand_magnitude", 9.5),
        ("jitter", 1.5),
        ("lighting", -0.1),
        ("erase", 2.0),
        ("mixup_off_epochs", -1),
        ("mixup_off_epochs", 101),
        ("train_size", 4),
        ("crop_ratio", 0.0),
        ("interpolation", "nearest"),
    ],
)
def test_values_without_sense_are_refused_by_their_flag(name: str, value: object) -> None:
    with pytest.raises(UserError, match=f"--{name.replace('_', '-')} is"):
        Recipe(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kind", "segformer"),
        ("output_stride", 4),
        ("auxiliary", -0.1),
        ("head_lr", 0.0),
        ("power", 0.0),
        ("class_weights", "rare"),
        ("class_weights", (1.0, -1.0)),
        ("class_weights", (0.0, 0.0)),
        ("base_side", 0),
        ("crop_size", 4),
        ("scale", (2.0, 0.5)),
        ("scale", (1.0,)),
        ("test_side", 0),
        ("test_scales", ()),
        ("test_scales", (100.0,)),
        ("test_window", 2),
    ],
)
def test_values_of_a_segmenter_without_sense_are_refused(name: str, value: object) -> None:
    with pytest.raises(UserError, match=f"--{name.replace('_', '-')} is"):
        SegmentationRecipe(**{name: value})  # type: ignore[arg-type]


def test_a_segmenters_recipe_survives_json() -> None:
    recipe = SegmentationRecipe(class_weights=(1.0, 2.0), output_stride=8, test_scales=(0.5, 1.0))
    values = json.loads(json.dumps(recipe.to_dict()))
    assert recipe_from_dict(values, "", "segmentation") == recipe


def test_lighting_is_refused_for_grey_images() -> None:
    with pytest.raises(UserError, match=r"--lighting is 0\.1; it must be 0 for grey"):
        Recipe(mean=(0.5,), std=(0.25,), lighting=0.1)
    assert Recipe(mean=(0.5,), std=(0.25,), jitter=0.4).jitter == 0.4


def test_epochs_and_steps_of_warmup_exclude_each_other() -> None:
    with pytest.raises(UserError, match=r"--warmup-epochs is 2\.0; it must be left out"):
        DetectionRecipe(warmup_epochs=2.0)
    assert DetectionRecipe(warmup_epochs=2.0, warmup_steps=None).warmup_epochs == 2.0


def test_a_run_s_recipe_chooses_kernels_anew(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    for recorded, read in ((True, None), (False, False)):
        settings = Recipe(kernels=recorded).to_dict()
        path.write_text(json.dumps({"data": "x", "task": "classification", "recipe": settings}))
        assert load_recipe(str(path)).kernels is read


def test_a_run_goes_on_without_kernels_where_there_are_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = Recipe(kernels=True, device="cpu")
    monkeypatch.setattr(train, "why_no_kernels", lambda _: None)
    assert train._without_kernels(recipe, Reporter()) == recipe
    monkeypatch.setattr(train, "why_no_kernels", lambda _: "There is no C++ compiler (g++).")
    assert train._without_kernels(recipe, Reporter()).kernels is False
    assert "There is no C++ compiler" in capsys.readouterr().out
