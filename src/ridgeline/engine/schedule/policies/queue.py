"""What the scheduler asks of a policy, and the heap that most policies are."""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections.abc import Iterator

from ridgeline.engine.request import Rank, Request


class Queue(ABC):
    """Waiting requests. Only the first is ever admitted: when there is no room for it, nobody
    passes it, which is what keeps a large request from waiting for ever.

    preempts: a waiting request that outranks a running one takes its row. charges: wants to be told
    of the tokens that are computed.
    """

    preempts = False
    charges = False

    @abstractmethod
    def push(self, request: Request) -> None:
        """Adds a request that came, or that was preempted and keeps its rank."""

    @abstractmethod
    def first(self) -> Request | None:
        """Who is to be admitted next."""

    @abstractmethod
    def pop(self) -> Request:
        """Takes the first out; its rank is settled from here on."""

    @abstractmethod
    def remove(self, request: Request) -> None:
        """Takes out any request (it was aborted)."""

    @abstractmethod
    def __iter__(self) -> Iterator[Request]:
        """Those who wait, in no order."""

    @abstractmethod
    def __len__(self) -> int: ...

    def charge(self, request: Request, num_tokens: int) -> None:  # noqa: B027 (most do not care)
        """`num_tokens` of a request are computed for the first time."""


class RankedQueue(Queue):
    """A queue whose ranks are settled when a request comes: a heap."""

    def __init__(self) -> None:
        self._heap: list[tuple[Rank, int, Request]] = []
        self._waiting: dict[Request, int] = {}  # to its entry; entries of the removed stay behind
        self._num_pushed = 0

    @abstractmethod
    def rank(self, request: Request) -> Rank:
        """Lower is sooner; no two requests share one."""

    def push(self, request: Request) -> None:
        request.rank = self.rank(request)
        self._num_pushed += 1
        self._waiting[request] = self._num_pushed
        heapq.heappush(self._heap, (request.rank, self._num_pushed, request))

    def first(self) -> Request | None:
        while self._heap:
            _rank, number, request = self._heap[0]
            if self._waiting.get(request) == number:
                return request
            heapq.heappop(self._heap)
        return None

    def pop(self) -> Request:
        request = self.first()
        assert request is not None
        heapq.heappop(self._heap)
        del self._waiting[request]
        return request

    def remove(self, request: Request) -> None:
        del self._waiting[request]

    def __iter__(self) -> Iterator[Request]:
        return iter(self._waiting)

    def __len__(self) -> int:
        return len(self._waiting)
