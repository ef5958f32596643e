"""Where a fleet breaks: how many at once the cache holds, and at what rate its queue never ends.

Found by bisection over simulated loads, one replica at a time: replicas behind a router that
spreads load share neither cache nor queue. What a whole fleet can stand follows: how many replicas
may be lost, and how slow one may get, before some queue grows without bound.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil

from ridgeline.errors import RequestError
from ridgeline.plan.fleet import Fleet, Outcome
from ridgeline.plan.load import Load
from ridgeline.plan.simulate import simulate_fleet
from ridgeline.plan.tally import Slo

# Of the time that requests come in: by how much more than this part the wait grows from the middle
# third of them to the last, where it does not stay what it is.
_GROWTH = 0.02
_HALVINGS = 8
# Of requests that must meet an SLO where a rate is said to keep it.
GOOD_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class Knees:
    """Of one replica. cache_requests: the least number under way at which the cache runs out and
    rows are preempted; None: as many as there are rows do not fill it. throughput: requests/s that
    leave when the queue is never empty. blow_up_rate: requests/s from which the queue grows without
    bound; blow_up_busy: how busy the replica is just below it.
    """

    cache_requests: int | None
    max_rows: int
    throughput: float
    blow_up_rate: float
    blow_up_busy: float

    def lost_replicas(self, rate: float, replicas: int) -> int:
        """That a fleet can do without at `rate`; below 0: so many are missing."""
        return replicas - ceil(rate / self.blow_up_rate)

    def straggle_factor(self, rate: float, replicas: int) -> float:
        """How slow a replica may get that is given its turn whatever it does."""
        return self.blow_up_rate * replicas / rate


def find_knees(
    fleet: Fleet,
    closed_load: Callable[[int, int], Load],
    open_load: Callable[[float, int], Load],
    count: int = 1500,
) -> Knees:
    """closed_load(users, count), open_load(rate, count). fleet: of whose replicas one is looked at;
    its failures are left out.
    """
    one = Fleet(fleet.make, fleet.times)
    max_rows = one.make().limits.max_rows
    full = simulate_fleet(one, closed_load(2 * max_rows, max(count, 4 * max_rows)))
    if not full.tally.num_finished:
        raise RequestError("--limits", "no request of this load can be served here at all")
    throughput = full.tally.num_finished / full.seconds
    low, high, busy = 0.0, 1.3 * throughput, 0.0
    for _ in range(_HALVINGS):
        rate = (low + high) / 2 if low else 0.9 * throughput
        found = simulate_fleet(one, open_load(rate, count))
        if queue_grows(found):
            high = rate
            if not low:
                low = 0.3 * throughput
        else:
            low, busy = rate, found.busy_seconds / found.seconds
    return Knees(_cache_knee(one, closed_load, max_rows), max_rows, throughput, high, busy)


def find_slo_rate(
    fleet: Fleet,
    slo: Slo,
    closed_load: Callable[[int, int], Load],
    open_load: Callable[[float, int], Load],
    *,
    share: float = GOOD_SHARE,
    count: int = 1200,
) -> float:
    """The greatest rate, in requests/s, at which `share` of all requests meet the SLO: goodput as
    DistServe has it (Zhong et al., OSDI 2024). fleet: whole, without its failures. 0: not even
    requests that come one by one meet it.
    """
    calm = replace(fleet, failures=(), stragglers=(), autoscale=None)
    rows = fleet.make().limits.max_rows * fleet.replicas
    full = simulate_fleet(calm, closed_load(min(2 * rows, count), count))
    low, high = 0.0, 1.5 * full.tally.num_finished / full.seconds
    for _ in range(_HALVINGS):
        rate = (low + high) / 2
        found = simulate_fleet(calm, open_load(rate, count), slo)
        if found.tally.num_good >= share * found.num_requests:
            low = rate
        else:
            high = rate
    return low


def queue_grows(found: Outcome) -> bool:
    """Whether those who came last waited longer than those before them, by a part of the time."""
    waits = sorted(zip(found.tally.arrivals, found.tally.ttft, strict=True))
    third = len(waits) // 3
    if not third:
        return False
    middle = sum(wait for _, wait in waits[third : 2 * third]) / third
    last = sum(wait for _, wait in waits[-third:]) / third
    return last - middle > _GROWTH * found.last_arrival / 3


def _cache_knee(one: Fleet, closed_load: Callable[[int, int], Load], max_rows: int) -> int | None:
    def runs_out(users: int) -> bool:
        return simulate_fleet(one, closed_load(users, max(64, 3 * users))).num_preemptions > 0

    if not runs_out(max_rows):
        return None
    low, high = 0, max_rows
    while high - low > 1:
        middle = (low + high) // 2
        if runs_out(middle):
            high = middle
        else:
            low = middle
    return high
