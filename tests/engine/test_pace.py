"""A target for the time between tokens, from LLM down to the plans, with injected step times."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from ridgeline import LLM, AsyncEngine, Overloaded, RequestError, SamplingParams, Service
from ridgeline.assemble import Options, kept_roofs, machine_isa
from ridgeline.async_engine import AsyncStream
from ridgeline.backends.cpu.machine import identity
from ridgeline.backends.null.executor import NullExecutor
from ridgeline.backends.simulated.executor import SimulatedExecutor, VirtualClock
from ridgeline.cli.main import main
from ridgeline.config import Settings, read_settings
from ridgeline.cost.calibrate import StepSeconds
from ridgeline.cost.device import Barrier, Peak, Read, Roofs
from ridgeline.cost.measure import store
from ridgeline.engine.engine import Engine
from ridgeline.engine.request import Request
from ridgeline.step import RowSampling, StepPlan, StepShape

MODEL = str(Path(__file__).parent.parent / "golden" / "llama3" / "model.gguf")
GREEDY = SamplingParams(temperature=0, seed=1, max_tokens=20, ignore_eos=True)
LEAST_PROMPT = 16


def least(shape: StepShape) -> float:
    return 0.002 + 1e-4 * shape.num_tokens + 1e-7 * shape.attended_pairs(None)


@pytest.mark.parametrize("target", [0.020, 0.040, 0.080])
@pytest.mark.parametrize("factors", [(1.0, 1.0), (1.4, 2.5)])
def test_steps_keep_the_target_once_the_machine_is_known(
    target: float, factors: tuple[float, float]
) -> None:
    answers, prompts = factors
    taken: list[tuple[int, int, float]] = []

    def takes(shape: StepShape) -> float:
        ones = [c for n, c in zip(shape.new_tokens, shape.context_lens, strict=True) if n == 1]
        alone = least(StepShape((1,) * len(ones), tuple(ones), len(ones))) if ones else 0.0
        seconds = answers * alone + prompts * (least(shape) - alone)
        taken.append((len(ones), shape.num_tokens - len(ones), seconds))
        return seconds

    clock = VirtualClock()
    sizes = {"num_blocks": 4000, "max_rows": 8}
    executor = SimulatedExecutor(takes, clock, **sizes, tokens=NullExecutor(vocab_size=99, **sizes))
    engine = Engine(
        executor,
        max_context=4000,
        max_tokens_per_step=512,
        itl_target=target,
        seconds=StepSeconds(lambda: least),
        clock=clock,
    )
    for number in range(40):
        size = 40 if number % 4 == 0 else 1500
        engine.submit(
            Request(
                id=f"r{number}",
                token_ids=[number % 97] * size,
                num_prompt=size,
                max_tokens=120,
                sampling=RowSampling(),
                stop_token_ids=frozenset(),
            )
        )
    while engine.has_work:
        engine.step()
    mixed = [(p, s) for a, p, s in taken[60:] if a and p]
    assert len(mixed) > 50
    assert all(s <= 1.15 * target or p <= LEAST_PROMPT for p, s in mixed)
    # And the time that is there is used: most such steps come near the target.
    near = [s for p, s in mixed if s >= 0.75 * target or p <= LEAST_PROMPT]
    assert len(near) > 0.7 * len(mixed)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A cache in which a machine of this identity is kept whose peaks are 1 GFLOP/s."""
    return kept(tmp_path, 1.0)


def kept(tmp_path: Path, gigaoperations: float) -> Settings:
    settings = replace(read_settings(), cache_dir=tmp_path, threads=1)
    roofs = Roofs(
        machine=identity(),
        isa=machine_isa(settings),
        cache_bytes=1 << 20,
        reads=(Read(1 << 19, 1, 100.0, 100.0), Read(1 << 27, 1, 1.0, 1.0)),
        peaks=tuple(Peak(name, 1, gigaoperations) for name in ("int8", "bf16", "f32")),
        barriers=(Barrier(1, 10.0),),
        measured_at="2026-11-27T00:00:00+00:00",
    )
    assert store(tmp_path, roofs)
    assert kept_roofs(settings, roofs.isa) == roofs
    return settings


