"""What one of two processes does for tests/training/test_ranks.py: it checks, and raises or not.

Run by torchrun with the name of a check and a folder.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from resnestkit import Recipe, create_model, train
from resnestkit.compute import Compute
from resnestkit.data.loaders import Batches, InOrder, TransformedImages
from resnestkit.data.sources import load_source
from resnestkit.data.transforms import EvaluationTransform
from resnestkit.models.layers import SyncBatchNorm
from resnestkit.preprocessing import Preprocessing
from resnestkit.progress import Reporter
from resnestkit.ranks import any_of, gather, is_first, joined, rank, ranks, share
from resnestkit.tasks.classification import ClassificationTask
from resnestkit.tasks.evaluation import Evaluation
from resnestkit.training.loop import Trainer, spread

RECIPE = Recipe(
    model="resnest23_small",
    epochs=2,
    batch_size=512,
    norm="sync",
    mixup=0.0,
    size=16,
    lr=0.01,
    warmup_epochs=1.0,
    holdout=0.25,
    precision="float32",
    workers=0,
)
"""Of the whole run: each of two processes takes half the batch."""
PREPROCESSING = Preprocessing(16, 1.0, "bilinear", (0.5,), (0.5,))


def talk(_folder: Path) -> None:
    """What processes tell each other."""
    assert ranks() == 2
    assert gather(("mine", rank())) == [("mine", 0), ("mine", 1)]
    assert share(f"of {rank()}") == "of 0"
    assert any_of([rank() == 1, False, rank() == 0]) == [True, False, True]
    assert is_first() == (rank() == 0)


def normalise(_folder: Path) -> None:
    """Two halves under the synchronised norm are the whole under the plain one, gradients too."""
    torch.manual_seed(0)
    whole = torch.randn(7, 5, 3, 4, dtype=torch.float64) * 3 + 10
    probe = torch.randn_like(whole)
    mine = slice(0, 2) if rank() == 0 else slice(2, 7)
    plain, synced = nn.BatchNorm2d(5).double().train(), SyncBatchNorm(5).double().train()
    nn.init.uniform_(plain.weight)
    synced.load_state_dict(plain.state_dict(), strict=True)
    x, part = whole.clone().requires_grad_(), whole[mine].clone().requires_grad_()
    expected, found = plain(x), synced(part)
    (expected * probe).sum().backward()
    (found * probe[mine]).sum().backward()
    close = {"rtol": 1e-10, "atol": 1e-12}
    torch.testing.assert_close(found, expected[mine], **close)
    torch.testing.assert_close(part.grad, x.grad[mine], **close)
    summed = torch.stack(gather(synced.weight.grad)).sum(0)
    torch.testing.assert_close(summed, plain.weight.grad, **close)
    for name, buffer in plain.named_buffers():
        torch.testing.assert_close(synced.state_dict()[name], buffer, **close)
    torch.testing.assert_close(synced.eval()(whole), plain.eval()(whole), **close)


def average(_folder: Path) -> None:
    """Gradients are averaged over images, also where one process has more of them."""
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    x = torch.randn(5, 3)
    mine = slice(0, 2) if rank() == 0 else slice(2, 5)
    share_of_step = len(x[mine]) * ranks() / len(x)
    alone = deepcopy(model)
    alone(x).square().mean().backward()
    called = spread(model)  # kept: it adds up gradients as long as it lives
    (called(x[mine]).square().mean() * share_of_step).backward()
    torch.testing.assert_close(model.weight.grad, alone.weight.grad)


def evaluate(folder: Path) -> None:
    """An uneven split gives exactly the numbers of a single process."""
    found = evaluate_digits(rank(), ranks())
    if is_first():
        (folder / "evaluation.json").write_text(json.dumps(asdict(found)))


def evaluate_digits(number: int, processes: int) -> Evaluation:
    """A random net on held-out digits, in batches that do not divide evenly."""
    torch.manual_seed(0)
    source = load_source("digits", 1, 0.2, 0)
    images = source.splits[source.validation]
    batches = Batches(
        TransformedImages(images, EvaluationTransform(PREPROCESSING), None),
        InOrder(len(images), 60, number, processes),
        workers=0,
    )
    model = create_model("resnest23_small", classes=10, in_channels=1)
    compute = Compute(torch.device("cpu"), bfloat16=False, layout=torch.channels_last)
    task = ClassificationTask(source.classes, PREPROCESSING)
    return task.evaluate(model, batches, compute)


def fit(folder: Path) -> None:
    """Train on digits; note the loss of every step."""
    losses: list[float] = []
    step_of = Trainer._step

    def watched(self, batch, watch):
        step, asked = step_of(self, batch, watch)
        parts = gather((step.sums["loss"], step.images))
        losses.append(sum(loss for loss, _ in parts) / sum(images for _, images in parts))
        return step, asked

    Trainer._step = watched  # type: ignore[method-assign]
    recipe = Recipe(**{**RECIPE.to_dict(), "batch_size": RECIPE.batch_size // ranks()})
    train("digits", recipe, folder / "run", reporter=Reporter(quiet=True))
    if is_first():
        (folder / "losses.json").write_text(json.dumps(losses))


def restart(folder: Path) -> None:
    """Train, saving after every step; the second process is killed once, in the second epoch."""
    step_of = Trainer._step

    def fatal(self, batch, watch):
        first_life = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
        if first_life and rank() == 1 and self.position.epoch == 1 and self.position.batch == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return step_of(self, batch, watch)

    Trainer._step = fatal  # type: ignore[method-assign]
    values = {**RECIPE.to_dict(), "batch_size": RECIPE.batch_size // ranks(), "save_minutes": 0.0}
    train("digits", Recipe(**values), folder / "run", reporter=Reporter(quiet=True))


CHECKS = {check.__name__: check for check in (talk, normalise, average, evaluate, fit, restart)}

if __name__ == "__main__":
    torch.set_num_threads(1)
    with joined():
        for name in sys.argv[2:]:
            CHECKS[name](Path(sys.argv[1]))
