"""The scheduler that serves, on a virtual clock: what a fleet of engines would make of a load.

Each replica is the engine's own scheduler, cache and policy (`replica.py`); steps take what the
cost model says, tokens have no value, and answers are as long as the load says they are. Between
replicas there is a router, and one queue of things to come: somebody arrives, a step ends, the keys
and values of a prompt have come over, a replica fails or is back. Same load, same fleet: the same
outcome, to the bit.

With prefill and decode apart, a prompt's replica gives the first token and sends keys and values,
one request after the other over its link; what was sent waits at the other side, outside of its
cache, until the decode replica's scheduler has blocks for it. What is on its way is not lost with
its sender.
"""

from __future__ import annotations

import gc
import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from math import inf, isfinite

import numpy as np
from numpy.typing import NDArray

from ridgeline.engine.request import Event, Request
from ridgeline.engine.schedule.state import SchedulerState
from ridgeline.errors import EngineError, Overloaded, RequestError, RidgelineError
from ridgeline.plan.autoscale import Scaler
from ridgeline.plan.fleet import Failure, Fleet, Outcome, Straggler
from ridgeline.plan.load import Load
from ridgeline.plan.moved import again, anew
from ridgeline.plan.replica import Replica
from ridgeline.plan.routers import Router, make_router, size_of
from ridgeline.plan.tally import Levels, Slo, Tally, Ticket
from ridgeline.plan.traces import as_requests

LEVELS = ("waiting", "running", "cache", "busy", "alive")
# Of things that happen at one moment: who comes goes before steps that end, and those before steps
# that begin.
_CHANGE, _COME, _END, _BEGIN = range(4)


def simulate_fleet(fleet: Fleet, load: Load, slo: Slo | None = None) -> Outcome:
    """Runs a load through a fleet. RequestError for a fleet that cannot be."""
    fleet.check()
    sizes = {make().limits.block_tokens for make in (fleet.make, fleet.make_decode) if make}
    block_tokens = sizes.pop() if len(sizes) == 1 else None
    requests = as_requests(load.arrivals(), block_tokens)
    return Run(fleet, requests, load.users, slo or Slo(), fleet.make).run()


