"""The loop: schedule, run, book. It owns the state and the executor and knows nothing of text."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from ridgeline.engine.executor import Executor
from ridgeline.engine.request import Event, Request
from ridgeline.engine.schedule.admit import admit, expire
from ridgeline.engine.schedule.policies import POLICIES
from ridgeline.engine.schedule.state import Limits, SchedulerState
from ridgeline.engine.schedule.step import apply, end, fail, retract, schedule
from ridgeline.errors import EngineError, RequestError
from ridgeline.step import StepPlan, StepShape


class Observer(Protocol):
    """Told what an engine is asked and does, in order: see `record.Recorder`."""

    def submitted(self, request: Request) -> None: ...
    def aborted(self, request_id: str) -> None: ...
    def stepped(self, now: float, plan: StepPlan, events: Sequence[Event]) -> None: ...


class Engine:
    """Many requests on one model. Not thread-safe: one caller steps it.

    max_tokens_per_step bounds a step's new tokens; a longer prompt is computed in chunks, with the
    same result. max_context bounds a request's prompt and answer together. policy: a key
    of `POLICIES`. max_waiting, itl_seconds: see `Limits`. seconds: what a step takes by the cost
    model; without it nothing is predicted. clock: seconds, for deadlines and policies.
    """

    def __init__(
        self,
        executor: Executor,
        *,
        max_context: int,
        max_tokens_per_step: int,
        policy: str = "fcfs",
        max_waiting: int | None = None,
        itl_seconds: float | None = None,
        seconds: Callable[[StepShape], float] | None = None,
        observer: Observer | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._executor = executor
        self._observer = observer
        self._clock = clock
        limits = Limits(
            max_rows=executor.max_rows,
            max_tokens_per_step=max_tokens_per_step,
            max_context=max_context,
            block_tokens=executor.block_tokens,
            max_waiting=max_waiting,
            itl_seconds=itl_seconds,
        )
        if policy not in POLICIES:
            raise RequestError("policy", f"{policy!r}; there are: {', '.join(POLICIES)}")
        self._state = SchedulerState.empty(limits, executor.num_blocks, POLICIES[policy](), seconds)

    @property
    def state(self) -> SchedulerState:
        """To look at, not to change."""
        return self._state

    @property
    def has_work(self) -> bool:
        return self._state.has_work

    def submit(self, request: Request) -> None:
        """Queues a request. Raises RequestError if it could never run here, Overloaded if it cannot
        run soon enough.
        """
        admit(self._state, request, self._clock())
        if self._observer is not None:
            self._observer.submitted(request)

    def abort(self, request_id: str) -> Event | None:
        """Ends a request now and frees what it holds; None if it has ended already."""
        request = self._state.requests.get(request_id)
        if request is None:
            return None
        if self._observer is not None:
            self._observer.aborted(request_id)
        return end(self._state, request, "abort")

    def step(self) -> list[Event]:
        """One step of the model; what it gave each request. Nothing to do: no events."""
        return self.step_with_plan()[1]

    def step_with_plan(self, now: float | None = None) -> tuple[StepPlan, list[Event]]:
        """As `step`, with the plan that was run; now: a moment other than the clock's."""
        now = self._clock() if now is None else now
        events = expire(self._state, now)
        plan = schedule(self._state, now)
        self._open_and_close_rows()
        if plan.rows:
            try:
                self._executor.submit(plan)
                result = self._executor.collect()
            except EngineError as error:
                events += fail(self._state, error)
            except BaseException:
                retract(self._state)
                raise
            else:
                events += apply(self._state, result)
        if self._observer is not None and (plan.rows or events):
            self._observer.stepped(now, plan, events)
        return plan, events

    def _open_and_close_rows(self) -> None:
        for row in self._state.closed:
            self._executor.close_row(row)
        for request in self._state.opened:
            self._executor.open_row(request.row, request.token_ids, request.sampling)
        self._state.closed.clear()
        self._state.opened.clear()
