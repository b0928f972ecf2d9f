"""All of it: every net at every batch size, everybody in the same rounds."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import tempfile
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from resnestkit.bench.contenders import (
    PRECISIONS,
    Contender,
    Precision,
    choose_plans,
    open_contender,
)
from resnestkit.bench.floors import OPERATIONS, open_floor
from resnestkit.bench.making import Workshop
from resnestkit.bench.memory import ask_peak
from resnestkit.bench.race import WARM, race
from resnestkit.bench.results import Benchmark, Floor, Heat, Row, add_memory
from resnestkit.bench.subjects import check_subject, make_subject
from resnestkit.deploy.checking import compare
from resnestkit.deploy.exporters.torch import as_runner
from resnestkit.errors import UserError
from resnestkit.progress import Reporter
from resnestkit.runtime.loading import Run, name_processor

_LIBRARIES = ("torch", "torchvision", "timm", "onnx", "onnxruntime", "openvino", "nncf")
_ROUNDING = 1e-3
"""By so much of the largest logit may a peer of the same net differ in float32."""

MadeT = TypeVar("MadeT")


@dataclass(frozen=True, slots=True)
class Settings:
    """How to measure."""

    batches: Sequence[int] = (1, 16)
    """Images of a call."""
    rounds: int = 20
    """How many count."""
    threads: int | None = None
    """How many each may use; None is one for each core."""
    only: Sequence[str] = ()
    """Shell patterns of the contenders' names, such as "*int8"; none is all."""
    memory: bool = True
    """Whether to start a process for each, to see how much memory it takes."""

    def __post_init__(self) -> None:
        numbers = [("rounds", self.rounds), ("threads", self.count)]
        for name, number in (*numbers, *(("batch", batch) for batch in self.batches)):
            if number < 1:
                raise UserError(f"--{name} is {number}; it must be 1 or more.")
        if not self.batches:
            raise UserError("--batch names no number of images; give one or more.")
        if not choose_plans(self.only):
            raise UserError(f"Nobody's name fits {', '.join(self.only)}; --only '*' is everybody.")

    @property
    def count(self) -> int:
        """Threads."""
        return (os.cpu_count() or 1) if self.threads is None else self.threads


def benchmark(
    words: Sequence[str],
    settings: Settings | None = None,
    *,
    size: int | None = None,
    reporter: Reporter | None = None,
) -> Benchmark:
    """Measure our deploy form beside the peers, in rounds in which all take turns.

    Args:
        words: nets of the table, which get random weights, or checkpoints of classifiers.
        settings: how.
        size: side of the images; each net's own if not given.
        reporter: says how it goes on.

    Raises:
        UserError: a net is unknown, a file is no classifier's checkpoint, or nobody is there who
            could run. The first two are told before anything is measured.
    """
    settings = settings or Settings()
    if size is not None and size < 1:
        raise UserError(f"--size is {size}; it must be 1 or more.")
    if not words:
        raise UserError("Give the nets to measure, or leave them out for resnest50.")
    for word in words:
        check_subject(word)
    torch.set_num_threads(settings.count)
    bench = _Bench(settings, reporter or Reporter(quiet=True))
    heats: list[Heat] = []
    stopped = False
    try:
        for word in words:
            heats += bench.run(word, size)
    except KeyboardInterrupt:
        if not heats:
            raise
        stopped = True
        bench.leave_out(f"{word}, and all nets behind it: stopped")
    if not any(heat.rows for heat in heats):
        raise UserError(f"There is nothing to measure. Left out: {'; '.join(bench.left_out)}.")
    return Benchmark(_describe_machine(settings), tuple(heats), tuple(bench.left_out), stopped)


