"""Ollama's ways of keeping models, and of conversations as ids, before a server of one model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import ollama
import pytest
from tiny import tiny_core, within

from ridgeline.serve.core.core import Core

ASKED: dict[str, Any] = {"model": "tiny", "options": {"temperature": 0, "num_predict": 8}}


@pytest.fixture
def core() -> Iterator[Core]:
    core = tiny_core()
    yield core
    core.close()


def ollama_of(client: httpx.AsyncClient) -> ollama.AsyncClient:
    return ollama.AsyncClient(host="http://localhost", transport=client._transport)


def test_a_context_goes_on_as_the_conversation_would(core: Core) -> None:
    encode = core.prompts.tokenizer.encode

    async def check(client: httpx.AsyncClient) -> None:
        api = ollama_of(client)
        first = await api.generate(prompt="Hi", **ASKED)
        read = encode("<user>Hi<assistant>", add_special=False)
        written = list(first.context or ())
        assert written[: len(read)] == read
        assert len(written) - len(read) == first.eval_count == 8
        second = await api.generate(prompt="More", context=written, **ASKED)
        turn = encode("<user>More<assistant>", add_special=False)
        ids = [*written, *turn]
        assert list(second.context or ())[: len(ids)] == ids
        assert second.prompt_eval_count == len(ids)
        body = {"token_ids": ids, "temperature": 0, "max_tokens": 8}
        plain = (await client.post("/generate", json=body)).json()["choices"][0]
        assert second.response == plain["text"]
        stream = await api.generate(prompt="More", context=written, stream=True, **ASKED)
        lines = [line async for line in stream]
        assert lines[-1].context == second.context
        assert all(line.context is None for line in lines[:-1])
        raw = await api.generate(prompt="Hi", raw=True, **ASKED)
        assert raw.context is None

    within(core, check)


def test_a_context_ends_before_the_token_that_ended_an_answer(core: Core) -> None:
    """The template writes that one itself, if it does."""

    async def check(client: httpx.AsyncClient) -> None:
        api = ollama_of(client)
        long = await api.generate(prompt="Hi", **ASKED)
        ids = list(long.context or ())
        last = ids[-5]
        object.__setattr__(core.prompts.tokenizer, "eos_ids", frozenset({last}))
        ended = await api.generate(prompt="Hi", **ASKED)
        assert ended.done_reason == "stop"
        begun = len(ids) - 8
        assert list(ended.context or ()) == ids[: begun + ids[begun:].index(last)]

    within(core, check)


def test_options_of_loading_are_taken_where_they_are_so(core: Core) -> None:
    true = {"num_thread": 1, "num_batch": 32, "num_gpu": 0, "main_gpu": 0, "use_mmap": True}
    true |= {"low_vram": False, "numa": False, "use_mlock": False}
    untrue = {"num_thread": 7, "num_batch": 512, "num_gpu": 99, "main_gpu": 1, "use_mmap": False}
    lenient = tiny_core(lenient=True)

    async def check(client: httpx.AsyncClient) -> None:
        for path, said in (
            ("/api/generate", {"prompt": "x"}),
            ("/api/chat", {"messages": [{"role": "user", "content": "x"}]}),
        ):
            body = {"model": "tiny", "stream": False, **said}
            options = {"num_predict": 2, **true}
            fine = await client.post(path, json=body | {"options": options})
            assert fine.json()["done"], fine.text
            assert "ignored_fields" not in fine.json()
            for name, value in {**untrue, "low_vram": True, "f16_kv": True}.items():
                options = {"num_predict": 2, name: value}
                refused = await client.post(path, json=body | {"options": options})
                assert refused.status_code == 400
                assert refused.json()["error"].startswith(f"options.{name}: ")

    async def check_lenient(client: httpx.AsyncClient) -> None:
        body = {**ASKED, "prompt": "x", "stream": False, "options": untrue | {"num_predict": 2}}
        made = (await client.post("/api/generate", json=body)).json()
        assert sorted(made["ignored_fields"]) == sorted(f"options.{name}" for name in untrue)

    within(core, check)
    within(lenient, check_lenient)
    lenient.close()


def test_the_model_stays_whatever_is_wished(core: Core) -> None:
    lenient = tiny_core(lenient=True)

    async def check(client: httpx.AsyncClient) -> None:
        api = ollama_of(client)
        for kept in (-1, 300, 0.5, "10m", "1h30m0.5s", "-1", "-1m", "250ms"):
            assert (await api.generate(model="tiny", keep_alive=kept)).done_reason == "load"
        for gone in (0, 0.0, "0", "0s", "0m0s", "0ms"):
            with pytest.raises(ollama.ResponseError, match="stays loaded"):
                await api.generate(model="tiny", keep_alive=gone)
        for wrong in ("soon", "", "5 m", "m"):
            with pytest.raises(ollama.ResponseError, match="is no duration"):
                await api.chat(model="tiny", keep_alive=wrong)

    async def check_lenient(client: httpx.AsyncClient) -> None:
        for path in ("/api/generate", "/api/chat"):
            wish = {"model": "tiny", "keep_alive": 0}
            told = (await client.post(path, json=wish)).json()
            assert told["done_reason"] == "load"  # and not "unload": it is there
            assert told["ignored_fields"] == ["keep_alive"]
        made = await client.post("/api/generate", json={**ASKED, "prompt": "x", "keep_alive": "0s"})
        assert made.status_code == 200
        (model,) = (await client.get("/api/ps")).json()["models"]
        assert model["name"] == "tiny"

    within(core, check)
    within(lenient, check_lenient)
    lenient.close()


def test_what_is_served_is_pulled_and_nothing_else_is_kept(core: Core) -> None:
    async def check(client: httpx.AsyncClient) -> None:
        api = ollama_of(client)
        assert (await api.pull("tiny")).status == "success"
        stream = await api.pull("tiny:latest", stream=True)
        assert [line.status async for line in stream] == ["success"]
        with pytest.raises(ollama.ResponseError, match="there is tiny") as missing:
            await api.pull("other")
        assert missing.value.status_code == 404
        one = "this server has one model, tiny"
        for call in (
            api.create(model="mine", from_="tiny"),
            api.copy("tiny", "other"),
            api.delete("tiny"),
            api.push("tiny"),
        ):
            with pytest.raises(ollama.ResponseError, match=one) as refused:
                await call
            assert refused.value.status_code == 400
        digest = "/api/blobs/sha256:" + "0" * 64
        assert (await client.head(digest)).status_code == 404
        assert one in (await client.post(digest, content=b"x")).json()["error"]

    within(core, check)
