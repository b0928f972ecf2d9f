"""Who looks on after every epoch. What fails there is said once, and never ends a training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import Generic, TypeVar

import torch

from resnestkit.progress import Reporter
from resnestkit.tasks.base import Result
from resnestkit.training.run import Record
from resnestkit.training.state import Position

ResultT_contra = TypeVar("ResultT_contra", bound=Result, contravariant=True)


class Observer(ABC, Generic[ResultT_contra]):
    """Looks on while a run goes on; it changes nothing of it."""

    @abstractmethod
    def see(self, position: Position, records: list[Record], result: ResultT_contra, /) -> None:
        """An epoch is finished and written; ``result`` is its validation."""

    def leave(self, *, stopped: bool) -> None:
        """The run has ended here, or was stopped."""


class Observers(Generic[ResultT_contra]):
    """Several observers as one callable, for `Trainer.on_epoch`; leave it and they leave too.

    Args:
        reporter: is told what fails.
        observers: by what they make, in a word or two.
    """

    def __init__(
        self, reporter: Reporter, observers: Mapping[str, Observer[ResultT_contra]]
    ) -> None:
        self._reporter, self._observers = reporter, observers
        self._failed: set[str] = set()

    def __enter__(self) -> Observers[ResultT_contra]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Whoever presses Ctrl-C twice wants no more drawing.
        if kind is None or issubclass(kind, Exception):
            for name, observer in self._observers.items():
                self.attempt(name, partial(observer.leave, stopped=kind is not None))

    def __call__(self, position: Position, records: list[Record], result: ResultT_contra) -> None:
        """Let each look at a finished epoch."""
        for name, observer in self._observers.items():
            self.attempt(name, partial(observer.see, position, records, result))

    def attempt(self, name: str, work: Callable[[], None]) -> None:
        """Do what a training can do without, drawing nothing from torch's random numbers."""
        try:
            with torch.random.fork_rng(devices=[]):
                work()
        except Exception as error:
            if name not in self._failed:
                self._reporter.say(
                    f"{name:<11} failed, and is left out: {type(error).__name__}: {error}"
                )
            self._failed.add(name)
