"""One connection's HTTP: bounds on its headers, and refusals that cost next to nothing."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ridgeline.serve.refusals import Refusals

HEADER_SECONDS = 10.0
MAX_HEADER_BYTES = 64 << 10


class BoundedProtocol(HttpToolsProtocol):
    """HTTP whose headers must be small and come soon: else one could hold connections, and memory,
    for nothing. Who is not let in is told so as soon as the headers are there, without a task.
    """

    refusals: ClassVar[Refusals | None] = None
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
        self.transport.write(refusal)

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

    def _refusal(self) -> bytes | None:
        """Of a path that answers, and of a connection on which nothing else is being answered."""
        busy = self.cycle is not None and not self.cycle.response_complete
        if self.refusals is None or busy:
            return None
        client = None if self.client is None else self.client[0]
        method = self.parser.get_method()
        return self.refusals.of(self.server_state, method, self.url, self.headers, client)

    def _too_slow(self) -> None:
        self._waiting = None
        if not self.transport.is_closing():
            self.transport.abort()

    def _done_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None


def protocol_of(refusals: Refusals | None) -> type[BoundedProtocol]:
    """refusals: what is told before a task is made for a request; None: each request gets to the
    application.
    """
    return type("GuardedProtocol", (BoundedProtocol,), {"refusals": refusals})
