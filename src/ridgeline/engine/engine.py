"""The loop: schedule, run, book. It owns the state and the executor and knows nothing of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ridgeline.engine.executor import Executor
from ridgeline.engine.request import Event, Request
from ridgeline.engine.schedule.state import Limits, SchedulerState
from ridgeline.engine.schedule.step import admit, apply, end, schedule
from ridgeline.errors import EngineError
from ridgeline.step import StepPlan


class Observer(Protocol):
    """Told what an engine is asked and does, in order: see `record.Recorder`."""

    def submitted(self, request: Request) -> None: ...
    def aborted(self, request_id: str) -> None: ...
    def stepped(self, plan: StepPlan, events: Sequence[Event]) -> None: ...


class Engine:
    """Many requests on one model. Not thread-safe: one caller steps it.

    max_tokens_per_step bounds a step's new tokens; a longer prompt is computed in chunks, with the
    same result. max_context bounds a request's prompt and answer together.
    """

    def __init__(
        self,
        executor: Executor,
        *,
        max_context: int,
        max_tokens_per_step: int,
        observer: Observer | None = None,
    ) -> None:
        self._executor = executor
        self._observer = observer
        limits = Limits(
            max_rows=executor.max_rows,
            max_tokens_per_step=max_tokens_per_step,
            max_context=max_context,
            block_tokens=executor.block_tokens,
        )
        self._state = SchedulerState.empty(limits, executor.num_blocks)

    @property
    def state(self) -> SchedulerState:
        """To look at, not to change."""
        return self._state

    @property
    def has_work(self) -> bool:
        return bool(self._state.running or self._state.waiting)

    def submit(self, request: Request) -> None:
        """Queues a request. Raises RequestError if it could never run here."""
        admit(self._state, request)
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

    def step_with_plan(self) -> tuple[StepPlan, list[Event]]:
        """As `step`, with the plan that was run."""
        plan = schedule(self._state)
        self._open_and_close_rows()
        events: list[Event] = []
        if plan.rows:
            try:
                self._executor.submit(plan)
                result = self._executor.collect()
            except EngineError as error:
                events = self._fail(error)
            else:
                events = apply(self._state, plan, result)
            if self._observer is not None:
                self._observer.stepped(plan, events)
        return plan, events

    def _open_and_close_rows(self) -> None:
        for row in self._state.closed:
            self._executor.close_row(row)
        for request in self._state.opened:
            self._executor.open_row(request.row, request.token_ids, request.sampling)
        self._state.closed.clear()
        self._state.opened.clear()

    def _fail(self, error: EngineError) -> list[Event]:
        """A step that failed as a whole ends the requests that were in it."""
        return [end(self._state, r, "error", error) for r in list(self._state.running)]
