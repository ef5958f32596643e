"""Vectors, scores and classes over HTTP are the library's, bit for bit: the official clients
against tiny encoders in this process.
"""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import ollama
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families
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


def within(
    llm: LLM,
    check: Callable[[httpx.AsyncClient], Coroutine[Any, Any, None]],
    state: Path | None = None,
) -> None:
    core = Core(llm, ServeOptions(names=("tiny",), state=state))

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
        pooled = (await http.post("/pooling", json={"input": ids})).json()
        assert [one["data"] for one in pooled["data"]] == wanted
        assert pooled["usage"]["prompt_tokens"] == sum(map(len, ids))
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
            for alias in ("/rerank", "/v2/rerank"):
                assert (await http.post(alias, json=asked)).json()["results"] == ranked
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
        pooled = (await http.post("/pooling", json={"input": TEXTS, "task": "classify"})).json()
        assert [one["data"] for one in pooled["data"]] == [one["probs"] for one in made]
        refused = await http.post("/pooling", json={"input": TEXTS, "task": "embed"})
        assert refused.json()["error"]["param"] == "task"
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


def test_metrics_count_requests_texts_and_steps(tmp_path: Path) -> None:
    encoder = loaded("bert", tmp_path)  # of which nobody has asked anything yet
    num_tokens = [len(one.prompt_token_ids) for one in encoder.embed(TEXTS)]

    async def check(http: httpx.AsyncClient) -> None:
        await http.post("/v1/embeddings", json={"input": TEXTS})
        await http.post("/api/embed", json={"model": "tiny", "input": TEXTS[:2]})
        await http.post("/v1/score", json={"text_1": TEXTS[0], "text_2": TEXTS})
        await http.post("/v1/rerank", json={"query": TEXTS[0], "documents": TEXTS})
        await http.post("/v1/embeddings", json={"input": []})
        values = {
            (sample.name, *sorted(sample.labels.values(), key="tiny".__ne__)): sample.value
            for family in text_string_to_metric_families((await http.get("/metrics")).text)
            for sample in family.samples
        }
        kinds = {"embeddings": 2, "score": 1, "rerank": 1}
        for kind, count in kinds.items():
            assert values["ridgeline:pooled_requests_total", "tiny", kind] == count
        texts = 4 + 2 + 5 + 5
        tokens = sum(num_tokens) * 3 + sum(num_tokens[:2]) + 2 * num_tokens[0]
        for prefix in ("ridgeline", "vllm"):
            assert values[f"{prefix}:request_success_total", "tiny", "stop"] == texts
            assert values[f"{prefix}:prompt_tokens_total", "tiny"] == tokens
            assert values[f"{prefix}:e2e_request_latency_seconds_count", "tiny"] == texts
            assert values[f"{prefix}:request_queue_time_seconds_count", "tiny"] == texts
            assert values[f"{prefix}:request_prompt_tokens_sum", "tiny"] == tokens
            assert values[f"{prefix}:iteration_tokens_total_sum", "tiny"] == tokens
            assert values[f"{prefix}:num_requests_running", "tiny"] == 0
            assert values[f"{prefix}:num_requests_waiting", "tiny"] == 0
            assert values[f"{prefix}:generation_tokens_total", "tiny"] == 0
        assert values["ridgeline:prompt_tokens_computed_total", "tiny"] == tokens
        assert values["ridgeline:steps_total", "tiny"] >= 4
        seconds = values["ridgeline:step_time_seconds_total", "tiny"]
        assert 0 < seconds <= values["ridgeline:request_prefill_time_seconds_sum", "tiny"]

    within(encoder, check)


def test_batches_of_texts(encoder: LLM, tmp_path: Path) -> None:
    """The lines' answers are those of requests of their own."""
    bodies: dict[str, list[dict[str, Any]]] = {
        "/v1/embeddings": [*({"input": text} for text in TEXTS), {"input": ""}, {"nonsense": 1}],
        "/v1/rerank": [{"query": "cats", "documents": TEXTS}],
        "/v1/score": [{"text_1": "cats", "text_2": TEXTS}],
    }

    async def check(http: httpx.AsyncClient) -> None:
        client = openai.AsyncOpenAI(
            base_url="http://localhost/v1", api_key="k", http_client=http, max_retries=0
        )
        create: Any = client.batches.create
        for endpoint, asked in bodies.items():
            lines = [
                {"custom_id": str(i), "method": "POST", "url": endpoint, "body": body}
                for i, body in enumerate(asked)
            ]
            data = "".join(json.dumps(line) + "\n" for line in lines).encode()
            file = await client.files.create(file=("in.jsonl", data), purpose="batch")
            batch = await create(input_file_id=file.id, endpoint=endpoint, completion_window="24h")
            while (batch := await client.batches.retrieve(batch.id)).status != "completed":
                assert batch.status in ("in_progress", "finalizing")
                await asyncio.sleep(0.01)
            assert batch.output_file_id is not None
            output = (await client.files.content(batch.output_file_id)).text.splitlines()
            if batch.error_file_id is not None:
                output += (await client.files.content(batch.error_file_id)).text.splitlines()
            assert len(output) == len(asked)
            for line, body in zip(map(json.loads, output), asked, strict=True):
                alone = await http.post(endpoint, json=body)
                assert line["response"]["status_code"] == alone.status_code
                given = line["response"]["body"]
                for key in ("data", "results", "usage", "error", "model"):
                    assert given.get(key) == alone.json().get(key)
        with pytest.raises(openai.BadRequestError, match="must be one of /v1/embeddings"):
            await create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h")

    within(encoder, check, tmp_path)


def test_texts_of_batches_come_after_all_others(
    encoder: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds: list[int] = []
    rows, free = Pooler.rows, threading.Event()

    def watched(self: Pooler, texts: Any) -> Any:
        rounds.append(len(texts))
        assert free.wait(120)
        return rows(self, texts)

    monkeypatch.setattr(Pooler, "rows", watched)
    core = Core(encoder, ServeOptions(names=("tiny",)))

    async def run() -> None:
        pool = core.pool()
        first = asyncio.ensure_future(pool.rows([[1, 5, 127]]))
        while not rounds:
            await asyncio.sleep(0.001)
        late = asyncio.ensure_future(pool.rows([[1, 5, 127]] * 3, late=True))
        soon = asyncio.ensure_future(pool.rows([[1, 6, 127]] * 2))
        while pool._commands.qsize() < 2:
            await asyncio.sleep(0.001)
        free.set()
        await asyncio.gather(first, late, soon)

    asyncio.run(run())
    core.close()
    assert rounds == [1, 2, 3]
