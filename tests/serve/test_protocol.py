"""Who is not let in is told by the connection itself, before there is a task for the request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn
from tiny import tiny_core
from uvicorn.server import ServerState

from ridgeline.serve.app import build_guard
from ridgeline.serve.core.core import Core
from ridgeline.serve.core.keys import Keys
from ridgeline.serve.protocol import protocol_of
from ridgeline.serve.refusals import Refusals

Ask = Callable[[bytes], Awaitable[bytes]]


def served(core: Core, check: Callable[[Ask], Awaitable[None]]) -> None:
    """Runs a check with a function that sends bytes to a server and gives all that comes back."""

    async def run() -> None:
        guard = build_guard(core)
        config = uvicorn.Config(guard, log_config=None, access_log=False, lifespan="off")
        config.load()
        made, state = protocol_of(Refusals(guard)), ServerState()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: made(config, state, {}), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]

        async def ask(sent: bytes) -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for start in range(0, len(sent), 100_000):
                writer.write(sent[start : start + 100_000])
                await writer.drain()
            async with asyncio.timeout(120):
                found = await reader.read()
            writer.close()
            return found

        await check(ask)
        server.close()

    asyncio.run(run())
    core.close()


def request(body: bytes, *headers: str, path: str = "/v1/completions") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "host: localhost", f"content-length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def parts(answer: bytes) -> tuple[int, dict[str, str], Any]:
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    assert len(body) == int(headers["content-length"])  # and nothing comes after it
    return int(first.split()[1]), headers, json.loads(body)


def test_a_refusal_is_whole_however_large_the_body_that_nobody_reads() -> None:
    core = tiny_core()
    core.door.draining = True

    async def check(ask: Ask) -> None:
        for body in (b"{}", b"x" * 3_000_000):
            status, headers, told = parts(await ask(request(body)))
            assert status == 503
            assert headers["connection"] == "close"
            assert int(headers["retry-after"]) >= 1
            assert "ending" in told["error"]["message"]
        _, _, told = parts(await ask(request(b"{}", path="/v1/messages")))
        assert told["type"] == "error"  # as Anthropic's clients read it
        assert core.door.num_refused == 3

    served(core, check)


def test_what_follows_a_refusal_on_its_connection_is_not_answered() -> None:
    core = tiny_core()
    core.door.draining = True

    async def check(ask: Ask) -> None:
        second = b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n"
        for follows in (second, request(b"{}")):
            status, _, _ = parts(await ask(request(b"{}") + follows))
            assert status == 503
        assert core.door.num_refused == 2

    served(core, check)


def test_keys_come_before_room_and_who_is_let_in_is_answered() -> None:
    core = tiny_core(keys=Keys.of(["first-key"]))

    async def check(ask: Ask) -> None:
        body = json.dumps({"prompt": "Hi", "max_tokens": 2}).encode()
        status, _, _ = parts(await ask(request(body, "authorization: Bearer wrong")))
        assert status == 401
        good = request(body, "authorization: Bearer first-key", "connection: close")
        status, _, told = parts(await ask(good))
        assert status == 200
        assert told["choices"][0]["finish_reason"] == "length"
        core.door.draining = True
        status, _, _ = parts(await ask(request(body, "authorization: Bearer wrong")))
        assert status == 401
        assert parts(await ask(good))[0] == 503

    served(core, check)
