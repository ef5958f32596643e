"""The application: dialects over one core, behind the guard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from ridgeline import __version__
from ridgeline.errors import RidgelineError
from ridgeline.model.task import Task
from ridgeline.serve.anthropic import routes as anthropic
from ridgeline.serve.batches import routes as batches
from ridgeline.serve.core import health
from ridgeline.serve.core.core import Core
from ridgeline.serve.core.errors import Fault, Kind, fault_of
from ridgeline.serve.core.guard import ANSWERING, ErrorBody, Guard
from ridgeline.serve.llamacpp import routes as llamacpp
from ridgeline.serve.metrics import routes as metrics
from ridgeline.serve.metrics.access_log import AccessLog
from ridgeline.serve.ollama import embed
from ridgeline.serve.ollama import routes as ollama
from ridgeline.serve.openai import audio, chat, completions, embeddings, models
from ridgeline.serve.openai.errors import error_body as openai_error
from ridgeline.serve.page import routes as page
from ridgeline.serve.plain import tokens
from ridgeline.serve.responses import routes as responses
from ridgeline.serve.sglang import routes as sglang


@dataclass(frozen=True, slots=True)
class Dialect:
    """router: makes the routes. error_body: an error as its clients read it, for paths that begin
    as `paths` do; the longest beginning decides. tasks: of models that speak it; None: of all.
    """

    router: Callable[[Core], APIRouter]
    error_body: ErrorBody = openai_error
    paths: tuple[str, ...] = ()
    tasks: tuple[Task, ...] | None = None


TEXT: tuple[Task, ...] = ("generate",)
POOLED: tuple[Task, ...] = ("embed", "classify")

DIALECTS: dict[str, Dialect] = {
    "health": Dialect(health.router),
    "models": Dialect(models.router),
    "chat": Dialect(chat.router, tasks=TEXT),
    "completions": Dialect(completions.router, tasks=TEXT),
    "responses": Dialect(responses.router, tasks=TEXT),
    "batches": Dialect(batches.router, tasks=(*TEXT, *POOLED)),
    "embeddings": Dialect(embeddings.router, tasks=POOLED),
    "audio": Dialect(audio.router, tasks=("transcribe",)),
    "anthropic": Dialect(anthropic.router, anthropic.error_body, ("/v1/messages",), TEXT),
    "ollama": Dialect(ollama.router, ollama.error_body, ("/api/",), (*TEXT, *POOLED)),
    "ollama embeddings": Dialect(embed.router, tasks=("embed",)),
    "llama.cpp": Dialect(
        llamacpp.router, llamacpp.error_body, ("/completion", "/infill", "/props"), TEXT
    ),
    "tokens": Dialect(tokens.router),
    "sglang": Dialect(sglang.router),
    "telemetry": Dialect(metrics.router),
    "page": Dialect(page.router, tasks=TEXT),
}


Handler = Callable[[Request], Awaitable[Response]]


def build_app(core: Core) -> ASGIApp:
    """The ASGI application; its lifespan is the watchdog's."""
    return logged(build_guard(core), core)


def build_guard(core: Core) -> Guard:
    """The application without its log."""
    direct: dict[str, Handler] = {}
    return Guard(_Direct(build_routes(core, direct), direct), core, error_body_of)


def logged(guard: Guard, core: Core) -> ASGIApp:
    write = core.options.access_log
    return guard if write is None else AccessLog(guard, write)


class _Direct:
    """An application of which some paths, that are called often, are found by their whole: no
    patterns are tried and no middleware is passed. Their handlers tell all errors themselves.
    """

    def __init__(self, app: ASGIApp, handlers: Mapping[str, Handler]) -> None:
        self._app = app
        self._handlers = handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        handler = self._handlers.get(scope["path"]) if scope["type"] == "http" else None
        if handler is None or scope["method"] != "POST":
            await self._app(scope, receive, send)
        else:
            response = await handler(Request(scope, receive, send))
            await response(scope, receive, send)


def build_routes(core: Core, direct: dict[str, Handler] | None = None) -> FastAPI:
    """The routes, without the guard. direct: is given the handlers of answering paths."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        watchdog = asyncio.create_task(health.watch(core))
        try:
            yield
        finally:
            watchdog.cancel()
            with suppress(asyncio.CancelledError):
                await watchdog

    app = FastAPI(
        title="Ridgeline",
        version=__version__,
        summary="A language model behind the APIs that clients know",
        lifespan=lifespan,
        docs_url=None,  # their pages load scripts from other sites, and this one works offline
        redoc_url=None,
    )
    for dialect in DIALECTS.values():
        if dialect.tasks is not None and core.llm.task not in dialect.tasks:
            continue
        router = dialect.router(core)
        app.include_router(router)
        if direct is not None:
            direct |= _answering(router)
    _tell_errors(app, core.llm.task)
    _describe(app)
    return app


def _answering(router: APIRouter) -> dict[str, Handler]:
    routes = [r for r in router.routes if isinstance(r, APIRoute) and r.path in ANSWERING]
    assert all(route.methods == {"POST"} for route in routes)
    return {route.path: route.get_route_handler() for route in routes}


@lru_cache(256)
def error_body_of(path: str) -> ErrorBody:
    """The wording of errors for clients that call `path`."""
    known = [(p, d.error_body) for d in DIALECTS.values() for p in d.paths if path.startswith(p)]
    return max(known, key=lambda one: len(one[0]), default=("", openai_error))[1]


_KINDS: dict[int, Kind] = {404: "not_found", 413: "too_large"}


_DOES: dict[str, str] = {
    "generate": "this model writes answers; for vectors and scores serve one with --task embed",
    "embed": "this model gives vectors and scores, and writes no answers",
    "classify": "this model gives classes and scores, and writes no answers",
    "transcribe": "this model writes down speech: /v1/audio/transcriptions",
}


def _tell_errors(app: FastAPI, task: str) -> None:
    """Of what no route has told: no such path, and faults of ours."""

    def told(request: Request, fault: Fault) -> Response:
        body = error_body_of(request.url.path)(fault)
        return JSONResponse(dict(body), fault.status, fault.headers)

    async def ours(request: Request, error: Exception) -> Response:
        return told(request, fault_of(error))

    async def of_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        what = {404: "there is no such path", 405: "this path has no such method"}
        reason = what.get(error.status_code, str(error.detail))
        if error.status_code == 404 and request.url.path in ANSWERING:
            reason = _DOES[task]  # a path of other models
        message = f"{request.method} {request.url.path[:200]}: {reason}"
        kind = _KINDS.get(error.status_code, "invalid_request")
        response = told(request, Fault(error.status_code, kind, message))
        response.headers.update(error.headers or {})
        return response

    app.add_exception_handler(RidgelineError, ours)
    app.add_exception_handler(HTTPException, of_http)
    app.add_exception_handler(Exception, ours)


def _describe(app: FastAPI) -> None:
    """What bodies refer to (see `documented`) goes where OpenAPI wants it."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = made()
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            for path in document["paths"].values():
                for route in path.values():
                    for part in (route.get("requestBody", {}), *route["responses"].values()):
                        for content in part.get("content", {}).values():
                            schemas |= content["schema"].pop("x-definitions", {})
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
