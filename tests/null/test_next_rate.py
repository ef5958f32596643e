"""The greatest rate that keeps an SLO, looked for with few runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ridgeline.plan.choice import Asked, Seen
from ridgeline.plan.next_rate import CLOSE, LEAST, MOST, MOST_RUNS, Run, next_rate, pressure

ASKED = Asked(2000, 300, 8)
BOUND = Asked(2000, 300, 8, ttft=0.5, itl=0.04)


def seen(rate: float, itl: float = 0.01, served: float = 0.0, **more: float) -> Seen:
    """grows where fewer are served than come."""
    served = served or rate
    values = {"within": 1.0, "preemptions": 0, "hit_rate": 0.0, "ttft_p90": 0.2, **more}
    return Seen(
        1000, rate, 0.1, values["ttft_p90"], 0.4, itl, itl, itl, values["within"],
        int(values["preemptions"]), values["hit_rate"], served < 0.995 * rate, served,
    )  # fmt: skip


def find(at: Callable[[float], Seen], asked: Asked, first: float) -> list[Run]:
    runs: list[Run] = []
    rate: float | None = first
    while rate is not None:
        found = at(rate)
        near = pressure(found, asked)
        runs.append(Run(rate, found, not found.grows and (near is None or near <= 1)))
        assert len({run.rate for run in runs}) == len(runs)
        rate = next_rate(runs, asked)
    return runs


def best(runs: list[Run]) -> float:
    return max((run.rate for run in runs if run.is_kept), default=0.0)


@pytest.mark.parametrize("capacity", [20.0, 34.0, 41.0, 47.0, 48.5])
def test_a_queue_that_grew_says_what_can_be_sustained(capacity: float) -> None:
    runs = find(lambda rate: seen(rate, served=min(rate, capacity)), ASKED, 50.0)
    assert len(runs) == 2
    assert capacity / (1 + CLOSE) <= best(runs) <= capacity


def test_what_was_served_is_no_bound_where_rows_were_computed_again() -> None:
    """Above 40 requests/s the cache is too small, and less is served than below."""

    def thrashing(rate: float) -> Seen:
        return seen(rate) if rate <= 40 else seen(rate, served=30.0, preemptions=500)

    runs = find(thrashing, ASKED, 50.0)
    assert 40 / (1 + 2 * CLOSE) <= best(runs) <= 40
    assert len(runs) <= 5


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("limit", [22.0, 30.0, 45.0, 49.0])
def test_times_say_how_far_the_rate_is(limit: float, power: float) -> None:
    """The gap between tokens grows as some power of the rate and is 40 ms at the limit."""
    runs = find(lambda rate: seen(rate, 0.04 * (rate / limit) ** power), BOUND, 50.0)
    assert limit / (1 + 2 * CLOSE) <= best(runs) <= limit
    assert len(runs) <= 5


@pytest.mark.parametrize("limit", [60.0, 80.0, 95.0, 200.0])
def test_it_goes_up_where_more_may_be_had(limit: float) -> None:
    runs = find(lambda rate: seen(rate, served=min(rate, limit)), ASKED, 50.0)
    assert min(limit, MOST * 50) / (1 + 2 * CLOSE) <= best(runs) <= min(limit, MOST * 50)
    assert len(runs) <= MOST_RUNS


def test_no_rate_will_do() -> None:
    runs = find(lambda rate: seen(rate, 0.08), BOUND, 50.0)
    assert not best(runs)
    assert LEAST * 50 <= runs[-1].rate <= LEAST * 50 * (1 + CLOSE)
    assert next_rate([Run(50.0, None, False)], ASKED) is None


def test_the_nearest_bound_counts() -> None:
    assert pressure(seen(1.0), ASKED) is None
    assert pressure(seen(1.0, 0.02), BOUND) == pytest.approx(0.5)
    assert pressure(seen(1.0, 0.02, ttft_p90=0.6), BOUND) == pytest.approx(1.2)
