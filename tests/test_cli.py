"""The command line as a user types it."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from pictures import draw_class_folders
from PIL import Image

from resnestkit import cli

FAST = ["--epochs", "2", "--batch-size", "8", "--size", "8", "--crop", "none", "--lr", "1"]
FAST += ["--model", "resnest23_small", "--crop-ratio", "1", "--mixup", "0", "--warmup-epochs", "0"]
FAST += ["--precision", "float32", "--device", "cpu"]

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on colours, made once; its folder of images lies beside it."""
    root = tmp_path_factory.mktemp("trained")
    draw_class_folders(root / "colours", 16)
    with pytest.raises(SystemExit) as left:
        cli.main(["train", "--data", f"{root}/colours", "--output", f"{root}/run", *FAST])
    assert left.value.code == 0
    return root


def command(words: Sequence[str | Path], **options: object) -> subprocess.CompletedProcess[str]:
    full = [sys.executable, "-m", "resnestkit", *map(str, words)]
    return subprocess.run(full, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]


def test_help_names_the_verbs(run: Run) -> None:
    for words in ([], ["--help"], ["-h"], ["help"]):
        code, out, _ = run(*words)
        assert code == 0
        assert all(verb in out for verb in ("train", "evaluate", "predict", "models"))
    for verb in cli.VERBS:
        code, out, _ = run(verb, "--help")
        assert code == 0
        assert f"usage: resnestkit {verb}" in out


