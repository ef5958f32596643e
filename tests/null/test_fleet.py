"""A simulated fleet: against closed forms, against the engine, and what no failure may break."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray

from ridgeline.backends.null.executor import NullExecutor
from ridgeline.backends.simulated.executor import SimulatedExecutor, VirtualClock
from ridgeline.engine.engine import Engine
from ridgeline.engine.request import Request
from ridgeline.engine.schedule.policies import POLICIES
from ridgeline.engine.schedule.state import Limits, SchedulerState
from ridgeline.errors import EngineError, RequestError
from ridgeline.plan.fleet import Failure, Fleet, Outcome, Straggler, Transfer
from ridgeline.plan.load import Lengths, Load, closed, counted, poisson, recorded
from ridgeline.plan.routers import ROUTERS
from ridgeline.plan.simulate import simulate_fleet
from ridgeline.plan.tally import Gaps, Levels, Slo, percentile
from ridgeline.plan.traces import Arrival, as_requests
from ridgeline.step import StepPlan, StepShape


@dataclass(frozen=True)
class Linear:
    """Seconds of a step, of each of its tokens and of each token of context."""

    step: float = 0.002
    token: float = 1e-5
    context: float = 1e-8

    def __call__(self, shape: StepShape) -> float:
        return (
            self.step
            + self.token * shape.num_tokens
            + self.context * shape.cached_tokens_read(None)
        )

    def decode_run(self, contexts: Sequence[int], count: int) -> NDArray[np.float64]:
        shapes = (
            StepShape((1,) * len(contexts), tuple(c + i for c in contexts), len(contexts))
            for i in range(count)
        )
        return np.fromiter(map(self, shapes), np.float64, count)


def state(rows: int = 8, tokens: int = 512, blocks: int = 2000, **more: object) -> SchedulerState:
    limits = Limits(rows, tokens, 30_000, 16, **more)  # type: ignore[arg-type]
    return SchedulerState.empty(limits, blocks)


def mixed_load(seed: int, count: int = 150, rate: float = 60.0) -> Load:
    rng = random.Random(seed)
    now, arrivals = 0.0, []
    for _ in range(count):
        now += rng.choice([0.0, rng.expovariate(rate)])
        prefix = rng.choice([(0, 1), (0, 2), (3,), (5, 6, 7)])
        arrivals.append(
            Arrival(
                now,
                512 * len(prefix) - rng.randrange(500),
                rng.choice([1, rng.randrange(1, 60)]),
                prefix,
                f"s{rng.randrange(5)}",
            )
        )
    return recorded(arrivals)


def test_a_load_says_how_much_of_it_has_come() -> None:
    told: list[int] = []
    load = poisson(10, Lengths(1, 9), Lengths(1, 9), 250, seed=1)
    again = counted(load, told.append)
    assert list(again.arrivals()) == list(load.arrivals())
    assert (again.count, told) == (250, [100, 200, 250])


def ended(found: Outcome) -> int:
    tally = found.tally
    return tally.num_finished + tally.num_refused + tally.num_expired


def same(a: Outcome, b: Outcome) -> bool:
    return (
        (a.tally.ttft, a.tally.e2e, a.tally.tpot, a.seconds, a.tally.output_tokens)
        == (b.tally.ttft, b.tally.e2e, b.tally.tpot, b.seconds, b.tally.output_tokens)
        and [r.num_steps for r in a.replicas] == [r.num_steps for r in b.replicas]
        and bool((a.tally.gaps.counts == b.tally.gaps.counts).all())
    )


def test_prompts_alone_are_an_md1_queue() -> None:
    """One row, answers of one token: Pollaczek and Khinchine's mean wait, rho s / (2 (1 - rho))."""
    times = Linear(step=0.01, token=0, context=0)
    for rho in (0.3, 0.6, 0.8):
        load = poisson(rho / 0.01, Lengths(100, 100), Lengths(1, 1), 9_000, seed=3)
        found = simulate_fleet(Fleet(lambda: state(rows=1), times), load)
        wait = sum(found.tally.ttft) / len(found.tally.ttft) - 0.01
        assert wait == pytest.approx(rho * 0.01 / (2 * (1 - rho)), rel=0.1)
        assert found.busy_seconds / found.seconds == pytest.approx(rho, rel=0.02)


def test_littles_law() -> None:
    load = poisson(20, Lengths(50, 400), Lengths(5, 100), 3000, seed=1)
    found = simulate_fleet(Fleet(state, Linear(), replicas=3, router="round-robin"), load)
    levels = found.levels
    sums = dict(zip(levels.names, levels.sums, strict=True))
    present = sum(sums["waiting"]) + sum(sums["running"])
    # The time in the system, once summed over time and once over requests.
    assert present == pytest.approx(sum(found.tally.e2e), rel=1e-9)


