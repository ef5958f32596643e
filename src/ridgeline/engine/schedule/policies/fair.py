"""Weighted fairness between tenants: the one that has been given the least is next.

A virtual token counter for each tenant (Sheng et al., "Fairness in Serving Large Language Models",
OSDI 2024): tokens computed, divided by the tenant's weight. A tenant that comes back after a pause
starts from the least counter of those who wait, so that nobody saves up. While two tenants both
have requests waiting, their counters differ by no more than what the rows can be given before the
next admission. Within a tenant: first come, first served.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ridgeline.engine.request import Request
from ridgeline.engine.schedule.policies.fcfs import FirstComeQueue
from ridgeline.engine.schedule.policies.queue import Queue

_COUNTERS_KEPT = 4096


class FairQueue(Queue):
    """weights: by tenant; 1 for one that is not named."""

    charges = True

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        self.weights = dict(weights or {})
        self._queues: dict[str, FirstComeQueue] = {}
        self._counters: dict[str, float] = {}
        self._last = 0.0  # counter of the tenant whose queue ran empty last
        self._num_admitted = 0

    @property
    def counters(self) -> Mapping[str, float]:
        """Tokens per weight that each tenant has been given or credited."""
        return self._counters

    def push(self, request: Request) -> None:
        rank = request.rank
        queue = self._queues.get(request.tenant)
        if queue is None:
            least = min((self._counters[t] for t in self._queues), default=self._last)
            own = self._counters.get(request.tenant, 0.0)
            # Being preempted is not a pause.
            self._counters[request.tenant] = own if request.num_preemptions else max(own, least)
            queue = self._queues[request.tenant] = FirstComeQueue()
            self._forget_below(least)
        queue.push(request)
        if request.num_preemptions:
            request.rank = rank

    def first(self) -> Request | None:
        if not self._queues:
            return None
        tenant = min(self._queues, key=lambda name: (self._counters[name], name))
        return self._queues[tenant].first()

    def pop(self) -> Request:
        request = self.first()
        assert request is not None
        self._queues[request.tenant].pop()
        self._leave(request.tenant)
        if request.num_preemptions == 0:
            self._num_admitted += 1
            request.rank = (0.0, self._num_admitted)
        return request

    def remove(self, request: Request) -> None:
        self._queues[request.tenant].remove(request)
        self._leave(request.tenant)

    def charge(self, request: Request, num_tokens: int) -> None:
        share = num_tokens / self.weights.get(request.tenant, 1.0)
        self._counters[request.tenant] = self._counters.get(request.tenant, 0.0) + share

    def __iter__(self) -> Iterator[Request]:
        for queue in self._queues.values():
            yield from queue

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def _leave(self, tenant: str) -> None:
        if not self._queues[tenant]:
            del self._queues[tenant]
            self._last = self._counters[tenant]

    def _forget_below(self, least: float) -> None:
        """Who has less than the least of those who wait would be raised to it: nothing is lost."""
        if len(self._counters) > _COUNTERS_KEPT:
            for tenant in [t for t, c in self._counters.items() if c < least]:
                if tenant not in self._queues:
                    del self._counters[tenant]
