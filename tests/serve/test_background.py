"""Responses in the background outlive the server that began them."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from tiny import client_of, tiny_core

from gate import endless, gate
from ridgeline.serve.app import build_routes
from ridgeline.serve.core.core import Core
from ridgeline.serve.responses.event_log import EventLog
from ridgeline.serve.responses.store import Store

ASK = {"model": "tiny", "input": "Hi", "max_output_tokens": 30, "temperature": 0, "seed": 1}
HELD_TOKENS = 24
BEHIND = ASK | {"background": True, "metadata": {"a": "b"}}


async def ended(client: httpx.AsyncClient, name: str) -> dict[str, Any]:
    async with asyncio.timeout(120):
        while True:
            found: dict[str, Any] = (await client.get(f"/v1/responses/{name}")).json()
            if found["status"] not in ("queued", "in_progress"):
                return found
            await asyncio.sleep(0.01)


def text_of(response: dict[str, Any]) -> str:
    return "".join(part["text"] for item in response["output"] for part in item["content"])


async def begun_and_left(core: Core, **more: Any) -> dict[str, Any]:
    """A response of a server that ends while it is being written."""
    free = gate(core.llm, HELD_TOKENS)
    app = build_routes(core)
    async with app.router.lifespan_context(app), client_of(app) as client:
        told: dict[str, Any] = (await client.post("/v1/responses", json=BEHIND | more)).json()
        assert told["status"] == "queued"
        while not core.engine.load.running:
            await asyncio.sleep(0.002)
        again = (await client.get(f"/v1/responses/{told['id']}")).json()
        assert again["status"] in ("queued", "in_progress")
    free.set()
    core.close()
    return told


def test_the_next_server_answers_what_one_before_it_began(tmp_path: Path) -> None:
    async def run() -> None:
        told = await begun_and_left(tiny_core(state=tmp_path))
        core = tiny_core(state=tmp_path)
        app = build_routes(core)
        async with app.router.lifespan_context(app), client_of(app) as client:
            found = await ended(client, told["id"])
            plain = (await client.post("/v1/responses", json=ASK)).json()
            assert found["status"] == plain["status"]
            assert found["usage"]["output_tokens"] == plain["usage"]["output_tokens"]
            assert text_of(found) == text_of(plain)
            assert found["created_at"] == told["created_at"]
            assert found["metadata"] == {"a": "b"}
        core.close()
        assert not list((tmp_path / "responses-begun").glob("*"))

    asyncio.run(run())


def test_what_was_told_to_have_ended_is_kept_by_a_server_that_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a disk that takes its time, the server's end comes between the two."""
    keep = Store.keep

    def slowly(store: Store, tenant: str, response: dict[str, Any], items: Any) -> None:
        if response["status"] == "incomplete":  # by max_output_tokens
            time.sleep(0.5)
        keep(store, tenant, response, items)

    monkeypatch.setattr(Store, "keep", slowly)

    async def run() -> None:
        core = tiny_core(state=tmp_path)
        app = build_routes(core)
        async with app.router.lifespan_context(app), client_of(app) as client:
            told = (await client.post("/v1/responses", json=BEHIND)).json()
            found = await ended(client, told["id"])
            assert found["status"] == "incomplete"
        core.close()
        assert not list((tmp_path / "responses-begun").glob("*"))
        core = tiny_core(state=tmp_path)
        app = build_routes(core)
        async with app.router.lifespan_context(app), client_of(app) as client:
            assert (await client.get(f"/v1/responses/{told['id']}")).json() == found
        core.close()

    asyncio.run(run())


def test_what_ends_server_after_server_is_given_up(tmp_path: Path) -> None:
    async def run() -> None:
        told = await begun_and_left(tiny_core(state=tmp_path))
        (path,) = (tmp_path / "responses-begun").glob("*.json")
        path.write_text(json.dumps(json.loads(path.read_text()) | {"tries": 3}))
        core = tiny_core(state=tmp_path)
        app = build_routes(core)
        async with app.router.lifespan_context(app), client_of(app) as client:
            found = await ended(client, told["id"])
            assert found["status"] == "failed"
            assert "ended 3 times" in found["error"]["message"]
        core.close()

    asyncio.run(run())


