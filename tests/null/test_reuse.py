"""Stack distances against caches that are simulated block by block, and against the scheduler's."""

from __future__ import annotations

import random
from collections import OrderedDict

import pytest

from ridgeline.engine.schedule.state import Limits, SchedulerState
from ridgeline.errors import RidgelineError
from ridgeline.plan.one_engine import simulate
from ridgeline.plan.reuse import Tier, measure_reuse, tier_gains
from ridgeline.plan.traces import HASHED_TOKENS, Arrival, as_requests
from ridgeline.step import StepShape


def conversations(seed: int, count: int = 400) -> list[Arrival]:
    """Prompts that go on from earlier ones, or begin like all others."""
    rng = random.Random(seed)
    trace: list[Arrival] = []
    fresh = iter(range(1, 1 << 30))
    for index in range(count):
        before = rng.choice(trace).prefix if trace and rng.random() < 0.6 else (0,)
        prefix = (
            *before[: rng.randrange(1, len(before) + 1)],
            *(next(fresh) for _ in range(rng.randrange(1, 5))),
        )
        tokens = HASHED_TOKENS * len(prefix) - rng.choice([0, 1, 300])
        trace.append(Arrival(60.0 * index, tokens, 1, prefix[:40]))
    return [Arrival(a.seconds, min(a.num_prompt, 512 * len(a.prefix)), 1, a.prefix) for a in trace]


def hits_of_lru(trace: list[Arrival], num_blocks: int) -> int:
    """Tokens that a cache of whole prefixes has, the end of a prefix going first."""
    held: OrderedDict[tuple[int, ...], None] = OrderedDict()
    hits = 0
    for arrival in trace:
        full = arrival.num_prompt // HASHED_TOKENS
        names = [arrival.prefix[: n + 1] for n in range(full)]
        for name in names[: (arrival.num_prompt - 1) // HASHED_TOKENS]:
            if name not in held:
                break
            hits += HASHED_TOKENS
        for name in reversed(names):
            held.pop(name, None)
            held[name] = None
        while len(held) > num_blocks:
            held.popitem(last=False)
    return hits


@pytest.mark.parametrize("seed", range(4))
def test_one_pass_is_every_size_at_once(seed: int) -> None:
    trace = conversations(seed)
    reuse = measure_reuse(trace)
    for num_blocks in (1, 7, 40, 100, 333, 5000):
        assert reuse.hit_tokens(num_blocks) == hits_of_lru(trace, num_blocks)
    rates = [reuse.hit_rate(n) for n in range(0, 2000, 50)]
    assert rates == sorted(rates)
    assert rates[0] == 0
    assert reuse.hit_rate(10**9) == reuse.most > 0.2
    assert reuse.prompt_tokens == sum(a.num_prompt for a in trace)


def test_the_schedulers_cache_finds_what_is_said() -> None:
    """One request at a time: the real cache has its blocks' worth, but for those of the request
    that runs, which it must have room for beside what it keeps.
    """
    trace = conversations(9, 300)
    reuse = measure_reuse(trace)

    class Step:
        def __call__(self, shape: StepShape) -> float:
            return 1e-3

    for num_blocks in (60, 150, 400, 2000):
        state = SchedulerState.empty(Limits(1, 1 << 16, 1 << 17, HASHED_TOKENS), num_blocks)
        found = simulate(as_requests(trace), state, Step(), leaps=False)  # type: ignore[arg-type]
        assert found.num_finished == 300
        low, high = reuse.hit_rate(num_blocks - 41), reuse.hit_rate(num_blocks)
        assert low - 0.01 <= found.hit_rate <= high + 0.005
    assert found.hit_rate == pytest.approx(reuse.most)


def test_a_tier_pays_where_moving_beats_computing() -> None:
    reuse = measure_reuse(conversations(1))
    tiers = [
        Tier("cache", 20 * 512, float("inf")),
        Tier("near", 100 * 512, 2e6),
        Tier("far", 10**9, 0.5e6),
    ]
    cache, near, far = tier_gains(reuse, tiers, prefill_tokens_per_second=1000, bytes_per_token=1e3)
    assert cache.moving_seconds == 0
    assert cache.added_tokens == reuse.hit_tokens(20)
    assert near.added_tokens == reuse.hit_tokens(120) - reuse.hit_tokens(20)
    assert near.pays
    assert near.saved_seconds == pytest.approx(near.added_tokens * (1e-3 - 0.5e-3))
    assert not far.pays
    assert far.hit_rate == pytest.approx(reuse.most)
    assert near.break_even_bytes_per_second == 1e6


def test_a_trace_without_prefixes_says_nothing_of_caches() -> None:
    with pytest.raises(RidgelineError, match="begin alike"):
        measure_reuse([Arrival(0.0, 100, 1), Arrival(1.0, 100, 1)])
