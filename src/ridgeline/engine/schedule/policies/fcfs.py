"""First come, first served. Starvation bound: nobody is admitted before someone who came sooner."""

from __future__ import annotations

from ridgeline.engine.request import Rank, Request
from ridgeline.engine.schedule.policies.queue import RankedQueue


class FirstComeQueue(RankedQueue):
    def rank(self, request: Request) -> Rank:
        return (0.0, request.number)
