"""One engine on a virtual clock: the scheduler that serves, with steps that take what is said.

A replica is told of requests, begins a step and ends it; when, is the business of who owns the
clock (`simulate.py`). Requests that come while a step runs wait at the door for its end, as they do
at an engine's. Steps that only give each running request a token are taken many at once (a leap),
and cut short where somebody comes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ridgeline.engine.request import Event, Request
from ridgeline.engine.schedule.admit import admit, expire
from ridgeline.engine.schedule.asleep import due, fall_asleep, may_sleep, wake
from ridgeline.engine.schedule.leap import grow_all, last_step, leap, quiet_steps
from ridgeline.engine.schedule.memory import blocks_for
from ridgeline.engine.schedule.state import SchedulerState
from ridgeline.engine.schedule.step import apply, schedule
from ridgeline.errors import RidgelineError
from ridgeline.plan.tally import Ticket
from ridgeline.step import Answers, Sampled, StepPlan, StepResult, StepShape

# A leap is cut by whoever comes, so a longer one is mostly thrown away.
_MOST_LEAPT = 2048


class Times(Protocol):
    """What steps take: `cost.step_times.StepTimes` or `cost.deployment_times.DeploymentTimes`."""

    def __call__(self, shape: StepShape) -> float: ...
    def decode_run(self, contexts: Sequence[int], count: int) -> NDArray[np.float64]: ...


@runtime_checkable
class SumTimes(Times, Protocol):
    """Times that answers can be told to as sums: to the bit what they say of the rows one by one.
    windows: of the caches.
    """

    @property
    def windows(self) -> Sequence[int | None]: ...
    def beside(self, shape: StepShape, answers: Answers) -> float: ...


@dataclass(slots=True, eq=False)
class Replica:
    """number: of the fleet. role: "both", "prefill" or "decode". factor: how many times as long its
    steps take as `times` says. alive: it has not failed. version: of what it is doing; what was to
    end with an older one no longer does. ends: of a leap, when each of its steps ends. sleeps: rows
    to which nothing happens but a token are not looked at (`schedule/asleep.py`), where `times`
    can be told of them as sums. num_to_end: of the leap's steps, which one ends somebody; 0: none
    does. tickets: of all requests there. ticked: when the last step ended;
    num_late: of its steps, those that took longer than the SLO's gap.
    """

    number: int
    role: str
    make: Callable[[], SchedulerState]
    times: Times
    leaps: bool = True
    sleeps: bool = True
    tickets: Mapping[str, Ticket] = field(default_factory=dict)
    factor: float = 1.0
    alive: bool = True
    version: int = 0
    door: list[Request] = field(default_factory=list)
    began: float = 0.0
    plan: StepPlan | None = None
    ends: NDArray[np.float64] | None = None
    num_to_end: int = 0
    waits: bool = True
    num_steps: int = 0
    num_planned_steps: int = 0
    num_lost_preemptions: int = 0
    busy_seconds: float = 0.0
    busy_since: float | None = None
    ticked: float = 0.0
    num_late: int = 0
    state: SchedulerState = field(init=False)
    # What a step gives a row, made once: tokens have no value here.
    _sampled: tuple[Sampled, ...] = field(init=False)
    _sums: SumTimes | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.state = self.make()
        if self.sleeps and isinstance(self.times, SumTimes):
            self._sums = self.times
        self._sampled = tuple(Sampled(row, 0) for row in range(self.state.limits.max_rows))

    @property
    def num_preemptions(self) -> int:
        return self.num_lost_preemptions + self.state.num_preemptions

    @property
    def num_running(self) -> int:
        state = self.state
        return len(state.running) + len(state.asleep.since)

    def begin(
        self, now: float, refused: Callable[[Request, RidgelineError], None]
    ) -> tuple[float | None, Sequence[Event]]:
        """Lets in who is at the door and begins the next step or leap: when it ends, None if there
        is nothing to do; and who is ended by a deadline.
        """
        state = self.state
        expired: list[Event] = []
        if state.asleep.count and any(r.deadline is not None for r in self.door):
            self.wake_all()
        for request in self.door:
            try:
                admit(state, request, now)
            except RidgelineError as error:
                refused(request, error)
        self.door.clear()
        if state.deadlines:
            expired = expire(state, now)
        if state.asleep.count:
            self._wake(due(state))
            if not self._has_blocks():
                self.wake_all()
        plan = schedule(state, now)
        state.opened.clear()
        state.closed.clear()
        self.began, self.version = now, self.version + 1
        if not plan.rows and not state.asleep.count:
            self.waits = True
            self.rest(now)
            return None, expired
        self.waits, self.plan = False, plan
        if self.busy_since is None:
            self.busy_since = now
        return now + self.factor * self._seconds(plan.shape), expired

    def leap(self, now: float) -> float | None:
        """Begins as many quiet steps as there are, if nobody is at the door: when they end."""
        state = self.state
        if not self.leaps or self.door:
            return None
        most, ends_somebody = quiet_steps(state)
        if most <= 0:
            return None
        self.num_to_end = most if ends_somebody else 0
        contexts = [request.num_planned for request in state.running]
        contexts += state.asleep.contexts()
        seconds = self.times.decode_run(contexts, min(most, _MOST_LEAPT))
        # One after the other, as a clock adds them up.
        ends = np.empty(len(seconds) + 1)
        ends[0] = now
        np.multiply(seconds, self.factor, out=ends[1:])
        np.add.accumulate(ends, out=ends)
        if state.deadlines:
            before = int(np.searchsorted(ends, state.deadlines[0][0], "left"))
            ends = ends[: before + 1]
        if len(ends) == 1:
            return None
        self.began, self.version, self.ends, self.waits = now, self.version + 1, ends[1:], False
        moment = float(ends[-1])
        if self.num_to_end == 1:
            self.begin_last(now, moment)
        return moment

    def cut(self, now: float) -> float | None:
        """Somebody is at the door: a leap ends with the step that is running; when, if that is
        news.
        """
        if self.ends is None:
            return None
        most = int(np.searchsorted(self.ends, now, "left")) + 1
        if most >= len(self.ends):
            return None
        self.ends, self.version = self.ends[:most], self.version + 1
        return float(self.ends[-1])

    def end_step(self, now: float) -> tuple[list[Request], list[Event]]:
        """Books the planned step: who was given a token, and what."""
        assert self.plan is not None
        sampled = self._sampled
        result = StepResult(tuple([sampled[row[0]] for row in self.plan.rows if row[3]]))
        self.plan = None
        self.num_steps += 1
        self.num_planned_steps += 1
        if not self.state.in_flight:
            return [], []  # all who run sleep
        given = [flying[0] for flying in self.state.in_flight[0] if flying.samples]
        return given, apply(self.state, result)

    def slept(self, now: float, num_steps: int, num_late: int) -> None:
        """So many steps were booked, of which some were late: who slept was given a token in each,
        and who may sleeps now.
        """
        self.ticked = now
        self.num_late += num_late
        asleep = self.state.asleep
        asleep.tick(num_steps)
        if self._sums is not None and may_sleep(self.state):
            for request in fall_asleep(self.state):
                ticket = self.tickets[request.id]
                ticket.num_tokens -= asleep.ticks
                ticket.late -= self.num_late

    def wake_all(self) -> None:
        self._wake(list(self.state.asleep.since))

    def _wake(self, requests: Sequence[Request]) -> None:
        wake(self.state, requests)
        ticks = self.state.asleep.ticks
        for request in requests:
            ticket = self.tickets[request.id]
            ticket.num_tokens += ticks
            ticket.late += self.num_late
            ticket.last = self.ticked

    def _has_blocks(self) -> bool:
        """Whether nobody who runs will have to be preempted in the next step."""
        state = self.state
        free = state.pool.num_free
        most = state.limits.max_tokens_per_step // state.limits.block_tokens
        if (most + 2 * len(state.running)) * state.blocks_per_entry <= free:
            return True
        entries = sum(
            max(0, blocks_for(state, len(r.token_ids)) - len(r.blocks)) for r in state.running
        )
        return entries * state.blocks_per_entry <= free

    def _seconds(self, shape: StepShape) -> float:
        """shape: of the rows that are awake."""
        asleep = self.state.asleep
        times = self._sums
        if times is None or not asleep.count:
            return self.times(shape)
        read = tuple([asleep.read(window) for window in times.windows])
        return times.beside(shape, Answers(asleep.count, read))

    @property
    def ends_somebody(self) -> bool:
        """Whether the last step of the leap does."""
        return self.ends is not None and len(self.ends) == self.num_to_end

    def end_leap(self, most: int | None = None) -> NDArray[np.float64]:
        """Books the leap, or its first `most` steps, none of which ends anybody: when each of them
        ended.
        """
        assert self.ends is not None
        ends = self.ends if most is None else self.ends[:most]
        self.ends = None
        if len(ends):
            self._wake(due(self.state, len(ends)))
            leap(self.state, len(ends))
            self.num_steps += len(ends)
        return ends

    def begin_last(self, began: float, moment: float) -> None:
        """The step that ends somebody is all that there is, or is left, of the leap: it has its
        blocks.
        """
        self.began, self.ends, self.num_to_end = began, np.array([moment]), 1
        self._wake(due(self.state))
        grow_all(self.state)

    def come_to_last(self) -> None:
        """The same where nobody looks: what it books is taken for told with the last step."""
        assert self.ends is not None
        count = len(self.ends)
        self._wake(due(self.state, count))
        leap(self.state, count - 1)
        self.num_steps += count - 1
        grow_all(self.state)

    def end_last(self) -> list[tuple[Request, Event]]:
        """Books that step: whom it ends."""
        self.ends = None
        self.num_steps += 1
        return last_step(self.state)

    def lose(self, now: float) -> list[Request]:
        """The replica fails: all its requests, and it has nothing any more."""
        self.wake_all()
        lost = [*self.state.requests.values(), *self.door]
        self.rest(now)
        self.num_lost_preemptions += self.state.num_preemptions
        self.plan, self.ends, self.door = None, None, []
        self.alive, self.waits, self.version = False, True, self.version + 1
        self.state = self.make()
        return lost

    def rest(self, now: float) -> None:
        """Nothing runs from now on."""
        if self.busy_since is not None:
            self.busy_seconds += now - self.busy_since
            self.busy_since = None