def test_a_closed_loop_turns_as_often_as_its_users_do() -> None:
    users, count, output = 6, 600, 40
    load = closed(users, Lengths(64, 64), Lengths(output, output), count, seed=0)
    found = simulate_fleet(Fleet(state, Linear(context=0)), load)
    assert found.tally.num_finished == count
    # Throughput x time in the system = users, but for the start and the end.
    rate = count / found.seconds
    assert rate * sum(found.tally.e2e) / count == pytest.approx(users, rel=0.02)
    # All in step: a step takes 2 ms and 10 us a token, of each user's 64 + 39 tokens.
    one = output * 0.002 + users * (64 + output - 1) * 1e-5
    assert sum(found.tally.e2e) / count == pytest.approx(one, rel=0.1)


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_the_engine_plans_the_same_steps(policy: str) -> None:
    """The engine's own loop over an executor that checks every block, on the simulator's clock."""
    times, sizes = Linear(), {"num_blocks": 110, "max_rows": 6}
    limits = Limits(6, 512, 4000, 16, itl_seconds=0.01)
    plans: list[StepPlan] = []
    clock = VirtualClock()
    null = NullExecutor(vocab_size=99, **sizes)
    engine = Engine(
        SimulatedExecutor(times, clock, tokens=null, **sizes),
        max_context=4000,
        max_tokens_per_step=512,
        policy=policy,
        itl_target=0.01,
        seconds=times,
        clock=clock,
    )
    load = mixed_load(5, 80)
    coming = [
        replace(r, token_ids=[t % 99 for t in r.token_ids]) for r in as_requests(load.arrivals())
    ]
    first: dict[str, float] = {}
    last: dict[str, float] = {}
    while coming or engine.has_work:
        if not engine.has_work and coming:
            clock.wait_until(coming[0].arrival)
        while coming and coming[0].arrival <= clock.now:
            engine.submit(coming.pop(0))
        plan, events = engine.step_with_plan()
        plans.append(plan)
        for event in events:
            first.setdefault(event.request_id, clock.now)
            last[event.request_id] = clock.now
    simulated: list[StepShape] = []

    class Watching(Linear):
        def __call__(self, shape: StepShape) -> float:
            simulated.append(shape)
            return super().__call__(shape)

    def empty() -> SchedulerState:
        return SchedulerState.empty(limits, 110, POLICIES[policy](), times)

    found = simulate_fleet(Fleet(empty, Watching(), leaps=False), load)
    assert simulated == [plan.shape for plan in plans if plan.rows]
    assert engine.state.num_preemptions == found.num_preemptions > 0
    arrivals = {r.id: r.arrival for r in as_requests(load.arrivals())}
    assert sorted(found.tally.ttft) == sorted(first[i] - arrivals[i] for i in first)
    assert sorted(found.tally.e2e) == sorted(last[i] - arrivals[i] for i in last)
    assert same(found, simulate_fleet(Fleet(empty, times, leaps=False), load))
    leapt = simulate_fleet(Fleet(empty, times), load)
    assert same(leapt, found)
    assert leapt.num_planned_steps < found.num_planned_steps


@pytest.mark.parametrize("router", sorted(ROUTERS))
@pytest.mark.parametrize("prefill", [0, 2])
def test_every_request_ends_once_whatever_fails(router: str, prefill: int) -> None:
    rng = random.Random(f"{router}{prefill}")
    for seed in range(6):
        failures = tuple(
            Failure(rng.randrange(5), rng.uniform(0, 2.5), rng.uniform(0.01, 1.5))
            for _ in range(rng.randrange(1, 12))
        )
        most = 12 if seed % 3 == 0 else None
        fleet = Fleet(
            partial(state, 4, 256, 2000 if seed < 2 else 150, max_waiting=most),
            Linear(),
            replicas=5,
            prefill=prefill,
            router=router,
            transfer=Transfer(lambda n: 1e5 * n, 1e10, 1e-3),
            failures=failures,
            stragglers=(Straggler(1, 3.0, 0.5),),
            keeps_progress=bool(seed % 2),
            timeout_seconds=0.3 if seed % 3 == 1 else None,
        )
        load = mixed_load(seed)
        found = simulate_fleet(fleet, load)
        assert found.num_requests == 150 == ended(found)
        if not (found.tally.num_refused or found.tally.num_expired):
            asked = list(load.arrivals())
            assert found.tally.output_tokens == sum(a.num_output for a in asked)
        for replica in found.replicas:
            replica.state.check_invariants()
            assert not replica.state.requests
        assert same(found, simulate_fleet(fleet, load))
        # Where blocks are short, a leap takes its own before it names them, and of two rows that
        # write the same another one may keep the name.
        if seed < 2:
            assert same(found, simulate_fleet(replace(fleet, leaps=False), load))