def steps_of(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> list[StepPlan]:
    """The plans that run from here on; the engine's clock goes by the kept roofs."""
    plans: list[StepPlan] = []
    engine = llm.session.engine
    executor, clock = engine._executor, VirtualClock()
    submit = executor.submit

    def timed(plan: StepPlan) -> None:
        plans.append(plan)
        clock.now += llm.assembled.step_seconds(plan.shape)
        submit(plan)

    monkeypatch.setattr(executor, "submit", timed)
    monkeypatch.setattr(executor, "steps_together", 1)  # it sees single steps only
    monkeypatch.setattr(engine, "_clock", clock)
    return plans


def test_llm_cuts_prompts_by_what_the_kept_roofs_allow(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = ["x" * 20, "a longer one, " * 30, "another, " * 40]
    free = LLM(MODEL, settings=settings)
    expected = free.generate(prompts, GREEDY)
    plans = steps_of(free, monkeypatch)
    free.generate(["?" + p for p in prompts], GREEDY)
    uncut = max(row.num_new for plan in plans for row in plan.rows)
    seconds = free.assembled.step_seconds
    target = seconds(StepShape((1, 40), (100, 100), 2))

    llm = LLM(MODEL, settings=settings, itl_target=target)
    plans = steps_of(llm, monkeypatch)
    first = llm.session.submit(llm.prompts.tokenize(prompts[0]), GREEDY, arrival=0.0)
    llm.session.step()
    others = llm.generate(prompts[1:], GREEDY)
    mixed = [plan for plan in plans if {row.num_new > 1 for row in plan.rows} == {True, False}]
    chunks = [max(row.num_new for row in plan.rows) for plan in mixed]
    assert LEAST_PROMPT <= max(chunks) < uncut
    seconds = llm.assembled.step_seconds
    for plan, chunk in zip(mixed, chunks, strict=True):
        assert seconds(plan.shape) <= 1.1 * target or chunk <= LEAST_PROMPT
    while not first.done:
        llm.session.step()
    # How a prompt is cut is nobody's business but the clock's.
    assert [first.output().outputs, *(o.outputs for o in others)] == [o.outputs for o in expected]


def test_a_run_under_a_target_comes_again(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.jsonl"
    llm = LLM(MODEL, settings=settings, itl_target=0.5, record=path)
    llm.generate(["a prompt " * n for n in (5, 40, 60, 20)], GREEDY)
    header, *entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert header["itl_target"] == 0.5
    assert header["device"]["operations_per_second"]["f32"] == 1e9
    assert any("factors" in entry for entry in entries), "this machine is faster than it was told"
    # Replayed on the machine as it is: the plans are those of the recorded one.
    assert main(["replay", str(path)]) == 0
    assert capsys.readouterr().out.startswith("the same: 4 requests")
    header["device"]["memory"] = 1
    path.write_text(json.dumps(header) + "\n")
    assert main(["replay", str(path)]) == 2
    assert "limits" in capsys.readouterr().err


@pytest.mark.parametrize("target", [0.0, -1.0, 1e-9, float("nan"), float("inf"), "fast"])
def test_a_target_that_cannot_be_is_refused(settings: Settings, target: object) -> None:
    with pytest.raises(RequestError, match="itl_target"):
        LLM(MODEL, settings=settings, itl_target=target)


def test_without_kept_roofs_the_machine_is_looked_at(tmp_path: Path) -> None:
    settings = replace(read_settings(), cache_dir=tmp_path, threads=1)
    llm = LLM(MODEL, settings=settings, itl_target=1.0)
    assert llm.session.engine.state.pace is not None
    assert llm.assembled.step_seconds(StepShape.prefill(100)) > 0
    assert not (tmp_path / "roofs.json").exists(), "that is what `ridgeline measure` is for"
    plain = LLM(MODEL, settings=settings)
    plain.generate("x", GREEDY)
    assert not plain.assembled.step_seconds.in_use, "nobody asked"
    assert Options().itl_target is None


def test_a_full_queue_and_a_deadline_are_answered_from_the_cost_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = LLM(MODEL, settings=kept(tmp_path, 0.001), max_rows=1, max_waiting=2)
    executor, gate = llm.session.engine._executor, threading.Event()
    submit = executor.submit

    def held(plan: StepPlan) -> None:
        gate.wait(60)
        submit(plan)

    monkeypatch.setattr(executor, "submit", held)

    async def go() -> None:
        async with AsyncEngine(llm) as engine:
            first = await engine.stream("x", GREEDY)
            while not llm.session.engine.state.running:  # it has the only row, and its step waits
                await asyncio.sleep(0.001)
            coming = [asyncio.create_task(engine.stream("x", GREEDY)) for _ in range(3)]
            while len(engine._worker._commands) < 3:
                await asyncio.sleep(0.001)
            gate.set()
            found = await asyncio.gather(*coming, return_exceptions=True)
            streams = [first, *(stream for stream in found if isinstance(stream, AsyncStream))]
            (full,) = (error for error in found if isinstance(error, Overloaded))
            assert len(streams) == 3
            assert full.retry_after_seconds > 0.1, "more than one says who knows nothing"
            assert "come back in" in str(full)
            for stream in streams:
                stream.close()
            long = replace(GREEDY, max_tokens=300)
            with pytest.raises(Overloaded, match="after its deadline"):
                await engine.stream("x" * 200, long, service=Service(timeout_seconds=0.001))
            output = await engine.generate("x", GREEDY, service=Service(timeout_seconds=600))
            assert output.outputs[0].finish_reason == "length"

    asyncio.run(go())
