"""Rows that a simulator does not look at: nothing that comes out of it is changed by them, to the
bit, and neither is what is left in the scheduler and its cache.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from test_fleet import mixed_load, same
from test_simulate import times

from ridgeline.cost.accelerator import load_accelerator
from ridgeline.cost.chip import Mesh
from ridgeline.cost.deployment import deploy
from ridgeline.cost.described import describe
from ridgeline.engine.schedule.asleep import due, fall_asleep, may_sleep, wake
from ridgeline.engine.schedule.policies import POLICIES
from ridgeline.engine.schedule.state import Limits, SchedulerState
from ridgeline.model.configurations import load_configuration
from ridgeline.plan.fleet import Failure, Fleet, Outcome, Straggler, Transfer
from ridgeline.plan.load import Lengths, Load, closed
from ridgeline.plan.replica import Replica, SumTimes
from ridgeline.plan.simulate import simulate_fleet
from ridgeline.plan.tally import Slo
from ridgeline.plan.traces import as_requests
from ridgeline.plan.trial import Drafted
from ridgeline.step import ONE_GROUP, Answers, BlockGroup, StepShape

SLO = Slo(ttft=0.5, itl=0.02, itl99=0.02)
GROUPS = (ONE_GROUP, (BlockGroup(None, 1), BlockGroup(200, 2)), (BlockGroup(300, 1),))


def left(found: Outcome) -> list[object]:
    """In the caches: which block lies where in which order, and what it is named."""
    pools = [replica.state.pool for replica in found.replicas]
    return [(list(p._cached), list(p._free), p.names._block_of) for p in pools]


def check(fleet: Fleet, load: Load) -> Outcome:
    """The outcome, which is the same whether rows sleep or not."""
    slept, looked_at = (simulate_fleet(replace(fleet, sleeps=s), load, SLO) for s in (True, False))
    assert same(slept, looked_at)
    assert slept.tally.good == looked_at.tally.good
    assert slept.levels.sums == looked_at.levels.sums
    assert slept.num_planned_steps == looked_at.num_planned_steps
    assert slept.num_preemptions == looked_at.num_preemptions
    assert left(slept) == left(looked_at)
    for replica in slept.replicas:
        replica.state.check_invariants()
        assert not replica.state.asleep.count
    return slept


@pytest.mark.parametrize("window", [None, 700])
def test_sleep_changes_nothing(window: int | None) -> None:
    """Caches that are too small, windows, recurrent states, policies, failures, stragglers,
    deadlines, prompts computed elsewhere.
    """
    cost = times(window)
    preempted = 0
    for seed in range(18):
        rng = random.Random(seed)
        size, groups = rng.choice([16, 64]), rng.choice(GROUPS)
        # Of 64 tokens each, in every group; a row has 27 at most.
        blocks = rng.choice([30, 50, 120]) * 64 // size * sum(group.blocks for group in groups)
        target = rng.choice([None, 0.02])
        limits = Limits(
            20, 512, 4000, size,
            itl_seconds=target, rate_share=[None, 0.3][seed % 2],
            wave_seconds=None if target else [None, 0.5, 60.0][seed % 3],
            is_recurrent=rng.random() < 0.3,
        )  # fmt: skip
        policy = rng.choice(["fcfs", "fcfs", *POLICIES])

        def make(
            limits: Limits = limits,
            blocks: int = blocks,
            groups: tuple[BlockGroup, ...] = groups,
            policy: str = policy,
        ) -> SchedulerState:
            slots = 20 if limits.is_recurrent else 0
            return SchedulerState.empty(limits, blocks, POLICIES[policy](), cost, groups, slots)

        fleet = Fleet(
            make,
            cost,
            replicas=rng.choice([1, 3]),
            failures=(Failure(0, 0.8, 0.5),) if seed % 4 == 1 else (),
            stragglers=(Straggler(0, 3.0, 0.5),) if seed % 4 == 2 else (),
            timeout_seconds=2.0 if seed % 6 == 5 else None,
            leaps=seed % 3 > 0,
        )
        if fleet.replicas > 1 and seed % 2:
            fleet = replace(fleet, prefill=1, transfer=Transfer(lambda tokens: tokens * 1e4, 1e8))
        preempted += check(fleet, mixed_load(seed, 100, rng.choice([60, 200, 600]))).num_preemptions
    assert preempted > 0


def test_users_who_ask_again_and_a_batch_that_is_full() -> None:
    cost = times()

    def make() -> SchedulerState:
        return SchedulerState.empty(Limits(40, 256, 4000, 16), 1500)

    found = check(Fleet(make, cost), closed(40, Lengths(30, 200), Lengths(1, 300), 120, seed=4))
    assert found.tally.num_finished == 120


def test_most_rows_of_most_steps_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    cost = times()
    looked_at = [0, 0]

    def make() -> SchedulerState:
        return SchedulerState.empty(Limits(200, 2048, 4000, 64), 4000)

    end_step = Replica.end_step
    for index, sleeps in enumerate((True, False)):

        def counted(replica: Replica, now: float, index: int = index) -> object:
            assert replica.plan is not None
            looked_at[index] += len(replica.plan.rows)
            return end_step(replica, now)

        monkeypatch.setattr(Replica, "end_step", counted)
        load = closed(200, Lengths(100, 400), Lengths(100, 300), 300, seed=2)
        simulate_fleet(Fleet(make, cost, leaps=False, sleeps=sleeps), load)
    assert looked_at[0] < looked_at[1] / 10


def test_who_sleeps_wakes_for_what_happens_to_it() -> None:
    """A row with 100 tokens of 16 to a block: its seventh is full at 112."""
    state = SchedulerState.empty(Limits(4, 512, 4000, 16), 100)
    load = closed(1, Lengths(99, 99), Lengths(60, 60), 1, seed=0)
    replica = Replica(0, "both", lambda: state, times(), sleeps=False)
    (request,) = as_requests(load.arrivals())
    replica.door.append(request)
    replica.begin(0.0, lambda request, error: None)
    replica.end_step(1.0)
    assert (len(request.token_ids), request.num_planned) == (100, 99)
    assert may_sleep(state)
    assert fall_asleep(state) == [request]
    assert not state.running
    assert state.asleep.count == 1
    for _ in range(12):
        assert due(state) == []
        state.asleep.tick()
    assert due(state) == [request]
    assert state.asleep.context == 111
    assert state.asleep.contexts() == [111]
    wake(state, [request])
    assert (len(request.token_ids), request.num_planned, request.num_computed) == (112, 111, 111)
    assert state.asleep.context == state.asleep.count == 0
    state.check_invariants()
    # It fills a block now, and needs one in the next step.
    assert fall_asleep(state) == []


@pytest.mark.parametrize("kind", ["roofline", "deployment", "drafted"])
def test_answers_as_sums_cost_what_their_rows_cost(kind: str) -> None:
    def deployment(model: str) -> SumTimes:
        described = describe(load_configuration(model).config, "fp8")
        return deploy(described, chip=load_accelerator("h100").chip(), mesh=Mesh(tp=2)).step_times()

    makes: dict[str, Callable[[], list[SumTimes]]] = {
        "roofline": lambda: [times(), times(700)],
        "deployment": lambda: [deployment("llama-3.1-8b"), deployment("gpt-oss-20b")],
        "drafted": lambda: [Drafted(deployment("llama-3.1-8b"), 2, 2.4, 1.1)],
    }
    rng = random.Random(5)
    for cost in makes[kind]():
        assert isinstance(cost, SumTimes)
        for _ in range(60):
            asleep = [rng.randrange(1, 3000) for _ in range(rng.choice([1, 7, 300]))]
            others = [
                rng.choice([(1, rng.randrange(1, 3000)), (rng.randrange(20, 900), 64)])
                for _ in range(rng.choice([0, 0, 1, 5]))
            ]
            read = tuple(
                sum(c + 1 if w is None else min(c + 1, w) for c in asleep) for w in cost.windows
            )
            new, contexts = [n for n, _ in others], [c for _, c in others]
            awake = StepShape(tuple(new), tuple(contexts), len(others))
            all_rows = StepShape(
                (*new, *(1 for _ in asleep)), (*contexts, *asleep), len(others) + len(asleep)
            )
            assert cost.beside(awake, Answers(len(asleep), read)) == cost(all_rows)
