"""Who asked for what, and what became of it: one line of JSON for each HTTP request.

Paths are cut, bodies and keys never written: what a caller sends is no concern of a log.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_PATH = 200


class AccessLog:
    """An application whose requests are told. write: a line without its end."""

    def __init__(self, app: ASGIApp, write: Callable[[str], None]) -> None:
        self._app = app
        self._write = write

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        said: dict[str, Any] = {"status": None, "request_id": None}
        num_bytes = 0

        async def told(message: Message) -> None:
            nonlocal num_bytes
            if message["type"] == "http.response.start":
                said["status"] = message["status"]
                headers = dict(message.get("headers", ()))
                name = headers.get(b"x-request-id")
                said["request_id"] = None if name is None else name.decode("latin-1")
            else:
                num_bytes += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, told)
        finally:
            client = scope.get("client")
            line = access_line(
                None if client is None else client[0],
                scope["method"],
                scope["path"],
                said["status"],
                said["request_id"],
                num_bytes,
                time.monotonic() - began,
            )
            self._write(line)


def access_line(
    client: str | None,
    method: str,
    path: str,
    status: int | None,
    request_id: str | None,
    num_bytes: int,
    seconds: float,
) -> str:
    """One request's line. status: None where the connection was lost before any was told."""
    line = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "client": client,
        "method": method,
        "path": path[:MAX_PATH],
        "status": status,
        "request_id": request_id,
        "bytes": num_bytes,
        "seconds": round(seconds, 6),
    }
    return json.dumps(line)
