"""What a request leaves is freed as it ends, not found later by the collector of garbage, whose
pauses are the longest that a refused client, or a stream, meets.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest
from starlette.types import ASGIApp
from tiny import caller, posted, settled, slow_steps, tiny_core

from ridgeline.model.text.chat import ChatTemplate
from ridgeline.serve.app import build_app
from ridgeline.serve.core.core import Core

CHAT = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 6}
TEXT = {"prompt": "Hello", "max_tokens": 6}
WRITES = {"type": "function", "function": {"name": "write", "parameters": {"type": "object"}}}
# Macros hold their scope, and it them.
MACROS = """\
{%- macro said(m) %}<{{ m.role }}>{% if m.content is string %}{{ m.content }}{% endif %}
{%- for call in m.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}{% endmacro %}
{%- for tool in tools or [] %}{{ tool | tojson }}{% endfor %}
{%- for m in messages %}{% macro again() %}{{ said(m) }}{% endmacro %}{{ again() }}{% endfor %}
{%- call said(messages[0]) %}{% endcall %}<assistant>"""
REQUESTS: dict[str, tuple[str, dict[str, Any], int]] = {
    "text": ("/v1/completions", TEXT, 200),
    "text, streamed": ("/v1/completions", TEXT | {"stream": True}, 200),
    "chat": ("/v1/chat/completions", CHAT, 200),
    "chat, streamed": ("/v1/chat/completions", CHAT | {"stream": True}, 200),
    "three answers": ("/v1/chat/completions", CHAT | {"n": 3, "temperature": 1}, 200),
    "several prompts": ("/v1/completions", TEXT | {"prompt": ["a", "b", "c"]}, 200),
    "several, streamed": ("/v1/completions", TEXT | {"prompt": ["a", "b"], "stream": True}, 200),
    "a schema": ("/v1/chat/completions", CHAT | {"response_format": {"type": "json_object"}}, 200),
    "tools": ("/v1/chat/completions", CHAT | {"tools": [WRITES]}, 200),
    "tokens told": ("/v1/chat/completions", CHAT | {"logprobs": True, "top_logprobs": 2}, 200),
    "a response": ("/v1/responses", {"input": "Hello", "max_output_tokens": 16}, 200),
    "a response, streamed": (
        "/v1/responses",
        {"input": "Hello", "max_output_tokens": 16, "stream": True},
        200,
    ),
    "a message": ("/v1/messages", CHAT | {"model": "tiny"}, 200),
    "a message, streamed": ("/v1/messages", CHAT | {"model": "tiny", "stream": True}, 200),
    "Ollama's chat": ("/api/chat", {"model": "tiny", "messages": CHAT["messages"]}, 200),
    "tokens": ("/tokenize", {"prompt": "Hello"}, 200),
    "no field": ("/v1/chat/completions", {"max_tokens": 6}, 400),
    "a wrong field": ("/v1/chat/completions", CHAT | {"temperature": -1}, 400),
    "too long": ("/v1/completions", TEXT | {"prompt": "a" * 100_000}, 400),
    "too long, streamed": (
        "/v1/completions",
        TEXT | {"prompt": "a" * 100_000, "stream": True},
        400,
    ),
    "another model": ("/v1/chat/completions", CHAT | {"model": "other"}, 404),
}

BOTH = [("/v1/completions", TEXT), ("/v1/chat/completions", CHAT)]


async def ask(app: ASGIApp, path: str, body: dict[str, Any], pieces: int | None = None) -> int:
    """The status; the client goes away after so many pieces of the answer, if it is said."""
    gone = asyncio.Event()
    status = came = 0

    async def send(message: Any) -> None:
        nonlocal status, came
        if message["type"] == "http.response.start":
            status = message["status"]
        elif pieces is not None:
            came += 1
            if came >= pieces:
                gone.set()

    if pieces == 0:
        asyncio.get_running_loop().call_later(0.005, gone.set)
    await app(posted(path), caller(body, gone), send)
    return status


@contextmanager
def garbage() -> Iterator[list[Any]]:
    """What only a collector would find of what the block has left."""
    found: list[Any] = []
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield found
        gc.collect()
        found += gc.garbage
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def named(left: list[Any]) -> set[str]:
    frames = {f"{one.f_code.co_qualname}:{one.f_lineno}" for one in left if type(one) is FrameType}
    kinds = {f"{type(one).__module__}.{type(one).__qualname__}" for one in left}
    return frames | {kind for kind in kinds if not kind.startswith("builtins.")}


def check(
    core: Core,
    path: str,
    body: dict[str, Any],
    status: int,
    pieces: int | None = None,
    at_once: int = 1,
) -> None:
    """Five rounds after one that may keep what is made once."""

    async def run() -> None:
        app = build_app(core)

        async def a_round() -> None:
            asked = (ask(app, path, body, pieces) for _ in range(at_once))
            found = await asyncio.gather(*asked)
            assert status in found
            await settled(core)

        await a_round()
        with garbage() as left:
            for _ in range(5):
                await a_round()
        assert not left, named(left)

    try:
        asyncio.run(run())
    finally:
        core.close()


@pytest.mark.parametrize("name", REQUESTS)
def test_an_answer_leaves_none(name: str) -> None:
    core = tiny_core()
    core.llm.prompts._template = ChatTemplate(MACROS)
    check(core, *REQUESTS[name])


@pytest.mark.parametrize(
    ("path", "body"), [("/v1/completions", TEXT), ("/v1/chat/completions", CHAT)]
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_refusal_leaves_none(path: str, body: dict[str, Any], stream: bool) -> None:
    """Behind the door, where the prompt has been read."""
    core = tiny_core(max_queue=2, max_rows=1)
    slow_steps(core, 0.02)
    check(core, path, body | {"stream": stream}, 429, at_once=12)


@pytest.mark.parametrize(
    ("path", "body"), [("/v1/completions", TEXT), ("/v1/chat/completions", CHAT)]
)
@pytest.mark.parametrize("pieces", [0, 2])
def test_who_goes_away_leaves_none(path: str, body: dict[str, Any], pieces: int) -> None:
    """Before the first piece, or after some."""
    core = tiny_core()
    slow_steps(core, 0.02)
    status = 200 if pieces else 499
    check(core, path, body | {"stream": True, "max_tokens": 60}, status, pieces)
