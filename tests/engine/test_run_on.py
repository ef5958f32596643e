"""Runs of steps in one call: the same tokens and plans as single steps, whatever ends a run."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from test_scheduler import VOCAB, expected_answer, request

from ridgeline import LLM, SamplingParams
from ridgeline.backends.null.executor import NullExecutor
from ridgeline.engine.engine import Engine
from ridgeline.engine.record import Recorder, read_record, replay
from ridgeline.engine.request import Request
from ridgeline.step import StepPlan, StepResult

GOLDEN = Path(__file__).parent.parent / "golden"


class Counting(NullExecutor):
    """Notes how many steps each run had. breaks: told how many runs there were, whether the run
    fails behind its first step.
    """

    def __init__(self, num_blocks: int = 60, max_rows: int = 4) -> None:
        super().__init__(vocab_size=VOCAB, num_blocks=num_blocks, max_rows=max_rows, block_tokens=4)
        self.runs: list[int] = []
        self.breaks_at: int | None = None

    def run_on(
        self, plan: StepPlan, steps: int, ends: Sequence[int]
    ) -> list[tuple[StepResult, float]]:
        breaks = len(self.runs) == self.breaks_at
        ran = super().run_on(plan, 2 if breaks else steps, ends)
        self.runs.append(len(ran))
        if breaks:
            raise RuntimeError("an operator broke")
        return ran


def engine(executor: Counting, recorder: Recorder | None = None, policy: str = "fcfs") -> Engine:
    return Engine(
        executor, max_context=200, max_tokens_per_step=24, observer=recorder, policy=policy
    )


def run_all(running: Engine, most: int, arrivals: Sequence[Request] = ()) -> dict[str, list[int]]:
    """A request of `arrivals` comes behind each call; invariants hold after each."""
    tokens: dict[str, list[int]] = {}
    coming = list(arrivals)
    while running.has_work or coming:
        if coming:
            running.submit(coming.pop(0))
        for event in running.step(most):
            assert event.error is None
            if event.token_id is not None:
                tokens.setdefault(event.request_id, []).append(event.token_id)
        running.state.check_invariants()
        assert not running.state.in_flight
    return tokens


def workload(seed: int) -> tuple[list[Request], dict[str, list[int]]]:
    """Requests, some of which a stop token ends, and what they are to be answered."""
    draw = random.Random(seed)
    shared = [draw.randrange(VOCAB) for _ in range(30)]
    requests, wanted = [], {}
    for index in range(12):
        own = [draw.randrange(VOCAB) for _ in range(draw.randrange(1, 20))]
        prompt = shared[: draw.randrange(31)] + own
        answer = expected_answer(prompt, draw.randrange(1, 60))
        one = request(f"r{index}", prompt, len(answer))
        if draw.random() < 0.5:
            stop = draw.choice(answer)
            one.stop_token_ids = frozenset({stop})
            answer = answer[: answer.index(stop) + 1]
        requests.append(one)
        wanted[one.id] = answer
    return requests, wanted


@pytest.mark.parametrize("policy", ["fcfs", "fair", "priority"])
@pytest.mark.parametrize("seed", range(8))
def test_runs_give_the_tokens_of_each_request_alone(seed: int, policy: str) -> None:
    """Few blocks: a run may not take those that somebody else must then be preempted for."""
    draw = random.Random(seed)
    executor = Counting(draw.choice([26, 30, 60]), draw.choice([1, 3, 8]))
    requests, wanted = workload(seed)
    running = engine(executor, policy=policy)
    assert run_all(running, 8, requests) == wanted
    assert max(executor.runs) > 1
    assert running.state.pool.num_free == running.state.pool.num_blocks
    steps = running.book.num_steps
    assert steps > sum(executor.runs) >= len(executor.runs)


def test_a_run_ends_with_the_answer_that_ends() -> None:
    """By its length, or by a stop token in the middle; nothing is computed for nobody."""
    executor = Counting()
    answer = expected_answer([1, 2, 3], 30)
    one = request("a", [1, 2, 3], 30)
    stop = next(i for i in range(9, 14) if answer.index(answer[i]) == i)
    one.stop_token_ids = frozenset({answer[stop]})
    running = engine(executor)
    assert run_all(running, 8, [one])["a"] == answer[: stop + 1]
    # The prompt's step gave the first token.
    assert executor.runs == [8, stop - 8]
    executor = Counting()
    assert run_all(engine(executor), 8, [request("b", [1, 2, 3], 12)])["b"] == answer[:12]
    assert executor.runs == [8, 3]


def test_who_waits_for_a_free_row_ends_runs() -> None:
    executor = Counting(max_rows=2)
    running = engine(executor)
    for index in range(3):
        running.submit(request(f"r{index}", [index] * 5, 10 + 20 * (index == 1)))
    tokens = run_all(running, 8)
    assert tokens == {
        f"r{index}": expected_answer([index] * 5, 10 + 20 * (index == 1)) for index in range(3)
    }
    assert executor.runs[0] > 1, "no row is free, so nobody can be admitted"


@pytest.mark.parametrize("breaks_at", [0, 2])
def test_a_run_that_fails_is_computed_again(breaks_at: int) -> None:
    """The executor has computed a step of which nobody was told."""
    executor = Counting()
    executor.breaks_at = breaks_at
    requests, wanted = workload(3)
    assert run_all(engine(executor), 8, requests) == wanted
    assert len(executor.runs) > breaks_at


def test_an_interrupt_while_a_run_is_booked_loses_no_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    executor = Counting()
    running = engine(executor)
    running.submit(request("a", [1, 2, 3], 30))
    tokens = [e.token_id for e in running.step(8)]
    booked = running.book.stepped
    calls = 0

    def interrupted(*args: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        booked(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(running.book, "stepped", interrupted)
    with pytest.raises(KeyboardInterrupt):
        running.step(8)
    monkeypatch.setattr(running.book, "stepped", booked)
    running.state.check_invariants()
    (one,) = running.state.requests.values()
    assert one.num_preemptions == 1
    while running.has_work:
        running.step(8)
    assert tokens == expected_answer([1, 2, 3], 1)
    assert list(one.token_ids[3:]) == expected_answer([1, 2, 3], 30)


def test_a_record_with_runs_replays() -> None:
    requests, wanted = workload(5)
    file = io.StringIO()
    executor = Counting(num_blocks=30)
    assert run_all(engine(executor, Recorder(file, {})), 8, requests) == wanted
    assert max(executor.runs) > 1
    assert '"ahead":' in file.getvalue()
    again = Counting(num_blocks=30)
    entries = list(read_record(file.getvalue().splitlines()))
    found = replay(entries[1:], engine(again))
    assert found.difference is None
    assert found.num_tokens == sum(map(len, wanted.values()))
    assert not again.runs, "a replay goes by single steps"


@pytest.mark.parametrize("name", ["llama3", "gemma3", "deepseek_v3", "gpt_oss", "qwen3_5"])
def test_generate_gives_what_single_steps_give(name: str) -> None:
    """Tokens, log-probabilities and ends; caches with windows and latent ones, experts."""
    llm = LLM(str(GOLDEN / name / "model.gguf"), max_tokens_per_step=16, max_rows=4)
    executor = llm.assembled.executor
    together = executor.steps_together
    assert together > 1
    prompts = [[5, 6, 7 + i, *range(3, 3 + 4 * i)] for i in range(6)]
    greedy = SamplingParams(temperature=0, max_tokens=30, ignore_eos=True)
    (free,) = llm.generate([prompts[0]], greedy)
    stop = free.outputs[0].token_ids[11]
    params = [
        greedy,
        SamplingParams(temperature=0.9, seed=5, max_tokens=21, ignore_eos=True, logprobs=3),
        SamplingParams(temperature=0, max_tokens=30, stop_token_ids=[stop]),
        SamplingParams(temperature=1.2, seed=6, max_tokens=25, mirostat=2, ignore_eos=True),
        SamplingParams(temperature=0.8, seed=7, max_tokens=17, n=2, repetition_penalty=1.2),
        SamplingParams(temperature=0, max_tokens=19, prompt_logprobs=1, ignore_eos=True),
    ]
    num_runs = 0
    run_on = executor.run_on

    def counted(plan: StepPlan, steps: int, ends: Sequence[int]) -> object:
        nonlocal num_runs
        num_runs += 1
        return run_on(plan, steps, ends)

    executor.run_on = counted  # type: ignore[assignment,method-assign]
    for batch in ([0], [1], [2], list(range(6))):
        asked, own = [prompts[i] for i in batch], [params[i] for i in batch]
        executor.steps_together = together  # type: ignore[misc]
        runs = llm.generate(asked, own)
        executor.steps_together = 1  # type: ignore[misc]
        singles = llm.generate(asked, own)
        for one, other in zip(runs, singles, strict=True):
            for a, b in zip(one.outputs, other.outputs, strict=True):
                assert (a.token_ids, a.logprobs, a.text) == (b.token_ids, b.logprobs, b.text)
                assert a.finish_reason == b.finish_reason
            assert one.prompt_logprobs == other.prompt_logprobs
    # Recurrent states have snapshots between steps.
    assert (num_runs > 4) == (name != "qwen3_5")
