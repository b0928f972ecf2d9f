"""The loop: it learns, it stops and goes on to the same bits, and loses nothing."""

import hashlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from resnestkit import Recipe, TrainResult, UserError, evaluate, load_model, resume, train
from resnestkit.compute import choose_compute
from resnestkit.data.loaders import Batch
from resnestkit.preprocessing import Preprocessing
from resnestkit.progress import Reporter
from resnestkit.tasks.base import Step
from resnestkit.tasks.classification import ClassificationTask
from resnestkit.training.interrupt import Interrupted
from resnestkit.training.loop import Trainer
from resnestkit.training.optimizer import rate_at
from resnestkit.training.run import RunFolder

QUIET = Reporter(quiet=True)

SMALL = Recipe(
    model="resnest23_small",
    epochs=2,
    batch_size=8,
    lr=1.0,
    warmup_epochs=1,
    mixup=0.0,
    size=8,
    crop="pad",
    padding=1,
    crop_ratio=1.0,
    precision="float32",
    device="cpu",
)


def run(data: Path, recipe: Recipe, output: Path) -> TrainResult:
    return train(str(data), recipe, output, reporter=QUIET)


def digest(path: Path) -> str:
    """Hash of the weights alone: the header tells of speeds, which differ."""
    model, _ = load_model(path)
    state = (tensor.numpy().tobytes() for tensor in model.state_dict().values())
    return hashlib.sha256(b"".join(state)).hexdigest()


