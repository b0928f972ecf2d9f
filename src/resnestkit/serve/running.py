"""The server: a socket, uvicorn with patience for nobody who stalls, and an end without loss."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import socket
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from resnestkit.errors import UserError
from resnestkit.runtime.session import Choice
from resnestkit.serve.app import create_app
from resnestkit.serve.gate import HEADERS
from resnestkit.serve.models import ServedModel, open_model
from resnestkit.serve.settings import Limits

TOKEN = "RESNESTKIT_TOKEN"
_FILES_BESIDE = 256
"""Descriptors for other things than connections."""
_LOOPBACK = ("127.", "::1")


def serve(
    model: Path,
    limits: Limits,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token_file: Path | None = None,
    device: str = "auto",
    threads: int | None = None,
    precision: Choice | None = None,
) -> None:
    """Serve a model until a signal says stop; then finish what was taken.

    Raises UserError if the model cannot be read, or the address cannot be had.
    """
    token = read_token(token_file)
    with open_socket(host, port) as listener:
        served = open_model(model, device, threads, precision)
        served.warm(limits.batch_size)
        app = create_app(served, limits, token)
        server = make_server(app, limits)
        warnings.filterwarnings(
            "ignore", module="PIL"
        )  # of every damaged image; the client hears it
        with _stopped_by_signals(server):
            _say_where(served, listener, asks=bool(token))
            server.run([listener])


def _say_where(served: ServedModel, listener: socket.socket, *, asks: bool) -> None:
    """What is served at which address, and whether anybody may use it."""
    address = _name_address(listener)
    print(f"serving     {served.file}, a {served.kind} of {len(served.classes)} classes")
    print(f"address     {address}", flush=True)
    if not asks and not listener.getsockname()[0].startswith(_LOOPBACK):
        print(
            f"resnestkit: whoever reaches {address} may use it; {TOKEN} or --token-file asks "
            "for a token.",
            file=sys.stderr,
        )


def make_server(app: FastAPI, limits: Limits) -> uvicorn.Server:
    """A server for an application of `create_app`."""
    _allow_files(limits.connections + _FILES_BESIDE)
    config = uvicorn.Config(
        app,
        http=_protocol(limits),
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=max(5, math.ceil(limits.header_seconds)),
        timeout_graceful_shutdown=math.ceil(limits.timeout) + 10,
    )
    return _Server(config)


class _Server(uvicorn.Server):
    """Says that it is not ready as soon as it is told to stop."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """What uvicorn calls for a signal."""
        self.config.app.state.service.stopping = True  # type: ignore[union-attr]  # any ASGI app
        super().handle_exit(sig, frame)


def open_socket(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises UserError if the address cannot be had."""
    if not 0 <= port <= 65535:
        raise UserError(f"--port is {port}; it must be from 0 to 65535.")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"Cannot listen at {host}, port {port}: {reason}.") from error


def read_token(file: Path | None) -> str | None:
    """The token of a file, else of the environment; None if there is neither.

    Raises UserError if it cannot be read, or is no token.
    """
    said = os.environ.get(TOKEN, "")
    if file is None and TOKEN in os.environ and not said:
        raise UserError(f"{TOKEN} is set, but empty: unset it if no token is wanted.")
    if file is not None:
        try:
            said = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"Cannot read the token of {file}: {error}.") from error
        if not said:
            raise UserError(f"{file} holds no token.")
    if not said.isascii() or not said.isprintable() or " " in said:
        raise UserError("The token may hold letters, digits and signs of ASCII, and no spaces.")
    return said or None


def _name_address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


@contextmanager
def _stopped_by_signals(server: uvicorn.Server) -> Iterator[None]:
    """SIGINT and SIGTERM stop it even before it runs; uvicorn sends them on, which ends here."""

    def stop(*_: object) -> None:
        server.should_exit = True

    signals = (signal.SIGINT, signal.SIGTERM)
    before = {one: signal.signal(one, stop) for one in signals}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _allow_files(count: int) -> None:
    """Let the process hold so many connections, where the system lets it."""
    with suppress(ImportError, ValueError, OSError):
        import resource  # noqa: PLC0415  (Windows has none)

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _protocol(limits: Limits) -> type[asyncio.Protocol]:
    """Uvicorn's protocol, which has no limits of its own for these."""

    class Protocol(PatientProtocol):
        connections_at_most, header_seconds = limits.connections, limits.header_seconds

    return Protocol


class PatientProtocol(H11Protocol):
    """HTTP/1.1 with a limit of connections and of time for a request's headers."""

    connections_at_most: int
    header_seconds: float
    _timer: asyncio.TimerHandle | None = None
    _stall: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """As `asyncio.Protocol` has it."""
        super().connection_made(transport)
        # asyncio sets it only where a socket names its protocol. Without it, the second piece of
        # an answer waits until the client acknowledges the first: 40 ms, as a lone client sees it.
        with suppress(OSError):
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if len(self.connections) > self.connections_at_most:
            self._refuse(503, "There are too many connections; try again in a second.")
        else:
            self._start_timer()

    def data_received(self, data: bytes) -> None:
        """As `asyncio.Protocol` has it."""
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self._is_idle():
            self._start_timer()
        else:
            self._stop_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """As `asyncio.Protocol` has it."""
        self._stop_timer()
        self.resume_writing()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Where a client takes nothing of its answer any more, the answer is thrown away."""
        super().pause_writing()
        self._stall = self.loop.call_later(self.header_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls for bytes that are no HTTP."""
        del msg
        self._refuse(400, "This is no HTTP request.")

    def _is_idle(self) -> bool:
        """Whether no request is in work."""
        return self.cycle is None or self.cycle.response_complete

    def _start_timer(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.header_seconds, self._give_up)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if self._is_idle() and not self.transport.is_closing():
            self._refuse(408, f"There was no request within {self.header_seconds:g} seconds.")

    def _refuse(self, status: int, message: str) -> None:
        """Answer before there is a request, and hang up."""
        body = json.dumps({"error": message}).encode()
        headers = {
            "Content-Type": "application/json",
            "Content-Length": len(body),
            "Connection": "close",
            **HEADERS,
        }
        lines = [f"{name}: {value}" for name, value in headers.items()]
        first = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"
        head = "\r\n".join([first, *lines, "", ""])
        if self.cycle is None or not self.cycle.response_started or self.cycle.response_complete:
            self.transport.write(head.encode() + body)
        self.transport.close()
