"""What happens to a request: a place, its bytes, its images, a batch, an answer in time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from starlette.requests import Request

from resnestkit import __version__
from resnestkit.errors import UserError
from resnestkit.serve.batching import Batcher, Task
from resnestkit.serve.metrics import Metrics
from resnestkit.serve.models import Options, ServedModel, Work
from resnestkit.serve.problems import HANG_UP, RETRY, Allowance, Problem
from resnestkit.serve.schemas import ModelCard, State
from resnestkit.serve.settings import Limits
from resnestkit.serve.uploads import Upload, check_image, decoding, read_uploads

_DECODERS = 4
_EXPLAINING = 0.5
"""Of the time-out: an explanation leaves out what it has not begun by then."""


class Service:
    """A model and the requests for it.

    Args:
        model: what answers.
        limits: for each request and for all of them.
    """

    def __init__(self, model: ServedModel, limits: Limits) -> None:
        self.model, self.limits, self.metrics = model, limits, Metrics()
        self.compute, self.explain = model.tasks(limits.batch_size)
        self.stopping = False
        self._places = Allowance(
            limits.queue, f"The queue of {limits.queue} images is full; try again in a second."
        )
        self._held = Allowance(
            limits.held_bytes, "Too many uploads are under way; try again in a second."
        )
        self._batcher = Batcher(self.metrics.count_batch)
        workers = min(_DECODERS, os.cpu_count() or 1)
        self._decoders = ThreadPoolExecutor(workers, "decode")
        self.metrics.show("images", "Images in the house.", lambda: self._places.taken)
        self.metrics.show("waiting", "Images that wait.", lambda: self._batcher.waiting)
        self.metrics.show("held_bytes", "Bytes of uploads.", lambda: self._held.taken)

    @property
    def state(self) -> State:
        """Whether it takes requests, and how many images it has."""
        return State(status="stopping" if self.stopping else "ok", images=self._places.taken)

    @property
    def card(self) -> ModelCard:
        """What is served."""
        model, limits = self.model, self.limits
        return ModelCard(
            file=model.file,
            changed=model.changed,
            kind=model.kind,
            net=model.net,
            classes=list(model.classes),
            size=model.size,
            explains=not model.why_not,
            why_not=model.why_not,
            limits={
                "megabytes": limits.max_megabytes,
                "megapixels": limits.max_megapixels,
                "images": limits.request_images,
                "seconds": limits.timeout,
            },
            version=__version__,
        )

    async def predict(self, request: Request, options: Options) -> Sequence[Any]:
        """A result for each image of a request. Raises Problem."""
        async with self._take(request) as uploads:
            images = await _all([self._decode(self._prepare, upload) for upload in uploads])
            names = [upload.name for upload in uploads]
            uploads.clear()  # what the net sees is held now
            return await self._ask(self.compute, names, images, options)

    async def look_into(self, request: Request, options: Options) -> Any:
        """What the attention does on the one image of a request. Raises Problem."""
        if self.model.why_not:
            raise Problem(404, self.model.why_not)
        async with self._take(request) as uploads:
            if len(uploads) != 1:
                raise Problem(422, f"One image at a time is explained, not {len(uploads)}.")
            await self._decode(self._check, uploads[0])
            options = replace(options, seconds=_EXPLAINING * self.limits.timeout)
            (found,) = await self._ask(self.explain, [uploads[0].name], uploads, options)
            return found

    def close(self) -> None:
        """Finish what was taken, and take nothing more."""
        self.stopping = True
        self._decoders.shutdown()
        self._batcher.close()

    @asynccontextmanager
    async def _take(self, request: Request) -> AsyncIterator[list[Upload]]:
        """A place in the house, the uploads, and a time by which the answer is due."""
        seconds = f"{self.limits.timeout:g} seconds"
        deadline = asyncio.get_running_loop().time() + self.limits.timeout
        with self._places.open() as places, self._held.open() as held:
            places.take(1)
            async with _by(deadline, 408, f"The upload took more than {seconds}."):
                uploads = await read_uploads(request, self.limits, held)
            places.take(len(uploads) - 1)
            async with _by(deadline, 503, f"There was no answer within {seconds}; try again."):
                yield uploads

    async def _decode(self, read: Any, upload: Upload) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._decoders, read, upload)

    def _prepare(self, upload: Upload) -> Any:
        self._check(upload)
        with decoding(upload):
            return self.model.prepare(upload)

    def _check(self, upload: Upload) -> None:
        check_image(upload, self.limits)

    async def _ask(
        self, task: Task[Work, Any], names: Sequence[str], images: Sequence[Any], options: Options
    ) -> Sequence[Any]:
        try:
            futures = [
                self._batcher.submit(task, Work(name, image, options))
                for name, image in zip(names, images, strict=True)
            ]
        except RuntimeError as error:
            raise Problem(503, "The service is stopping.", RETRY) from error
        results = await _all([asyncio.wrap_future(future) for future in futures])
        for result in results:
            if isinstance(result, UserError):
                raise Problem(422, str(result))
            if isinstance(result, Exception):
                raise result
        return results


async def _all(awaitables: Sequence[Any]) -> list[Any]:
    """The results of all; where one fails the others are given up."""
    tasks = [asyncio.ensure_future(one) for one in awaitables]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


@asynccontextmanager
async def _by(deadline: float, status: int, message: str) -> AsyncIterator[None]:
    """Raises Problem where what is inside is not done by then."""
    try:
        async with asyncio.timeout_at(deadline):
            yield
    except TimeoutError as error:
        raise Problem(status, message, RETRY if status == 503 else HANG_UP) from error
