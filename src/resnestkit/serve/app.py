"""The routes of the service, and what their OpenAPI description says."""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp

from resnestkit import __version__
from resnestkit.serve.gate import Careful, Gate
from resnestkit.serve.metrics import CONTENT_TYPE
from resnestkit.serve.models import Options, ServedModel
from resnestkit.serve.problems import RETRY, Problem
from resnestkit.serve.schemas import (
    Answers,
    Explained,
    ModelCard,
    Refusal,
    State,
    to_openapi_form,
)
from resnestkit.serve.service import Service
from resnestkit.serve.settings import Limits
from resnestkit.serve.uploads import explain_field

_PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/script.js": ("script.js", "text/javascript; charset=utf-8"),
}
_WORDS = {
    400: "The request cannot be read, or broke off.",
    401: "The token is missing or wrong.",
    404: "There is no such thing here.",
    405: "The route knows no such method.",
    408: "The upload took too long.",
    413: "The request or an image is too large.",
    415: "No form or JSON, or not an image of a known kind.",
    422: "An image is damaged, or a value does not fit.",
    429: "The queue is full.",
    503: "There was no answer in time, or the service is stopping.",
}
_ASKING = (400, 401, 408, 413, 415, 422, 429, 503)


def create_app(
    model: ServedModel, limits: Limits | None = None, token: str | None = None
) -> FastAPI:
    """The service around a model, an ASGI application.

    Args:
        model: of `resnestkit.serve.models.open_model`.
        limits: what it takes on.
        token: what a client must bring as ``Authorization: Bearer``; None asks for nothing.
    """
    service = Service(model, limits or Limits())

    @asynccontextmanager
    async def live(_app: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = _Application(
        title=f"resnestkit: {model.net}",
        version=__version__,
        description=f"A {model.kind} of {len(model.classes)} classes.",
        docs_url=None,
        redoc_url=None,
        lifespan=live,
    )
    app.state.service = service
    _add_page(app)
    _add_state(app, service)
    _add_answers(app, service, [Depends(_Guard(token))] if token else [])
    _add_refusals(app)
    routes = {path for route in app.routes if (path := getattr(route, "path", None))}
    app.add_middleware(Gate, limits=service.limits, metrics=service.metrics, routes=routes)
    return app


class _Application(FastAPI):
    """Its answers to faults are made outside of all middleware."""

    def build_middleware_stack(self) -> ASGIApp:
        """What FastAPI calls once, before the first request."""
        return Careful(super().build_middleware_stack())


class _Guard(HTTPBearer):
    """Lets in who brings the token."""

    def __init__(self, token: str) -> None:
        super().__init__(auto_error=False)
        self._token = token.encode()

    async def __call__(self, request: HTTPConnection) -> HTTPAuthorizationCredentials | None:
        found = await super().__call__(request)
        said = found.credentials.encode("utf-8", "replace") if found else b""
        if not hmac.compare_digest(said, self._token):
            reason = "is wrong" if found else "is needed: send it as `Authorization: Bearer`"
            raise Problem(401, f"The token {reason}.", {"WWW-Authenticate": "Bearer"})
        return found


def _add_page(app: FastAPI) -> None:
    folder = files("resnestkit.serve") / "page"
    for path, (name, kind) in _PAGE.items():
        content = (folder / name).read_bytes()
        app.get(path, include_in_schema=False)(_send_page(content, kind))


def _send_page(content: bytes, kind: str) -> Any:
    async def send_page() -> Response:
        return Response(content, headers={"Content-Type": kind})

    return send_page


def _add_state(app: FastAPI, service: Service) -> None:
    @app.get("/health", summary="Whether the service is alive")
    async def health() -> State:
        return service.state

    @app.get("/ready", summary="Whether it takes requests", responses=_refusals(503))
    async def ready() -> State:
        if service.stopping:
            raise Problem(503, "The service is stopping.", RETRY)
        return service.state


def _add_answers(app: FastAPI, service: Service, guards: list[Any]) -> None:
    codes = _ASKING if guards else tuple(code for code in _ASKING if code != 401)
    form: dict[str, Any] = {"requestBody": to_openapi_form()}
    answer: Any = service.model.answer

    @app.post(
        "/predict",
        summary="What is on the images",
        dependencies=guards,
        response_model=Answers[answer],
        responses=_refusals(*codes),
        openapi_extra=form,
    )
    async def predict(
        request: Request, top: Annotated[int, Query(ge=1, le=1000, description="Guesses.")] = 5
    ) -> Any:
        return Answers[answer](results=list(await service.predict(request, Options(top))))

    @app.post(
        "/explain",
        summary="What the attention does on one image",
        dependencies=guards,
        response_model=Explained,
        responses=_refusals(*codes, 404),
        openapi_extra=form,
    )
    async def explain(
        request: Request,
        target: Annotated[
            str | None, Query(max_length=200, description="The class; the likeliest if not given.")
        ] = None,
    ) -> Any:
        return await service.look_into(request, Options(target=target))

    refused = _refusals(401) if guards else {}

    @app.get("/model", summary="What is served", dependencies=guards, responses=refused)
    async def card() -> ModelCard:
        return service.card

    @app.get(
        "/metrics",
        summary="Counters, as Prometheus reads them",
        dependencies=guards,
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **refused},
    )
    async def metrics() -> Response:
        return Response(service.metrics.to_text(), headers={"Content-Type": CONTENT_TYPE})


def _refusals(*codes: int) -> dict[int | str, dict[str, Any]]:
    return {code: {"model": Refusal, "description": _WORDS[code]} for code in sorted(codes)}


def _add_refusals(app: FastAPI) -> None:
    @app.exception_handler(Problem)
    async def tell(_request: Request, problem: Problem) -> JSONResponse:
        return _refuse(problem.status, problem.message, problem.headers)

    @app.exception_handler(HTTPException)
    async def tell_plain(request: Request, error: HTTPException) -> JSONResponse:
        words = {
            404: f"There is nothing at {request.url.path}.",
            405: f"{request.url.path} knows no {request.method}.",
        }
        message = words.get(error.status_code, str(error.detail))
        return _refuse(error.status_code, message, dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def tell_field(_request: Request, error: RequestValidationError) -> JSONResponse:
        return _refuse(422, f"The request does not fit: {explain_field(error.errors()[0])}.")

    @app.exception_handler(Exception)
    async def tell_failure(_request: Request, _error: Exception) -> JSONResponse:
        return _refuse(500, "This should not happen; the service's log says more.")


def _refuse(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": message}, status, headers)
