"""A run that dies at any moment, or meets a bad disk or a bad batch, loses nothing it had."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from resnestkit import Recipe, UserError, load_model, resume, train
from resnestkit.progress import Reporter
from resnestkit.tasks.base import Step
from resnestkit.tasks.classification import ClassificationTask
from resnestkit.training import randomness
from resnestkit.training.loop import Trainer
from resnestkit.training.run import RunFolder

QUIET = Reporter(quiet=True)
KILLS = 2
"""scripts/kill.py does it many times."""
SMALL = Recipe(
    model="resnest23_small",
    epochs=3,
    batch_size=8,
    lr=1.0,
    mixup=0.2,
    drop_path=0.1,
    drop_block=0.1,
    ema=0.9,
    size=8,
    crop="pad",
    padding=1,
    precision="float32",
    device="cpu",
    save_minutes=0.0,
)


def digest(path: Path) -> str:
    state = load_model(path)[0].state_dict()
    return hashlib.sha256(b"".join(t.numpy().tobytes() for t in state.values())).hexdigest()


def launch(data: Path, output: Path) -> subprocess.Popen[bytes]:
    """The run as a process of its own, or its resumption if there is one to resume."""
    program = (
        "import sys, json; from resnestkit import train, resume\n"
        "from resnestkit.training.recipe import recipe_from_dict\n"
        "from resnestkit.progress import Reporter\n"
        "import torch; torch.set_num_threads(1)\n"
        "data, output, recipe = sys.argv[1:]; quiet = Reporter(quiet=True)\n"
        "from pathlib import Path\n"
        "if Path(output, 'config.json').exists(): resume(output, reporter=quiet)\n"
        "else: train(data, recipe_from_dict(json.loads(recipe), ''), output, reporter=quiet)\n"
    )
    command = [sys.executable, "-c", program, str(data), str(output), json.dumps(SMALL.to_dict())]
    return subprocess.Popen(command)


def test_a_run_killed_at_random_moments_ends_in_the_same_bits(
    colours: Path, tmp_path: Path
) -> None:
    """SIGKILL, which nobody can catch; a state is written after every step, so often meanwhile."""
    torch.set_num_threads(1)
    whole = train(str(colours), SMALL, tmp_path / "whole", reporter=QUIET).run
    moments = random.Random(0)
    output, kills = tmp_path / "killed", 0
    while kills < KILLS:
        process = launch(colours, output)
        wait_for_states(output, process, moments.randrange(1, 4))
        time.sleep(moments.uniform(0.0, 0.05))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    last = launch(colours, output)
    assert last.wait(timeout=300) == 0
    assert kills > 0
    killed = RunFolder(output)
    assert digest(killed.last) == digest(whole.last)
    assert digest(killed.best) == digest(whole.best)
    seen = [{k: v for k, v in r.items() if "second" not in k} for r in killed.read_records()]
    assert seen == [{k: v for k, v in r.items() if "second" not in k} for r in whole.read_records()]


def wait_for_states(output: Path, process: subprocess.Popen[bytes], count: int) -> None:
    """Until the run has written its state so many times more."""
    state, seen, before = output / "state.safetensors", 0, None
    while process.poll() is None and seen < count:
        now = state.stat().st_mtime_ns if state.exists() else None
        seen += now != before and before is not None
        before = now if now is not None else before
        if before is None and state.exists():
            before = 0
        time.sleep(0.002)


@pytest.fixture
def stopped(colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A run that was stopped in its second epoch, with the state before its last one."""
    seen, original = 0, Trainer._step

    def step(self: Trainer[Any, Any], *rest: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_step", step)
        with pytest.raises(UserError, match="Stopped in epoch 2"):
            train(str(colours), SMALL, tmp_path / "run", reporter=QUIET)
    return RunFolder(tmp_path / "run")


@pytest.mark.parametrize("damage", ["bit", "cut", "missing"])
def test_a_damaged_state_gives_way_to_the_one_before(
    stopped: RunFolder,
    colours: Path,
    tmp_path: Path,
    damage: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = train(str(colours), SMALL, tmp_path / "whole", reporter=QUIET).run
    content = bytearray(stopped.state.read_bytes())
    if damage == "bit":
        content[-1000] ^= 4
        stopped.state.write_bytes(content)
    elif damage == "cut":
        stopped.state.write_bytes(content[: len(content) // 2])
    else:
        stopped.state.unlink()
    resume(stopped.path)
    said = capsys.readouterr().out
    assert ("Going on from the one before" in said) == (damage != "missing")
    assert digest(stopped.last) == digest(whole.last)


def test_when_every_state_is_damaged_it_is_said(stopped: RunFolder) -> None:
    for path in stopped.states(2):
        path.write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"state\.safetensors.*state-1\.safetensors"):
        resume(stopped.path, reporter=QUIET)


def test_the_last_states_are_kept(colours: Path, tmp_path: Path) -> None:
    run = train(str(colours), replace(SMALL, keep_states=3), tmp_path / "run", reporter=QUIET).run
    assert all(path.is_file() for path in run.states(3))
    assert not list(run.path.glob("*new*"))
    assert not list(run.path.glob(".*part"))


def test_a_full_disk_stops_the_run_and_keeps_what_was_written(
    stopped: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = stopped.state.read_bytes()

    def full(_number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        resume(stopped.path, reporter=QUIET)
    assert stopped.state.read_bytes() == before
    assert not list(stopped.path.glob(".*part"))


def test_a_resumed_run_takes_back_its_threads(stopped: RunFolder) -> None:
    torch.set_num_threads(2)
    try:
        resume(stopped.path, reporter=QUIET)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(1)


def spoil(monkeypatch: pytest.MonkeyPatch, *steps: int) -> None:
    """Let these steps, counted over the run, have a loss that is no number."""
    original, seen = ClassificationTask.step, 0

    def step(self: Any, model: Any, *rest: Any) -> Step:
        nonlocal seen
        seen += 1
        made = original(self, model, *rest)
        if seen not in steps:
            return made
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.fill_(float("nan"))
        return replace(made, loss=made.loss * torch.nan, sums={**made.sums, "loss": torch.nan})

    monkeypatch.setattr(ClassificationTask, "step", step)


def test_a_bad_batch_can_be_left_out(
    colours: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil(monkeypatch, 2, 5)
    recipe = replace(SMALL, skip_bad_steps=2, accumulate=2)
    result = train(str(colours), recipe, tmp_path / "run")
    assert capsys.readouterr().out.count("left out    a loss of nan in epoch") == 2
    state = load_model(result.run.last)[0].state_dict()
    assert all(bool(tensor.isfinite().all()) for tensor in state.values())
    assert all(np.isfinite(record["train_loss"]) for record in result.run.read_records())


def test_more_bad_batches_than_allowed_stop_the_run_and_are_named(
    colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, 2, 5)
    with pytest.raises(UserError, match=r"loss is nan in epoch 2, batch \d.*bad_batch.json"):
        train(str(colours), replace(SMALL, skip_bad_steps=1), tmp_path / "run", reporter=QUIET)
    named = json.loads((tmp_path / "run" / "bad_batch.json").read_text())
    assert len(named["images"]) == 8
    assert all(Path(name).is_file() for name in named["images"])


def test_lost_weights_never_replace_a_good_state(
    colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moves, seen = Trainer._move_weights, 0

    def move(self: Trainer[Any, Any]) -> None:
        nonlocal seen
        seen += 1
        moves(self)
        if seen == 6:
            next(self.model.parameters()).data.fill_(float("nan"))

    monkeypatch.setattr(Trainer, "_move_weights", move)
    with pytest.raises(UserError, match="weights are no numbers any more, in epoch 2"):
        train(str(colours), SMALL, tmp_path / "run", reporter=QUIET)
    monkeypatch.undo()
    assert resume(tmp_path / "run", reporter=QUIET).best_epoch >= 1


def test_every_random_state_comes_back() -> None:
    captured = randomness.capture()
    first = (random.gauss(0, 1), np.random.normal(), torch.rand(1).item())
    random.gauss(0, 1)
    randomness.restore(captured)
    assert (random.gauss(0, 1), np.random.normal(), torch.rand(1).item()) == first
    random.gauss(0, 1)
    captured, spare = randomness.capture(), random.gauss(0, 1)
    randomness.restore(captured)
    assert random.gauss(0, 1) == spare
