"""Clients that hang up, steps that fail or do not end, deadlines, and the end of the server."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from tiny import MODEL, client_of, hanging_up, posted, settled, slow_steps, tiny_core, within

from gate import gate
from ridgeline.serve.app import build_app
from ridgeline.serve.batches.routes import Desk
from ridgeline.serve.core import health
from ridgeline.serve.core.core import Core
from ridgeline.step import StepPlan

HELD_TOKENS = 96
LONG = {"max_tokens": 400, "temperature": 0, "ignore_eos": True}
SHORT = {"prompt": "Hi", "max_tokens": 4, "temperature": 0, "ignore_eos": True}
CHAT = {"messages": [{"role": "user", "content": "Hi"}]}
PATHS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"prompt": "Hi"}),
    ("/v1/completions", {"prompt": ["Hi", "you"], "n": 2}),
    ("/v1/chat/completions", CHAT),
    ("/generate", {"token_ids": [1, 2, 3]}),
    ("/v1/messages", {"model": "tiny", **CHAT}),
    ("/v1/responses", {"model": "tiny", "input": "Hi"}),
    ("/api/chat", {"model": "tiny", **CHAT}),
    ("/api/generate", {"model": "tiny", "prompt": "Hi"}),
]


def long(path: str) -> dict[str, Any]:
    """As each dialect asks for an answer that does not end soon."""
    if path.startswith("/api/"):
        return {"options": {"num_predict": 400, "temperature": 0}}
    if path == "/v1/responses":
        return {"max_output_tokens": 400, "temperature": 0}
    if path == "/v1/messages":
        return {"max_tokens": 400, "temperature": 0}
    return LONG


@pytest.fixture
def core() -> Iterator[Core]:
    core = tiny_core()
    yield core
    core.close()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "body"), PATHS)
def test_who_hangs_up_frees_all_within_a_step(
    core: Core, path: str, body: dict[str, Any], stream: bool
) -> None:
    free = gate(core.llm, HELD_TOKENS)

    async def check(_client: httpx.AsyncClient) -> None:
        app = build_app(core)
        async with hanging_up(app, path, body | long(path) | {"stream": stream}) as some:
            if stream:
                await some()
            while not core.engine.load.running:
                await asyncio.sleep(0.002)
        began = core.engine.load.num_steps
        free.set()
        await settled(core)
        assert core.engine.load.num_steps <= began + 2

    within(core, check)


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("/v1/completions", {"model": "tiny", "prompt": ["Hi", "you"]} | LONG),
        ("/v1/chat/completions", {"model": "tiny"} | CHAT | LONG),
        ("/v1/responses", {"model": "tiny", "input": "Hi", "max_output_tokens": 400}),
    ],
)
def test_a_line_of_a_batch_that_is_cancelled_frees_all_within_a_step(
    core: Core, endpoint: str, body: dict[str, Any]
) -> None:
    free = gate(core.llm, HELD_TOKENS)

    async def check(_client: httpx.AsyncClient) -> None:
        line = asyncio.create_task(Desk(core).ask("", endpoint, body))
        while not core.engine.load.running:
            await asyncio.sleep(0.002)
        line.cancel()
        await asyncio.wait([line])
        began = core.engine.load.num_steps
        free.set()
        await settled(core)
        assert core.engine.load.num_steps <= began + 2

    within(core, check)


@pytest.mark.parametrize(("path", "body"), PATHS)
def test_a_stream_that_nobody_begins_to_read_frees_all(
    core: Core, path: str, body: dict[str, Any]
) -> None:
    free = gate(core.llm, HELD_TOKENS)
    data = json.dumps(body | long(path) | {"stream": True}).encode()

    asked = iter([{"type": "http.request", "body": data, "more_body": False}])

    async def receive() -> dict[str, Any]:
        for message in asked:
            return message
        await asyncio.Event().wait()
        raise AssertionError

    async def send(_message: Any) -> None:
        raise OSError("the client has gone")

    async def check(_client: httpx.AsyncClient) -> None:
        with suppress(Exception):
            await build_app(core)(posted(path), receive, send)
        began = core.engine.load.num_steps
        free.set()
        await settled(core)
        assert core.engine.load.num_steps <= began + 2

    within(core, check)


def test_a_failing_step_ends_its_request_and_no_other(core: Core) -> None:
    executor = core.llm.session.engine._executor
    submit = executor.submit
    guilty = -1

    def fails(plan: StepPlan) -> None:
        nonlocal guilty
        for request in core.llm.session.engine.state.running:
            if request.token_ids[0] == ord("!"):
                guilty = request.row
        if any(row.row == guilty for row in plan.rows):
            guilty = -1
            raise RuntimeError("an operator broke")
        submit(plan)

    async def check(client: httpx.AsyncClient) -> None:
        alone = (await client.post("/v1/completions", json=SHORT)).json()["choices"]
        executor.submit = fails  # type: ignore[method-assign]
        bad, *good = await asyncio.gather(
            client.post("/v1/completions", json=SHORT | {"prompt": "!bad"}),
            *(client.post("/v1/completions", json=SHORT) for _ in range(3)),
        )
        assert bad.status_code == 500
        assert "broke" in bad.json()["error"]["message"]
        assert [one.json()["choices"] for one in good] == [alone] * 3
        executor.submit = submit  # type: ignore[method-assign]
        again = await client.post("/v1/completions", json=SHORT | {"prompt": "!bad"})
        assert again.status_code == 200
        assert (await client.get("/readyz")).status_code == 200

    within(core, check)


def test_a_stuck_step_is_named_and_not_ready(caplog: pytest.LogCaptureFixture) -> None:
    core = tiny_core(step_seconds=0.1)
    free = gate(core.llm)

    async def check(client: httpx.AsyncClient) -> None:
        assert (await client.get("/readyz")).status_code == 200
        watchdog = asyncio.create_task(health.watch(core, 0.02))
        # One step: those behind it might be slow, too, and would be told of.
        once = SHORT | {"max_tokens": 1}
        asked = asyncio.create_task(client.post("/v1/completions", json=once))
        while (answer := await client.get("/readyz")).status_code == 200:
            await asyncio.sleep(0.02)
        assert "1 rows: cmpl-" in answer.json()["status"]
        assert (await client.get("/livez")).status_code == 200
        while not caplog.records:
            await asyncio.sleep(0.02)
        free.set()
        assert (await asked).status_code == 200
        watchdog.cancel()
        await settled(core)
        while core.engine.step_began is not None:
            await asyncio.sleep(0.001)
        assert (await client.get("/readyz")).status_code == 200
        assert len([r for r in caplog.records if "1 rows" in r.message]) == 1

    within(core, check)
    core.close()


def test_a_deadline_is_a_504_before_the_first_token(core: Core) -> None:
    slow_steps(core, 0.05)

    async def check(client: httpx.AsyncClient) -> None:
        body = SHORT | {"timeout_seconds": 0.01}
        for stream in (False, True):
            answer = await client.post("/v1/completions", json=body | {"stream": stream})
            assert answer.status_code in (429, 504) or (stream and "its deadline" in answer.text)

    within(core, check)


def test_refusals_do_not_wait_for_a_long_step() -> None:
    core = tiny_core(max_ttft_seconds=1e-9, max_rows=1)

    async def check(client: httpx.AsyncClient) -> None:
        await client.post("/v1/completions", json=SHORT)
        free = gate(core.llm)
        asked = asyncio.create_task(client.post("/v1/completions", json=SHORT))
        while core.engine.step_began is None:
            assert not asked.done()
            await asyncio.sleep(0.001)
        # The step runs, and goes on until both have been answered.
        second = await client.post("/v1/completions", json=SHORT)
        answer = await client.post("/v1/chat/completions", json=CHAT)
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["error"]["code"] == "overloaded"
        assert core.door.refused["ttft"] >= 1
        assert second.status_code == 429
        free.set()
        assert (await asked).status_code == 200

    within(core, check)
    core.close()


def test_who_is_refused_behind_the_door_leaves_no_place_taken() -> None:
    """A server that counted them would, after max_queue of them, turn away everybody for ever."""
    refused: list[dict[str, Any]] = [
        {"prompt": "x", "structured_outputs": {"json": {"properties": {"a": {"not": {}}}}}},
        {"prompt": "x", "structured_outputs": {"regex": "("}},
        {"prompt": "x", "stop_regex": "("},
        {"prompt": "x", "logit_bias": {"99999": 1}},
        {"prompt": [99999]},
        {"prompt": "x", "timeout_seconds": 1e-9},
    ]
    core = tiny_core(max_queue=2)

    async def check(client: httpx.AsyncClient) -> None:
        for body in refused:
            for _ in range(4):
                answer = await client.post("/v1/completions", json=body)
                assert answer.status_code in (400, 429), answer.text
                assert "requests wait" not in answer.text
        good = await client.post("/v1/completions", json={"prompt": "x", "max_tokens": 1})
        assert good.status_code == 200
        assert core.door.predicted_ttft() == 0

    within(core, check)


def test_a_disk_that_keeps_nothing_is_told_and_answers_are_not_lost(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    core = tiny_core(state=tmp_path / "file" / "serve")

    async def check(client: httpx.AsyncClient) -> None:
        body = {"model": "tiny", "input": "Hi", "max_output_tokens": 3, "temperature": 0}
        answer = await client.post("/v1/responses", json=body)
        assert answer.status_code == 200
        assert answer.json()["store"] is False
        text = answer.json()["output"][0]["content"][0]["text"]
        streamed = (await client.post("/v1/responses", json=body | {"stream": True})).text
        last = json.loads(streamed.strip().splitlines()[-1].removeprefix("data: "))
        assert last["response"]["store"] is False
        assert last["response"]["output"][0]["content"][0]["text"] == text
        files = {"file": ("in.jsonl", b"{}")}
        for refused in (
            await client.post("/v1/responses", json=body | {"store": True}),
            await client.post("/v1/responses", json=body | {"background": True}),
            await client.post("/v1/files", files=files, data={"purpose": "batch"}),
        ):
            assert refused.status_code == 507, refused.text
            assert refused.json()["error"]["code"] == "storage"
            assert "the server cannot write to" in refused.json()["error"]["message"]

    within(core, check)


def test_draining_refuses_what_is_new_and_finishes_what_runs(core: Core) -> None:
    free = gate(core.llm)

    async def check(client: httpx.AsyncClient) -> None:
        asked = asyncio.create_task(client.post("/v1/completions", json=SHORT))
        while not core.door.running:
            await asyncio.sleep(0.001)
        core.door.draining = True
        answer = await client.post("/v1/completions", json=SHORT)
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        assert (await client.get("/readyz")).status_code == 503
        assert (await client.get("/livez")).status_code == 200
        free.set()
        assert (await asked).json()["usage"]["completion_tokens"] == 4

    within(core, check)


# The command, whose answers stop in their midst while there is the file that is named first.
HELD = """
import sys
from pathlib import Path

