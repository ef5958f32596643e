"""What is simulated: replicas, what lies between them, and what goes wrong; and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from ridgeline.engine.schedule.state import SchedulerState
from ridgeline.errors import RequestError
from ridgeline.plan.autoscale import Autoscale, Scaled
from ridgeline.plan.replica import Replica, Times
from ridgeline.plan.tally import Levels, Tally

MOST_REPLICAS = 1 << 14  # each has a scheduler and a pool of blocks


@dataclass(frozen=True, slots=True)
class Failure:
    """Replica `replica` is lost `at` that moment, with all that it holds, and is back, empty,
    `seconds` later (a cold start is part of them); inf: never.
    """

    replica: int
    at: float
    seconds: float = inf


@dataclass(frozen=True, slots=True)
class Straggler:
    """From `at` on, a replica's steps take `factor` times as long."""

    replica: int
    factor: float
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Transfer:
    """Keys and values from a prompt's replica to the one that answers. kv_bytes: of so many tokens.
    inf bytes a second: free.
    """

    kv_bytes: Callable[[int], float]
    bytes_per_second: float = inf
    latency_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Fleet:
    """make: an empty scheduler; times: what its steps take. prefill: of the replicas, the first so
    many only compute prompts, 0: all do both. keeps_progress: what a lost replica had written is
    not written again (it is prompt where the request goes on); else requests start anew. autoscale:
    then `replicas` are the most that there are. leaps, sleeps: steps in which nothing happens are
    not planned, and rows to which nothing happens are not looked at; what comes out is the same.
    """

    make: Callable[[], SchedulerState]
    times: Times
    replicas: int = 1
    prefill: int = 0
    router: str = "least-loaded"
    transfer: Transfer | None = None
    failures: tuple[Failure, ...] = ()
    stragglers: tuple[Straggler, ...] = ()
    keeps_progress: bool = True
    timeout_seconds: float | None = None
    make_decode: Callable[[], SchedulerState] | None = None
    times_decode: Times | None = None
    leaps: bool = True
    sleeps: bool = True
    autoscale: Autoscale | None = None

    def check(self) -> None:
        """RequestError names the option that cannot be."""
        if self.replicas < 1:
            raise RequestError("--replicas", f"{self.replicas}; a fleet has one at least")
        if self.replicas > MOST_REPLICAS:
            raise RequestError("--replicas", f"{self.replicas}; {MOST_REPLICAS:,} at most")
        if self.timeout_seconds is not None and not self.timeout_seconds > 0:
            raise RequestError("--timeout", "0 s: nothing takes no time")
        if self.prefill and not 0 < self.prefill < self.replicas:
            raise RequestError("--disaggregate", "needs a replica of each kind at least")
        if self.autoscale is not None:
            self.autoscale.check()
            if self.prefill:
                raise RequestError("--autoscale", "is of replicas that do both: no --disaggregate")
            if self.autoscale.most != self.replicas:
                raise RequestError("--autoscale", f"{self.replicas} replicas are not its most")
        for failure in self.failures:
            _check_replica("--fail", failure.replica, self.replicas)
            if not (failure.at >= 0 and failure.seconds > 0):
                raise RequestError("--fail", "a replica fails at 0 s or later, and for some time")
        for straggler in self.stragglers:
            _check_replica("--straggler", straggler.replica, self.replicas)
            if not 0 < straggler.factor < inf:
                raise RequestError("--straggler", f"{straggler.factor:g} is no factor above 0")


@dataclass(slots=True)
class Outcome:
    """What became of a load. seconds: of the virtual clock, until the last request ended. requests:
    that were asked; each is finished, refused or expired. up_seconds: of each replica, in which it
    could serve. scaled: what an autoscaler did.
    """

    tally: Tally
    levels: Levels
    num_requests: int
    seconds: float
    last_arrival: float
    replicas: list[Replica]
    up_seconds: list[float]
    scaled: Scaled | None = None

    @property
    def busy_seconds(self) -> float:
        return sum(replica.busy_seconds for replica in self.replicas)

    @property
    def paid_seconds(self) -> float:
        """Of all replicas: in which they could serve, and were starting."""
        starting = 0.0 if self.scaled is None else self.scaled.starting_seconds
        return sum(self.up_seconds) + starting

    @property
    def num_preemptions(self) -> int:
        return sum(replica.num_preemptions for replica in self.replicas)

    @property
    def num_steps(self) -> int:
        return sum(replica.num_steps for replica in self.replicas)

    @property
    def num_planned_steps(self) -> int:
        return sum(replica.num_planned_steps for replica in self.replicas)


def _check_replica(option: str, number: int, count: int) -> None:
    if not 0 <= number < count:
        raise RequestError(option, f"there is no replica {number}; they are 0 to {count - 1}")