def test_a_fleet_without_a_replica_left_says_so() -> None:
    fleet = Fleet(state, Linear(), replicas=2, failures=(Failure(0, 0.1), Failure(1, 0.2)))
    with pytest.raises(EngineError, match="no replica left"):
        simulate_fleet(fleet, mixed_load(0))


def test_a_lost_replica_costs_what_it_had_done() -> None:
    load = closed(4, Lengths(200, 200), Lengths(100, 100), 40, seed=2)
    calm = simulate_fleet(Fleet(state, Linear(), replicas=2), load)
    lost = Fleet(state, Linear(), replicas=2, failures=(Failure(1, 0.3, 0.5),))
    kept, anew = (simulate_fleet(replace(lost, keeps_progress=k), load) for k in (True, False))
    assert calm.seconds < kept.seconds < anew.seconds
    assert kept.tally.num_moved == anew.tally.num_moved == 2
    assert kept.tally.num_lost_tokens == 0 < anew.tally.num_lost_tokens
    assert all(o.tally.output_tokens == 4000 for o in (calm, kept, anew))
    assert sum(kept.up_seconds) == pytest.approx(2 * kept.seconds - 0.5)


def test_a_step_that_ends_somebody_is_not_planned_and_may_still_be_lost() -> None:
    """Alone, a request of 60 tokens has one planned step; a replica that fails while the last one
    runs, or as it ends, does so before the token is told.
    """
    load = recorded([Arrival(0.0, 100, 60), Arrival(10.0, 100, 60)])
    whole, stepwise = (simulate_fleet(Fleet(state, Linear(), leaps=n), load) for n in (True, False))
    assert same(whole, stepwise)
    assert (whole.num_planned_steps, stepwise.num_planned_steps) == (2, 120)
    end = whole.tally.e2e[0]
    for moment in (end - 1e-4, end):
        failed = Fleet(state, Linear(), failures=(Failure(0, moment, 1.0),))
        found, slow = (simulate_fleet(replace(failed, leaps=n), load) for n in (True, False))
        assert same(found, slow)
        assert found.tally.num_moved == slow.tally.num_moved == 1
        assert found.tally.output_tokens == 120
        found.replicas[0].state.check_invariants()


def test_a_straggler_is_avoided_by_who_looks_at_the_load() -> None:
    load = poisson(40, Lengths(100, 100), Lengths(50, 50), 1500, seed=4)
    worst = {}
    for router in ("round-robin", "least-loaded"):
        fleet = Fleet(
            lambda: state(rows=16), Linear(), 4, router=router, stragglers=(Straggler(2, 4.0),)
        )
        worst[router] = percentile(simulate_fleet(fleet, load).tally.e2e, 0.99)
    assert worst["least-loaded"] < worst["round-robin"]


def test_apart_and_together_are_one_engine_where_steps_never_meet() -> None:
    """One request at a time and a link that costs nothing: it is no matter where it is computed."""
    arrivals = [Arrival(10.0 * i, 700 + i, 20 + i) for i in range(12)]
    together = simulate_fleet(Fleet(state, Linear()), recorded(arrivals))
    fleet = Fleet(state, Linear(), replicas=2, prefill=1)
    apart = simulate_fleet(fleet, recorded(arrivals))
    assert apart.tally.ttft == pytest.approx(together.tally.ttft)
    assert apart.tally.e2e == pytest.approx(together.tally.e2e)
    # Nothing is computed twice: as many steps, each where it belongs.
    assert [r.num_steps for r in apart.replicas] == [2 * 12, together.num_steps - 2 * 12]
    link = Transfer(lambda tokens: 1000.0 * tokens, 1e6, 0.25)
    slow = simulate_fleet(replace(fleet, transfer=link), recorded(arrivals))
    for arrival, a, b in zip(arrivals, apart.tally.e2e, slow.tally.e2e, strict=True):
        assert b - a == pytest.approx(0.25 + arrival.num_prompt / 1000)
    assert slow.tally.ttft == pytest.approx(apart.tally.ttft)
    assert slow.tally.transferred_bytes == 1000 * sum(a.num_prompt for a in arrivals)


def test_answers_are_not_held_up_by_prompts_that_run_elsewhere() -> None:
    load = poisson(12, Lengths(2000, 2000), Lengths(60, 60), 400, seed=6)
    times = Linear(token=1e-4)
    make = lambda: state(rows=32, tokens=2048, blocks=8000)  # noqa: E731
    gaps = {}
    for prefill in (0, 1):
        fleet = Fleet(make, replace(times, token=2e-5), replicas=2, prefill=prefill)
        gaps[prefill] = simulate_fleet(fleet, load).tally.gaps.percentile(0.99)
    assert gaps[1] < gaps[0] / 2


