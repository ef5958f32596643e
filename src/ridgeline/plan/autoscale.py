"""How many replicas a fleet has at a moment: a rule that looks at it now and then.

As Kubernetes' horizontal autoscaler has it: wanted = replicas x what is measured / target, at once
where that is more, and where it is less only when no more was wanted for a while. A replica that is
started serves after a delay and is paid from the start; one that is let go gets nothing new and is
paid until its last request has ended.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil

from ridgeline.engine.schedule.state import Limits
from ridgeline.errors import RequestError
from ridgeline.plan.replica import Replica, Times
from ridgeline.step import StepShape

RULES = ("queue", "ttft")
# So many times as many at most, from one look to the next.
_MOST_GROWTH = 2.0


@dataclass(frozen=True, slots=True)
class Autoscale:
    """least, most: replicas. rule: "queue": target requests, waiting and running, a replica;
    "ttft": target seconds of a first token, predicted by the prompts that are not computed yet.
    delay: seconds from the start of a replica until it serves (a machine, an image, weights).
    interval: from one look to the next; calm: for which fewer must do before one is let go.
    """

    least: int
    most: int
    rule: str = "queue"
    target: float = 32.0
    delay: float = 120.0
    interval: float = 5.0
    calm: float = 300.0

    def check(self) -> None:
        if not 1 <= self.least <= self.most:
            raise RequestError("--autoscale", f"{self.least}:{self.most} replicas: least to most")
        if self.rule not in RULES:
            raise RequestError("--scale-on", f"{self.rule!r}; there are: {', '.join(RULES)}")
        if not 0 < self.target < 1e9:
            raise RequestError("--scale-on", f"{self.target:g}: a target above 0")
        for option, seconds in (("--scale-delay", self.delay), ("--scale-down-after", self.calm)):
            if not 0 <= seconds < 1e9:
                raise RequestError(option, f"{seconds:g} is no time")
        if not 0 < self.interval < 1e9:
            raise RequestError("--autoscale", "looks at the fleet every so many seconds, above 0")


@dataclass(frozen=True, slots=True)
class Scaled:
    """starts, stops: of replicas. starting_seconds: of replicas that were paid and did not serve
    yet. peak: replicas at a time, those that start included.
    """

    starts: int
    stops: int
    starting_seconds: float
    peak: int


@dataclass(slots=True)
class Scaler:
    """A rule at work. starting: since when, of replicas that do not serve yet; leaving: those that
    get nothing new.
    """

    rule: Autoscale
    count: int
    times: Times
    limits: Limits
    starting: dict[int, float] = field(default_factory=dict)
    leaving: set[int] = field(default_factory=set)
    starts: int = 0
    stops: int = 0
    starting_seconds: float = 0.0
    peak: int = 0
    _wanted: deque[tuple[float, int]] = field(default_factory=deque)
    _per_token: float = 0.0
    _least: float = 0.0

    def __post_init__(self) -> None:
        tokens = min(self.limits.max_tokens_per_step, self.limits.max_context)
        self._per_token = self.times(StepShape((tokens,), (0,), 1)) / tokens
        self._least = self.times(StepShape((1,), (0,), 1))
        self.peak = self.rule.least

    def measured(self, replicas: Sequence[Replica], alive: Sequence[int]) -> float:
        """Of the mean replica: requests, or seconds until the prompts it has are computed."""
        if self.rule.rule == "queue":
            requests = sum(len(r.state.requests) + len(r.door) for r in replicas if r.alive)
            return requests / max(1, len(alive))
        tokens = 0
        for replica in replicas:
            if replica.alive:
                tokens += sum(r.num_prompt for r in replica.door)
                tokens += sum(
                    max(0, r.num_prompt - r.num_planned) for r in replica.state.requests.values()
                )
        return self._least + tokens * self._per_token / max(1, len(alive))

    def wanted(self, now: float, measured: float, alive: int) -> int:
        """Replicas, those that start included. measured: of the mean of `alive` replicas."""
        rule = self.rule
        by_rule = ceil(max(1, alive) * measured / rule.target - 1e-9)
        now_wanted = max(rule.least, min(rule.most, by_rule, ceil(_MOST_GROWTH * max(1, alive))))
        self._wanted.append((now, now_wanted))
        while self._wanted[0][0] < now - rule.calm:
            self._wanted.popleft()
        held = alive + len(self.starting)
        if now_wanted >= held:
            return now_wanted
        return min(held, max(wanted for _, wanted in self._wanted))

    def changes(
        self, now: float, replicas: Sequence[Replica], alive: Sequence[int], load: Sequence[int]
    ) -> list[int]:
        """Replicas that are to start (they are not up), to stay (they were leaving) or to leave
        (they serve).
        """
        wanted = self.wanted(now, self.measured(replicas, alive), len(alive))
        held = len(alive) + len(self.starting)
        self.peak = max(self.peak, min(wanted, self.rule.most), held)
        if wanted > held:
            stay = sorted(self.leaving)[: wanted - held]
            self.leaving.difference_update(stay)
            off = [
                r.number for r in replicas
                if not r.alive and r.number not in self.starting
            ][: wanted - held - len(stay)]  # fmt: skip
            self.starting.update(dict.fromkeys(off, now))
            self.starts += len(off)
            return [*stay, *off]
        # One at a time, of those that serve; who starts is waited for.
        if wanted < held and len(alive) > self.rule.least and not self.starting:
            number = min(alive, key=lambda n: (load[n], -n))
            self.leaving.add(number)
            return [number]
        return []

    def empty(self, load: Sequence[int]) -> list[int]:
        """Of those that leave, who has nothing more to do, and is gone."""
        gone = sorted(number for number in self.leaving if not load[number])
        self.leaving.difference_update(gone)
        self.stops += len(gone)
        return gone

    def is_up(self, number: int, now: float) -> None:
        since = self.starting.pop(number, None)
        if since is not None:
            self.starting_seconds += now - since

    def ended(self, now: float) -> Scaled:
        starting = self.starting_seconds + sum(now - since for since in self.starting.values())
        return Scaled(self.starts, self.stops, starting, self.peak)
