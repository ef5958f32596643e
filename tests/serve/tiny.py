"""A server over a tiny model, in this process: an application, and a client that calls it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from starlette.types import ASGIApp

from ridgeline import LLM
from ridgeline.serve.app import build_app
from ridgeline.serve.core.core import Core, ServeOptions
from ridgeline.step import Masks, StepPlan

MODEL = str(Path(__file__).parent.parent / "golden" / "llama3" / "model.gguf")
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"


def tiny_llm(**options: Any) -> LLM:
    """A model of 256 bytes as tokens, with a template."""
    from ridgeline.model.text.chat import ChatTemplate

    chosen: dict[str, Any] = {"max_tokens_per_step": 32, "max_rows": 8, "threads": 1}
    llm = LLM(MODEL, **(chosen | options))
    llm.prompts._template = ChatTemplate(TEMPLATE)
    return llm


def tiny_core(**options: Any) -> Core:
    """options: of the LLM those that it has, the rest of the server."""
    of_server = {k: options.pop(k) for k in list(options) if k in ServeOptions.__slots__}
    return Core(tiny_llm(**options), ServeOptions(**({"names": ("tiny",)} | of_server)))


def slow_steps(core: Core, seconds: float) -> None:
    """Each step takes so much longer: of so small a model it is over before one could look."""
    executor = core.llm.session.engine._executor
    submit = executor.submit

    def slowly(plan: StepPlan, *masks: Masks | None) -> None:
        time.sleep(seconds)
        submit(plan, *masks)

    executor.submit = slowly  # type: ignore[method-assign]


def client_of(app: ASGIApp, **headers: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app),  # type: ignore[arg-type]
        base_url="http://localhost",
        headers=headers,
        timeout=120,
    )


def within(core: Core, check: Callable[[httpx.AsyncClient], Coroutine[Any, Any, None]]) -> None:
    """Runs a check against the server; afterwards nothing may be held."""

    async def run() -> None:
        async with client_of(build_app(core)) as client:
            await check(client)
            await settled(core)

    asyncio.run(run())
    state = core.llm.session.engine.state
    assert not state.requests
    assert state.pool.num_free == state.pool.num_blocks
    state.check_invariants()


async def settled(core: Core, seconds: float = 120) -> None:
    """Waits until nothing runs."""
    deadline = time.monotonic() + seconds
    while core.engine.load.running or core.engine.load.waiting or core.door.running:
        assert time.monotonic() < deadline, "something is still held"
        await asyncio.sleep(0.005)


def chunks_of(text: str) -> list[dict[str, Any]]:
    """The JSON of a stream of server-sent events, which ends with [DONE]."""
    data = [part.removeprefix("data: ") for part in text.split("\n\n") if part]
    assert data.pop() == "[DONE]"
    return [json.loads(one) for one in data]


def posted(path: str) -> dict[str, Any]:
    """ASGI's scope of a POST with a JSON body."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "state": {},
    }


def caller(
    body: dict[str, Any], gone: asyncio.Event
) -> Callable[[], Coroutine[Any, Any, dict[str, Any]]]:
    """ASGI's `receive` of a client that sends a body whole, and goes away when it is told to."""
    left = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

    async def receive() -> dict[str, Any]:
        if left:
            return left.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    return receive


@asynccontextmanager
async def hanging_up(
    app: ASGIApp, path: str, body: dict[str, Any]
) -> AsyncIterator[Callable[[], Coroutine[Any, Any, list[bytes]]]]:
    """A request whose client goes away when the block ends. Gives a function that waits for more of
    the response and gives all of it so far.
    """
    sent: list[bytes] = []
    more, gone = asyncio.Event(), asyncio.Event()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            sent.append(message.get("body", b""))
            more.set()

    async def some() -> list[bytes]:
        await more.wait()
        more.clear()
        return sent

    task = asyncio.ensure_future(app(posted(path), caller(body, gone), send))
    try:
        yield some
    finally:
        gone.set()
        await asyncio.wait([task], timeout=120)
        assert task.done()
