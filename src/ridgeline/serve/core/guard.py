"""What every request passes before any route: whose it is, where it comes from, how large it is.

A plain ASGI wrapper: it costs microseconds, sees disconnects, and answers without reading a body.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ridgeline.errors import RidgelineError
from ridgeline.serve.core.core import Core
from ridgeline.serve.core.errors import Fault, HttpError, fault_of

# How a dialect words an error.
ErrorBody = Callable[[Fault], Mapping[str, Any]]

# Answered without a key: what a load balancer asks, and the page that asks for a key.
OPEN_PATHS = frozenset({"/", "/livez", "/readyz", "/health", "/ping"})
OPEN_FOLDERS = ("/page/",)
# Where answers are asked for: nobody reads their bodies while there is no room.
ANSWERING = frozenset(
    {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/responses/compact",
        "/v1/embeddings",
        "/v1/rerank",
        "/v1/score",
        "/rerank",
        "/v2/rerank",
        "/score",
        "/classify",
        "/pooling",
        "/api/embed",
        "/api/embeddings",
        "/v1/audio/transcriptions",
        "/v1/audio/translations",
        "/v1/messages",
        "/api/generate",
        "/api/chat",
        "/generate",
        "/completion",
        "/completions",
        "/infill",
    }
)
# What is told of everybody: see `Keys.may_read_metrics`.
METRICS = frozenset({"/metrics", "/live", "/load"})
_JSON = "application/json"
_LOCAL = frozenset({"localhost", "127.0.0.1", "[::1]"})


class Refusal:
    """An answer to who is not let in."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        self.body = body
        self._headers = headers
        named = {**headers, "content-length": str(len(body)), "content-type": _JSON}
        # All headers but those of every answer, as they go over the wire.
        self.lines = "".join(f"{name}: {value}\r\n" for name, value in named.items()).encode()

    def response(self) -> Response:
        return Response(self.body, self.status, self._headers, _JSON)


class Guard:
    """An application behind its checks. error_body: how errors of a path are worded."""

    def __init__(self, app: ASGIApp, core: Core, error_body: Callable[[str], ErrorBody]) -> None:
        self._app = app
        self._core = core
        self._error_body = error_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return  # no WebSocket is spoken here
        refusal = self.refusal(scope)
        if refusal is not None:
            await refusal.response()(scope, receive, send)
            return
        options = self._core.options
        counted = _Body(receive, options.max_body_bytes, options.body_seconds)
        await self._app(scope, counted.receive, send)

    def refusal(self, scope: Scope) -> Refusal | None:
        """What somebody is told who is not let in; of a scope its method, path and headers."""
        try:
            self._check(scope)
        except RidgelineError as error:
            return _refusal(self._error_body(scope["path"]), fault_of(error))
        return None

    def _check(self, scope: Scope) -> None:
        headers = dict(scope["headers"])
        path = scope["path"]
        _check_origin(headers, self._core.options.hosts)
        if path in METRICS:
            self._core.check_metrics_key(_key(headers))
        elif path not in OPEN_PATHS and not path.startswith(OPEN_FOLDERS):
            self._core.tenant(_key(headers))
        size = headers.get(b"content-length", b"0")
        most = self._core.options.max_body_bytes
        if not size.isdigit() or len(size) > 18 or int(size) > most:
            raise HttpError(413, "too_large", f"the body has more than {most} bytes, the limit")
        if path in ANSWERING and scope["method"] == "POST":
            self._core.door.check()


@lru_cache(256)
def _refusal(error_body: ErrorBody, fault: Fault) -> Refusal:
    """Those who are refused under load are told the same, hundreds of times a second."""
    body = json.dumps(error_body(fault)).encode()
    return Refusal(fault.status, fault.headers, body)


def _check_origin(headers: Mapping[bytes, bytes], hosts: tuple[str, ...] | None) -> None:
    """A page of another site must not use what listens here: neither by itself (Origin) nor by a
    name of its own that leads here (Host).
    """
    host = headers.get(b"host", b"").decode("latin-1").lower()
    if hosts is not None:
        name = host if host.endswith("]") or ":" not in host else host.rpartition(":")[0]
        if name not in _LOCAL and name not in hosts:
            raise HttpError(
                403,
                "permission",
                f"host: {name[:100]!r} is not a name of this server, which listens on loopback; "
                "start it with --allowed-host to call it so",
            )
    origin = headers.get(b"origin")
    if origin is not None and _netloc(origin) != host:
        raise HttpError(403, "permission", "origin: pages of other sites may not call this server")


def _netloc(origin: bytes) -> str | None:
    try:
        return urlsplit(origin.decode("latin-1").lower()).netloc or None
    except ValueError:
        return None


def _key(headers: Mapping[bytes, bytes]) -> str | None:
    """Of `Authorization: Bearer KEY`, or of x-api-key, as Anthropic's clients send it."""
    value = headers.get(b"authorization")
    if value is not None:
        scheme, _, key = value.decode("latin-1").partition(" ")
        if scheme.lower() == "bearer":
            return key.strip()
    value = headers.get(b"x-api-key")
    return None if value is None else value.decode("latin-1")


class _Body:
    """Counts what arrives, and how long it takes."""

    def __init__(self, receive: Receive, most: int, seconds: float) -> None:
        self._receive = receive
        self._most = most
        self._seconds = seconds
        self._deadline: float | None = None
        self._num_bytes = 0
        self._done = False

    async def receive(self) -> Message:
        if self._done:
            return await self._receive()
        if self._deadline is None:
            self._deadline = asyncio.get_running_loop().time() + self._seconds
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            raise HttpError(
                408, "timeout", f"the body did not arrive within {self._seconds:g} s"
            ) from None
        self._num_bytes += len(message.get("body", b""))
        if self._num_bytes > self._most:
            raise HttpError(
                413, "too_large", f"the body has more than {self._most} bytes, the limit"
            )
        self._done = not message.get("more_body", False)
        return message
