"""Anthropic's message batches, by Anthropic's own client: what comes, and what is cut off."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from importlib import import_module
from pathlib import Path
from typing import Any

import anthropic
import httpx
import pytest
from tiny import client_of, slow_steps, tiny_core, within

from ridgeline.serve.app import build_app
from ridgeline.serve.core.core import Core

# The client's own: httpx, or what has come of it.
HTTPX = import_module(
    next(
        name
        for each in anthropic.DefaultAsyncHttpxClient.__mro__
        if (name := each.__module__.partition(".")[0]).startswith("httpx")
    )
)
SAID: list[Any] = [{"role": "user", "content": "Hello"}]
GOOD = {"model": "tiny", "max_tokens": 6, "messages": SAID, "temperature": 0}


def with_client(
    core: Core, check: Callable[[anthropic.AsyncAnthropic], Coroutine[Any, Any, None]]
) -> None:
    async def run(_: httpx.AsyncClient) -> None:
        http = anthropic.DefaultAsyncHttpxClient(transport=HTTPX.ASGITransport(build_app(core)))
        async with anthropic.AsyncAnthropic(
            base_url="http://localhost", api_key="none", http_client=http, max_retries=0
        ) as client:
            await check(client)

    within(core, run)


def requests_of(**bodies: dict[str, Any]) -> Any:
    return [{"custom_id": name, "params": body} for name, body in bodies.items()]


async def ended(client: anthropic.AsyncAnthropic, batch_id: str) -> Any:
    async with asyncio.timeout(120):
        while True:
            batch = await client.messages.batches.retrieve(batch_id)
            if batch.processing_status == "ended":
                return batch
            await asyncio.sleep(0.02)


def test_requests_are_answered_as_messages_are(tmp_path: Path) -> None:
    core = tiny_core(state=tmp_path)

    async def check(client: anthropic.AsyncAnthropic) -> None:
        batches = client.messages.batches
        bad = GOOD | {"nonsense": 1}
        made = await batches.create(requests=requests_of(first=GOOD, bad=bad, again=GOOD))
        assert made.id.startswith("msgbatch_")
        assert (made.processing_status, made.request_counts.processing) == ("in_progress", 3)
        assert made.results_url is None
        done = await ended(client, made.id)
        counts = done.request_counts
        assert (counts.processing, counts.succeeded, counts.errored) == (0, 2, 1)
        assert done.ended_at >= done.created_at
        found = {one.custom_id: one.result async for one in await batches.results(made.id)}
        assert list(found) == ["first", "bad", "again"]
        alone = await client.messages.create(
            model="tiny", max_tokens=6, messages=SAID, extra_body={"temperature": 0}
        )
        for name in ("first", "again"):
            result = found[name]
            assert result.type == "succeeded"
            assert result.message.content == alone.content
            assert result.message.usage.output_tokens == alone.usage.output_tokens
        error = found["bad"]
        assert error.type == "errored"
        assert error.error.error.type == "invalid_request_error"
        assert "nonsense" in error.error.error.message
        async with client_of(build_app(core)) as plain:  # of OpenAI's lists they are no part
            assert (await plain.get("/v1/files")).json()["data"] == []
            assert (await plain.get("/v1/batches")).json()["data"] == []
            assert (await plain.get(f"/v1/batches/{made.id}")).status_code == 404
        deleted = await batches.delete(made.id)
        assert (deleted.id, deleted.type) == (made.id, "message_batch_deleted")
        with pytest.raises(anthropic.NotFoundError):
            await batches.retrieve(made.id)
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]

    with_client(core, check)
    core.close()


def test_pages_go_both_ways(tmp_path: Path) -> None:
    core = tiny_core(state=tmp_path)

    async def check(client: anthropic.AsyncAnthropic) -> None:
        batches = client.messages.batches
        made = [(await batches.create(requests=requests_of(a=GOOD))).id for _ in range(5)]
        for name in made:
            await ended(client, name)
        assert [one.id async for one in batches.list(limit=2)] == made[::-1]
        first = await batches.list(limit=2)
        assert (first.first_id, first.last_id, first.has_more) == (made[4], made[3], True)
        before = await batches.list(limit=2, before_id=made[0])
        assert [one.id for one in before.data] == [made[2], made[1]]
        last = await batches.list(limit=2, after_id=made[1])
        assert ([one.id for one in last.data], last.has_more) == ([made[0]], False)
        with pytest.raises(anthropic.BadRequestError, match="after_id"):
            await batches.list(after_id="msgbatch_none")

    with_client(core, check)
    core.close()


def test_what_is_cancelled_says_so_and_keeps_what_was_answered(tmp_path: Path) -> None:
    core = tiny_core(state=tmp_path)
    slow_steps(core, 0.005)

    async def check(client: anthropic.AsyncAnthropic) -> None:
        batches = client.messages.batches
        bodies = {f"r{i}": GOOD | {"max_tokens": 2 if i < 2 else 400} for i in range(30)}
        made = await batches.create(requests=requests_of(**bodies))
        with pytest.raises(anthropic.BadRequestError, match="not done"):
            await batches.delete(made.id)
        async with client_of(build_app(core)) as plain:
            early = await plain.get(f"/v1/messages/batches/{made.id}/results")
            assert early.status_code == 400
            assert early.json()["error"]["type"] == "invalid_request_error"
        journal = tmp_path / "batches" / f"{made.id}.journal"
        async with asyncio.timeout(120):
            while not journal.exists() or len(journal.read_bytes().splitlines()) < 2:
                await asyncio.sleep(0.01)
        cancelled = await batches.cancel(made.id)
        assert cancelled.processing_status == "canceling"
        assert cancelled.cancel_initiated_at is not None
        counts = (await ended(client, made.id)).request_counts
        assert counts.succeeded >= 2
        assert counts.canceled == 30 - counts.succeeded > 0
        found = [one async for one in await batches.results(made.id)]
        assert {one.custom_id for one in found} == set(bodies)
        kinds = [one.result.type for one in found]
        assert (kinds.count("succeeded"), kinds.count("canceled")) == (
            counts.succeeded,
            counts.canceled,
        )

    with_client(core, check)
    core.close()


def test_a_server_that_begins_again_goes_on(tmp_path: Path) -> None:
    """What the process before has taken is answered by the next one."""
    first = tiny_core(state=tmp_path)
    slow_steps(first, 0.05)
    made: list[str] = []

    async def begin(client: anthropic.AsyncAnthropic) -> None:
        bodies = {f"r{i}": GOOD | {"max_tokens": 40} for i in range(4)}
        made.append((await client.messages.batches.create(requests=requests_of(**bodies))).id)

    with_client(first, begin)
    first.close()
    second = tiny_core(state=tmp_path)

    async def go_on(client: anthropic.AsyncAnthropic) -> None:
        batch = await client.messages.batches.retrieve(made[0])
        assert batch.processing_status == "in_progress"
        await client.messages.batches.create(requests=requests_of(a=GOOD))  # wakes the runner
        done = await ended(client, made[0])
        assert done.request_counts.succeeded == 4

    with_client(second, go_on)
    second.close()


@pytest.mark.parametrize(
    ("requests", "what"),
    [
        ([], "requests"),
        (requests_of(a=GOOD) * 2, "requests.1.custom_id"),
        (requests_of(a=GOOD | {"stream": True}), "requests.0.params.stream"),
        ([{"custom_id": "no space", "params": GOOD}], "requests.0.custom_id"),
        ([{"custom_id": "a", "params": GOOD, "other": 1}], "requests.0.other"),
    ],
)
def test_what_is_no_batch_is_a_400_that_says_why(requests: list[Any], what: str) -> None:
    core = tiny_core()

    async def check(client: httpx.AsyncClient) -> None:
        answer = await client.post("/v1/messages/batches", json={"requests": requests})
        assert answer.status_code == 400
        told = answer.json()
        assert told["type"] == "error"
        assert told["error"]["message"].startswith(what), json.dumps(told)
        endpoint = {"input_file_id": "file-none", "endpoint": "/v1/messages"}
        other = await client.post("/v1/batches", json=endpoint)
        assert other.json()["error"]["param"] == "endpoint"

    within(core, check)
    core.close()
