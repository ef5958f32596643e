"""Priorities that age: a level is worth so many seconds of waiting, and no more.

All who wait age alike, so the order of two requests never changes while they wait, and a rank is
settled on arrival: arrival + priority x aging_seconds. Starvation bound: of two requests, the one
of the worse level is passed only by requests that come less than (difference of levels) x
aging_seconds after it; when those have been served, it is first, and nobody passes the first.
"""

from __future__ import annotations

from ridgeline.engine.request import Rank, Request
from ridgeline.engine.schedule.policies.queue import RankedQueue


class PriorityQueue(RankedQueue):
    """A lower `priority` is sooner. A request that outranks a running one takes its place."""

    preempts = True

    def __init__(self, aging_seconds: float = 10.0) -> None:
        super().__init__()
        self.aging_seconds = aging_seconds

    def rank(self, request: Request) -> Rank:
        return (request.arrival + request.priority * self.aging_seconds, request.number)
