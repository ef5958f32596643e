"""Refusals as bytes: what is told before there is a task, or even a protocol, for a request."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from uvicorn.protocols.http.httptools_impl import STATUS_LINE
from uvicorn.server import ServerState

from ridgeline.serve.core.guard import ANSWERING, Guard
from ridgeline.serve.metrics.access_log import access_line

Headers = Sequence[tuple[bytes, bytes]]


class Refusals:
    """What those are told who ask for an answer and are not let in. write: the access log's."""

    def __init__(self, guard: Guard, write: Callable[[str], None] | None = None) -> None:
        self._guard = guard
        self._write = write

    def of(
        self, state: ServerState, method: bytes, target: bytes, headers: Headers, client: str | None
    ) -> bytes | None:
        """The whole answer, after which the connection is closed; None: the application's to
        answer. headers: their names in small letters.
        """
        path = target.partition(b"?")[0].decode("latin-1")
        if method != b"POST" or path not in ANSWERING:
            return None
        began = time.monotonic()
        refusal = self._guard.refusal({"method": "POST", "path": path, "headers": headers})
        if refusal is None:
            return None
        status = refusal.status
        lines = [b"%s: %s\r\n" % header for header in state.default_headers]
        head = b"".join((STATUS_LINE[status], *lines, refusal.lines))
        if self._write is not None:
            seconds, size = time.monotonic() - began, len(refusal.body)
            self._write(access_line(client, "POST", path, status, None, size, seconds))
        return head + b"connection: close\r\n\r\n" + refusal.body
