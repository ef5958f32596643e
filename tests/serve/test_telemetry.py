"""Metrics, requests explained, the live view and the access log, over a tiny model."""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tiny import settled, tiny_core, within

from gate import gate
from ridgeline import SamplingParams
from ridgeline.config import read_settings
from ridgeline.engine.ledger import Trace
from ridgeline.serve.core.core import Core
from ridgeline.serve.core.keys import Keys
from ridgeline.serve.metrics.exposition import names
from ridgeline.serve.metrics.live import kv_map
from ridgeline.serve.metrics.spans import phases

BODY = {"model": "tiny", "prompt": "hello, hello, hello, hello", "max_tokens": 12, "seed": 1}
ASK = BODY | {"ignore_eos": True}
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def _values(text: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = {k: v for k, v in sample.labels.items() if k != "model_name"}
            found[sample.name + (json.dumps(labels, sort_keys=True) if labels else "")] = (
                sample.value
            )
    return found


def test_metrics_say_what_was_done_under_both_names() -> None:
    core = tiny_core()

    async def check(client: httpx.AsyncClient) -> None:
        for _ in range(3):
            answer = await client.post("/v1/completions", json=ASK)
            assert answer.status_code == 200
        num_prompt = answer.json()["usage"]["prompt_tokens"]
        answer = await client.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        values = _values(answer.text)
        for prefix in ("ridgeline", "vllm"):
            assert values[f"{prefix}:generation_tokens_total"] == 36
            assert values[f"{prefix}:prompt_tokens_total"] == 3 * num_prompt
            assert values[f"{prefix}:time_to_first_token_seconds_count"] == 3
            assert values[f"{prefix}:inter_token_latency_seconds_count"] == 33
            assert values[f"{prefix}:e2e_request_latency_seconds_count"] == 3
            reason = json.dumps({"finished_reason": "length"})
            assert values[f"{prefix}:request_success_total{reason}"] == 3
            assert values[f"{prefix}:prefix_cache_hits_total"] > 0
            assert values[f"{prefix}:num_requests_running"] == 0
        assert values["ridgeline:ready"] == 1
        assert "vllm:ready" not in values
        queue, prefill, decode, whole = (
            values[f"ridgeline:{name}_sum"]
            for name in (
                "request_queue_time_seconds",
                "request_prefill_time_seconds",
                "request_decode_time_seconds",
                "e2e_request_latency_seconds",
            )
        )
        assert queue + prefill + decode <= whole  # what is missing is tokenizing

    within(core, check)


def test_each_name_is_exposed_and_says_what_it_is() -> None:
    core = tiny_core()

    async def check(client: httpx.AsyncClient) -> None:
        await client.post("/v1/completions", json=ASK)
        await client.post("/v1/completions", json=ASK | {"n": 1000})
        text = (await client.get("/metrics")).text
        shown = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
        for name in names():
            family = name.removesuffix("_total")
            assert name in shown or family in shown, name
        helps = [line.split(" ", 3)[3] for line in text.splitlines() if line.startswith("# HELP")]
        assert len(helps) == len(list(names()))
        assert all(len(one) > 10 for one in helps)

    within(core, check)


def test_an_aborted_answer_is_counted() -> None:
    core = tiny_core()

    async def check(client: httpx.AsyncClient) -> None:
        params = SamplingParams(temperature=0, max_tokens=400, ignore_eos=True)
        stream = await core.engine.stream([1, 2, 3], params)
        await anext(stream)
        stream.close()

    within(core, check)
    assert core.llm.session.engine.book.ended == {"abort": 1}


def test_forced_tokens_are_told() -> None:
    core = tiny_core()
    ask = {"prompt": "Hi", "structured_outputs": {"choice": ["all in all", "it is so"]}}

    async def check(client: httpx.AsyncClient) -> None:
        answer = (await client.post("/v1/completions", json=ask)).json()
        assert answer["choices"][0]["text"] in ("all in all", "it is so")
        forced = answer["usage"]["completion_tokens_details"]["forced_tokens"]
        assert 0 < forced < answer["usage"]["completion_tokens"]
        told = (await client.get(f"/explain/{answer['id']}")).json()["answers"][0]
        assert told["forced_tokens"] == forced
        assert told["steps"] == answer["usage"]["completion_tokens"] - forced
        counted = (await client.get("/metrics")).text
        assert f"ridgeline:forced_tokens_total {forced}.0" in counted.replace(
            '{model_name="tiny"}', ""
        )

    within(core, check)


def test_a_request_is_explained_to_its_own_key_only() -> None:
    core = tiny_core(keys=Keys.of(["a-secret-key", "another-key"]))

    async def check(client: httpx.AsyncClient) -> None:
        mine = {"authorization": "Bearer a-secret-key"}
        answer = await client.post("/v1/completions", json=ASK, headers=mine)
        name, usage = answer.json()["id"], answer.json()["usage"]
        told = (await client.get(f"/explain/{name}", headers=mine)).json()
        (one,) = told["answers"]
        assert sum(p["percent"] for p in one["phases"]) == pytest.approx(100)
        assert sum(p["seconds"] for p in one["phases"]) == pytest.approx(one["total_seconds"])
        assert one["completion_tokens"] == 12
        assert sum(c["tokens"] for c in one["prefill_chunks"]) == told["prompt_tokens"]
        assert told["cache_miss"]["kind"] == "new"
        assert usage["seconds"]["total_seconds"] == pytest.approx(one["total_seconds"], abs=0.1)
        assert (await client.get(f"/explain/{name}")).status_code == 401
        missing = await client.get("/explain/nothing", headers=mine)
        assert missing.status_code == 404

    within(core, check)


def test_nobody_learns_from_misses_what_another_tenant_has_sent() -> None:
    names = ("first", "second", "third")  # a key is a tenant where there is no file
    core = tiny_core(keys=Keys.of(f"a-key-of-{name}" for name in names))

    async def check(client: httpx.AsyncClient) -> None:
        async def miss(name: str, prompt: str) -> object:
            key = {"authorization": f"Bearer a-key-of-{name}"}
            answer = await client.post(
                "/v1/completions", json=ASK | {"prompt": prompt}, headers=key
            )
            told = await client.get(f"/explain/{answer.json()['id']}", headers=key)
            return told.json()["cache_miss"]

        await miss("first", "a secret that is longer than one block of the cache is")
        guessed = await miss("second", "a secret that is longer than one block of the cache is")
        other = await miss("third", "no secret, and longer than one block of the cache is too")
        assert guessed == other == {"kind": "new", "position": 0}

    within(core, check)


def test_the_live_view_is_small_and_true() -> None:
    core = tiny_core()

    async def check(client: httpx.AsyncClient) -> None:
        await client.get("/live")
        await client.post("/v1/completions", json=ASK | {"max_tokens": 100})
        answer = await client.get("/live")
        told = answer.json()
        assert len(answer.content) < 64_000
        assert told["answer_tokens"] == 100
        assert told["free_blocks"] <= told["num_blocks"]
        assert len(told["steps"]) == core.llm.session.engine.book.num_steps
        assert all(math.isfinite(told[k]) for k in ("ttft_p50", "ttft_p99", "itl_p50", "itl_p99"))
        assert told["operators"], "the engine's timers"
        assert 0 < sum(one["share"] for one in told["operators"]) <= 1
        listed = [one["name"] for one in told["operators"]]
        assert len(listed) == len(set(listed))
        assert all(one["flops_per_second"] > 0 for one in told["operators"])

    within(core, check)


def test_the_access_log_tells_of_each_request_and_of_no_body() -> None:
    lines: list[str] = []
    core = tiny_core(access_log=lines.append)

    async def check(client: httpx.AsyncClient) -> None:
        await client.post("/v1/completions", json=ASK)
        await client.get("/nowhere")

    within(core, check)
    first, second = map(json.loads, lines)
    assert (first["method"], first["path"], first["status"]) == ("POST", "/v1/completions", 200)
    assert first["bytes"] > 100
    assert first["seconds"] > 0
    assert second["status"] == 404
    assert "hello" not in "".join(lines)


def test_a_core_has_a_book_before_anything_ran() -> None:
    core: Core = tiny_core()

    async def check(client: httpx.AsyncClient) -> None:
        assert (await client.get("/metrics")).status_code == 200
        told = (await client.get("/live")).json()
        assert told["ttft_p50"] is None
        assert told["operators"] == []

    within(core, check)


def test_spans_go_to_the_collector_that_is_set() -> None:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    with _collector() as (address, bodies):
        settings = replace(read_settings(), otel_endpoint=address)
        core = tiny_core(settings=settings)

        async def check(client: httpx.AsyncClient) -> None:
            traced = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
            paths = {
                "/v1/completions": ASK,
                "/v1/chat/completions": CHAT,
                "/v1/messages": CHAT | {"model": "tiny"},
                "/v1/responses": {"model": "tiny", "input": "Hi", "max_output_tokens": 3},
                "/api/chat": {"model": "tiny", "stream": False, "options": {"num_predict": 3}}
                | {"messages": CHAT["messages"]},
                "/generate": {"token_ids": [1, 2], "max_tokens": 3},
            }
            for path, body in paths.items():
                answer = await client.post(path, json=body, headers=traced)
                assert answer.status_code == 200, answer.text
            assert (await client.post("/v1/completions", json=ASK)).status_code == 200

        within(core, check)
        core.close()
    found = [
        span
        for body in bodies
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    roots = [span for span in found if span.name == "llm_request"]
    assert len(roots) == 7
    assert [span.parent_span_id.hex() for span in roots] == [PARENT] * 6 + [""]
    assert {span.trace_id.hex() for span in roots[:6]} == {TRACE} != {roots[6].trace_id.hex()}
    spans = {
        span.name: span
        for body in bodies
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    }
    whole = spans["llm_request"]
    told = {one.key: one.value for one in whole.attributes}
    assert told["gen_ai.usage.output_tokens"].int_value == 12
    assert {"queue", "prefill", "decode"} < set(spans)
    for name in ("queue", "prefill", "decode"):
        assert spans[name].parent_span_id == whole.span_id
        assert whole.start_time_unix_nano <= spans[name].start_time_unix_nano
    assert abs(spans["decode"].end_time_unix_nano - whole.end_time_unix_nano) < 1e6


def test_the_map_of_the_cache_is_what_the_pool_holds() -> None:
    core = tiny_core()

    async def check(client: httpx.AsyncClient) -> None:
        empty = (await client.get("/live")).json()["kv_map"]
        assert empty == [[0, 0, 0]] * len(empty)
        text = "a prompt that is long enough for some whole blocks of tokens"
        asked = {"prompt": text, "max_tokens": 60, "n": 3, "ignore_eos": True, "seed": 1}
        free = gate(core.llm, 80)
        running = asyncio.create_task(client.post("/v1/completions", json=asked))
        while not any(state == 3 for state in core.engine.block_states()):
            assert not running.done()
            await asyncio.sleep(0.002)
        told = kv_map(core, 10)
        assert sum(cell[1] for cell in told) > 0
        assert sum(cell[2] for cell in told) > 0  # the prompt's blocks, which three answers share
        free.set()
        assert (await running).status_code == 200
        await settled(core)
        pool = core.llm.session.engine.state.pool
        states = core.engine.block_states()
        assert states.count(1) == pool.num_cached > 0
        assert states.count(0) == pool.num_free - pool.num_cached
        assert states.count(2) == states.count(3) == 0

    within(core, check)


def test_phases_of_a_preempted_request_are_where_they_were() -> None:
    trace = Trace(arrival=1.0, submitted=1.5)
    trace.book(2.0, 3.0, 0.5, 0, 8, 0)  # half of its prompt
    trace.book(6.0, 7.0, 0.5, 0, 8, 1)  # again, after it was preempted
    trace.book(7.0, 8.0, 0.5, 8, 8, 1)
    trace.first_token = trace.last_token = 8.0
    trace.book(8.5, 9.0, 0.5, 16, 1, 1)
    trace.close(9.25, 1)
    ledger = trace.ledger()
    assert phases(ledger) == [
        ("queue", 1.0, 2.0),
        ("prefill", 2.0, 8.0),
        ("decode", 8.0, 9.25),
        ("preempted", 3.0, 6.0),
    ]
    assert sum(ledger.seconds.values()) == pytest.approx(ledger.end - ledger.arrival)
    waiting = Trace(arrival=1.0, submitted=1.5)
    waiting.close(4.0, 0)
    assert phases(waiting.ledger()) == [("queue", 1.0, 4.0)]


def test_metrics_are_for_their_own_keys_where_there_are_some() -> None:
    keys = Keys.of(["first-key"])
    for given, metrics in ((keys, None), (keys.with_metrics(["scrape-key"]), "scrape-key")):
        core = tiny_core(keys=given)

        async def check(client: httpx.AsyncClient, metrics: str | None = metrics) -> None:
            for path in ("/metrics", "/live", "/v1/models"):
                for key in ("first-key", "scrape-key", None):
                    headers = {} if key is None else {"authorization": f"Bearer {key}"}
                    status = (await client.get(path, headers=headers)).status_code
                    wanted = "first-key" if path == "/v1/models" else metrics or "first-key"
                    assert status == (200 if key == wanted else 401), (path, key)

        within(core, check)
        core.close()


@contextmanager
def _collector() -> Iterator[tuple[str, list[bytes]]]:
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            bodies.append(body)
            self.send_response(200 if self.path == "/v1/traces" else 404)
            self.end_headers()

        def log_message(self, *_args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", bodies
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