def test_it_learns_and_leaves_a_whole_run_folder(colours: Path, tmp_path: Path) -> None:
    result = run(colours, replace(SMALL, epochs=6, ema=0.9, drop_block=0.1), tmp_path / "run")
    assert result.evaluation.top1 >= 0.9
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {
        "config.json",
        "metrics.jsonl",
        "best.safetensors",
        "last.safetensors",
        "state.safetensors",
        "state-1.safetensors",
        "evaluation.json",
        "curves.png",
        "confusion.png",
        "report.html",
    }
    records = [json.loads(x) for x in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == [1, 2, 3, 4, 5, 6]
    assert records[-1]["train_loss"] < records[0]["train_loss"]
    page = (tmp_path / "run/report.html").read_text()
    assert f"{result.evaluation.top1:.2%}" in page
    assert page.count("data:image/png;base64,") >= 2


def test_the_checkpoint_alone_gives_the_same_numbers(colours: Path, tmp_path: Path) -> None:
    result = run(colours, SMALL, tmp_path / "run")
    again, classes = evaluate(result.run.best, reporter=QUIET)
    assert classes == ("blue", "green", "red")
    assert again.count == result.evaluation.count
    assert again.confusion == result.evaluation.confusion
    assert again.loss == pytest.approx(result.evaluation.loss, rel=1e-4)
    _, card = load_model(result.run.best)
    assert card.metrics["top1"] == pytest.approx(result.evaluation.top1)


def test_same_seed_same_weights_other_seed_others(colours: Path, tmp_path: Path) -> None:
    recipe = replace(SMALL, epochs=1, mixup=0.2, cutmix=1.0, drop_path=0.2, dropout=0.1)
    one, two = (digest(run(colours, recipe, tmp_path / name).run.last) for name in "ab")
    other = digest(run(colours, replace(recipe, seed=1), tmp_path / "c").run.last)
    assert one == two != other


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Send ourselves a signal during a step, counted over the run."""

    def arrange(steps: int, number: int = signal.SIGINT) -> None:
        original, seen = Trainer._step, 0

        def step(self: Trainer[Any, Any], *rest: Any) -> Any:
            nonlocal seen
            seen += 1
            if seen == steps:
                os.kill(os.getpid(), number)
            return original(self, *rest)

        monkeypatch.setattr(Trainer, "_step", step)

    yield arrange
    monkeypatch.undo()


@pytest.mark.parametrize("steps", [1, 3, 4, 5, 7])
def test_a_stopped_run_goes_on_to_the_same_bits(
    colours: Path,
    tmp_path: Path,
    stop_after: Callable[[int], None],
    steps: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = replace(SMALL, ema=0.9, mixup=0.2, drop_path=0.2, drop_block=0.1)
    whole = run(colours, recipe, tmp_path / "whole")
    stop_after(steps)
    with pytest.raises(Interrupted, match=r"--resume .*parts") as stopped:
        run(colours, recipe, tmp_path / "parts")
    assert stopped.value.exit_code == 130
    monkeypatch.undo()
    torch.manual_seed(999)
    parts = resume(tmp_path / "parts", reporter=QUIET)
    assert digest(parts.run.last) == digest(whole.run.last)
    assert digest(parts.run.best) == digest(whole.run.best)
    for one, two in zip(whole.run.read_records(), parts.run.read_records(), strict=True):
        timing = {"images_per_second", "seconds"}
        assert {k: v for k, v in one.items() if k not in timing} == {
            k: v for k, v in two.items() if k not in timing
        }


def test_accumulated_run_stops_where_weights_moved(
    colours: Path,
    tmp_path: Path,
    stop_after: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = replace(SMALL, batch_size=4, accumulate=4)
    whole = run(colours, recipe, tmp_path / "whole")
    stop_after(2)
    with pytest.raises(Interrupted, match="batch 4"):
        run(colours, recipe, tmp_path / "parts")
    monkeypatch.undo()
    parts = resume(tmp_path / "parts", reporter=QUIET)
    assert digest(parts.run.last) == digest(whole.run.last)


def test_sigterm_has_its_own_exit_code(
    colours: Path, tmp_path: Path, stop_after: Callable[[int, int], None]
) -> None:
    stop_after(2, signal.SIGTERM)
    with pytest.raises(Interrupted) as stopped:
        run(colours, SMALL, tmp_path / "run")
    assert stopped.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_accumulated_steps_are_one_larger_step(
    draw_colours: Callable[[Path, int], Path], tmp_path: Path
) -> None:
    # Group normalisation sees each image alone, so that the two must agree; 48 images train.
    colours = draw_colours(tmp_path / "colours", 20)
    recipe = replace(SMALL, epochs=1, norm="group", crop="none", flip=False, warmup_epochs=0)
    large = run(colours, replace(recipe, batch_size=16), tmp_path / "large").run.last
    parts = run(colours, replace(recipe, batch_size=4, accumulate=4), tmp_path / "parts").run.last
    one, two = (load_model(path)[0].state_dict() for path in (large, parts))
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, two[name], atol=2e-4, rtol=2e-3, msg=name)


def test_a_run_is_never_written_over(colours: Path, tmp_path: Path) -> None:
    run(colours, replace(SMALL, epochs=1), tmp_path / "run")
    before = digest(tmp_path / "run/best.safetensors")
    with pytest.raises(UserError, match="holds a run already"):
        run(colours, SMALL, tmp_path / "run")
    assert digest(tmp_path / "run/best.safetensors") == before
    with pytest.raises(UserError, match="holds no run"):
        resume(tmp_path / "nothing")


def test_a_run_does_not_go_on_with_other_images(
    colours: Path, tmp_path: Path, stop_after: Callable[[int], None]
) -> None:
    stop_after(2)
    with pytest.raises(Interrupted):
        run(colours, SMALL, tmp_path / "run")
    moved = colours.rename(tmp_path / "moved")
    with pytest.raises(UserError, match="no folder"):
        resume(tmp_path / "run", reporter=QUIET)
    (moved / "red" / "00.png").unlink()
    with pytest.raises(UserError, match="its data changed"):
        resume(tmp_path / "run", moved, reporter=QUIET)


def test_a_run_goes_on_where_its_images_moved_to(
    colours: Path, tmp_path: Path, stop_after: Callable[[int], None]
) -> None:
    stop_after(2)
    with pytest.raises(Interrupted):
        run(colours, SMALL, tmp_path / "run")
    result = resume(tmp_path / "run", colours.rename(tmp_path / "moved"), reporter=QUIET)
    assert result.evaluation.count == 9


def test_two_runs_never_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    one, two = RunFolder.new("net"), RunFolder.new("net")
    assert one.path != two.path
    same = RunFolder(one.path)
    one.take("x", SMALL, {})
    with pytest.raises(UserError, match="holds a run already"):
        same.take("x", SMALL, {})


def test_a_run_inside_its_own_data_is_refused(colours: Path) -> None:
    with pytest.raises(UserError, match="inside the data"):
        run(colours, SMALL, colours / "runs" / "one")
    assert {path.name for path in colours.iterdir()} == {"blue", "green", "red"}


def test_a_folder_that_cannot_be_made_is_known_before_reading(colours: Path) -> None:
    with pytest.raises(UserError, match="Cannot make the folder"):
        run(colours, SMALL, Path("/proc/nothing/run"))


def test_frozen_norms_need_weights(colours: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give --weights"):
        run(colours, replace(SMALL, norm="frozen"), tmp_path / "run")


def test_a_synchronised_norm_of_one_process_is_the_plain_one(colours: Path, tmp_path: Path) -> None:
    recipe = replace(SMALL, epochs=1)
    plain = run(colours, recipe, tmp_path / "plain").run.read_records()[0]
    synced = run(colours, replace(recipe, norm="sync"), tmp_path / "sync").run.read_records()[0]
    assert synced["train_loss"] == pytest.approx(plain["train_loss"], rel=1e-4)


def test_a_mixed_image_is_right_if_its_larger_part_is_named() -> None:
    task = ClassificationTask(("a", "b", "c"), Preprocessing(4, 1.0), mixup=1.0)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    # Images whose single bright channel is their class: the mixture's brightest is its larger part.
    images = torch.zeros(6, 3, 4, 4, dtype=torch.uint8)
    images[torch.arange(6), labels] = 200
    batch = Batch(images, labels, list(range(6)))

    class Brightest(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            std = torch.tensor(Preprocessing().std).view(3, 1, 1)
            mean = torch.tensor(Preprocessing().mean).view(3, 1, 1)
            return (x * std + mean).mean((2, 3))

    compute = choose_compute("cpu", "float32")
    assert all(task.step(Brightest(), batch, compute).sums["top1"] == 6 for _ in range(20))


def test_the_recorded_rate_is_the_last_one_used(colours: Path, tmp_path: Path) -> None:
    result = run(colours, replace(SMALL, warmup_epochs=0), tmp_path / "run")
    rates = [record["lr"] for record in result.run.read_records()]
    steps = [rate_at(step, peak=1.0 * 8 / 256, warmup=0, total=8) for step in (3, 7)]
    assert rates == pytest.approx(steps)
    assert rates[-1] > 0


def test_a_finished_run_resumes_to_itself(colours: Path, tmp_path: Path) -> None:
    first = run(colours, replace(SMALL, epochs=1), tmp_path / "run")
    again = resume(tmp_path / "run", reporter=QUIET)
    assert again.evaluation == first.evaluation


def test_a_loss_that_is_no_number_stops_with_the_last_good_model(
    colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, seen = ClassificationTask.step, 0

    def step(*arguments: object) -> Step:
        nonlocal seen
        seen += 1
        made = original(*arguments)  # type: ignore[arg-type]
        return replace(made, sums={**made.sums, "loss": float("nan")}) if seen == 6 else made

    monkeypatch.setattr(ClassificationTask, "step", step)
    with pytest.raises(UserError, match="loss is nan in epoch 2, batch 2"):
        run(colours, SMALL, tmp_path / "run")
    assert load_model(tmp_path / "run/last.safetensors")[1].metrics["epoch"] == 1


def test_fine_tuning_starts_from_the_backbone(colours: Path, tmp_path: Path) -> None:
    first = run(colours, replace(SMALL, epochs=1), tmp_path / "first").run.last
    tiny = replace(SMALL, epochs=1, lr=1e-9, weights=str(first))
    second = run(colours, tiny, tmp_path / "second").run.last
    one, two = load_model(first)[0], load_model(second)[0]
    torch.testing.assert_close(one.layer4[1].conv3.weight, two.layer4[1].conv3.weight)
    with pytest.raises(UserError, match="does not hold the weights of a resnet23_small"):
        run(colours, replace(tiny, model="resnet23_small"), tmp_path / "third")


def test_batch_of_one_is_refused_with_the_remedy(colours: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--norm group"):
        run(colours, replace(SMALL, batch_size=1), tmp_path / "run")
    result = run(colours, replace(SMALL, batch_size=1, norm="group", epochs=1), tmp_path / "run2")
    assert result.best_epoch == 1


def test_grey_input(colours: Path, tmp_path: Path) -> None:
    recipe = replace(SMALL, epochs=1, mean=(0.5,), std=(0.25,))
    result = run(colours, recipe, tmp_path / "run")
    assert load_model(result.run.best)[0].in_channels == 1


def test_progress_degrades_to_plain_lines(
    colours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    console = Console(force_terminal=False, width=200)
    train(str(colours), SMALL, tmp_path / "run", reporter=Reporter(console))
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "epoch   2/2" in printed
    assert "img/s" in printed
    console = Console(force_terminal=True, width=100)
    train(str(colours), SMALL, tmp_path / "run2", reporter=Reporter(console))
    assert "\x1b" in capsys.readouterr().out
