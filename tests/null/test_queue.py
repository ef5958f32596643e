"""Waits for a first token: the formula against the simulator, and against known queues."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
import pytest
from numpy.typing import NDArray

from ridgeline.engine.schedule.state import Limits, SchedulerState
from ridgeline.plan.choice import Asked
from ridgeline.plan.fleet import Fleet
from ridgeline.plan.load import Lengths, poisson
from ridgeline.plan.operating import Point, keeps, operated
from ridgeline.plan.queue import Queue, erlang_c
from ridgeline.plan.simulate import simulate_fleet
from ridgeline.plan.tally import percentile
from ridgeline.step import StepShape

PROMPT = 1000


@dataclass(frozen=True)
class Prompts:
    """A step takes `base` and so much for each prompt's token, nothing for answers."""

    base: float
    token: float

    def __call__(self, shape: StepShape) -> float:
        return self.base + self.token * sum(n for n in shape.new_tokens if n > 1)

    def decode_run(self, contexts: Sequence[int], count: int) -> NDArray[np.float64]:
        return np.full(count, self.base)


@pytest.mark.parametrize(
    ("servers", "batch", "base", "busy"),
    [(1, 4, 0.02, 0.5), (1, 4, 0.02, 0.8), (1, 1, 0.05, 0.5), (1, 16, 0.01, 0.7), (3, 4, 0.0, 0.7)],
)
def test_the_simulator_agrees(servers: int, batch: int, base: float, busy: float) -> None:
    """servers > 1: of prompts only; else beside answers, of which there are always some."""
    prompt = 0.1
    rate = busy * servers / (prompt + base / batch)
    answer = 1 if servers > 1 else 40

    def state() -> SchedulerState:
        return SchedulerState.empty(Limits(512, PROMPT * batch + 256, 30_000, 64), 100_000)

    load = poisson(rate, Lengths(PROMPT, PROMPT), Lengths(answer, answer), 2500, seed=2)
    times = Prompts(base or 1e-6, prompt / PROMPT)
    found = simulate_fleet(Fleet(state, times, replicas=servers), load)
    queue = Queue(rate, prompt, base, batch, servers)
    waits = [t - base - prompt for t in found.tally.ttft]
    for share in (0.5, 0.9, 0.99):
        off = queue.wait(share) - percentile(waits, share)
        # Of what a request waits in all, its own step included.
        assert abs(off) < 0.3 * (percentile(waits, share) + base + prompt), share
    inside = sum(w <= 2 * prompt for w in waits) / len(waits)
    assert queue.within(2 * prompt) == pytest.approx(inside, abs=0.08)


def test_one_prompt_a_step_is_md1() -> None:
    for busy in (0.3, 0.6, 0.85):
        queue = Queue(busy / 0.1, 0.1, 0.0, 1)
        mean = sum(queue.wait((i + 0.5) / 400) for i in range(400)) / 400
        assert mean == pytest.approx(busy * 0.1 / (2 * (1 - busy)), rel=0.15)


def test_waits_grow_with_the_load_and_never_end_beyond_it() -> None:
    queues = [Queue(rate, 0.1, 0.02, 4) for rate in (1.0, 3.0, 6.0, 9.0)]
    late = [queue.wait(0.99) for queue in queues]
    assert late == sorted(late)
    assert Queue(10.0, 0.1, 0.02, 4).wait(0.5) == inf
    assert Queue(10.0, 0.1, 0.02, 4).within(99.0) == 0.0
    for queue in queues:
        assert queue.wait(0.5) <= queue.wait(0.9) <= queue.wait(0.99)
        assert queue.within(queue.wait(0.9)) == pytest.approx(0.9, abs=0.02)
        assert queue.beside(0.5) <= queue.beside(0.99) <= 4


def test_erlang() -> None:
    assert erlang_c(1, 0.4) == pytest.approx(0.4)
    assert erlang_c(2, 0.5) == pytest.approx(1 / 3)
    assert erlang_c(3, 1.2) == 1.0


def test_the_greatest_rate_is_found_between_those_that_are_tried() -> None:
    """So that no layout serves more than another one for where its points happen to be."""
    found = []
    for shift in (1.0, 1.05, 1.1, 1.15, 1.2, 1.25, 1.3):
        of = [
            Point(rows, rate, first=0.1, tpot=0.02, delta=0.05, step=0.02)
            for rows, rate in ((1, 1.0 * shift), (8, 6.0 * shift), (32, 16.0 * shift))
        ]
        asked = Asked(1000, 200, 8, ttft=0.3)
        operation = operated(asked, of, 1)
        assert operation is not None
        point, replicas, rate, capacity = operation
        assert (replicas, rate, point.rate) == (1, capacity, pytest.approx(capacity))
        assert keeps(asked, point, capacity)
        assert not keeps(asked, point, 1.005 * capacity)
        found.append(capacity)
    assert max(found) == pytest.approx(min(found), rel=0.005)