@dataclass
class _Bench:
    """What all nets of a benchmark share, and who was left out so far."""

    settings: Settings
    reporter: Reporter
    left_out: list[str] = field(default_factory=list)

    def run(self, word: str, size: int | None) -> list[Heat]:
        """Every batch size of a net."""
        with tempfile.TemporaryDirectory(prefix="resnestkit-benchmark-") as folder:
            shop = Workshop(make_subject(word, size), Path(folder))
            contenders = self._make(shop)
            heats = [self._run_heat(shop, contenders, batch) for batch in self.settings.batches]
            return [self._weigh(heat, contenders) for heat in heats]

    def _make(self, shop: Workshop) -> list[Contender]:
        made: list[Contender] = []
        plans, name = choose_plans(self.settings.only), shop.subject.name
        with self.reporter.track(f"{name}, export", len(plans)) as advance:
            for plan in plans:
                made += self._try(f"{name}: {plan.name}", partial(shop.make, plan))
                advance(1, plan.name)
        return made

    def _try(self, what: str, work: Callable[[], MadeT]) -> list[MadeT]:
        """What it gives; or nothing, and a line that says why."""
        try:
            return [work()]
        except UserError as error:
            reason = str(error)
        except Exception as error:  # a peer's own failure must not end the others' race
            reason = f"{type(error).__name__}: {error}"
        self.leave_out(f"{what}: {reason.strip().splitlines()[0]}")
        return []

    def leave_out(self, line: str) -> None:
        """Tell once who is left out, and why."""
        if line not in self.left_out:
            self.left_out.append(line)
            self.reporter.say(f"left out    {line}")

    def _run_heat(self, shop: Workshop, contenders: Sequence[Contender], batch: int) -> Heat:
        """Everybody and the floors, in the same rounds."""
        subject, rounds, images = shop.subject, self.settings.rounds, shop.noise(batch)
        opened = self._open(contenders, images, as_runner(subject.model))
        calls: dict[str, Callable[[], object]] = {
            contender.plan.name: partial(run, images) for contender, run in opened
        }
        floors = self._open_floors({contender.plan.precision for contender, _ in opened})
        with self.reporter.track(f"{subject.name}, batch {batch}", WARM + rounds) as advance:
            seconds = race(calls | floors, rounds, advance)
        measured = {p: Floor(p, OPERATIONS, seconds[p]) for p in PRECISIONS if p in floors}
        rows = [
            Row(
                contender.plan,
                contender.net,
                batch,
                contender.macs / 1e9,
                seconds[contender.plan.name],
                rate=measured[p].rate if (p := contender.plan.precision) in measured else None,
            )
            for contender, _ in opened
        ]
        heat = (subject.name, batch, subject.size, subject.accuracy)
        return Heat(*heat, tuple(rows), tuple(measured.values()))

    def _open(
        self, contenders: Sequence[Contender], images: NDArray[np.float32], reference: Run
    ) -> list[tuple[Contender, Run]]:
        """Everybody who computes what the net computes."""
        expected, opened = reference(images), []

        def open_checked(contender: Contender) -> tuple[Contender, Run]:
            run = open_contender(contender, self.settings.count, images.shape[-1])
            found, plan = run(images), contender.plan
            if plan.library != "torchvision" and plan.precision == "float32":
                difference = compare(found, expected)
                if not difference <= _ROUNDING:
                    raise UserError(f"its logits differ from the net's by {difference:.1e}")
            return contender, run

        for contender in contenders:
            what = f"{contender.plan.name}, batch {len(images)}"
            opened += self._try(what, partial(open_checked, contender))
        return opened

    def _open_floors(self, precisions: Collection[Precision]) -> dict[str, Callable[[], object]]:
        floors: dict[str, Callable[[], object]] = {}
        for precision in PRECISIONS:
            if precision in precisions:
                open_it = partial(open_floor, precision, self.settings.count)
                for run in self._try(f"floor, {precision}", open_it):
                    floors[precision] = run
        return floors

    def _weigh(self, heat: Heat, contenders: Sequence[Contender]) -> Heat:
        """The heat with everybody's memory, if that is wanted."""
        if not self.settings.memory:
            return heat
        by_plan = {contender.plan: contender for contender in contenders}
        peaks = []
        with self.reporter.track(f"{heat.net}, memory", len(heat.rows)) as advance:
            for row in heat.rows:
                contender = by_plan[row.plan]
                peaks.append(ask_peak(contender, self.settings.count, heat.batch, heat.size))
                advance(1, row.plan.name)
        return add_memory(heat, peaks)


def _describe_machine(settings: Settings) -> dict[str, str]:
    """What a number of this benchmark means nothing without."""
    machine = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "processor": platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "threads": str(settings.count),
        "rounds": str(settings.rounds),
        "memory format": "contiguous (channels first) at the input",
        "python": platform.python_version(),
    }
    with suppress(UserError):
        machine["processor"] = name_processor()
    for library in _LIBRARIES:
        with suppress(importlib.metadata.PackageNotFoundError):
            machine[library] = importlib.metadata.version(library)
    return machine
