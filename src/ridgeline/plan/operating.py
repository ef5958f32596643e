"""At what rate a layout is run so that it keeps an SLO: its points, and the queue before each."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

from ridgeline.plan.choice import Asked
from ridgeline.plan.queue import Queue

# Of a point's greatest rate: at less of it, the wait for others' prompts is shorter.
FRACTIONS = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
# Between the last of those rates that keeps the SLO and the first that does not.
HALVINGS = 6
# Of what prompts can be computed, what may be asked at most: beyond it waits depend on the day.
MOST_BUSY = 0.98


@dataclass(frozen=True, slots=True)
class Point:
    """A layout with so many requests in flight. rate: requests/s that it then serves. first:
    seconds of a first token that waits for nobody. tpot: between tokens on average; step: of a step
    of answers; delta: that a prompt adds. chunks: steps that a prompt takes; batch: prompts that
    one step may take. readers: workers that compute prompts only, 0: all do both. draft_share: see
    `Choice`.
    """

    in_flight: float
    rate: float
    first: float
    tpot: float
    delta: float
    step: float
    chunks: float = 1.0
    batch: float = 1.0
    readers: int = 0
    draft_share: float = 0.0

    def queue(self, rate: float, replicas: int = 1) -> Queue:
        """Before who computes prompts, at `rate` requests/s of each replica."""
        if self.readers:
            # Prompts find the least busy of all readers of all replicas.
            return Queue(rate * replicas, self.delta, 0.0, self.batch, self.readers * replicas)
        # Replicas are chosen by the answers they hold, which says little of who reads just now.
        prompt = self.delta + (self.chunks - 1.0) * self.step
        return Queue(rate, prompt, self.step, self.batch if self.chunks <= 1 else 1.0)

    def gap(self, rate: float) -> float:
        """Seconds that 99 of 100 gaps between an answer's tokens do not exceed."""
        if self.readers:
            return self.step
        if self.chunks <= 1:
            return self.step + self.queue(rate).beside(0.99) * self.delta
        each = self.delta / self.chunks
        mixed = rate * self.chunks
        others = max(0.0, 1.0 - mixed * (self.step + each)) / self.step
        return self.step + (each if mixed > 0.01 * (mixed + others) else 0.0)


def operated(
    asked: Asked, points: Sequence[Point], most: int
) -> tuple[Point, int, float, float] | None:
    """How a layout is run so that it keeps the SLO: at which point, by how many replicas, each
    one's requests/s, and the most that one could; None: no way with `most` replicas.

    At a rate, so many are in flight as that rate keeps.
    """
    by_rate = sorted(points, key=lambda q: q.rate)

    def at(rate: float) -> Point | None:
        point = _between(by_rate, rate)
        return point if point is not None and keeps(asked, point, rate) else None

    rates = sorted({f * q.rate for q in points for f in FRACTIONS}, reverse=True)
    place = next((i for i, rate in enumerate(rates) if at(rate) is not None), None)
    if place is None or most < 1:
        return None
    capacity = rates[place]
    if place:
        lost = rates[place - 1]
        for _ in range(HALVINGS):
            middle = (capacity + lost) / 2.0
            capacity, lost = (middle, lost) if at(middle) is not None else (capacity, middle)
    if asked.rate is None:
        replicas, rate = most, capacity
    else:
        replicas = ceil(asked.rate / capacity * (1 - 1e-9))
        if replicas > most:
            return None
        rate = asked.rate / replicas
    point = at(rate)
    return None if point is None else (point, replicas, rate, capacity)


def _between(points: Sequence[Point], rate: float) -> Point | None:
    """On the line between the points below and above a rate; points: the slowest first."""
    place = bisect_left(points, rate, key=lambda q: q.rate)
    if place == len(points):
        return None
    above = points[place]
    if place == 0 or points[place - 1].in_flight >= above.in_flight:
        return above
    below = points[place - 1]
    share = (rate - below.rate) / (above.rate - below.rate)

    def at(low: float, high: float) -> float:
        return low + share * (high - low)

    return replace(
        above,
        rate=rate,
        in_flight=at(below.in_flight, above.in_flight),
        first=at(below.first, above.first),
        tpot=at(below.tpot, above.tpot),
        delta=at(below.delta, above.delta),
        step=at(below.step, above.step),
        batch=at(below.batch, above.batch),
    )


def keeps(asked: Asked, point: Point, rate: float) -> bool:
    if asked.itl is not None and point.tpot > asked.itl:
        return False
    queue = point.queue(rate)
    if queue.busy > MOST_BUSY:
        return False
    if asked.ttft is not None and point.first + queue.wait(asked.percentile / 100.0) > asked.ttft:
        return False
    return asked.gap is None or point.gap(rate) <= asked.gap
