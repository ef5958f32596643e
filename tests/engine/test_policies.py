"""Who goes first, who is refused, how large a step may be; by the scheduler alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ridgeline import LLM, SamplingParams
from ridgeline.engine.request import Request, Status
from ridgeline.engine.schedule.admit import admit, expire
from ridgeline.engine.schedule.policies import POLICIES
from ridgeline.engine.schedule.policies.fair import FairQueue
from ridgeline.engine.schedule.policies.priority import PriorityQueue
from ridgeline.engine.schedule.policies.queue import Queue
from ridgeline.engine.schedule.predict import finish_seconds, wait_seconds
from ridgeline.engine.schedule.state import USEFUL_CHUNK, Limits, SchedulerState
from ridgeline.engine.schedule.step import apply, end, schedule
from ridgeline.errors import Overloaded, RequestError
from ridgeline.step import RowSampling, Sampled, StepPlan, StepResult, StepShape

LLAMA = str(Path(__file__).parent.parent / "golden" / "llama3" / "model.gguf")


def request(name: str, num_prompt: int = 8, max_tokens: int = 4, **asked: object) -> Request:
    return Request(
        id=name,
        token_ids=[sum(map(ord, name)) % 1000] * num_prompt,
        num_prompt=num_prompt,
        max_tokens=max_tokens,
        sampling=RowSampling(),
        stop_token_ids=frozenset(),
        **asked,  # type: ignore[arg-type]
    )


def step_seconds(shape: StepShape) -> float:
    return 0.010 + 0.001 * shape.num_tokens + 1e-5 * sum(shape.context_lens)


def state(queue: Queue | None = None, *, rows: int = 2, **limits: object) -> SchedulerState:
    sizes = Limits(rows, 64, 400, 4, **limits)  # type: ignore[arg-type]
    return SchedulerState.empty(sizes, 200, queue, step_seconds)


def step(at: SchedulerState, now: float) -> StepPlan:
    plan = schedule(at, now)
    at.opened.clear()
    at.closed.clear()
    if plan.rows:
        apply(at, StepResult(tuple(Sampled(r.row, 0) for r in plan.rows if r.num_logits)))
    at.check_invariants()
    return plan


def order(at: SchedulerState, requests: list[Request]) -> list[str]:
    """The names in order of admission."""
    now = 100.0
    admitted: list[str] = []
    while at.has_work:
        step(at, now)
        now += 0.01
        fresh = [r for r in requests if r.admitted is not None and r.id not in admitted]
        admitted += [r.id for r in sorted(fresh, key=lambda r: r.rank)]
    return admitted


def test_first_come_first_served() -> None:
    at = state(POLICIES["fcfs"](), rows=1)
    requests = [request(f"{i}", priority=-i) for i in range(5)]
    for each in requests:
        admit(at, each)
    assert order(at, requests) == ["0", "1", "2", "3", "4"]


def test_a_level_is_worth_its_seconds_and_no_more() -> None:
    at = state(PriorityQueue(aging_seconds=10), rows=1)
    requests = [
        request("low, early", priority=2, arrival=0),
        request("high, 19 s later", priority=0, arrival=19),
        request("high, 21 s later", priority=0, arrival=21),
        request("middle, 9 s later", priority=1, arrival=9),
    ]
    for each in requests:
        admit(at, each)
    expected = ["high, 19 s later", "middle, 9 s later", "low, early", "high, 21 s later"]
    assert order(at, requests) == expected


def test_a_better_request_takes_the_row_of_a_worse_one_and_no_token_is_lost() -> None:
    at = state(PriorityQueue(), rows=1)
    low, high = request("low", max_tokens=9, priority=5), request("high", priority=0)
    admit(at, low)
    for _ in range(3):
        step(at, 0)
    admit(at, high)
    step(at, 0)
    assert (low.status, high.status) == (Status.WAITING, Status.RUNNING)
    assert low.num_preemptions == 1
    while at.has_work:
        step(at, 0)
    assert low.num_generated == 9
    assert low.num_recomputed > 0


def test_tenants_get_tokens_by_their_weights() -> None:
    """While both wait, what they were given differs by no more than what a row is given at once."""
    queue = FairQueue({"paying": 3.0})
    at = state(queue, rows=1)
    for index in range(120):
        admit(at, request(f"free {index}", tenant="free"))
        admit(at, request(f"paying {index}", tenant="paying"))
    given = {"free": 0, "paying": 0}
    while all(any(r.tenant == tenant for r in at.waiting) for tenant in given):
        for row in schedule(at).rows:
            (runs,) = (r for r in at.running if r.row == row.row)
            given[runs.tenant] += row.num_new
        at.opened.clear()
        at.closed.clear()
        flying = [f for f in at.in_flight[0] if f.samples]
        apply(at, StepResult(tuple(Sampled(f.request.row, 0) for f in flying)))
        most = 2 * (8 + 4)
        assert abs(given["free"] - given["paying"] / 3) <= most
    assert sum(given.values()) > 1000


def test_a_tenant_that_was_away_has_saved_nothing_up() -> None:
    queue = FairQueue()
    at = state(queue, rows=1)
    for index in range(10):
        admit(at, request(f"a{index}", tenant="a"))
    for _ in range(12):
        step(at, 0)
    late = [request(f"b{index}", tenant="b") for index in range(10)]
    for each in late:
        admit(at, each)
    for _ in range(20):
        step(at, 0)
    served = sum(each.admitted is not None for each in late)
    assert 2 <= served <= 4, "in turns with a, not before all of a's"


def test_a_full_queue_says_when_to_come_back() -> None:
    at = state(rows=1, max_waiting=2)
    admit(at, request("runs", max_tokens=20))
    step(at, 0)
    admit(at, request("w1"))
    admit(at, request("w2"))
    with pytest.raises(Overloaded) as refused:
        admit(at, request("w3"))
    # 19 tokens are to come for the row that runs, each a step of about 11 ms.
    assert refused.value.retry_after_seconds == pytest.approx(0.22, rel=0.3)
    assert "w3" not in at.requests
    end(at, at.requests["w1"], "abort")
    admit(at, request("w3"))


def test_who_would_be_late_is_refused_and_who_is_late_ends() -> None:
    at = state(rows=1)
    admit(at, request("runs", max_tokens=100))
    step(at, 0)
    with pytest.raises(Overloaded, match="after its deadline"):
        admit(at, request("hopeless", deadline=0.5), now=0)
    hopeful = request("hopeful", deadline=30.0)
    admit(at, hopeful, now=0)
    assert expire(at, 29.9) == []
    (event,) = expire(at, 30.0)
    assert (event.request_id, event.finish_reason) == ("hopeful", "deadline")
    at.check_invariants()
    running = request("running", deadline=40.0)
    end(at, at.requests["runs"], "abort")
    admit(at, running, now=31)
    step(at, 31)
    assert running.status is Status.RUNNING
    assert [e.request_id for e in expire(at, 41)] == ["running"]
    assert not at.has_work
    assert at.pool.num_free == at.pool.num_blocks


def test_the_prediction_is_near_where_nothing_else_comes() -> None:
    at = state(rows=2)
    requests = [request(f"{i}", 20, 30) for i in range(6)]
    for each in requests:
        admit(at, each)
    last = request("last", 20, 30)
    predicted = finish_seconds(at, last)
    admit(at, last)
    now = 0.0
    while at.has_work:
        plan = schedule(at, now)
        now += step_seconds(plan.shape)
        apply(at, StepResult(tuple(Sampled(r.row, 0) for r in plan.rows if r.num_logits)))
    assert predicted == pytest.approx(now, rel=0.25)


@pytest.mark.parametrize("target", [0.020, 0.030, 0.050])
def test_a_prompt_is_cut_so_that_answers_keep_their_pace(target: float) -> None:
    at = state(rows=4, itl_seconds=target)
    for name in "ab":
        admit(at, request(name, max_tokens=100))
    step(at, 0)
    admit(at, request("long", 300, 5))
    chunks = []
    while at.requests["long"].num_generated == 0:
        plan = step(at, 0)
        assert sum(row.num_new == 1 for row in plan.rows) >= 2, "answers go on"
        chunk = max(row.num_new for row in plan.rows)
        chunks.append(chunk)
        assert step_seconds(plan.shape) <= target or chunk <= 16
    assert sum(chunks) == 300
    if target > 0.027:
        context = 20
        assert chunks[0] >= (target - 0.010 - 0.002) / 0.001 - 1 - context * 0.01 - 1


def test_a_pace_in_steps_follows_what_is_learned() -> None:
    factor = [1.0]

    def seconds(shape: StepShape) -> float:
        return factor[0] * step_seconds(shape)

    limits = replace(state(rows=4).limits, itl_steps=4.0)
    at = SchedulerState.empty(limits, 200, seconds=seconds)
    admit(at, request("a", max_tokens=100))
    step(at, 0)
    admit(at, request("long", 300, 5))
    chunks = []
    for learned in (1.0, 50.0):
        factor[0] = learned
        assert at.pace is not None
        at.pace.forget()
        target = at.step_target
        assert target is not None
        assert target == pytest.approx(4 * seconds(StepShape.decode(4, 400)), rel=0.2)
        plan = step(at, 0)
        chunks.append(max(row.num_new for row in plan.rows))
        assert seconds(plan.shape) <= target
    assert 1 < chunks[0] < 300
    assert chunks[1] == pytest.approx(chunks[0], abs=4), "a machine 50 times slower, the same chunk"


def test_a_pace_in_steps_of_few_rows_leaves_room_for_a_useful_chunk() -> None:
    limits = Limits(1, 256, 400, 4, itl_steps=1.5)
    at = SchedulerState.empty(limits, 200, seconds=step_seconds)
    target = at.step_target
    assert target is not None
    answers = step_seconds(StepShape.decode(1, 400))
    assert target > 1.5 * answers, "half a step of one row more is too little for any prompt"
    assert target == pytest.approx(
        answers + USEFUL_CHUNK * step_seconds(StepShape.prefill(256)) / 256, rel=0.1
    )
    few = SchedulerState.empty(replace(limits, max_tokens_per_step=8), 200, seconds=step_seconds)
    assert few.step_target is not None
    assert few.step_target < target


def bends(shape: StepShape) -> float:
    """A step of up to 48 rows takes as long as one of 48."""
    return 0.001 * max(48, shape.num_tokens)


@pytest.mark.parametrize(("share", "rows"), [(None, 60), (0.99, 48), (0.9, 44), (0.3, 32)])
def test_no_more_run_at_once_than_gain_by_it(share: float | None, rows: int) -> None:
    """Rows that only make all slower stay empty; a model that says so of fewer than kernels need
    is not believed.
    """
    limits = Limits(60, 512, 400, 4, rate_share=share)
    at = SchedulerState.empty(limits, 1000, seconds=bends)
    for number in range(70):
        admit(at, request(f"r{number}", 5 + number % 7, max_tokens=3 + number % 20))
    most = 0
    while at.has_work:
        most = max(most, len(step(at, 0).rows))
    assert most == rows
    # What a newcomer is told: it waits as soon as all rows that count are taken.
    for number in range(rows):
        assert at.has_row
        assert wait_seconds(at) == 0
        admit(at, request(f"s{number}", max_tokens=200))
        step(at, 0)
    assert not at.has_row
    assert wait_seconds(at) > 0


def test_who_outranks_those_who_run_has_a_row_beyond_those_that_gain() -> None:
    limits = Limits(60, 512, 400, 4, rate_share=0.3)
    at = SchedulerState.empty(limits, 1000, PriorityQueue(10.0), bends)
    for number in range(40):
        admit(at, request(f"r{number}", max_tokens=50))
    step(at, 0)
    assert len(at.running) == 32
    admit(at, request("first", priority=-1))
    step(at, 0)
    assert len(at.running) == 33
    assert at.requests["first"].status is Status.RUNNING
    assert at.num_preemptions == 0


def test_without_a_model_all_rows_run() -> None:
    at = SchedulerState.empty(Limits(40, 512, 400, 4, rate_share=0.5), 1000)
    for number in range(50):
        admit(at, request(f"r{number}", max_tokens=50))
    assert len(step(at, 0).rows) == 40


@pytest.mark.parametrize("share", [0.0, 1.5, float("nan")])
def test_a_share_that_means_nothing_is_refused(share: float) -> None:
    with pytest.raises(RequestError, match="rate_share"):
        state(rate_share=share)


def test_a_pace_that_no_step_can_keep_is_refused() -> None:
    with pytest.raises(RequestError, match="itl_target"):
        state(itl_seconds=0.001)
    with pytest.raises(RequestError, match="cost model"):
        SchedulerState.empty(Limits(1, 8, 40, 4, itl_seconds=1.0), 10)
    with pytest.raises(RequestError, match="itl_steps"):
        state(itl_steps=0.5)


def test_a_policy_is_chosen_by_name(tmp_path: Path) -> None:
    llm = LLM(LLAMA, policy="fair", max_waiting=2, record=tmp_path / "run.jsonl")
    params = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
    (output,) = llm.generate("one at a time", params)
    assert len(output.outputs[0].token_ids) == 4
    with pytest.raises(Overloaded, match="2 requests wait"):
        llm.generate(["three", "prompts", "at once"], params)
    header = (tmp_path / "run.jsonl").read_text().splitlines()[0]
    assert (json.loads(header)["policy"], json.loads(header)["max_waiting"]) == ("fair", 2)
    with pytest.raises(RequestError, match="fcfs, priority, fair"):
        LLM(LLAMA, policy="lottery")
