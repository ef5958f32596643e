"""One connection's HTTP: bounds on its headers, and refusals that cost next to nothing."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from ridgeline.serve.core.guard import ANSWERING, Guard

HEADER_SECONDS = 10.0
MAX_HEADER_BYTES = 64 << 10


class BoundedProtocol(HttpToolsProtocol):
    """HTTP whose headers must be small and come soon: else one could hold connections, and memory,
    for nothing. Who is not let in is told so as soon as the headers are there, without a task.
    """

    guard: ClassVar[Guard | None] = None
    _turned_away = False
    _waiting: asyncio.TimerHandle | None = None
    _num_header_bytes = 0
    _in_headers = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._waiting = self.loop.call_later(HEADER_SECONDS, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        self._done_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_headers:
            self._num_header_bytes += len(data)
            if self._waiting is None:  # a further request on this connection
                self._waiting = self.loop.call_later(HEADER_SECONDS, self._too_slow)
        super().data_received(data)
        if self._in_headers and self._num_header_bytes > MAX_HEADER_BYTES:
            self.send_400_response("The headers are too large.")

    def on_message_begin(self) -> None:
        self._in_headers = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_headers, self._num_header_bytes = False, 0
        self._done_waiting()
        if self._turned_away:  # what follows on a connection that is being closed
            return
        refusal = self._refusal()
        if refusal is None:
            super().on_headers_complete()
            return
        # The body is read, and dropped, before the connection is closed: else the client's system
        # might throw the answer away.
        self._turned_away = True
        self._waiting = self.loop.call_later(HEADER_SECONDS, self._too_slow)
        head = [STATUS_LINE[refusal.status_code]]
        for name, value in (*self.server_state.default_headers, *refusal.raw_headers):
            head += [name, b": ", value, b"\r\n"]
        self.transport.write(b"".join([*head, b"connection: close\r\n\r\n", refusal.body]))

    def on_body(self, body: bytes) -> None:
        if not self._turned_away:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_headers = True
        if self._turned_away:
            self._done_waiting()
            self.transport.close()
        else:
            super().on_message_complete()

    def _refusal(self) -> Response | None:
        """Of a path that answers, and of a connection on which nothing else is being answered."""
        busy = self.cycle is not None and not self.cycle.response_complete
        path = self.url.partition(b"?")[0].decode("latin-1")
        if self.guard is None or busy or path not in ANSWERING:
            return None
        method = self.parser.get_method().decode("ascii")
        if method != "POST":
            return None
        return self.guard.refusal({"method": method, "path": path, "headers": self.headers})

    def _too_slow(self) -> None:
        self._waiting = None
        if not self.transport.is_closing():
            self.transport.abort()

    def _done_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None


def protocol_of(guard: Guard | None) -> type[BoundedProtocol]:
    """guard: who is asked before a task is made for a request; None: each request gets to the
    application, which logs it.
    """
    return type("GuardedProtocol", (BoundedProtocol,), {"guard": guard})