from gate import hold
from ridgeline.cli.main import main
from ridgeline.serve.core import core

held, made = Path(sys.argv.pop(1)), core.Core
core.Core = lambda llm, options: (hold(llm, held.exists, %d), made(llm, options))[1]
sys.exit(main())
"""


@contextmanager
def started(held: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server process over the tiny model, and its address."""
    command = [sys.executable, "-c", HELD % HELD_TOKENS, str(held), "serve", MODEL, "--port", "0"]
    process = subprocess.Popen(
        [*command, "--threads", "1", "--name", "tiny"],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)},
    )
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if "is served at" in line:
                yield process, line.split("is served at ")[1].split()[0]
                break
        else:
            raise AssertionError("it did not start")
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_sigterm_finishes_a_stream_and_a_second_one_ends_at_once(tmp_path: Path) -> None:
    held = tmp_path / "held"
    body = {"prompt": "Hi", "max_tokens": 900, "temperature": 0, "ignore_eos": True, "stream": True}
    ending = "WARNING: ending: 1 answers are being finished, for 30 s at most\n"
    held.touch()
    with started(held) as (process, address):
        with httpx.stream("POST", f"{address}/v1/completions", json=body, timeout=120) as answer:
            lines = answer.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            assert process.stderr is not None
            assert process.stderr.readline() == ending
            held.unlink()
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        last = json.loads(rest[-2].removeprefix("data: "))
        assert last["choices"][0]["finish_reason"] == "length"
        assert process.stderr.read() == ""
        assert process.wait(120) == 0

    held.touch()
    with (
        started(held) as (process, address),
        httpx.stream("POST", f"{address}/v1/completions", json=body, timeout=120) as answer,
    ):
        lines = answer.iter_lines()
        next(lines)
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        assert process.stderr.readline() == ending
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == -signal.SIGTERM
        with pytest.raises(httpx.RemoteProtocolError):
            list(lines)


def test_half_a_request_does_not_hold_a_connection() -> None:
    async def run() -> None:
        core = tiny_core(body_seconds=0.05)
        async with client_of(build_app(core)) as client:

            async def slowly() -> Any:
                yield b"{"
                await asyncio.Event().wait()

            answer = await client.post("/v1/completions", content=slowly())
            assert answer.status_code == 408
        core.close()

    asyncio.run(run())