def test_a_link_is_shared_by_those_who_send_at_once() -> None:
    arrivals = [Arrival(0.0, 100, 2) for _ in range(4)]
    fleet = Fleet(
        state, Linear(), 2, prefill=1, transfer=Transfer(lambda _n: 1e6, bytes_per_second=1e6)
    )
    found = simulate_fleet(fleet, recorded(arrivals))
    assert found.tally.transfer_seconds == pytest.approx(1 + 2 + 3 + 4)
    assert sorted(found.tally.e2e) == pytest.approx([1, 2, 3, 4], abs=0.02)


def test_who_begins_alike_meets_where_it_is_cached() -> None:
    arrivals = [
        Arrival(0.05 * i, 2048, 4, (i % 24, 100 + i % 24, 200 + i % 24, 999)) for i in range(600)
    ]
    hits = {}
    for router in sorted(ROUTERS):
        fleet = Fleet(lambda: state(blocks=900), Linear(), replicas=6, router=router)
        tally = simulate_fleet(fleet, recorded(arrivals)).tally
        hits[router] = tally.cached_tokens / tally.prompt_tokens
    assert min(hits["prefix"], hits["prefix-hash"]) > 0.8
    assert hits["prefix"] > hits["least-loaded"]


def test_a_lost_replica_moves_only_its_own_share_of_a_ring() -> None:
    router = ROUTERS["session"](8, 16)
    requests = [
        Request(str(i), [1], 1, 1, None, frozenset(), tenant=f"user{i}")  # type: ignore[arg-type]
        for i in range(400)
    ]
    before = [router.choose(r, range(8)) for r in requests]
    after = [router.choose(r, [0, 1, 2, 4, 5, 6, 7]) for r in requests]
    assert all(a == b for a, b in zip(after, before, strict=True) if b != 3)
    assert 3 not in after
    counts = [before.count(number) for number in range(8)]
    assert min(counts) > 20
    assert max(counts) < 90


def test_goodput_is_what_meets_every_bound() -> None:
    load = mixed_load(9)
    free = simulate_fleet(Fleet(state, Linear(), 2), load)
    assert free.tally.num_good == free.tally.num_finished == 150
    ttft = percentile(free.tally.ttft, 0.5)
    bound = simulate_fleet(Fleet(state, Linear(), 2), load, Slo(ttft=ttft))
    assert bound.tally.num_good == sum(t <= ttft for t in free.tally.ttft)
    assert simulate_fleet(Fleet(state, Linear(), 2), load, Slo(itl99=1e-9)).tally.num_good == sum(
        a.num_output == 1 for a in load.arrivals()
    )


def test_gaps_are_counted_to_half_a_percent() -> None:
    rng = np.random.default_rng(0)
    seconds = rng.lognormal(-4, 1, 5000)
    one, many = Gaps(), Gaps()
    for value in seconds.tolist():
        one.add(value, 3)
    many.add_all(seconds, 3)
    assert abs(int((one.counts - many.counts).sum())) == 0
    for share in (0.01, 0.5, 0.99):
        exact = percentile(seconds.tolist(), share)
        assert one.percentile(share) == pytest.approx(exact, rel=0.006)
        assert many.percentile(share) == pytest.approx(exact, rel=0.006)


def test_levels_keep_their_sums_as_time_goes_on() -> None:
    levels, rng, now, total = Levels(("a", "b"), width=0.01), random.Random(0), 0.0, 0.0
    for _ in range(3000):
        end = now + rng.expovariate(30)
        level = float(rng.randrange(4))
        levels.add(now, end, (level, 2.0))
        total, now = total + level * (end - now), end
    assert sum(levels.sums[0]) == pytest.approx(total)
    assert sum(levels.sums[1]) == pytest.approx(2 * now)
    assert levels.means(now)["b"] == pytest.approx([2.0] * len(levels.means(now)["b"]))


@pytest.mark.parametrize(
    ("fleet", "field"),
    [
        (Fleet(state, Linear(), replicas=0), "--replicas"),
        (Fleet(state, Linear(), replicas=2, prefill=2), "--disaggregate"),
        (Fleet(state, Linear(), failures=(Failure(1, 0.0),)), "--fail"),
        (Fleet(state, Linear(), stragglers=(Straggler(0, 0.0),)), "--straggler"),
        (Fleet(state, Linear(), router="best"), "--router"),
    ],
)
def test_what_no_fleet_can_be_is_refused(fleet: Fleet, field: str) -> None:
    with pytest.raises(RequestError, match=field):
        simulate_fleet(fleet, mixed_load(0))


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_that_cannot_be_is_refused(rate: float) -> None:
    with pytest.raises(RequestError, match="--rate"):
        poisson(rate, Lengths(1, 1), Lengths(1, 1), 1, 0)
