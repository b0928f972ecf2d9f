"""The report of a run that goes on, and TensorBoard: both look on, and change nothing."""

import hashlib
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from resnestkit import Recipe, TrainResult, UserError, load_model, resume, train
from resnestkit.progress import Reporter
from resnestkit.tasks.classification import ClassificationTask
from resnestkit.training import live
from resnestkit.training.interrupt import Interrupted
from resnestkit.training.live import LiveReport
from resnestkit.training.loop import Trainer
from resnestkit.training.state import Position

SMALL = Recipe(
    model="resnest23_small",
    epochs=3,
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

Pages = list[str]


def run(data: Path, recipe: Recipe, output: Path, console: Console | None = None) -> TrainResult:
    return train(str(data), recipe, output, reporter=Reporter(console, quiet=console is None))


def digest(path: Path) -> str:
    state = (tensor.numpy().tobytes() for tensor in load_model(path)[0].state_dict().values())
    return hashlib.sha256(b"".join(state)).hexdigest()


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> Pages:
    """Draw after every epoch, and keep the page that each one left."""
    kept: Pages = []
    see = LiveReport.see

    def look(self: LiveReport[Any], *seen: Any) -> None:
        see(self, *seen)
        path = self._run.report
        kept.append(path.read_text() if path.exists() else "")

    monkeypatch.setattr(LiveReport, "see", look)
    monkeypatch.setattr(live, "SECONDS_BETWEEN_PAGES", 0.0)
    monkeypatch.setattr(live, "DRAWING_SHARE", 1e9)
    return kept


def stop_in_epoch(monkeypatch: pytest.MonkeyPatch, epoch: int) -> None:
    """Send ourselves a signal in the first step of an epoch."""
    step = Trainer._step

    def stop(self: Trainer[Any, Any], *arguments: Any) -> Any:
        if (self.position.epoch, self.position.batch) == (epoch - 1, 0):
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *arguments)

    monkeypatch.setattr(Trainer, "_step", stop)


def test_the_page_grows_and_waits_for_more_only_while_there_is_more(
    colours: Path, tmp_path: Path, pages: Pages
) -> None:
    result = run(colours, SMALL, tmp_path / "run")
    first, second, _ = pages
    assert "epoch 1 of 3, about 0:0" in first
    assert "epoch 2 of 3, about 0:0" in second
    for page in (first, second):
        assert 'http-equiv="refresh" content="10"' in page
        assert page.count("data:image/png;base64,") >= 2
    finished = result.run.report.read_text()
    assert "refresh" not in finished
    assert "of 3, about" not in finished
    assert f"{result.evaluation.top1:.2%}" in finished


def test_a_stopped_run_leaves_a_page_that_does_not_wait(
    colours: Path, tmp_path: Path, pages: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as during:
        stop_in_epoch(during, 3)
        with pytest.raises(Interrupted):
            run(colours, SMALL, tmp_path / "run")
    page = (tmp_path / "run/report.html").read_text()
    assert "epoch 2 of 3, stopped" in page
    assert "refresh" not in page
    seen: list[int] = []
    draw = live.write_report

    def note(*arguments: Any, **options: Any) -> None:
        seen.append(len(arguments[5]))
        draw(*arguments, **options)

    monkeypatch.setattr(live, "write_report", note)
    resume(tmp_path / "run", reporter=Reporter(quiet=True))
    assert seen == [3]  # with the epochs before the stop


def test_drawing_changes_no_bit_of_the_training(
    colours: Path, tmp_path: Path, pages: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(SMALL, mixup=0.2, drop_path=0.2)
    report = ClassificationTask.report

    def careless(*arguments: Any) -> Any:
        torch.rand(7)
        return report(*arguments)

    with monkeypatch.context() as during:
        during.setattr(ClassificationTask, "report", careless)
        drawn = run(colours, recipe, tmp_path / "drawn")
    assert all(pages)
    monkeypatch.setattr(live, "SECONDS_BETWEEN_PAGES", 1e9)
    plain = run(colours, recipe, tmp_path / "plain")
    assert pages[-1] == ""
    assert digest(drawn.run.last) == digest(plain.run.last)


def test_a_failing_report_is_said_once_and_the_training_goes_on(
    colours: Path,
    tmp_path: Path,
    pages: Pages,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_arguments: Any) -> None:
        raise ValueError("no ink")

    monkeypatch.setattr(ClassificationTask, "report", fail)
    result = run(colours, SMALL, tmp_path / "run", Console(force_terminal=False, width=200))
    assert len(result.run.read_records()) == 3
    assert result.run.best.exists()
    assert capsys.readouterr().out.count("ValueError: no ink") == 1


def test_quick_epochs_are_drawn_seldom_and_slow_drawings_more_seldom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, drawn = 0.0, []

    def write(*_arguments: Any, **_options: Any) -> None:
        nonlocal now
        drawn.append(now)
        now += 2.0

    monkeypatch.setattr(live, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(live, "write_report", write)
    task: Any = SimpleNamespace(drawn="", report=lambda *_: None, draw_curves=lambda *_: None)
    nothing: Any = SimpleNamespace(metrics={})
    report = LiveReport(nothing, nothing, replace(SMALL, epochs=100), task, nothing, "val")
    for epoch in range(1, 101):
        now += 1.0
        report.see(Position(epoch), [{"epoch": epoch, "seconds": 1.0}], nothing)
    assert drawn == [10.0, 52.0, 94.0]  # each took 2 seconds: 40 may pass until the next


def test_tensorboard_reads_every_epoch_once_after_a_resume(
    colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="an extra"
    )
    recipe = replace(SMALL, tensorboard=True)
    with monkeypatch.context() as during:
        stop_in_epoch(during, 3)
        with pytest.raises(Interrupted):
            run(colours, recipe, tmp_path / "run")
    resume(tmp_path / "run", reporter=Reporter(quiet=True))
    events = reader.EventAccumulator(str(tmp_path / "run/tensorboard"))
    events.Reload()
    assert {"train/loss", "train/top1", "val/loss", "val/top1", "lr"} <= set(
        events.Tags()["scalars"]
    )
    records = resume(tmp_path / "run", reporter=Reporter(quiet=True)).run.read_records()
    for tag, name in (("val/top1", "val_top1"), ("lr", "lr")):
        scalars = events.Scalars(tag)
        assert [scalar.step for scalar in scalars] == [1, 2, 3]
        expected = [record[name] for record in records]
        assert [scalar.value for scalar in scalars] == pytest.approx(expected)


def test_tensorboard_that_is_absent_is_said_before_anything_is_read(
    colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Absent:
        def find_spec(self, name: str, *_: Any) -> None:
            if name == "tensorboard":
                raise ModuleNotFoundError("no", name=name)

    for name in [name for name in sys.modules if name.split(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])
    with pytest.raises(UserError, match=r"pip install 'resnestkit\[tensorboard\]'"):
        run(colours, replace(SMALL, tensorboard=True), tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()
