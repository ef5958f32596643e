"""Vectors, scores and classes over HTTP are the library's, bit for bit: the official clients
against tiny encoders in this process.
"""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import ollama
import openai
import pytest
from tiny import client_of

from engine.test_pooled import loaded
from ridgeline import LLM
from ridgeline.engine.pooled import Pooler
from ridgeline.errors import EngineError
from ridgeline.serve.app import build_app
from ridgeline.serve.core.core import Core, ServeOptions

TEXTS = ["a cat", "cats and dogs", "x", "some longer text of many letters"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> LLM:
    return loaded("bert", tmp_path_factory.mktemp("bert"))


def within(llm: LLM, check: Callable[[httpx.AsyncClient], Coroutine[Any, Any, None]]) -> None:
    core = Core(llm, ServeOptions(names=("tiny",)))

    async def run() -> None:
        async with client_of(build_app(core)) as client:
            await check(client)

    asyncio.run(run())
    assert core.door.running == 0
    core.close()


def test_openais_client_has_the_librarys_vectors(encoder: LLM) -> None:
    wanted = [one.outputs.embedding for one in encoder.embed(TEXTS)]

    async def check(http: httpx.AsyncClient) -> None:
        client = openai.AsyncOpenAI(
            base_url="http://localhost/v1", api_key="k", http_client=http, max_retries=0
        )
        made = await client.embeddings.create(model="tiny", input=TEXTS)  # base64, decoded by it
        assert [each.embedding for each in made.data] == wanted
        assert [each.index for each in made.data] == list(range(len(TEXTS)))
        ids = [one.prompt_token_ids for one in encoder.embed(TEXTS)]
        assert made.usage.prompt_tokens == sum(map(len, ids))
        again = await client.embeddings.create(model="tiny", input=ids, encoding_format="float")
        assert [each.embedding for each in again.data] == wanted
        # Many at once, each alone: the same bits.
        alone = await asyncio.gather(
            *[client.embeddings.create(model="tiny", input=text) for text in TEXTS * 3]
        )
        assert [one.data[0].embedding for one in alone] == wanted * 3
        raw = await http.post("/v1/embeddings", json={"input": "x", "encoding_format": "base64"})
        vector = np.frombuffer(base64.b64decode(raw.json()["data"][0]["embedding"]), "<f4")
        assert vector.tolist() == wanted[2]
        plain = await http.post("/v1/embeddings", json={"input": "x", "normalize": False})
        (long,) = encoder.embed(["x"], normalize=False)
        assert plain.json()["data"][0]["embedding"] == long.outputs.embedding

    within(encoder, check)


def test_ollamas_client_has_them_too(encoder: LLM) -> None:
    wanted = [one.outputs.embedding for one in encoder.embed(TEXTS)]

    async def check(http: httpx.AsyncClient) -> None:
        client = ollama.AsyncClient(host="http://localhost", transport=http._transport)
        made = await client.embed(model="tiny", input=TEXTS)
        assert [list(one) for one in made.embeddings] == wanted
        long = await client.embed(model="tiny", input="a " * 1000)  # is cut, as Ollama does
        assert long.prompt_eval_count == encoder.pooler.max_context
        with pytest.raises(ollama.ResponseError, match="tokens"):
            await client.embed(model="tiny", input="a " * 1000, truncate=False)
        (raw,) = encoder.embed(["a cat"], normalize=False)
        old = await client.embeddings(model="tiny", prompt="a cat")
        assert list(old.embedding) == raw.outputs.embedding
        shown = await client.show("tiny")
        assert shown.capabilities == ["embedding"]
        await client._client.aclose()

    within(encoder, check)


def test_scores_and_ranks_are_the_librarys(encoder: LLM, tmp_path: Path) -> None:
    crossed = loaded("bert_pairs", tmp_path)
    for llm in (encoder, crossed):
        wanted = [one.outputs.score for one in llm.score("cats", TEXTS)]

        async def check(http: httpx.AsyncClient, wanted: list[float] = wanted) -> None:
            body: dict[str, Any] = {"text_1": "cats", "text_2": TEXTS}
            made = (await http.post("/v1/score", json=body)).json()
            assert [each["score"] for each in made["data"]] == wanted
            body["text_1"] = ["cats", "x", "cats", "cats"]
            each = (await http.post("/v1/score", json=body)).json()["data"]
            assert [each[i]["score"] for i in (0, 2, 3)] == [wanted[i] for i in (0, 2, 3)]
            asked = {"query": "cats", "documents": [*TEXTS[:3], {"text": TEXTS[3]}], "top_n": 3}
            ranked = (await http.post("/v1/rerank", json=asked)).json()["results"]
            order = sorted(range(4), key=lambda i: -wanted[i])[:3]
            assert [one["index"] for one in ranked] == order
            assert [one["relevance_score"] for one in ranked] == [wanted[i] for i in order]
            assert [one["document"]["text"] for one in ranked] == [TEXTS[i] for i in order]

        within(llm, check)


def test_classes(tmp_path: Path) -> None:
    llm = loaded("modernbert_classes", tmp_path)
    wanted = llm.classify(TEXTS)

    async def check(http: httpx.AsyncClient) -> None:
        made = (await http.post("/classify", json={"input": TEXTS})).json()["data"]
        assert [each["probs"] for each in made] == [one.outputs.probs for one in wanted]
        assert [each["label"] for each in made] == [one.outputs.label for one in wanted]
        assert (await http.post("/v1/embeddings", json={"input": "x"})).status_code == 404

    within(llm, check)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": []}, "input"),
        ({"input": ["x"] * 2049}, "input"),
        ({"input": ["x", "a " * 1000]}, "input[1]"),
        ({"input": [[1, 2], [9999]]}, "input[1]"),
        ({"input": ["x", [1]]}, "input"),
        ({"input": "x", "dimensions": 3}, "dimensions"),
        ({"input": "x", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "x", "nonsense": 1}, "nonsense"),
        ({"input": "x", "model": "other"}, "model"),
    ],
)
def test_what_is_refused(encoder: LLM, body: dict[str, Any], param: str) -> None:
    async def check(http: httpx.AsyncClient) -> None:
        answer = await http.post("/v1/embeddings", json=body)
        assert answer.status_code in (400, 404), answer.text
        assert answer.json()["error"]["param"].startswith(param)
        cut = {"input": "a " * 1000, "truncate_prompt_tokens": 7}
        made = await http.post("/v1/embeddings", json=cut)
        assert made.json()["usage"]["prompt_tokens"] == 7

    within(encoder, check)


