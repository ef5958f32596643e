"""Which replica a request goes to, one class a policy; a row in ROUTERS has it in the simulator.

A router knows what a router in front of engines knows: the prompt, and which requests it sent where
that have not ended. It does not look into engines.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Sequence
from hashlib import blake2b

from ridgeline.engine.request import Request
from ridgeline.engine.schedule.memory import name_blocks
from ridgeline.errors import RequestError

# A replica that has more than this many times the mean load is passed over for the next (Mirrokni
# et al., "Consistent Hashing with Bounded Loads", SODA 2018).
BOUND = 1.25
_POINTS = 64  # of each replica on the ring
_NAMES_KEPT = 1 << 20


class Router(ABC):
    """`choose` picks one of the replicas that are alive, by number, ascending. load: tokens of each
    replica's requests that have not ended, prompts and answers as long as they may get.
    """

    def __init__(self, num_replicas: int, block_tokens: int) -> None:
        self.load = [0] * num_replicas
        self.block_tokens = block_tokens

    @abstractmethod
    def choose(self, request: Request, alive: Sequence[int]) -> int: ...

    def least(self, alive: Sequence[int]) -> int:
        load = self.load
        return min(alive, key=load.__getitem__)

    def is_full(self, replica: int, request: Request, alive: Sequence[int]) -> bool:
        total = sum(self.load[number] for number in alive) + size_of(request)
        return self.load[replica] + size_of(request) > max(
            BOUND * total / len(alive), size_of(request)
        )


class RoundRobin(Router):
    """In turn."""

    def __init__(self, num_replicas: int, block_tokens: int) -> None:
        super().__init__(num_replicas, block_tokens)
        self._last = -1

    def choose(self, request: Request, alive: Sequence[int]) -> int:
        at = bisect_right(alive, self._last)
        self._last = alive[at if at < len(alive) else 0]
        return self._last


class LeastLoaded(Router):
    """The least load in tokens; of equals the lowest number."""

    def choose(self, request: Request, alive: Sequence[int]) -> int:
        return self.least(alive)


class _Ring(Router):
    """Consistent hashing with bounded loads: when a replica is lost, only its share moves."""

    def __init__(self, num_replicas: int, block_tokens: int) -> None:
        super().__init__(num_replicas, block_tokens)
        points = sorted(
            (_hash(f"{number}:{point}".encode()), number)
            for number in range(num_replicas)
            for point in range(_POINTS)
        )
        self._places = [place for place, _ in points]
        self._owners = [number for _, number in points]

    @abstractmethod
    def key(self, request: Request) -> bytes: ...

    def choose(self, request: Request, alive: Sequence[int]) -> int:
        start = bisect_right(self._places, _hash(self.key(request)))
        living, seen = set(alive), set()
        for step in range(len(self._owners)):
            number = self._owners[(start + step) % len(self._owners)]
            if number in living and number not in seen:
                if not self.is_full(number, request, alive):
                    return number
                seen.add(number)
                if len(seen) == len(living):
                    break
        return self.least(alive)


class HashedPrefix(_Ring):
    """By the first block of the prompt: all that begins alike meets, whatever comes after."""

    def key(self, request: Request) -> bytes:
        name_blocks(request, self.block_tokens)
        return request.names[0] if request.names else request.id.encode()


class Session(_Ring):
    """By the tenant of a request, which a trace's `session` is read as."""

    def key(self, request: Request) -> bytes:
        return request.tenant.encode() or request.id.encode()


class LongestPrefix(Router):
    """Where the longest prefix of the prompt was sent last, unless that replica has too much to do;
    else the least loaded, of equals the one that was sent the fewest blocks.
    """

    def __init__(self, num_replicas: int, block_tokens: int) -> None:
        super().__init__(num_replicas, block_tokens)
        self._sent: OrderedDict[bytes, int] = OrderedDict()
        self._num_sent = [0] * num_replicas

    def choose(self, request: Request, alive: Sequence[int]) -> int:
        name_blocks(request, self.block_tokens)
        names = request.names[: request.num_prompt // self.block_tokens]
        found = None
        for name in reversed(names):
            found = self._sent.get(name)
            if found is not None:
                break
        chosen = found
        if chosen is None or chosen not in alive or self.is_full(chosen, request, alive):
            chosen = min(alive, key=lambda number: (self.load[number], self._num_sent[number]))
        for name in names:
            before = self._sent.pop(name, None)
            if before is not None:
                self._num_sent[before] -= 1
            self._sent[name] = chosen
        self._num_sent[chosen] += len(names)
        while len(self._sent) > _NAMES_KEPT:
            self._num_sent[self._sent.popitem(last=False)[1]] -= 1
        return chosen


ROUTERS: dict[str, Callable[[int, int], Router]] = {
    "round-robin": RoundRobin,
    "least-loaded": LeastLoaded,
    "prefix": LongestPrefix,
    "prefix-hash": HashedPrefix,
    "session": Session,
}


def make_router(name: str, num_replicas: int, block_tokens: int) -> Router:
    """RequestError names the routers that there are."""
    if name not in ROUTERS:
        raise RequestError("--router", f"{name!r}; there are: {', '.join(ROUTERS)}")
    return ROUTERS[name](num_replicas, block_tokens)


def size_of(request: Request) -> int:
    """Tokens that a request may come to."""
    return request.num_prompt + request.max_tokens


def _hash(key: bytes) -> int:
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "big")
