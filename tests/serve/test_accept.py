"""Newcomers: refused in passing while there is no room, and otherwise none the worse for it."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from ridgeline.serve.accept import MOST_AT_ONCE, MOST_BYTES, Acceptor, whole_request
from ridgeline.serve.server import listen

BODY = b'{"prompt": "Hi"}'
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
WHOLE = HEAD % len(BODY) + BODY
PART = HEAD % 5 + b"x"
TOLD = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 4\r\n\r\nfull"


class Echo(asyncio.Protocol):
    """What is let through: says how much it was sent, and ends. Who was looked at before its
    request came is refused here, as a connection's own protocol does.
    """

    def __init__(self) -> None:
        self.data = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data
        if self.data == WHOLE:
            self.transport.write(TOLD)
            self.transport.close()
        if self.data.endswith(b"!"):
            self.transport.write(b"let in: %d" % len(self.data))
            self.transport.close()


Ask = Callable[..., Awaitable[bytes]]


def served(crowded: Callable[[], bool], check: Callable[[Ask, Acceptor], Awaitable[None]]) -> None:
    async def run() -> None:
        listening = listen("127.0.0.1", 0)
        port = listening.getsockname()[1]

        def refuse(method: bytes, target: bytes, headers: Any, client: str | None) -> bytes | None:
            assert client == "127.0.0.1"
            refused = method == b"POST" and target == b"/v1/completions" and crowded()
            return TOLD if refused else None

        acceptor = Acceptor(listening, Echo, crowded, refuse)

        async def ask(*pieces: bytes) -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            async with asyncio.timeout(120):
                found = await reader.read()
            writer.close()
            return found

        await check(ask, acceptor)
        acceptor.close()
        acceptor.close()
        await acceptor.wait_closed()
        listening.close()

    asyncio.run(run())


def test_whole_requests_are_refused_and_others_let_through() -> None:
    async def check(ask: Ask, _acceptor: Acceptor) -> None:
        many = 3 * MOST_AT_ONCE
        assert await asyncio.gather(*(ask(WHOLE) for _ in range(many))) == [TOLD] * many
        for other in (
            b"GET /metrics HTTP/1.1\r\n\r\n!",
            WHOLE.replace(b"completions", b"models") + b"!",
            WHOLE + b"GET /livez HTTP/1.1\r\n\r\n!",  # more than one request
            b"not HTTP at all!",
            HEAD % (2 * MOST_BYTES) + b"x" * (2 * MOST_BYTES - 1) + b"!",
        ):
            assert await ask(other) == b"let in: %d" % len(other)

    served(lambda: True, check)


def test_a_refusal_is_written_at_once_and_nothing_else_is_touched() -> None:
    async def check(_ask: Ask, acceptor: Acceptor) -> None:
        for sent, refused in ((WHOLE, True), (PART, False), (WHOLE + b"!", False)):
            caller, connection = socket.socketpair()
            caller.sendall(sent)
            assert acceptor._refused(connection, ("127.0.0.1", 1)) is refused
            if refused:
                assert caller.recv(1000) == TOLD
                assert caller.recv(1000) == b""  # closed, and not reset
            else:
                assert connection.recv(1000) == sent  # still there for its protocol
                connection.close()
            caller.close()

    served(lambda: True, check)


def test_who_has_not_sent_all_by_then_is_let_through() -> None:
    async def check(_ask: Ask, acceptor: Acceptor) -> None:
        port = acceptor._socket.getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(PART)
        async with asyncio.timeout(120):
            while not acceptor._let_through:  # it was looked at, and is not a whole request
                await asyncio.sleep(0)
        writer.write(b"x!")
        async with asyncio.timeout(120):
            assert await reader.read() == b"let in: %d" % (len(PART) + 2)
        writer.close()

    served(lambda: True, check)


def test_who_hangs_up_before_being_told_is_no_fault() -> None:
    async def check(ask: Ask, acceptor: Acceptor) -> None:
        port = acceptor._socket.getsockname()[1]
        for sent in (b"", WHOLE):
            gone = socket.create_connection(("127.0.0.1", port))
            # Closed with a reset: even the answer cannot be written.
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            gone.sendall(sent)
            gone.close()
        assert await ask(WHOLE) == TOLD

    served(lambda: True, check)


def test_room_is_seen_at_once() -> None:
    full = True

    async def check(ask: Ask, _acceptor: Acceptor) -> None:
        nonlocal full
        assert await ask(WHOLE) == TOLD
        full = False
        assert await ask(WHOLE + b"!") == b"let in: %d" % (len(WHOLE) + 1)

    served(lambda: full, check)


@pytest.mark.parametrize(
    "sent",
    [
        WHOLE[:-1],
        WHOLE + b"x",
        WHOLE.replace(b"Content-Length", b"Content-Size"),
        WHOLE.replace(b"Host: localhost", b"Transfer-Encoding: chunked"),
        WHOLE.replace(b"Host: localhost", b"Expect: 100-continue"),
        WHOLE.replace(b"POST ", b"POST"),
        WHOLE.replace(b"\r\n", b"\n"),
        b"",
    ],
)
def test_what_is_not_one_whole_request(sent: bytes) -> None:
    assert whole_request(sent) is None


def test_what_is_known_of_a_whole_request() -> None:
    sent = b"POST /v1/completions?x HTTP/1.1\r\nX-API-Key:  k \r\ncontent-length: 2\r\n\r\n{}"
    method, target, headers = whole_request(sent) or (b"", b"", [])
    assert (method, target) == (b"POST", b"/v1/completions?x")
    assert headers == [(b"x-api-key", b"k"), (b"content-length", b"2")]
    assert json.loads(sent.partition(b"\r\n\r\n")[2]) == {}
