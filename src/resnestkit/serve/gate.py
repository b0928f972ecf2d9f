"""Around the routes: every request is counted and has an end; and every answer its headers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Container

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from resnestkit.serve.metrics import Metrics
from resnestkit.serve.settings import Limits

_SPARE_SECONDS = 10.0
"""For a client to take its answer."""
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
}


class Careful:
    """Around the whole application: answers to faults have these headers too.

    Args:
        app: what answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through."""

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self._app(scope, receive, answer)


class Gate:
    """Middleware of the application.

    Args:
        app: what answers.
        limits: for each request.
        metrics: where requests are counted.
        routes: paths that are counted by name; all others together.
    """

    def __init__(
        self, app: ASGIApp, limits: Limits, metrics: Metrics, routes: Container[str]
    ) -> None:
        self._app, self._limits, self._metrics, self._routes = app, limits, metrics, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            async with asyncio.timeout(self._limits.timeout + _SPARE_SECONDS):
                await self._app(scope, receive, answer)
        finally:
            route = scope["path"] if scope["path"] in self._routes else "other"
            self._metrics.count_request(route, status, time.perf_counter() - start)