def test_what_was_cancelled_or_deleted_stays_so(tmp_path: Path) -> None:
    async def run() -> None:
        core = tiny_core(state=tmp_path)
        free = gate(core.llm, HELD_TOKENS)
        app = build_routes(core)
        async with app.router.lifespan_context(app), client_of(app) as client:
            first = (await client.post("/v1/responses", json=BEHIND)).json()["id"]
            cancelled = await client.post(f"/v1/responses/{first}/cancel")
            assert cancelled.json()["status"] == "cancelled"
            gone = (await client.post("/v1/responses", json=BEHIND)).json()["id"]
            assert (await client.delete(f"/v1/responses/{gone}")).json()["deleted"]
            assert (await client.get(f"/v1/responses/{gone}")).status_code == 404
            second = (await client.post("/v1/responses", json=BEHIND)).json()["id"]
        free.set()
        core.close()
        (tmp_path / "responses" / f"{second}.json").unlink()
        core = tiny_core(state=tmp_path)
        app = build_routes(core)
        async with app.router.lifespan_context(app), client_of(app) as client:
            assert (await client.get(f"/v1/responses/{first}")).json()["status"] == "cancelled"
            assert (await client.get(f"/v1/responses/{second}")).status_code == 404
            assert not core.door.running
        core.close()

    asyncio.run(run())


def test_what_has_ended_and_is_being_kept_is_not_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It takes a while to be on disk, and can be seen before."""
    keep, held = Store.keep, threading.Event()

    def slowly(self: Store, tenant: str, response: dict[str, Any], items: Any) -> None:
        if response["status"] in ("completed", "incomplete"):
            assert held.wait(120)
        keep(self, tenant, response, items)

    async def run() -> None:
        core = tiny_core()
        app = build_routes(core)
        async with app.router.lifespan_context(app), client_of(app) as client:
            told = (await client.post("/v1/responses", json=BEHIND)).json()
            found = await ended(client, told["id"])
            cancelling = asyncio.create_task(client.post(f"/v1/responses/{told['id']}/cancel"))
            await asyncio.sleep(0.05)
            held.set()
            assert (await cancelling).status_code == 400
            again = (await client.get(f"/v1/responses/{told['id']}")).json()
            assert again["status"] == found["status"]
        core.close()

    monkeypatch.setattr(Store, "keep", slowly)
    asyncio.run(run())


def test_a_stream_goes_on_at_the_next_server_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a seed of the client's, too: both servers come to the same events, one by one."""
    body = {"model": "tiny", "input": "Hi", "max_output_tokens": 40, "temperature": 1.5}
    asked = body | {"background": True, "stream": True}
    logs: set[EventLog] = set()
    add = EventLog.add

    def seen(self: EventLog, events: Any) -> None:
        add(self, events)
        logs.add(self)

    def parts(text: str) -> list[str]:
        return [f"{event}\n\n" for event in text.split("\n\n")[:-1]]

    async def run() -> None:
        core = tiny_core(state=tmp_path)
        free = gate(core.llm, HELD_TOKENS)
        app = build_routes(core)
        async with client_of(app) as client:
            async with app.router.lifespan_context(app):
                task = asyncio.create_task(client.post("/v1/responses", json=asked))
                while not (logs and len(next(iter(logs)).events) > 9):
                    await asyncio.sleep(0.002)
            early = parts((await task).text)
        free.set()
        core.close()
        assert early == next(iter(logs)).events
        name = json.loads(early[0].splitlines()[1].removeprefix("data: "))["response"]["id"]
        core = tiny_core(state=tmp_path)
        endless(core.llm)
        app = build_routes(core)
        async with app.router.lifespan_context(app), client_of(app) as client:
            url = f"/v1/responses/{name}?stream=true"
            late = parts((await client.get(f"{url}&starting_after={len(early) - 1}")).text)
            assert late
            assert parts((await client.get(url)).text) == early + late
            whole = (await client.get(f"/v1/responses/{name}")).json()
            last = json.loads(late[-1].splitlines()[1].removeprefix("data: "))
            assert last["response"] == whole
            assert whole["usage"]["output_tokens"] == 40
        core.close()

    monkeypatch.setattr(EventLog, "add", seen)
    asyncio.run(run())
