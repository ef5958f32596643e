"""Prompts that come together are read together; by the scheduler alone, and through an engine."""

from __future__ import annotations

import random

import pytest
from test_policies import step

from ridgeline.backends.null.executor import NullExecutor
from ridgeline.engine.engine import Engine
from ridgeline.engine.request import Request
from ridgeline.engine.schedule.admit import admit
from ridgeline.engine.schedule.policies import POLICIES
from ridgeline.engine.schedule.state import Limits, SchedulerState
from ridgeline.engine.schedule.waves import LAST_TOKENS, LEAST_PROMPTS, PROMPTS_PER_ANSWER
from ridgeline.errors import RequestError
from ridgeline.step import RowSampling, StepShape

BUDGET = 64


def seconds(shape: StepShape) -> float:
    return 0.010 + 0.001 * shape.num_tokens


def request(name: str, num_prompt: int = 30, max_tokens: int = 20) -> Request:
    return Request(
        id=name,
        token_ids=[(7 * sum(map(ord, name)) + i) % 97 for i in range(num_prompt)],
        num_prompt=num_prompt,
        max_tokens=max_tokens,
        sampling=RowSampling(),
        stop_token_ids=frozenset(),
    )


def state(rows: int = 12, blocks: int = 400, wave: float | None = 60.0) -> SchedulerState:
    limits = Limits(rows, BUDGET, 400, 4, itl_steps=1.5, wave_seconds=wave)
    return SchedulerState.empty(limits, blocks, seconds=seconds)


def first_tokens(at: SchedulerState, requests: list[Request]) -> list[int]:
    """In which step each had its first, until all have."""
    found: dict[str, int] = {}
    for number in range(400):
        step(at, 0.0)
        for each in requests:
            if each.num_generated and each.id not in found:
                found[each.id] = number
        if len(found) == len(requests):
            return [found[each.id] for each in requests]
    raise AssertionError("no progress")


def burst(at: SchedulerState, count: int, **asked: int) -> list[Request]:
    requests = [request(f"r{number}", **asked) for number in range(count)]
    for each in requests:
        admit(at, each)
    return requests


def test_answers_of_a_wave_begin_together() -> None:
    at = state()
    requests = burst(at, 12)
    # 360 tokens in steps of 64, and none of another kind.
    assert first_tokens(at, requests) == [5] * 12
    # From then on no step has any of a prompt.
    while at.has_work:
        plan = step(at, 0.0)
        assert all(row.num_new == 1 for row in plan.rows)


def test_without_waves_each_begins_when_it_is_read() -> None:
    at = state(wave=None)
    firsts = first_tokens(at, burst(at, 12))
    assert firsts[0] == 0
    assert len(set(firsts)) > 6


@pytest.mark.parametrize(
    ("count", "size", "most"),
    [(LEAST_PROMPTS - 1, 60, 60.0), (12, 30, 0.3)],
    ids=["too few", "too long"],
)
def test_what_is_no_wave(count: int, size: int, most: float) -> None:
    at = state(wave=most)
    firsts = first_tokens(at, burst(at, count, num_prompt=size))
    assert firsts[0] < firsts[-1] - 2


def test_an_answer_goes_on_beside_a_wave_and_more_of_them_forbid_it() -> None:
    at = state(rows=24)
    writing = [request(f"w{number}", 4, 100) for number in range(2 + 12 // PROMPTS_PER_ANSWER)]
    admit(at, writing[0])
    step(at, 0.0)
    requests = burst(at, 12)
    generated = writing[0].num_generated
    firsts = first_tokens(at, requests)
    assert len(set(firsts)) == 1
    assert writing[0].num_generated == generated + firsts[0] + 1

    at = state(rows=24)
    for each in writing[1:]:
        admit(at, each)
    step(at, 0.0)
    firsts = first_tokens(at, burst(at, 12))
    assert len(set(firsts)) > 6


def test_the_next_wave_waits_for_the_end_of_the_one_before() -> None:
    """One row ends some steps before the others: nobody is let in for that."""
    at = state(rows=10)
    early = [request("early", 30, 20 - LAST_TOKENS + 1), *burst(at, 0)]
    admit(at, early[0])
    first = burst(at, 9)
    second = [request(f"s{number}") for number in range(10)]
    for each in second:
        admit(at, each)
    assert len(set(first_tokens(at, [*early, *first]))) == 1
    assert len(set(first_tokens(at, second))) == 1
    assert not any(each.id in at.requests for each in first)


def test_rows_that_end_by_themselves_are_filled_at_once() -> None:
    at = state(rows=10)
    early = request("early", 30, 5)
    admit(at, early)
    burst(at, 9, max_tokens=100)
    late = request("late")
    admit(at, late)
    while early.id in at.requests:
        step(at, 0.0)
    step(at, 0.0)
    assert late.num_planned > 0


def test_whoever_waits_is_let_go_where_there_is_no_room_for_the_others() -> None:
    """Blocks for three: the wave that is planned cannot be had."""
    at = state(blocks=3 * 15)
    requests = burst(at, 12)
    firsts = first_tokens(at, requests)
    assert firsts[0] < firsts[-1]
    while at.has_work:
        step(at, 0.0)


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_tokens_are_the_same_with_and_without(policy: str) -> None:
    def answers(wave: float | None) -> tuple[dict[str, list[int]], int]:
        rng = random.Random(3)
        engine = Engine(
            NullExecutor(vocab_size=99, num_blocks=300, max_rows=12, block_tokens=4),
            max_context=200,
            max_tokens_per_step=BUDGET,
            policy=policy,
            itl_steps=1.5,
            wave_seconds=wave,
            seconds=seconds,
        )
        requests = [request(f"r{n}", rng.randrange(1, 60), rng.randrange(1, 30)) for n in range(60)]
        coming, held = list(requests), 0
        while engine.has_work or coming:
            for _ in range(rng.choice([0, 0, 1]) if engine.has_work else 15):
                if coming:
                    engine.submit(coming.pop())
            engine.step()
            engine.state.check_invariants()
            held += sum(
                r.num_generated == 0 and len(r.token_ids) - r.num_planned == 1
                for r in engine.state.running
            )
        return {r.id: list(r.token_ids[r.num_prompt :]) for r in requests}, held

    (plain, _), (waves, held) = answers(None), answers(60.0)
    assert waves == plain
    assert held > 10, "some have waited"


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), 1e9])
def test_a_wave_of_no_length_is_refused(value: float) -> None:
    with pytest.raises(RequestError, match="wave_seconds"):
        state(wave=value)


def test_a_wave_and_a_target_are_not_to_be_had_together() -> None:
    with pytest.raises(RequestError, match=r"wave_seconds.*itl_target"):
        SchedulerState.empty(
            Limits(12, BUDGET, 400, 4, itl_seconds=0.1, wave_seconds=60.0), 400, seconds=seconds
        )


def test_without_a_cost_model_there_are_none() -> None:
    limits = Limits(12, BUDGET, 400, 4, wave_seconds=60.0)
    at = SchedulerState.empty(limits, 400)
    firsts = first_tokens(at, burst(at, 12))
    assert len(set(firsts)) > 3
