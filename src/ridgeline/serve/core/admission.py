"""The front door: who is let in, told within the event loop and never by waiting for a step.

The engine says after its steps what it holds and how long that will take; what was let in since is
added. So a refusal costs microseconds, however long a step takes. Under load prompts' chunks shrink
first (`itl_target`); the queue then grows until a newcomer's first token would come later than
`max_ttft_seconds`, and newcomers are refused; what was let in is finished.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from ridgeline.async_engine import Load
from ridgeline.errors import Overloaded
from ridgeline.serve.core.errors import RateLimited, Unavailable
from ridgeline.serve.core.keys import Tenant


class Bucket:
    """So many a minute, and a minute's worth at once. It may be overdrawn by what is known only
    afterwards (tokens).
    """

    def __init__(self, per_minute: float, now: float) -> None:
        self._per_second = per_minute / 60
        self._most = max(per_minute, 1.0)
        self._level = self._most
        self._then = now

    def seconds_until(self, amount: float, now: float) -> float:
        """Until it holds so many; 0: now."""
        self._level = min(self._most, self._level + (now - self._then) * self._per_second)
        self._then = now
        return max(0.0, (min(amount, self._most) - self._level) / self._per_second)

    def take(self, amount: float) -> None:
        self._level -= amount


@dataclass(slots=True)
class _Account:
    """What one tenant has used."""

    tenant: Tenant
    requests: Bucket | None
    tokens: Bucket | None
    running: int = 0


@dataclass(slots=True, eq=False)
class Entry:
    """A place that somebody was let in to; `FrontDoor.leave` gives it back."""

    account: _Account | None


class _Look(NamedTuple):
    """Whether there is room: reason: why not, "" if there is."""

    reason: str = ""
    told: str = ""
    retry_seconds: float = 0.0
    error: type[Overloaded] = Overloaded


@dataclass(slots=True)
class FrontDoor:
    """Owned by the event loop. load: what the engine last said. Counts of refusals, by reason, are
    for metrics.
    """

    load: Callable[[], Load]
    max_ttft_seconds: float
    max_queue: int
    tenants: Mapping[str, Tenant] = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic
    draining: bool = False
    running: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    _accounts: dict[str, _Account] = field(default_factory=dict)
    # When who was let in, and what they add, of those whom the engine may not have told of yet.
    _since: dict[Entry, tuple[float, float]] = field(default_factory=dict)
    _last: _Look | None = None
    _last_seen: tuple[Load, bool, int] | None = None

    def predicted_ttft(self, num_prompt: int = 0) -> float:
        """Seconds until a newcomer's first token; 0 where there is no cost model."""
        load = self.load()
        while self._since:
            first = next(iter(self._since))
            if self._since[first][0] > load.moment:
                break
            del self._since[first]
        news = sum(seconds for _, seconds in self._since.values())
        return load.wait_seconds + news + num_prompt * load.prompt_seconds

    @property
    def crowded(self) -> bool:
        """Whether a newcomer would be refused now; nobody is, and nothing is counted."""
        return self._looked(0).reason != ""

    def check(self, num_prompt: int = 0) -> None:
        """Raises Unavailable or Overloaded if a newcomer cannot be served soon enough."""
        found = self._looked(num_prompt)
        if found.reason:
            self._count(found.reason)
            raise found.error(found.told, found.retry_seconds)

    def _looked(self, num_prompt: int) -> _Look:
        """The last look, where nothing has changed since: most are refused between two steps."""
        load = self.load()
        seen = (load, self.draining, num_prompt)
        if self._last is None or self._last_seen != seen:
            self._last, self._last_seen = self._look(load, num_prompt), seen
        return self._last

    def _look(self, load: Load, num_prompt: int) -> _Look:
        if self.draining:
            return _Look("draining", "the server is ending; ask another one", 5.0, Unavailable)
        ttft = self.predicted_ttft(num_prompt)
        if load.waiting + len(self._since) >= self.max_queue:
            retry = max(ttft, 1.0)
            told = f"{self.max_queue} requests wait; come back in {retry:.0f} s"
            return _Look("queue", told, retry)
        if ttft > self.max_ttft_seconds and load.running + load.waiting:
            retry = max(ttft - self.max_ttft_seconds, 1.0)
            told = (
                f"the first token would come after about {ttft:.0f} s, and the longest wait is "
                f"{self.max_ttft_seconds:g} s; come back in {retry:.0f} s"
            )
            return _Look("ttft", told, retry)
        return _Look()

    def enter(self, tenant: str, num_prompt: int) -> Entry:
        """Lets a request in. Raises as `check` does, and RateLimited."""
        self.check(num_prompt)
        account = self._account(tenant)
        if account is not None:
            self._check_rates(account)
            if account.requests is not None:
                account.requests.take(1)
            account.running += 1
        load = self.load()
        # What it adds for those behind it: its prompt; its answer, once rows are short.
        seconds = num_prompt * load.prompt_seconds
        if load.running + load.waiting + len(self._since) >= load.max_rows:
            seconds += load.answer_seconds
        entry = Entry(account)
        self._since[entry] = self.clock(), seconds
        self._last = None
        self.running += 1
        return entry

    def leave(self, entry: Entry, num_tokens: int = 0) -> None:
        """num_tokens: of prompt and answer, as far as they are known."""
        self.running -= 1
        # Who was refused behind the door, or answered by another engine, is in no load to come.
        self._since.pop(entry, None)
        self._last = None
        if entry.account is not None:
            entry.account.running -= 1
            if entry.account.tokens is not None:
                entry.account.tokens.take(num_tokens)

    @property
    def num_refused(self) -> int:
        return sum(self.refused.values())

    def _account(self, name: str) -> _Account | None:
        tenant = self.tenants.get(name)
        if tenant is None:
            return None
        if name not in self._accounts:
            now = self.clock()
            requests, tokens = tenant.requests_per_minute, tenant.tokens_per_minute
            self._accounts[name] = _Account(
                tenant,
                None if requests is None else Bucket(requests, now),
                None if tokens is None else Bucket(tokens, now),
            )
        return self._accounts[name]

    def _check_rates(self, account: _Account) -> None:
        tenant, now = account.tenant, self.clock()
        if tenant.max_concurrent is not None and account.running >= tenant.max_concurrent:
            self._count("concurrency")
            raise RateLimited(f"{account.running} requests of this key run, and so many may", 1.0)
        for bucket, what in ((account.requests, "requests"), (account.tokens, "tokens")):
            wait = 0.0 if bucket is None else bucket.seconds_until(1, now)
            if wait > 0:
                self._count(what)
                raise RateLimited(f"this key has had its {what} of a minute", wait)

    def _count(self, reason: str) -> None:
        self.refused[reason] = self.refused.get(reason, 0) + 1
