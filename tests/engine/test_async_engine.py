"""The asyncio engine on a tiny model: the answers of the synchronous one, whatever callers do."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gate import gate, hold
from ridgeline import LLM, AsyncEngine, EngineError, RequestError, SamplingParams, Service
from ridgeline.engine.request import Event
from ridgeline.engine.schedule.state import SchedulerState
from ridgeline.engine.schedule.step import apply
from ridgeline.model.text.chat import ChatTemplate
from ridgeline.step import StepPlan, StepResult

MODEL = str(Path(__file__).parent.parent / "golden" / "llama3" / "model.gguf")
PROMPTS = ["Hello there", "A second, somewhat longer prompt about nothing", "z", "Hello there!"]
GREEDY = SamplingParams(temperature=0, seed=1, max_tokens=12, ignore_eos=True)
HELD_TOKENS = 72
LONG = SamplingParams(temperature=0, seed=1, max_tokens=90, ignore_eos=True)


@pytest.fixture
def llm() -> LLM:
    return LLM(MODEL, max_tokens_per_step=16, max_rows=4, threads=1)


@pytest.fixture
def engine(llm: LLM) -> Iterator[AsyncEngine]:
    engine = AsyncEngine(llm)
    yield engine
    engine.close()
    pool = llm.session.engine.state.pool
    assert pool.num_free == pool.num_blocks
    llm.session.engine.state.check_invariants()


def test_many_at_once_are_what_each_is_alone(engine: AsyncEngine) -> None:
    params = [
        SamplingParams(temperature=0.9, seed=i, max_tokens=8, ignore_eos=True, logprobs=1)
        for i in range(12)
    ]

    async def run() -> None:
        together = await asyncio.gather(
            *(engine.generate(PROMPTS[i % 4], own) for i, own in enumerate(params))
        )
        for i, (own, output) in enumerate(zip(params, together, strict=True)):
            alone = await engine.generate(PROMPTS[i % 4], own)
            assert alone.outputs == output.outputs
            assert output.finished

    asyncio.run(run())


def test_a_stream_gives_pieces_and_then_the_whole(engine: AsyncEngine) -> None:
    async def run() -> None:
        stream = await engine.stream(PROMPTS[1], GREEDY, request_id="mine")
        assert stream.request_id == "mine"
        pieces = [piece async for piece in stream]
        assert stream.output is not None
        assert "".join(p.text for p in pieces) == stream.output.outputs[0].text
        assert len(pieces) == 12
        whole = await engine.generate(PROMPTS[1], GREEDY, request_id="mine")
        assert whole.outputs == stream.output.outputs

    asyncio.run(run())


def test_chat_goes_through_the_template(engine: AsyncEngine, llm: LLM) -> None:
    llm.prompts._template = ChatTemplate("{% for m in messages %}<{{ m.content }}>{% endfor %}")
    messages = [{"role": "user", "content": "Hi"}, {"role": "user", "content": "there"}]

    async def run() -> None:
        output = await engine.chat(messages, GREEDY)
        assert output.prompt == "<Hi><there>"
        ids = llm.tokenizer.encode(output.prompt, add_special=False)
        assert list(output.prompt_token_ids) == ids
        plain = await engine.generate(ids, GREEDY)
        assert plain.outputs == output.outputs

    asyncio.run(run())


def test_wrong_requests_are_told_before_anything_runs(engine: AsyncEngine, llm: LLM) -> None:
    free = gate(llm, HELD_TOKENS)

    async def run() -> None:
        with pytest.raises(RequestError, match="prompt_token_ids"):
            await engine.stream([10**9], GREEDY)
        with pytest.raises(RequestError, match="prompt"):
            await engine.generate("", GREEDY)
        stream = await engine.stream(PROMPTS[0], LONG, request_id="twice")
        second = asyncio.create_task(engine.stream(PROMPTS[1], LONG, request_id="twice"))
        while not (engine._worker._commands or second.done()):  # it comes while the other runs
            await asyncio.sleep(0.001)
        stream.abort()
        free.set()
        with pytest.raises(RequestError, match="in use"):
            await second
        assert [piece.finish_reason async for piece in stream][-1] == "abort"

    asyncio.run(run())


def test_an_abort_keeps_what_was_said(engine: AsyncEngine, llm: LLM) -> None:
    free = gate(llm, HELD_TOKENS)

    async def run() -> None:
        stream = await engine.stream(PROMPTS[0], LONG)
        first = await anext(stream)
        engine.abort(stream.request_id)
        free.set()
        rest = [piece async for piece in stream]
        assert rest[-1].finish_reason == "abort"
        assert stream.output is not None
        (answer,) = stream.output.outputs
        assert answer.text == first.text + "".join(p.text for p in rest)
        assert 1 <= len(answer.token_ids) < 90

    asyncio.run(run())


def test_a_reader_that_goes_away_frees_what_it_held(engine: AsyncEngine, llm: LLM) -> None:
    async def settled() -> None:
        while engine.load.running or engine.load.waiting:
            await asyncio.sleep(0.001)

    async def run() -> None:
        free = gate(llm, HELD_TOKENS)
        dropped = await engine.stream(PROMPTS[0], LONG)
        await anext(dropped)
        del dropped
        gc.collect()
        free.set()
        await settled()
        closed = await engine.stream(PROMPTS[0], LONG)
        await closed.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(closed)
        await settled()
        free.clear()
        task = asyncio.create_task(engine.generate(PROMPTS[1], LONG))
        while not engine.load.running:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        free.set()
        await settled()
        assert engine.load.free_blocks == engine.load.num_blocks

    asyncio.run(run())


def test_readers_on_a_closed_loop_do_not_stop_the_others(engine: AsyncEngine) -> None:
    left = threading.Event()

    def leave() -> None:
        async def run() -> None:
            stream = await engine.stream(PROMPTS[0], LONG)
            await anext(stream)
            kept.append(stream)

        asyncio.run(run())
        left.set()

    kept: list[object] = []
    threading.Thread(target=leave).start()
    assert left.wait(60)

    async def run() -> None:
        output = await engine.generate(PROMPTS[1], GREEDY)
        assert len(output.outputs[0].token_ids) == 12
        while engine.load.running:
            await asyncio.sleep(0.001)

    asyncio.run(run())


def test_aborts_at_any_moment_leak_nothing_and_change_nothing(engine: AsyncEngine) -> None:
    generator = random.Random(7)

    async def one(index: int) -> None:
        prompt = PROMPTS[index % 4]
        stream = await engine.stream(prompt, LONG)
        for _ in range(generator.randrange(4)):
            await anext(stream)
        (stream.abort if index % 2 else stream.close)()
        async for _ in stream:
            pass

    async def run() -> None:
        expected = await engine.generate(PROMPTS[1], GREEDY)
        outputs, *_ = await asyncio.gather(
            engine.generate(PROMPTS[1], GREEDY), *(one(i) for i in range(60))
        )
        assert outputs.outputs == expected.outputs

    asyncio.run(run())


def test_close_ends_what_runs_and_refuses_what_comes(llm: LLM) -> None:
    async def run() -> None:
        async with AsyncEngine(llm) as engine:
            hold(llm, lambda: not engine._worker._stopping, HELD_TOKENS)
            begun = gate(llm)  # commands are obeyed between steps: all have come before the first
            coming = [asyncio.create_task(engine.stream(p, LONG)) for p in PROMPTS]
            while sum(one.done() for one in coming) + len(engine._worker._commands) < len(coming):
                await asyncio.sleep(0.001)
            begun.set()
            streams = await asyncio.gather(*coming)
            await anext(streams[0])
        for stream in streams:
            assert [piece.finish_reason async for piece in stream][-1] == "abort"
        with pytest.raises(EngineError, match="stopped"):
            await engine.generate("x", GREEDY)

    asyncio.run(run())


def test_a_fault_of_the_scheduler_ends_what_ran_and_the_engine_goes_on(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def broken(state: SchedulerState, result: StepResult) -> list[Event]:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise ZeroDivisionError("a bug")
        return apply(state, result)

    monkeypatch.setattr("ridgeline.engine.engine.apply", broken)

    async def run() -> None:
        output = await engine.generate(PROMPTS[0], GREEDY)
        (answer,) = output.outputs
        assert answer.finish_reason == "error"
        assert isinstance(answer.error, EngineError)
        assert "a bug" in str(answer.error)
        again = await engine.generate(PROMPTS[0], GREEDY)
        assert again.outputs[0].finish_reason == "length"

    asyncio.run(run())


def test_an_engine_that_cannot_even_fail_tells_everyone(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_state: SchedulerState, _now: float) -> StepPlan:
        raise ZeroDivisionError("a bug")

    def worse(_error: EngineError) -> None:
        raise KeyError("another")

    engine = AsyncEngine(llm)
    monkeypatch.setattr("ridgeline.engine.engine.schedule", broken)
    monkeypatch.setattr(llm.session, "fail", worse)

    async def run() -> None:
        with pytest.raises(EngineError, match="another"):
            await engine.generate(PROMPTS[0], GREEDY)
        with pytest.raises(EngineError, match="stopped"):
            await engine.generate(PROMPTS[0], GREEDY)

    asyncio.run(run())
    engine.close()


def test_a_request_ends_at_its_deadline_and_keeps_what_was_said(
    engine: AsyncEngine, llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit = llm.session.engine._executor.submit

    def slower(plan: StepPlan) -> None:
        time.sleep(0.01)
        submit(plan)

    async def run() -> None:
        whole = await engine.generate(PROMPTS[0], LONG)
        monkeypatch.setattr(llm.session.engine._executor, "submit", slower)
        output = await engine.generate(PROMPTS[0], LONG, service=Service(timeout_seconds=0.3))
        (answer,) = output.outputs
        assert answer.finish_reason == "deadline"
        said = answer.token_ids
        assert len(said) < 90
        assert said == whole.outputs[0].token_ids[: len(said)]

    asyncio.run(run())


def test_tenants_do_not_see_each_others_prefixes(engine: AsyncEngine) -> None:
    prompt = "the quick brown fox jumps over the lazy dog " * 2

    async def run() -> None:
        mine, yours = Service(tenant="mine"), Service(tenant="yours")
        first = await engine.generate(prompt, GREEDY, service=mine)
        again = await engine.generate(prompt, GREEDY, service=mine)
        other = await engine.generate(prompt, GREEDY, service=yours)
        assert (first.num_cached_tokens, other.num_cached_tokens) == (0, 0)
        assert again.num_cached_tokens > 0
        assert first.outputs == again.outputs == other.outputs
        assert other.cache_miss is not None
        assert other.cache_miss.kind == "salt"

    asyncio.run(run())


def test_priority_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    llm = LLM(MODEL, max_rows=1, threads=1, policy="priority")
    finished: dict[str, float] = {}

    async def one(engine: AsyncEngine, name: str, priority: int) -> None:
        output = await engine.generate(PROMPTS[0], GREEDY, service=Service(priority=priority))
        assert output.metrics.finished is not None
        finished[name] = output.metrics.finished

    async def run() -> None:
        async with AsyncEngine(llm) as engine:
            blocked = threading.Event()
            submit = llm.session.engine._executor.submit

            def wait(plan: StepPlan) -> None:
                assert blocked.wait(120)
                submit(plan)

            monkeypatch.setattr(llm.session.engine._executor, "submit", wait)
            tasks = []
            for name, priority in [("first", 0), ("late", 5), ("soon", 1)]:
                tasks.append(asyncio.create_task(one(engine, name, priority)))
                while len(engine._worker._running) < len(tasks) and len(tasks) == 1:
                    await asyncio.sleep(0.001)
            while len(engine._worker._commands) < 2:
                await asyncio.sleep(0.001)
            blocked.set()
            await asyncio.gather(*tasks)

    asyncio.run(run())
    assert sorted(finished, key=lambda name: finished[name]) == ["first", "soon", "late"]


@pytest.mark.parametrize(
    "wrong",
    [{"tenant": "x" * 300}, {"priority": 1.5}, {"timeout_seconds": 0}, {"timeout_seconds": "1"}],
)
def test_a_wrong_service_names_its_field(wrong: dict[str, object]) -> None:
    with pytest.raises(RequestError, match=next(iter(wrong))):
        Service(**wrong)  # type: ignore[arg-type]