class Run:
    """Owns the clock, and what is to come."""

    def __init__(
        self,
        fleet: Fleet,
        requests: Iterable[Request],
        users: int | None,
        slo: Slo,
        make: Callable[[], SchedulerState],
    ) -> None:
        self.fleet = fleet
        self.users = users
        self.now = 0.0
        self.requests: Iterator[Request] = iter(requests)
        self.following: Request | None = None
        self.events: list[tuple[float, int, int, int, object]] = []
        self.num_events = 0
        self.tickets: dict[str, Ticket] = {}
        self.tally = Tally(slo)
        self.levels = Levels(LEVELS)
        self.replicas = []
        for number in range(fleet.replicas):
            role = (
                "both" if not fleet.prefill else "prefill" if number < fleet.prefill else "decode"
            )
            decodes = role == "decode"
            self.replicas.append(
                Replica(
                    number,
                    role,
                    (fleet.make_decode or make) if decodes else make,
                    (fleet.times_decode or fleet.times) if decodes else fleet.times,
                    fleet.leaps,
                    fleet.sleeps,
                    self.tickets,
                )
            )
        size = self.replicas[0].state.limits.block_tokens
        count = fleet.replicas
        self.routers: dict[str, Router] = {"front": make_router(fleet.router, count, size)}
        if fleet.prefill:
            self.routers["decode"] = make_router("least-loaded", count, size)
        self.alive: dict[str, list[int]] = {
            "front": [r.number for r in self.replicas if r.role != "decode"],
            "decode": [r.number for r in self.replicas if r.role == "decode"],
        }
        self.homeless: dict[str, deque[Request]] = {"front": deque(), "decode": deque()}
        self.link_free = [0.0] * count
        self.seen_at = [0.0] * count
        self.up_since = [0.0] * count
        self.up_seconds = [0.0] * count
        self.num_requests = 0
        self.last_arrival = 0.0
        self.scaler: Scaler | None = None
        if fleet.autoscale is not None:
            self.scaler = Scaler(fleet.autoscale, count, fleet.times, self.replicas[0].state.limits)
            for replica in self.replicas[fleet.autoscale.least :]:
                replica.alive = False
                self.alive["front"].remove(replica.number)

    def run(self) -> Outcome:
        collects = gc.isenabled()
        gc.disable()  # it makes millions of objects, none of them in cycles
        try:
            return self._run()
        finally:
            if collects:
                gc.enable()

    def _run(self) -> Outcome:
        for failure in self.fleet.failures:
            self._push(failure.at, _CHANGE, failure)
        for straggler in self.fleet.stragglers:
            self._push(straggler.at, _CHANGE, straggler)
        if self.scaler is not None:
            self._push(self.scaler.rule.interval, _CHANGE, self.scaler)
        for _ in range(1 if self.users is None else self.users):
            self._next_request()
            if self.users is not None and self.following is not None:
                self._arrive(self.following)
        events = self.events
        while True:
            following = self.following if self.users is None else None
            if following is not None and (
                not events or (following.arrival, _COME) <= (events[0][0], events[0][1])
            ):
                self.now = max(self.now, following.arrival)
                self._arrive(following)
                self._next_request()
                continue
            if following is None and not self.tickets:
                break  # what may still fail, or end idle, matters to nobody
            if not events:
                raise EngineError(
                    f"{len(self.tickets)} requests have no replica left that could serve them"
                )
            moment, kind, _place, _number, what = heapq.heappop(events)
            self.now = moment
            if kind in (_END, _BEGIN):
                assert isinstance(what, tuple)
                replica, version = what
                if replica.version == version and replica.alive:
                    if kind == _END:
                        self._end(replica)
                    else:
                        self._begin(replica)
            elif kind == _COME:
                assert isinstance(what, Request)
                self._send(what, "decode")
            else:
                self._change(what)
        for replica in self.replicas:
            self._level(replica)
            replica.rest(self.now)
            if replica.alive:
                self.up_seconds[replica.number] += self.now - self.up_since[replica.number]
        return Outcome(
            self.tally,
            self.levels,
            self.num_requests,
            self.now,
            self.last_arrival,
            self.replicas,
            self.up_seconds,
            None if self.scaler is None else self.scaler.ended(self.now),
        )

    def _push(self, moment: float, kind: int, what: object, place: int = 0) -> None:
        """place: of what is of one kind and happens at one moment, the lowest goes first."""
        self.num_events += 1
        heapq.heappush(self.events, (moment, kind, place, self.num_events, what))

    def _push_step(self, moment: float, kind: int, replica: Replica) -> None:
        self._push(moment, kind, (replica, replica.version), replica.number)

    def _next_request(self) -> None:
        self.following = next(self.requests, None)

    def _arrive(self, request: Request) -> None:
        """A request comes to the fleet."""
        if self.users is not None:
            request.arrival = self.now
        if self.fleet.timeout_seconds is not None:
            request.deadline = request.arrival + self.fleet.timeout_seconds
        self.num_requests += 1
        self.last_arrival = request.arrival
        if request.id in self.tickets:
            raise RequestError("request_id", f"{request.id!r} is in use")
        self.tickets[request.id] = Ticket(
            self.num_requests - 1, request.arrival, request.num_prompt, request.max_tokens
        )
        self._send(request, "front")

    def _send(self, request: Request, where: str) -> None:
        """To a replica of those in front (prompts), or of those that decode."""
        alive = self.alive[where]
        ticket = self.tickets.get(request.id)
        if ticket is None:
            return  # it ended on the way
        if not alive:
            if self._is_late(request):
                self._expired(request)
            else:
                self.homeless[where].append(request)
            return
        if where == "front" and self.fleet.prefill:
            ticket.ends_at_first = request.max_tokens > 1
            if ticket.ends_at_first:
                request.max_tokens = 1
        router = self.routers[where]
        number = router.choose(request, alive) if len(alive) > 1 else alive[0]
        ticket.replica, ticket.size = number, size_of(request)
        router.load[number] += ticket.size
        replica = self.replicas[number]
        self._level(replica)
        replica.door.append(request)
        if replica.waits:
            replica.waits = False
            replica.version += 1
            self._push_step(self.now, _BEGIN, replica)
        else:
            self._cut(replica)

    def _cut(self, replica: Replica) -> None:
        """What a replica does ends with the step that is running."""
        end = replica.cut(self.now)
        if end is not None:
            self._push_step(end, _END, replica)

    def _is_late(self, request: Request) -> bool:
        return request.deadline is not None and request.deadline <= self.now

    def _leave(self, request: Request) -> Ticket:
        """A request leaves its replica, whatever becomes of it."""
        ticket = self.tickets[request.id]
        replica = self.replicas[ticket.replica]
        self.routers["decode" if replica.role == "decode" else "front"].load[ticket.replica] -= (
            ticket.size
        )
        ticket.replica = -1
        return ticket

    def _gone(self, request: Request) -> None:
        """A request has ended; in a closed loop its user asks again."""
        del self.tickets[request.id]
        if self.users is not None:
            self._next_request()
            if self.following is not None:
                self._arrive(self.following)

    def _refused(self, request: Request, error: RidgelineError) -> None:
        if not isinstance(error, RequestError | Overloaded):
            raise error
        self._leave(request)
        kind = "overloaded" if isinstance(error, Overloaded) else error.field
        self.tally.refuse(kind)
        self._gone(request)

    def _expired(self, request: Request) -> None:
        self.tally.num_expired += 1
        self._gone(request)

    def _begin(self, replica: Replica) -> None:
        self._level(replica)
        known = dict(replica.state.requests) if replica.state.deadlines else None
        end, expired = replica.begin(self.now, self._refused)
        for event in expired:
            assert known is not None
            request = known.get(event.request_id)
            if request is None:  # came and was late at once
                continue
            self._leave(request)
            self._expired(request)
        if end is not None:
            self._push_step(end, _END, replica)
        elif replica.door:  # its user asked again while it began
            replica.waits = False
            replica.version += 1
            self._push_step(self.now, _BEGIN, replica)

    def _end(self, replica: Replica) -> None:
        now = self.now
        if replica.ends_somebody:
            self._end_last(replica)
        else:
            self._level(replica)
            if replica.ends is not None:
                self._leapt(replica, replica.end_leap())
            else:
                self._end_step(replica)
        # Others may do something at this very moment, and come to the door.
        if (self.events and self.events[0][0] <= now) or self._comes_now():
            self._push_step(now, _BEGIN, replica)
            return
        end = replica.leap(now)
        if end is None:
            self._begin(replica)
        else:
            self._push_step(end, _END, replica)

    def _comes_now(self) -> bool:
        following = self.following
        return self.users is None and following is not None and following.arrival <= self.now

    def _end_step(self, replica: Replica) -> None:
        """A planned step is over."""
        tally, now, tickets = self.tally, self.now, self.tickets
        given, events = replica.end_step(now)
        of = [tickets[request.id] for request in given]
        tally.tokens(of, now)
        num_late = tally.alike(replica.state.asleep.count, now - replica.ticked)
        for ticket, request, event in zip(of, given, events, strict=True):
            if event.finish_reason is not None:
                self._ended(replica, request, event, ticket)
        replica.slept(now, 1, num_late)

    def _leapt(self, replica: Replica, ends: NDArray[np.float64]) -> None:
        """Steps of a leap ended, and nobody with them."""
        if len(ends):
            late = self._given(replica, ends)
            replica.slept(float(ends[-1]), len(ends), late)

    def _end_last(self, replica: Replica) -> None:
        """A leap is over, and somebody ends with it."""
        ends = replica.ends
        assert ends is not None
        if len(ends) > 1:
            self._book_level(replica, float(ends[-2]))
            replica.come_to_last()
        self._book_level(replica, self.now)
        late = self._given(replica, ends)
        for request, event in replica.end_last():
            self._ended(replica, request, event, self.tickets[request.id])
        replica.slept(self.now, len(ends), late)

    def _given(self, replica: Replica, ends: NDArray[np.float64]) -> int:
        """Every running request was given a token at each of `ends`, so many of them late."""
        tally, count, num_running = self.tally, len(ends), replica.num_running
        seconds = np.empty(count)
        seconds[0] = ends[0] - replica.began
        np.subtract(ends[1:], ends[:-1], out=seconds[1:])
        tally.gaps.add_all(seconds, num_running)
        late = int((seconds > tally.slo.itl99).sum()) if tally.slo.itl99 < inf else 0
        tally.output_tokens += num_running * count
        last, tickets = float(ends[-1]), self.tickets
        for request in replica.state.running:
            ticket = tickets[request.id]
            ticket.last = last
            ticket.num_tokens += count
            ticket.late += late
        return late

    def _ended(self, replica: Replica, request: Request, event: Event, ticket: Ticket) -> None:
        self._leave(request)
        if replica.role == "prefill" and ticket.ends_at_first:
            self._count_prompt(request)
            self._transfer(replica, request, ticket)
            return
        if replica.role != "decode":
            self._count_prompt(request)
        self.tally.finish(ticket, self.now)
        self._gone(request)

    def _count_prompt(self, request: Request) -> None:
        self.tally.prompt_tokens += request.num_prompt
        self.tally.cached_tokens += request.num_cached or 0

    def _transfer(self, replica: Replica, request: Request, ticket: Ticket) -> None:
        """Sends a prompt's keys and values on, after those that wait for the same link."""
        transfer = self.fleet.transfer
        computed = request.num_prompt
        moved = again(request, ticket, computed)
        moved.names = request.names
        done = self.now
        if transfer is not None:
            num_bytes = transfer.kv_bytes(computed)
            start = max(self.now, self.link_free[replica.number])
            self.link_free[replica.number] = start + num_bytes / transfer.bytes_per_second
            done = self.link_free[replica.number] + transfer.latency_seconds
            self.tally.transferred_bytes += num_bytes
        self.tally.num_transfers += 1
        self.tally.transfer_seconds += done - self.now
        self._push(done, _COME, moved, ticket.index)

    def _change(self, what: object) -> None:
        if isinstance(what, Straggler):
            replica = self.replicas[what.replica]
            replica.factor = what.factor
            self._cut(replica)
            return
        if isinstance(what, Failure):
            self._lose(what)
            return
        if isinstance(what, Scaler):
            self._scale(what)
            return
        assert isinstance(what, Replica)
        if what.alive:
            return  # lost, and started anew by the autoscaler before it came back
        if self.scaler is not None:
            self.scaler.is_up(what.number, self.now)
        what.alive = True
        self.up_since[what.number] = self.seen_at[what.number] = self.now
        where = "decode" if what.role == "decode" else "front"
        self.alive[where] = sorted([*self.alive[where], what.number])
        waiting, self.homeless[where] = self.homeless[where], deque()
        for request in waiting:
            self._send(request, where)

    def _scale(self, scaler: Scaler) -> None:
        """Looks at the fleet, starts replicas or lets some go, and looks again later."""
        load, alive = self.routers["front"].load, self.alive["front"]
        for number in scaler.empty(load):
            replica = self.replicas[number]
            self._level(replica)
            self.up_seconds[number] += self.now - self.up_since[number]
            replica.alive = False
        for number in scaler.changes(self.now, self.replicas, alive, load):
            if number in alive:
                alive.remove(number)
            elif self.replicas[number].alive:  # it was about to go
                alive.append(number)
                alive.sort()
            else:
                ready = self.now + scaler.rule.delay
                self._push(ready, _CHANGE, self.replicas[number])
        if alive or scaler.starting or any(isfinite(f.seconds) for f in self.fleet.failures):
            self._push(self.now + scaler.rule.interval, _CHANGE, scaler)

    def _lose(self, failure: Failure) -> None:
        replica = self.replicas[failure.replica]
        if not replica.alive:
            return
        self._level(replica)
        if replica.ends is not None:
            # Whom a leap's last step ends is still there.
            most = len(replica.ends) - replica.ends_somebody
            done = min(int(np.searchsorted(replica.ends, self.now, "right")), most)
            moment = float(replica.ends[done - 1]) if done else replica.began
            self._leapt(replica, replica.end_leap(done))
            replica.began = moment
        number = replica.number
        self.up_seconds[number] += self.now - self.up_since[number]
        where = "decode" if replica.role == "decode" else "front"
        if number in self.alive[where]:
            self.alive[where].remove(number)
        if self.scaler is not None:
            self.scaler.leaving.discard(number)
        size = self.replicas[0].state.limits.block_tokens
        for request in replica.lose(self.now):
            ticket = self._leave(request)
            self.tally.num_moved += 1
            ticket.num_moves += 1
            moved = anew(request, ticket, self.tally, self.fleet.keeps_progress, size)
            self._send(moved, "front")
        if failure.seconds < inf:
            self._push(failure.at + failure.seconds, _CHANGE, replica)

    def _level(self, replica: Replica) -> None:
        """Books how a replica stood since it was looked at last."""
        ends = replica.ends
        if replica.ends_somebody and ends is not None and len(ends) > 1 and self.now > ends[-2]:
            # Somebody looks while the last step runs: those before it are over.
            before, last = float(ends[-2]), float(ends[-1])
            self._book_level(replica, before)
            self._leapt(replica, replica.end_leap(len(ends) - 1))
            replica.begin_last(before, last)
        self._book_level(replica, self.now)

    def _book_level(self, replica: Replica, now: float) -> None:
        number = replica.number
        since = self.seen_at[number]
        if now > since and replica.alive:
            state, pool = replica.state, replica.state.pool
            self.levels.add(
                since,
                now,
                (
                    len(state.waiting) + len(replica.door),
                    replica.num_running,
                    (pool.num_blocks - pool.num_free) / pool.num_blocks,
                    0.0 if replica.waits else 1.0,
                    1.0,
                ),
            )
        self.seen_at[number] = now
