"""A step that fails as a whole: the guilty one ends, the others go on with the same tokens."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from test_scheduler import VOCAB, expected_answer, request

from ridgeline import LLM, AsyncEngine, EngineError, SamplingParams
from ridgeline.backends.null.executor import NullExecutor
from ridgeline.engine.engine import Engine
from ridgeline.engine.record import Recorder, read_record, replay
from ridgeline.engine.request import Event
from ridgeline.step import RowSampling, StepPlan

MODEL = str(Path(__file__).parent.parent / "golden" / "llama3" / "model.gguf")
PROMPTS = {f"r{i}": [i + 1, i + 2, *range(3 * i)] for i in range(8)}
LENGTH = 9

# Which steps fail: told the number of the step and the prompts of its rows, by name.
Fails = Callable[[int, Sequence[str]], bool]


class Faulty(NullExecutor):
    """A null executor whose steps fail where `fails` says so; refused: a name whose row it does not
    open.
    """

    def __init__(self, fails: Fails, *, refused: str = "", num_blocks: int = 60) -> None:
        super().__init__(vocab_size=VOCAB, num_blocks=num_blocks, max_rows=8, block_tokens=4)
        self.fails = fails
        self.refused = refused
        self.names: dict[int, str] = {}
        self.num_steps = self.num_failed = 0

    def open_row(self, row: int, token_ids: Sequence[int], sampling: RowSampling) -> None:
        (name,) = (n for n, prompt in PROMPTS.items() if list(token_ids[:2]) == prompt[:2])
        if name == self.refused:
            raise MemoryError("no room for a row")
        super().open_row(row, token_ids, sampling)
        self.names[row] = name

    def submit(self, plan: StepPlan) -> None:
        self.num_steps += 1
        if self.fails(self.num_steps, [self.names[row.row] for row in plan.rows]):
            self.num_failed += 1
            raise RuntimeError("an operator broke")
        super().submit(plan)


def run(
    executor: Faulty, budget: int = 32, observer: Recorder | None = None
) -> tuple[dict[str, list[int]], dict[str, Event]]:
    """All prompts at once; the tokens of each, and the event that ended it."""
    engine = Engine(executor, max_context=100, max_tokens_per_step=budget, observer=observer)
    requests = {name: request(name, prompt, LENGTH) for name, prompt in PROMPTS.items()}
    for one in requests.values():
        engine.submit(one)
    ended: dict[str, Event] = {}
    while engine.has_work:
        for event in engine.step():
            if event.finish_reason is not None:
                assert event.request_id not in ended
                ended[event.request_id] = event
        engine.state.check_invariants()
        assert executor.num_steps < 1000
    assert engine.state.pool.num_free == engine.state.pool.num_blocks
    return {n: r.token_ids[r.num_prompt :] for n, r in requests.items()}, ended


EXPECTED = {name: expected_answer(prompt, LENGTH) for name, prompt in PROMPTS.items()}


@pytest.mark.parametrize("num_blocks", [12, 60])  # 12: some are preempted anyway
@pytest.mark.parametrize("guilty", [{"r0"}, {"r7"}, {"r2", "r5"}, set(PROMPTS)])
@pytest.mark.parametrize("budget", [5, 32])
def test_only_the_guilty_end(guilty: set[str], budget: int, num_blocks: int) -> None:
    executor = Faulty(lambda _step, names: bool(guilty & set(names)), num_blocks=num_blocks)
    answers, ended = run(executor, budget)
    for name in PROMPTS:
        if name in guilty:
            assert ended[name].finish_reason == "error"
            assert isinstance(ended[name].error, EngineError)
            assert "an operator broke" in str(ended[name].error)
        else:
            assert ended[name].finish_reason == "length"
            assert answers[name] == EXPECTED[name]
    # n rows under suspicion: at most 2n - 1 failing steps and the first.
    assert executor.num_failed <= 2 * len(PROMPTS) * len(guilty)


@pytest.mark.parametrize("step", range(1, 25))
def test_a_fault_that_passes_costs_nobody(step: int) -> None:
    executor = Faulty(lambda number, _names: number == step)
    answers, ended = run(executor, budget=16)
    assert executor.num_failed == (step <= executor.num_steps)
    assert answers == EXPECTED
    assert {event.finish_reason for event in ended.values()} == {"length"}


@pytest.mark.parametrize("step", range(1, 12))
def test_a_request_that_is_alone_is_tried_again(step: int) -> None:
    executor = Faulty(lambda number, _names: number == step)
    engine = Engine(executor, max_context=100, max_tokens_per_step=5)
    one = request("r4", PROMPTS["r4"], LENGTH)
    engine.submit(one)
    events = []
    while engine.has_work:
        events += engine.step()
    assert executor.num_failed == 1
    assert [event.token_id for event in events] == EXPECTED["r4"]


def test_two_that_fail_only_together_both_end_well() -> None:
    executor = Faulty(lambda _number, names: {"r1", "r6"} <= set(names))
    answers, ended = run(executor)
    assert executor.num_failed > 1
    assert answers == EXPECTED
    assert {event.finish_reason for event in ended.values()} == {"length"}


def test_one_that_fails_late_keeps_what_was_said() -> None:
    steps: list[int] = []

    def late(number: int, names: Sequence[str]) -> bool:
        steps.append(number)
        return number > 4 and "r3" in names

    executor = Faulty(late)
    answers, ended = run(executor)
    assert ended["r3"].finish_reason == "error"
    assert 0 < len(answers["r3"]) < LENGTH
    assert answers["r3"] == EXPECTED["r3"][: len(answers["r3"])]
    for name in set(PROMPTS) - {"r3"}:
        assert answers[name] == EXPECTED[name]


def test_whoever_comes_meanwhile_waits_and_is_no_suspect() -> None:
    executor = Faulty(lambda _number, names: "r0" in names)
    engine = Engine(executor, max_context=100, max_tokens_per_step=32)
    first = [request(name, PROMPTS[name], LENGTH) for name in ("r0", "r1", "r2", "r3")]
    for one in first:
        engine.submit(one)
    engine.step()
    late = request("r4", PROMPTS["r4"], LENGTH)
    engine.submit(late)
    events = []
    while engine.has_work:
        plan, now = engine.step_with_plan()
        events += now
        names = {executor.names[row.row] for row in plan.rows}
        if any(event.error for event in now):
            assert names == {"r0"}, "it ends by a step that it was alone in"
        assert "r0" not in names or "r4" not in names
    assert [e.request_id for e in events if e.error] == ["r0"]
    assert late.num_preemptions == 0
    assert late.token_ids[late.num_prompt :] == EXPECTED["r4"]


def test_an_end_in_the_midst_of_the_search() -> None:
    """Aborted while under suspicion: the others are cleared or found all the same."""
    executor = Faulty(lambda _number, names: "r0" in names)
    engine = Engine(executor, max_context=100, max_tokens_per_step=64)
    requests = {name: request(name, prompt, LENGTH) for name, prompt in PROMPTS.items()}
    for one in requests.values():
        engine.submit(one)
    engine.step()
    assert engine.state.suspects
    for name in ("r0", "r1", "r2", "r3"):
        assert engine.abort(name) is not None
        engine.state.check_invariants()
    while engine.has_work:
        engine.step()
        engine.state.check_invariants()
    assert not engine.state.suspects
    for name in ("r4", "r5", "r6", "r7"):
        assert requests[name].token_ids[requests[name].num_prompt :] == EXPECTED[name]


def test_the_innocent_is_not_blamed_when_the_guilty_ends_within_the_step() -> None:
    executor = Faulty(lambda _number, names: "r0" in names)
    engine = Engine(executor, max_context=100, max_tokens_per_step=64)
    requests = {name: request(name, PROMPTS[name], LENGTH) for name in ("r0", "r1")}
    for one in requests.values():
        engine.submit(one)
    engine.step()
    fails = executor.fails

    def aborted_meanwhile(number: int, names: Sequence[str]) -> bool:
        engine.abort("r0")
        return fails(number, names)

    executor.fails = aborted_meanwhile
    events = []
    while engine.has_work:
        events += engine.step()
    assert [event.token_id for event in events] == EXPECTED["r1"]


def test_a_row_that_is_refused_ends_its_request_alone() -> None:
    answers, ended = run(Faulty(lambda _number, _names: False, refused="r2"))
    assert "no room for a row" in str(ended["r2"].error)
    for name in set(PROMPTS) - {"r2"}:
        assert answers[name] == EXPECTED[name]


def test_an_interrupt_is_no_fault() -> None:
    class Interrupted(Faulty):
        def submit(self, plan: StepPlan) -> None:
            super().submit(plan)
            if self.num_steps == 3:
                self.collect()
                raise KeyboardInterrupt

    executor = Interrupted(lambda _number, _names: False)
    engine = Engine(executor, max_context=100, max_tokens_per_step=32)
    one = request("r1", PROMPTS["r1"], LENGTH)
    engine.submit(one)
    engine.step()
    engine.step()
    with pytest.raises(KeyboardInterrupt):
        engine.step()
    assert not engine.state.suspects
    while engine.has_work:
        engine.step()
    assert one.token_ids[one.num_prompt :] == EXPECTED["r1"]


def test_a_run_with_faults_comes_again() -> None:
    file = io.StringIO()
    run(Faulty(lambda n, names: n == 6 or "r5" in names), 32, Recorder(file, {"model": "null"}))
    _header, *entries = read_record(file.getvalue().splitlines())
    assert sum("fault" in entry for entry in entries) >= 4
    again = Engine(Faulty(lambda _n, _names: False), max_context=100, max_tokens_per_step=32)
    found = replay(entries, again)
    assert found.difference is None
    assert not again.has_work


TEXTS = ["Hello there", "A second, somewhat longer prompt about nothing", "z", "Hello there!"]
GREEDY = SamplingParams(temperature=0, seed=1, max_tokens=12, ignore_eos=True)
POISONED = SamplingParams(temperature=0, seed=666, max_tokens=12, ignore_eos=True)


@pytest.fixture
def llm(monkeypatch: pytest.MonkeyPatch) -> LLM:
    """On the CPU; a step with a row of seed 666 raises in the midst of things, and so does the
    fourth step of all.
    """
    llm = LLM(MODEL, max_tokens_per_step=16, max_rows=4, threads=1)
    executor = llm.session.engine._executor
    open_row, submit, collect = executor.open_row, executor.submit, executor.collect
    seeds: dict[int, int] = {}
    calls = 0

    def opens(row: int, token_ids: Sequence[int], sampling: RowSampling) -> None:
        seeds[row] = sampling.seed
        open_row(row, token_ids, sampling)

    def submits(plan: StepPlan) -> None:
        nonlocal calls
        calls += 1
        submit(plan)
        if calls == 4 or any(seeds[row.row] == 666 for row in plan.rows):
            collect()
            raise ValueError("an operator broke")

    monkeypatch.setattr(executor, "open_row", opens)
    monkeypatch.setattr(executor, "submit", submits)
    return llm


def test_prompts_of_one_call(llm: LLM) -> None:
    expected = LLM(MODEL, threads=1).generate(TEXTS, GREEDY)
    outputs = llm.generate([*TEXTS, TEXTS[0]], [GREEDY, POISONED, GREEDY, GREEDY, GREEDY])
    for number in (0, 2, 3):
        assert outputs[number].outputs == expected[number].outputs
    assert outputs[4].outputs == expected[0].outputs
    assert outputs[1].outputs[0].finish_reason == "error"
    assert "an operator broke" in str(outputs[1].outputs[0].error)


def test_callers_of_the_asyncio_engine(llm: LLM) -> None:
    expected = LLM(MODEL, threads=1).generate(TEXTS, GREEDY)

    async def go() -> None:
        async with AsyncEngine(llm) as engine:
            params = [GREEDY, POISONED, GREEDY, GREEDY]
            outputs = await asyncio.gather(
                *(engine.generate(text, own) for text, own in zip(TEXTS, params, strict=True))
            )
            assert outputs[1].outputs[0].finish_reason == "error"
            assert isinstance(outputs[1].outputs[0].error, EngineError)
            for number in (0, 2, 3):
                assert outputs[number].outputs == expected[number].outputs
            again = await engine.generate(TEXTS[1], GREEDY)
            assert again.outputs == expected[1].outputs

    asyncio.run(go())