def test_an_encoder_serves_no_answers(encoder: LLM) -> None:
    async def check(http: httpx.AsyncClient) -> None:
        for path in ("/v1/chat/completions", "/v1/completions", "/v1/messages", "/api/chat"):
            answer = await http.post(path, json={"model": "tiny", "prompt": "x"})
            assert answer.status_code == 404, path
        for path in ("/v1/responses", "/generate", "/api/generate", "/apply-template"):
            assert (await http.post(path, json={})).status_code == 404, path
        for path in ("/readyz", "/metrics", "/v1/models", "/api/tags", "/openapi.json"):
            assert (await http.get(path)).status_code == 200, path
        made = await http.post("/tokenize", json={"prompt": "a cat"})
        assert made.json()["count"] == len(encoder.embed("a cat")[0].prompt_token_ids)

    within(encoder, check)


def test_a_fault_is_its_requests_alone(encoder: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = encoder.embed("x")[0].outputs.embedding
    rows = Pooler.rows

    def failing(self: Pooler, texts: Any) -> Any:
        if any(len(ids) > 20 for ids in texts):
            raise EngineError("this text is too much")
        return rows(self, texts)

    monkeypatch.setattr(Pooler, "rows", failing)

    async def check(http: httpx.AsyncClient) -> None:
        async def asked(text: str) -> httpx.Response:
            return await http.post("/v1/embeddings", json={"input": text})

        good, bad, other = await asyncio.gather(asked("x"), asked("a " * 30), asked("x"))
        assert good.json()["data"][0]["embedding"] == wanted
        assert other.json()["data"][0]["embedding"] == wanted
        assert bad.status_code == 500
        assert "too much" in bad.json()["error"]["message"]

    within(encoder, check)


def test_who_goes_away_takes_the_texts_along(encoder: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, computed, gone = Pooler.rows, [], threading.Event()

    def counting(self: Pooler, texts: Any) -> Any:
        computed.append(len(texts))
        assert gone.wait(120)
        return rows(self, texts)

    monkeypatch.setattr(Pooler, "rows", counting)
    core = Core(encoder, ServeOptions(names=("tiny",)))

    async def run() -> None:
        texts = [[1, *[5] * 30, 127]] * 2000
        waiting = asyncio.ensure_future(core.pool().rows(texts))
        while not computed:
            await asyncio.sleep(0.001)
        waiting.cancel()
        await asyncio.wait([waiting])
        gone.set()
        (row,) = await core.pool().rows([[1, 5, 127]])
        assert row.shape == (encoder.width,)

    asyncio.run(run())
    core.close()
    assert sum(computed) < 1500
