"""The simulator: leaps change nothing, traces are read, and caches hit as far as prompts repeat."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from small_graphs import Decoder, decoder

from ridgeline.cost.device import Device
from ridgeline.cost.step_times import StepTimes
from ridgeline.engine.kv.prefix import prefix_hashes
from ridgeline.engine.request import Request
from ridgeline.engine.schedule.policies import POLICIES
from ridgeline.engine.schedule.state import Limits, SchedulerState
from ridgeline.model.graph.work import Precision
from ridgeline.plan.one_engine import Simulation, simulate
from ridgeline.plan.tally import percentile
from ridgeline.plan.trace_files import read_trace
from ridgeline.plan.traces import Arrival, as_requests, repeated
from ridgeline.step import StepShape

DEVICE = Device("made up", 2e8, {"bf16": 1e9, "f32": 1e9}, cache_bytes=2**18)


def times(window: int | None = None) -> StepTimes:
    graph = decoder(Decoder(vocab=4096, max_context=8192, window=window))
    return StepTimes(graph, Precision(), DEVICE)


def load(seed: int, count: int = 120) -> list[Request]:
    rng = random.Random(seed)
    arrivals, now = [], 0.0
    for _ in range(count):
        now += rng.choice([0.0, rng.expovariate(400), rng.expovariate(40)])
        prefix = tuple(rng.choice([(0, 1), (0, 2), (3,), (5, 6, 7)]))
        arrivals.append(
            Arrival(now, 512 * len(prefix) - rng.randrange(500), rng.randrange(1, 60), prefix)
        )
    return [
        replace_request(r, rng.choice("ab"), rng.randrange(3), rng.random() < 0.1)
        for r in as_requests(arrivals)
    ]


def replace_request(request: Request, tenant: str, priority: int, hurried: bool) -> Request:
    request.tenant, request.priority = tenant, priority
    request.deadline = request.arrival + 0.4 if hurried else None
    return request


@pytest.mark.parametrize("window", [None, 700])
@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_leaps_change_nothing(policy: str, window: int | None) -> None:
    cost = times(window)
    for seed in range(4):
        found: list[Simulation] = []
        for leaps in (True, False):
            limits = Limits(
                24,
                512,
                4000,
                64,
                itl_seconds=[None, 0.02][seed % 2],
                rate_share=[0.3, None][seed % 2],
                itl_steps=[2.0, None][seed // 2],
                wave_seconds=[2.0, None][seed % 2],
            )
            state = SchedulerState.empty(limits, [90, 300][seed // 2], POLICIES[policy](), cost)
            found.append(simulate(load(seed), state, cost, leaps=leaps))
            state.check_invariants()
        assert found[0].num_planned_steps < found[1].num_planned_steps
        leapt = replace(found[0], num_planned_steps=found[1].num_planned_steps)
        assert leapt == found[1]
        assert found[0].num_finished + found[0].num_expired + found[0].num_refused == 120


def test_a_run_of_decode_steps_costs_what_each_costs() -> None:
    for window in (None, 100):
        cost = times(window)
        contexts = [5, 90, 300]
        run = iter(cost.decode_run(contexts, 20))
        for done in range(20):
            shape = StepShape((1, 1, 1), tuple(c + done for c in contexts), 3)
            assert next(run) == cost(shape)


def test_a_cache_of_any_size_hits_no_more_than_the_prompts_repeat() -> None:
    trace = [Arrival(float(i), 1500, 2, (0, 1 + i % 3, 10 + i)) for i in range(60)]
    rates = []
    for num_blocks in (4, 8, 40, 200):
        state = SchedulerState.empty(Limits(1, 4096, 4096, 512), num_blocks)
        rates.append(simulate(as_requests(trace), state, times()).hit_rate)
    assert rates == sorted(rates)
    # All but the first have the first block, all but the first three the second.
    assert rates[-1] == pytest.approx((59 * 512 + 57 * 512) / (60 * 1500))
    assert rates[0] < rates[-1]


@pytest.mark.parametrize("size", [16, 64, 512, 48])
def test_short_names_are_names_and_who_explains_nothing_finds_as_much(size: int) -> None:
    """Names of a trace's ids are alike where those of tokens are: prompts that begin alike, in
    different lengths, and rows that are preempted where blocks are short; an index that explains no
    misses evicts and finds the same.
    """
    rng = random.Random(size)
    prefixes = [(0, 1, 2), (0, 1), (0, 1, 4, 4), (3,), (4, 4, 5), (0, 0, 0), (6, 7)]
    arrivals = [
        Arrival(0.01 * i, 512 * len(prefix) - rng.randrange(500), rng.randrange(1, 90), prefix)
        for i in range(150)
        for prefix in [rng.choice(prefixes)]
    ]
    arrivals += [Arrival(1.5 + 0.01 * i, rng.randrange(30, 900), 40) for i in range(40)]
    cost = times()
    found = []
    for named, explains in ((None, True), (size, True), (None, False), (size, False)):
        limits = Limits(6, 512, 4000, size)
        state = SchedulerState.empty(limits, 2600 // size, explains=explains)
        requests = list(as_requests(arrivals, named))
        of_ids = [list(r.names) for r in requests]
        assert (any(of_ids)) == (named is not None)
        found.append(simulate(requests, state, cost))
        state.check_invariants()
        for request, names in zip(requests, of_ids, strict=True):
            full = len(names)
            assert len(set(names)) == full
            own = list(prefix_hashes(request.token_ids[: request.num_prompt], size))
            assert not names or (names[0] == own[0] and full == len(own))
    assert found[0] == found[1] == found[2] == found[3]
    assert found[0].num_preemptions > 0
    assert 0 < found[0].hit_rate < 1


def test_traces_are_read_and_repeated(tmp_path: Path) -> None:
    azure = tmp_path / "a.csv"
    azure.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n"
        "2023-11-16 18:15:50.9951690,396,109\n"
    )
    first, second = read_trace(azure)
    assert first == Arrival(0.0, 374, 44)
    assert second.seconds == pytest.approx(4.314579)
    mooncake = tmp_path / "m.jsonl"
    mooncake.write_text(
        '{"timestamp": 1000, "input_length": 700, "output_length": 5, "hash_ids": [0, 1]}\n'
        '{"timestamp": 3500, "input_length": 900, "output_length": 6, "hash_ids": [0, 2]}\n'
    )
    trace = read_trace(mooncake)
    assert [a.seconds for a in trace] == [0.0, 2.5]
    again = list(repeated(trace, 5))
    assert [a.seconds for a in again] == [0.0, 2.5, 5.0, 7.5, 10.0]
    assert again[2].prefix == (3, 4)
    requests = list(as_requests(again))
    assert [len(r.token_ids) for r in requests] == [700, 900, 700, 900, 700]
    assert requests[0].token_ids[:512] == requests[1].token_ids[:512]
    assert requests[0].token_ids[512] != requests[1].token_ids[512]
    assert requests[0].token_ids[0] != requests[2].token_ids[0]


def test_a_percentile_is_one_of_the_values() -> None:
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert [percentile(values, s) for s in (0.0, 0.2, 0.5, 0.99, 1.0)] == [1, 1, 3, 5, 5]
    assert percentile([], 0.5) != percentile([], 0.5)