def test_help_models_and_version_do_not_load_torch() -> None:
    program = (
        "import sys; from resnestkit import cli\n"
        "for words in ([], ['models'], ['--version'], ['train', '--help']):\n"
        "    try: cli.main(words)\n"
        "    except SystemExit as left: assert not left.code, left.code\n"
        "assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_models_lists_what_matches(run: Run) -> None:
    code, out, _ = run("models", "resnest50*")
    assert code == 0
    lines = out.splitlines()
    assert len(lines) == 9, lines
    assert lines[1].split()[:2] == ["resnest50", "27,483,240"]
    assert run("models", "resnest50d")[1].splitlines()[1].startswith("resnest50 ")
    code, out, _ = run("models", "sknet50", "--json")
    assert json.loads(out)[0]["params"] == 27_479_784
    code, _, err = run("models", "resmest50")
    assert code == 2
    assert "resnest50" in err


def test_train_evaluate_predict(trained: Path, run: Run, tmp_path: Path) -> None:
    best = trained / "run" / "best.safetensors"
    code, out, err = run("evaluate", best, trained / "colours", "--json", tmp_path / "e.json")
    assert code == 0, err
    assert "held-out images" in out
    assert "accuracy" in out
    assert json.loads((tmp_path / "e.json").read_text())["count"] == 9

    pictures = trained / "colours" / "red"
    code, out, err = run(
        "predict", best, pictures, f"{trained}/colours/blue/0[01].png",
        "--json", tmp_path / "p.json", "--csv", tmp_path / "p.csv", "--top", "2",
    )  # fmt: skip
    assert code == 0, err
    assert "00.png" in out
    predictions = json.loads((tmp_path / "p.json").read_text())
    assert len(predictions) == 18
    assert all(len(prediction["guesses"]) == 2 for prediction in predictions)
    rows = list(csv.DictReader((tmp_path / "p.csv").read_text().splitlines()))
    assert len(rows) == 36
    assert {row["class"] for row in rows} <= {"red", "green", "blue"}


@pytest.mark.parametrize("verb", ["predict", "explain"])
def test_a_classifier_answers_without_torchvision(trained: Path, tmp_path: Path, verb: str) -> None:
    """Nor with torch's compiler: each takes seconds to import, and no classifier needs it."""
    Image.open(trained / "colours" / "red" / "00.png").save(tmp_path / "red.jpg")
    words = [verb, f"{trained}/run/best.safetensors", str(tmp_path / "red.jpg")]
    program = (
        "import sys; from resnestkit import cli\n"
        f"try: cli.main({words})\n"
        "except SystemExit as left: assert not left.code, left.code\n"
        "slow = {'torchvision', 'torch._dynamo'} & sys.modules.keys()\n"
        "assert 'torch' in sys.modules and not slow, slow\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr.decode()


def test_compare_draws_and_lists_runs(trained: Path, run: Run, tmp_path: Path) -> None:
    picture = tmp_path / "comparison.png"
    words: list[str | Path] = ["compare", trained / "run", "--output", picture]
    code, out, err = run(*words, "--json", tmp_path / "c.json")
    assert code == 0, err
    assert out.splitlines()[1].split()[:2] == ["run", "resnest23_small"]
    assert "0.95 M" in out.splitlines()[1]
    assert str(picture) in out
    with Image.open(picture) as image:
        assert image.format == "PNG"
    values = json.loads((tmp_path / "c.json").read_text())["runs"][0]
    assert (values["state"], values["epochs"], values["multiply_adds"] > 0) == ("finished", 2, True)
    assert run(*words)[0] == 0  # its own picture may be drawn anew
    cases: list[tuple[list[str | Path], str]] = [
        (["compare"], "Give the folders"),
        (["compare", trained], "holds no run"),
        (["compare", trained / "run", "--output", trained / "run" / "curves.png"], "no earlier"),
        (["compare", trained / "run", "--output", tmp_path / "c.json"], "must end in .png"),
    ]
    for typed, expected in cases:
        code, _, err = run(*typed)
        assert code == 2, typed
        assert expected in err, (typed, err)


def test_recipe_file_then_flags(trained: Path, run: Run, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.py"
    recipe.write_text(
        "from resnestkit import Recipe\n"
        "def recipe():\n"
        "    return Recipe(model='resnet23_small', epochs=1, size=8, crop_ratio=1.0, seed=5,\n"
        "                  batch_size=16, precision='float32')\n"
    )
    words = ["train", "--data", trained / "colours", "--recipe", recipe, "--batch-size", "8"]
    code, out, err = run(*words, "--output", tmp_path / "run")
    assert code == 0, err
    resolved = json.loads((tmp_path / "run/config.json").read_text())["recipe"]
    assert (resolved["model"], resolved["seed"]) == ("resnet23_small", 5)
    assert resolved["batch_size"] == 8
    assert resolved["momentum"] == 0.9
    assert (resolved["precision"], resolved["dropout"]) == ("float32", 0.0)
    assert str(tmp_path / "run/report.html") in out


def test_a_runs_config_repeats_it(trained: Path, run: Run, tmp_path: Path) -> None:
    config = trained / "run" / "config.json"
    code, _, err = run("train", "--recipe", config, "--epochs", "1", "--output", tmp_path / "run")
    assert code == 0, err
    assert json.loads((tmp_path / "run/config.json").read_text())["data"] == str(
        trained / "colours"
    )


def test_what_should_not_happen_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_words: object) -> int:
        raise ZeroDivisionError("oh")

    monkeypatch.setitem(cli.VERBS, "models", broken)
    code, _, err = run("models")
    assert code == 70
    assert "ZeroDivisionError: oh" in err
    assert "RESNESTKIT_DEBUG=1" in err
    monkeypatch.setenv("RESNESTKIT_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        cli.main(["models"])


def test_what_is_typed_wrong_is_said_in_one_sentence(trained: Path, run: Run) -> None:
    best = trained / "run" / "best.safetensors"
    data = trained / "colours"
    state = trained / "run" / "state.safetensors"
    cases: list[tuple[list[str | Path], str]] = [
        (["trian"], "Did you mean train"),
        (["train", "--data", "/nowhere"], "no folder /nowhere"),
        (["train", "--data", data, "--model", "resnest5O"], "Did you mean resnest50"),
        (["train", "--data", data, "--recipe", "cifar"], "Did you mean cifar10"),
        (["train", "--data", data, "--epochs", "0"], "--epochs is 0"),
        (["train", "--data", data, *FAST, "--output", trained / "run"], "holds a run already"),
        (["train", "--data", data, *FAST, "--device", "abacus"], "--device abacus cannot be used"),
        (["train", "--resume", trained / "run", "--epochs", "9"], "leave the other flags out"),
        (["train", "--resume", trained], "holds no run"),
        (["evaluate", "missing.safetensors", data], "no checkpoint missing.safetensors"),
        (["evaluate", state, data], "best.safetensors"),
        (["evaluate", data / "red" / "00.png", data], "not a checkpoint"),
        (["evaluate", best, data, "--split", "test"], "has no test split"),
        (["evaluate", best, data, "--json", "/nowhere/a.json"], "Cannot write /nowhere/a.json"),
        (["evaluate", best, data, "--batch-size", "0"], "--batch-size is 0"),
        (["evaluate", best, "x" * 5000], "Cannot look at"),
        (["train", "--data", data, *FAST, "--device", "meta"], "--device meta cannot be used"),
        (["train", "--data", data, *FAST, "--output", data / "red" / "run"], "inside the data"),
        (["predict", best], "Give the images"),
        (["predict", best, "/nowhere/*.png"], "nothing at"),
        (["predict", best, data, "--top", "0"], "--top is 0"),
    ]
    for words, expected in cases:
        code, _, err = run(*words)
        assert code == 2, words
        assert expected in err, (words, err)
        assert "Traceback" not in err
        assert len(err.strip().splitlines()) == 1, err


def test_unknown_flag_is_refused_with_the_nearest(run: Run) -> None:
    code, out, err = run("train", "--epoch", "3")
    assert code == 2
    assert "--epochs" in out + err
    assert "Traceback" not in out + err


def test_predict_names_what_it_cannot_read_and_does_the_rest(
    trained: Path, run: Run, tmp_path: Path
) -> None:
    grey16 = np.linspace(0, 65535, 400).reshape(20, 20).astype(np.uint16)
    Image.fromarray(grey16).save(tmp_path / "deep.png")
    Image.new("CMYK", (20, 20), (0, 255, 255, 0)).save(tmp_path / "print.jpg")
    Image.new("RGB", (1, 1), "red").save(tmp_path / "dot.png")
    Image.new("RGB", (3000, 7), "red").save(tmp_path / "strip.png")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "words.jpg").write_text("no image")
    code, out, err = run("predict", trained / "run" / "best.safetensors", tmp_path)
    assert code == 1
    assert all(name in out for name in ("deep.png", "print.jpg", "dot.png", "strip.png"))
    assert "empty.jpg: the file is empty" in err
    assert "words.jpg: not an image" in err
    assert len(err.strip().splitlines()) == 2


def test_unreadable_training_images_are_named_and_skipped_if_allowed(
    run: Run, colours: Path, tmp_path: Path
) -> None:
    (colours / "red" / "00.png").write_bytes(b"")
    words = ["train", "--data", colours, *FAST, "--output"]
    code, _, err = run(*words, tmp_path / "one")
    assert code == 2
    assert "red/00.png: the file is empty" in err
    assert "--skip-unreadable" in err
    code, out, err = run(*words, tmp_path / "two", "--skip-unreadable")
    assert code == 0, err
    assert out.count("00.png") == 1


def test_output_that_nobody_reads_is_no_error(trained: Path) -> None:
    piped = f"{sys.executable} -m resnestkit models | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", piped], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr == ""


def test_ctrl_c_saves_and_the_run_goes_on(colours: Path, tmp_path: Path, run: Run) -> None:
    output = tmp_path / "run"
    words = ["train", "--data", colours, *FAST, "--epochs", "400", "--output", output]
    process = subprocess.Popen(
        [sys.executable, "-m", "resnestkit", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 120
    while not (output / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in out + err
    assert f"--resume {output}" in err
    done = len((output / "metrics.jsonl").read_text().splitlines())
    config = json.loads((output / "config.json").read_text())
    config["recipe"]["epochs"] = done + 1
    (output / "config.json").write_text(json.dumps(config))
    code, out, err = run("train", "--resume", output)
    assert code == 0, err
    assert len((output / "metrics.jsonl").read_text().splitlines()) == done + 1
