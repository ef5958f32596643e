"""Conversations that the server keeps, with OpenAI's own client."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from test_agents import TOLD, codex, core_of, playing
from test_background import begun_and_left, ended
from tiny import client_of, tiny_core

from ridgeline.serve.app import build_routes
from ridgeline.serve.core.core import Core

ASK: dict[str, Any] = {
    "model": "tiny",
    "max_output_tokens": 12,
    "temperature": 0,
    "extra_body": {"seed": 1},
}
HELLO: Any = {"type": "message", "role": "user", "content": "Hello"}


@pytest.fixture
def core() -> Iterator[Core]:
    core = core_of(TOLD)
    yield core
    core.close()


async def ids_of(client: openai.AsyncOpenAI, name: str, **query: Any) -> list[str]:
    return [item.id or "" async for item in client.conversations.items.list(name, **query)]


def test_a_conversation_is_created_told_changed_and_deleted(core: Core) -> None:
    async def play(http: httpx.AsyncClient) -> None:
        client = codex(http)
        made = await client.conversations.create(items=[HELLO], metadata={"a": "b"})
        assert made.object == "conversation"
        assert (await client.conversations.retrieve(made.id)).metadata == {"a": "b"}
        changed = await client.conversations.update(made.id, metadata={"c": "d"})
        assert changed.metadata == {"c": "d"}
        assert changed.created_at == made.created_at
        call: Any = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
        result: Any = {"type": "function_call_output", "call_id": "c1", "output": "3"}
        added = await client.conversations.items.create(made.id, items=[call, result])
        assert [item.type for item in added.data] == ["function_call", "function_call_output"]
        every = await ids_of(client, made.id, order="asc")
        assert every[1:] == [item.id for item in added.data]
        assert await ids_of(client, made.id, limit=1) == every[::-1]
        first: Any = await client.conversations.items.retrieve(every[0], conversation_id=made.id)
        assert first.content[0].text == "Hello"
        assert (first.role, first.status) == ("user", "completed")
        left = await client.conversations.items.delete(every[2], conversation_id=made.id)
        assert left.id == made.id
        assert await ids_of(client, made.id, order="asc") == every[:2]
        gone = await client.conversations.delete(made.id)
        assert gone.deleted
        with pytest.raises(openai.NotFoundError):
            await client.conversations.retrieve(made.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.create(input="x", conversation=made.id, **ASK)

    playing(core, play)


def test_responses_go_on_from_a_conversation_and_are_added_to_it(core: Core) -> None:
    """As `previous_response_id` does, streamed, not, and in the background; stored or not."""

    async def play(http: httpx.AsyncClient) -> None:
        client = codex(http)
        made = await client.conversations.create(items=[HELLO])
        plain = await client.responses.create(
            input=[HELLO, {"role": "user", "content": "One"}], **ASK
        )
        one = await client.responses.create(input="One", conversation=made.id, store=False, **ASK)
        assert one.conversation is not None
        assert one.conversation.id == made.id
        assert one.output_text == plain.output_text
        chained = await client.responses.create(input="Two", previous_response_id=plain.id, **ASK)
        events = [
            event
            async for event in await client.responses.create(
                input="Two", conversation={"id": made.id}, stream=True, **ASK
            )
        ]
        two: Any = events[-1]
        assert two.response.output_text == chained.output_text
        listed: Any = [item async for item in client.conversations.items.list(made.id, order="asc")]
        texts = [item.content[0].text for item in listed]
        assert texts == ["Hello", "One", one.output_text, "Two", chained.output_text]
        assert len({item.id for item in listed}) == 5
        count = await client.responses.input_tokens.count(input="3", conversation=made.id)
        behind = await client.responses.create(
            input="3", conversation=made.id, background=True, **ASK
        )
        whole = await ended(http, behind.id)
        assert whole["usage"]["input_tokens"] == count.input_tokens
        assert len(await ids_of(client, made.id)) == 7
        reference: Any = {"type": "item_reference", "id": listed[0].id}
        again = await client.responses.create(input=[reference], conversation=made.id, **ASK)
        assert again.usage is not None
        assert again.usage.input_tokens > whole["usage"]["input_tokens"]

    playing(core, play)


def test_what_is_wrong_is_told_by_its_name(core: Core) -> None:
    async def play(http: httpx.AsyncClient) -> None:
        made = (await http.post("/v1/conversations", json={})).json()
        path = f"/v1/conversations/{made['id']}"
        for where, body, param in (
            ("/v1/conversations", {"items": [HELLO] * 21}, "items"),
            ("/v1/conversations", {"metadata": {"a": "x" * 513}}, "metadata.a"),
            ("/v1/conversations", {"items": [{"type": "nothing"}]}, "items[0].type"),
            (f"{path}/items", {"items": [HELLO, {"role": "user"}]}, "items[1].content"),
            (path, {}, "metadata"),
            (
                "/v1/responses",
                {"input": "x", "conversation": made["id"], "previous_response_id": "resp_1"},
                "previous_response_id",
            ),
        ):
            answer = await http.post(where, json=body)
            assert answer.status_code == 400, answer.text
            assert answer.json()["error"]["param"] == param
        for where in ("/v1/conversations/conv_no", f"{path}/items/msg_no", "/v1/conversations/.."):
            assert (await http.get(where)).status_code == 404
        assert (await http.get(f"{path}/items?limit=0")).status_code == 400
        assert (await http.get(f"{path}/items")).json()["data"] == []

    playing(core, play)


def test_a_full_conversation_is_refused_before_the_work_and_keeps_what_was_answered(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ridgeline.serve.responses.conversations.MAX_ITEMS", 2)

    async def play(http: httpx.AsyncClient) -> None:
        client = codex(http)
        name = (await client.conversations.create(items=[HELLO])).id
        answer = await client.responses.create(**ASK, input="x", conversation=name)
        assert answer.status in ("completed", "incomplete")
        kept = await ids_of(client, name)
        assert len(kept) > 2  # the answer is there, above the limit
        with pytest.raises(openai.BadRequestError, match="at most 2 items") as refused:
            await client.responses.create(**ASK, input="y", conversation=name)
        assert refused.value.param == "conversation"
        with pytest.raises(openai.BadRequestError, match="at most 2 items"):
            await client.conversations.items.create(name, items=[HELLO])
        assert await ids_of(client, name) == kept

    playing(core, play)


def test_a_conversation_outlives_its_server_and_gets_a_response_once(tmp_path: Path) -> None:
    async def run() -> None:
        core = tiny_core(state=tmp_path)
        app = build_routes(core)
        async with app.router.lifespan_context(app), client_of(app) as client:
            made = (await client.post("/v1/conversations", json={"items": [HELLO]})).json()
        told = await begun_and_left(core, conversation=made["id"])
        core = tiny_core(state=tmp_path)
        app = build_routes(core)
        path = f"/v1/conversations/{made['id']}"
        async with app.router.lifespan_context(app), client_of(app) as client:
            found = await ended(client, told["id"])
            assert found["conversation"] == {"id": made["id"]}
            listed = (await client.get(f"{path}/items?order=asc")).json()["data"]
            assert [item["role"] for item in listed] == ["user", "user", "assistant"]
        core.close()
        # A server that ended before it could forget that it had begun.
        from ridgeline.serve.batches.journal import Documents
        from ridgeline.serve.responses.conversations import Conversations

        kept = Conversations(Documents(tmp_path), lambda prefix: f"{prefix}x")
        kept.take("", found, [HELLO])
        assert len(kept.items("", made["id"])) == 3
        with pytest.raises(KeyError):
            kept.items("another", made["id"])

    asyncio.run(run())
