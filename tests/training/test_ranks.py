"""Several processes are one: by torchrun, on one machine and as two nodes over loopback."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import ranks_worker
import torch
from ranks_worker import RECIPE, evaluate_digits

from resnestkit import UserError, load_model
from resnestkit.data.check import check_images
from resnestkit.data.images import MemoryImages
from resnestkit.data.loaders import EpochSampler, InOrder
from resnestkit.ranks import any_of, gather, is_first, ranks, share
from resnestkit.training import prepare
from resnestkit.training.loop import Trainer

WORKER = Path(ranks_worker.__file__)
RELATIVE = 1e-4
"""Tolerance of losses in float32: sums in another order, over six steps of training."""


def start(folder: Path, *checks: str, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """One agent of torchrun; two processes of it unless the options say otherwise."""
    command = [sys.executable, "-m", "torch.distributed.run", *options]
    return subprocess.Popen(
        [*command, str(WORKER), str(folder), *checks],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(*agents: subprocess.Popen[str]) -> None:
    for agent in agents:
        said, _ = agent.communicate(timeout=600)
        assert agent.returncode == 0, said


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses of a single process: this one."""
    folder, step_of = tmp_path_factory.mktemp("alone"), Trainer._step
    try:
        ranks_worker.fit(folder)
    finally:
        Trainer._step = step_of
    return json.loads((folder / "losses.json").read_text())


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes leave."""
    folder = tmp_path_factory.mktemp("pair")
    finish(start(folder, "fit", options=("--nproc-per-node=2",)))
    return folder


def test_two_processes_talk_normalise_average_and_evaluate(tmp_path: Path) -> None:
    checks = ("talk", "normalise", "average", "evaluate")
    finish(start(tmp_path, *checks, options=("--nproc-per-node=2",)))
    found = json.loads((tmp_path / "evaluation.json").read_text())
    expected = json.loads(json.dumps(asdict(evaluate_digits(0, 1))))
    assert found == expected


def test_two_processes_train_as_one(pair: Path, alone: list[float]) -> None:
    losses = json.loads((pair / "losses.json").read_text())
    assert len(losses) == 4
    assert losses == pytest.approx(alone, rel=RELATIVE)
    assert (pair / "run" / "report.html").is_file()
    config = json.loads((pair / "run" / "config.json").read_text())
    assert config["recipe"]["batch_size"] == RECIPE.batch_size // 2


def test_two_nodes_that_meet_over_loopback_train_as_one(tmp_path: Path, alone: list[float]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = (
        "--nnodes=2",
        "--nproc-per-node=1",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint=127.0.0.1:{port}",
        "--rdzv-id=test",
    )
    finish(*(start(tmp_path, "fit", options=options) for _ in range(2)))
    losses = json.loads((tmp_path / "losses.json").read_text())
    assert losses == pytest.approx(alone, rel=RELATIVE)


def test_a_killed_process_is_started_again_and_the_run_goes_on(tmp_path: Path, pair: Path) -> None:
    """To the same bits as the run that nobody killed."""
    finish(start(tmp_path, "restart", options=("--nproc-per-node=2", "--max-restarts=1")))
    expected = load_model(pair / "run" / "last.safetensors")[0].state_dict()
    found = load_model(tmp_path / "run" / "last.safetensors")[0].state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_alone_everything_is_the_identity() -> None:
    assert (ranks(), is_first(), gather(3), share("x")) == (1, True, [3], "x")
    assert any_of([True, False]) == [True, False]


@pytest.mark.parametrize(("images", "batch"), [(100, 8), (97, 8), (7, 4), (5, 4)])
@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_each_step_of_one(images: int, batch: int, processes: int) -> None:
    one = EpochSampler(images, batch * processes, seed=1)
    parts = [EpochSampler(images, batch, 1, rank, processes) for rank in range(processes)]
    steps = list(zip(*(list(part) for part in parts), strict=True))
    assert [[key for part in step for key in part] for step in steps] == list(one)
    for step in steps:
        shares = [sampler.share(len(part)) for sampler, part in zip(parts, step, strict=True)]
        assert sum(shares) == pytest.approx(processes)
        assert max(map(len, step)) - min(map(len, step)) <= 1


@pytest.mark.parametrize(("images", "batch", "processes"), [(100, 8, 2), (5, 8, 3), (33, 4, 4)])
def test_processes_evaluate_every_image_once(images: int, batch: int, processes: int) -> None:
    parts = [list(InOrder(images, batch, rank, processes)) for rank in range(processes)]
    whole = list(InOrder(images, batch))
    assert sorted(step for part in parts for step in part) == whole
    assert [len(InOrder(images, batch, r, processes)) for r in range(processes)] == [
        len(part) for part in parts
    ]


def test_more_processes_than_images_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    black = torch.zeros(3, 8, 8, dtype=torch.uint8)
    images = MemoryImages([black] * 3, [0, 1, 1], ["a", "b", "c"])
    monkeypatch.setattr(prepare, "ranks", lambda: 4)
    with pytest.raises(UserError, match="4 processes for 3 training images"):
        prepare.check_norm(check_images(images, cache_bytes=0), RECIPE)
