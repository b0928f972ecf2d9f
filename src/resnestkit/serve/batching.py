"""Requests become batches: one thread computes, and takes at a time what has come in meanwhile.

So a lone request waits for nobody, and under load the batches grow by themselves.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Generic, TypeVar

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

_LINGER = 0.004
"""Seconds to wait for clients who were answered together and will be back together."""


@dataclass(frozen=True, eq=False)
class Task(Generic[ItemT, ResultT]):
    """Something to compute for items, so many at a time at most: a result for each, in order."""

    compute: Callable[[Sequence[ItemT]], Sequence[ResultT]]
    most: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    task: Task[Any, Any]
    item: Any
    future: Future[Any] = field(default_factory=Future)


class Batcher:
    """Computes in a thread of its own, first come, first served.

    Args:
        watch: called after each batch with its number of items and its seconds.
    """

    def __init__(self, watch: Callable[[int, float], None] = lambda _count, _seconds: None) -> None:
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._watch = watch
        self._last = 1
        self._thread = threading.Thread(target=self._work, name="compute", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Items that nobody computes yet."""
        return len(self._jobs)

    def submit(self, task: Task[ItemT, ResultT], item: ItemT) -> Future[ResultT]:
        """Ask for a result. A future that is cancelled in time is not computed.

        Raises RuntimeError once the batcher is closed.
        """
        job = _Job(task, item)
        with self._changed:
            if self._closed:
                raise RuntimeError("the batcher is closed")
            self._jobs.append(job)
            self._changed.notify()
        job.future.add_done_callback(lambda future: self._forget(job, future))
        return job.future

    def close(self) -> None:
        """Compute what was asked for, and take nothing more."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _forget(self, job: _Job, future: Future[Any]) -> None:
        """Hold nothing of a request that was given up."""
        if future.cancelled():
            with self._changed:
                if job in self._jobs:
                    self._jobs.remove(job)

    def _work(self) -> None:
        while True:
            jobs = self._next()
            if jobs is None:
                return
            if jobs:
                self._compute(jobs)
            del jobs  # hold no images while there is nothing to do

    def _next(self) -> list[_Job] | None:
        """What is computed next: the oldest, and others of its task. None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closed)
            if not self._jobs:
                return None
            expected = min(self._last, self._jobs[0].task.most)
            self._changed.wait_for(
                lambda: len(self._jobs) >= expected or self._closed, timeout=_LINGER
            )
            if not self._jobs:  # given up meanwhile
                return []
            task = self._jobs[0].task
            chosen = list(islice((job for job in self._jobs if job.task is task), task.most))
            taken = set(map(id, chosen))
            self._jobs = deque(job for job in self._jobs if id(job) not in taken)
        self._last = len(chosen)
        return [job for job in chosen if job.future.set_running_or_notify_cancel()]

    def _compute(self, jobs: Sequence[_Job]) -> None:
        start = time.perf_counter()
        try:
            results = jobs[0].task.compute([job.item for job in jobs])
            answered = list(zip(jobs, results, strict=True))
        except BaseException as error:  # whatever it is, those who wait must hear of it
            for job in jobs:
                job.future.set_exception(error)
        else:
            for job, result in answered:
                job.future.set_result(result)
        self._watch(len(jobs), time.perf_counter() - start)
