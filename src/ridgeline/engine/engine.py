"""The loop: schedule, run, book. It owns the state and the executor and knows nothing of text."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from ridgeline.cost.calibrate import StepSeconds
from ridgeline.engine.book import Book
from ridgeline.engine.constrain.compile import Constraints
from ridgeline.engine.constrain.follow import MaskMaker, Wanted
from ridgeline.engine.executor import Executor
from ridgeline.engine.experts import ExpertCounter
from ridgeline.engine.request import Event, Request, Status
from ridgeline.engine.schedule.admit import admit, expire
from ridgeline.engine.schedule.policies import POLICIES
from ridgeline.engine.schedule.policies.fair import FairQueue
from ridgeline.engine.schedule.run_on import run_ends, steps_ahead
from ridgeline.engine.schedule.spans import append_forced, most_forced
from ridgeline.engine.schedule.state import Limits, SchedulerState
from ridgeline.engine.schedule.step import (
    apply,
    end,
    fail,
    prune,
    recompute,
    retract,
    schedule,
)
from ridgeline.errors import EngineError, RequestError
from ridgeline.step import StepPlan, StepResult, StepShape

# Steps from which a cost model learns: the first so many, then one of so many.
_ALL_SEEN, _ONE_SEEN_OF = 32, 8
# What a run of steps may take, after which whoever came or interrupts is heard.
_RUN_SECONDS = 0.1


class Observer(Protocol):
    """Told what an engine is asked and does, in order: see `record.Recorder`."""

    def submitted(self, request: Request) -> None: ...
    def aborted(self, request_id: str) -> None: ...
    def learned(self, factors: tuple[float, float]) -> None: ...
    def stepped(
        self,
        now: float,
        plan: StepPlan,
        events: Sequence[Event],
        fault: EngineError | None,
        ahead: int,
    ) -> None: ...


class Engine:
    """Many requests on one model. Not thread-safe: one caller steps it.

    max_tokens_per_step bounds a step's new tokens; a longer prompt is computed in chunks, with the
    same result. max_context bounds a request's prompt and answer together. policy: a key of
    `POLICIES`. max_waiting: see `Limits`. itl_target: seconds that a step may take while answers
    are being written; prompts get what that leaves; itl_steps, rate_share, wave_seconds: see
    `Limits`. seconds: what a step takes by the cost model; without it nothing is predicted. One
    that learns is told what steps took. experts: counts those that tokens are routed to, in
    `Request.experts`.
    constraints: compiles the grammars of requests that come with one and no follower of it (a
    replay). forced_spans: tokens that a grammar forces are appended without a step for each
    (`spans`). clock: seconds.
    """

    def __init__(
        self,
        executor: Executor,
        *,
        max_context: int,
        max_tokens_per_step: int,
        policy: str = "fcfs",
        max_waiting: int | None = None,
        itl_target: float | None = None,
        itl_steps: float | None = None,
        rate_share: float | None = None,
        wave_seconds: float | None = None,
        seconds: Callable[[StepShape], float] | None = None,
        observer: Observer | None = None,
        constraints: Constraints | None = None,
        experts: ExpertCounter | None = None,
        forced_spans: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._executor = executor
        self._observer = observer
        self._experts = experts
        self._constraints = constraints
        self._forced_spans = forced_spans
        self._masks = MaskMaker(executor.vocab_size)
        self.book = Book()
        self._clock = clock
        limits = Limits(
            max_rows=executor.max_rows,
            max_tokens_per_step=max_tokens_per_step,
            max_context=max_context,
            block_tokens=executor.block_tokens,
            max_waiting=max_waiting,
            itl_seconds=itl_target,
            itl_steps=itl_steps,
            rate_share=rate_share,
            wave_seconds=wave_seconds,
            is_recurrent=executor.num_slots > 0,
        )
        if policy not in POLICIES:
            raise RequestError("policy", f"{policy!r}; there are: {', '.join(POLICIES)}")
        self._state = SchedulerState.empty(
            limits,
            executor.num_blocks,
            POLICIES[policy](),
            seconds,
            executor.groups,
            max(0, executor.num_slots - executor.max_rows),
            blocks_together=executor.blocks_together,
        )
        self._times = seconds if isinstance(seconds, StepSeconds) else None
        self._num_steps = 0

    @property
    def state(self) -> SchedulerState:
        """To look at, not to change."""
        return self._state

    def weigh(self, weights: Mapping[str, float]) -> None:
        """What share of the machine each tenant has; for policies that share it among them."""
        if isinstance(self._state.waiting, FairQueue):
            self._state.waiting.weights.update(weights)

    @property
    def has_work(self) -> bool:
        return self._state.has_work

    def submit(self, request: Request, now: float | None = None) -> None:
        """Queues a request. Raises RequestError if it could never run here, Overloaded if it cannot
        run soon enough. now: a moment other than the clock's.
        """
        if request.grammar is not None and request.follower is None:
            if self._constraints is None:
                raise RequestError("structured_outputs", "this engine knows no vocabulary")
            request.follower = self._constraints.restore(request.grammar).follow()
        if request.images and self._observer is not None:
            raise RequestError("images", "a record of a run has no place for them")
        admit(self._state, request, self._clock() if now is None else now)
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

    def forget_steps(self) -> None:
        """After a fault of the scheduler's own: no request runs, and no step is to be booked."""
        self._state.in_flight.clear()

    def step(self, most: int = 1) -> list[Event]:
        """One step of the model; what it gave each request. Nothing to do: no events. most: where
        all that happens is that answers are written, so many steps at most, in one run of a tenth
        of a second or less; nobody hears of any before all are done.
        """
        ahead = 1 if most <= 1 else self._steps_ahead(most)
        return self.step_with_plan(ahead=ahead, runs_on=ahead > 1)[1]

    def step_with_plan(
        self,
        now: float | None = None,
        fault: EngineError | None = None,
        ahead: int = 1,
        runs_on: bool = False,
    ) -> tuple[StepPlan, list[Event]]:
        """As `step`, with the plan that was run. now: a moment other than the clock's. fault: what
        the executor is taken to have raised in place of running the plan (a replay). ahead: see
        `schedule`; the steps are run if it runs_on, otherwise the first of them.
        """
        state = self._state
        told = now
        now = self._clock() if told is None else told
        events = expire(state, now)
        plan = schedule(state, now, ahead)
        if state.closed or state.opened:
            plan = self._open_and_close_rows(plan, events)
        if plan.rows:
            try:
                if fault is not None:
                    raise fault
                followed = self._followed(plan)
                began = self._clock()
                if runs_on:
                    ran = self._executor.run_on(plan, ahead, run_ends(state))
                    seconds = ran[0][1]
                else:
                    if followed:
                        self._executor.submit(plan, self._masks.begin(list(followed.values())))
                    else:
                        self._executor.submit(plan)
                    ran = ((self._executor.collect(), 0.0),)
                    seconds = self._clock() - began
            except Exception as error:  # whose fault it is will be found: everyone else goes on
                self.book.num_failed_steps += 1
                fault = _as_fault(error, "the step failed whenever this request was in it, alone")
                events += fail(state, fault)
            except BaseException:
                retract(state)
                raise
            else:
                events += self._booked(plan, ran[0][0], began, began + seconds)
                events = _explained(events, followed)
                if followed and self._forced_spans:
                    events += self._append_forced(followed)
        if self._observer is not None and (plan.rows or events):
            self._observer.stepped(now, plan, events, fault, ahead)
        if runs_on and fault is None:
            events += self._go_on(plan, began, ran)
        if self._times is not None and told is None and plan.rows and fault is None:
            self._learn(plan, (self._clock() - now) / len(ran))
        return plan, events

    def _steps_ahead(self, most: int) -> int:
        """How many steps may be run in one call, now: one where that cannot be said."""
        if self._executor.steps_together < 2 or self._experts is not None or not self.book.steps:
            return 1
        last = self.book.steps[-1].seconds
        most = min(most, self._executor.steps_together, int(_RUN_SECONDS / max(last, 1e-6)))
        return 1 if most <= 1 else steps_ahead(self._state, most)

    def _booked(
        self, plan: StepPlan, result: StepResult, began: float, ended: float
    ) -> list[Event]:
        """Books the oldest step in flight."""
        in_flight = self._state.in_flight[0]
        if self._experts is not None:
            self._experts.count(plan, [flying.request for flying in in_flight])
        self.book.stepped(plan, in_flight, began, ended, self._prompt_share)
        return apply(self._state, result)

    def _go_on(
        self, first: StepPlan, began: float, ran: Sequence[tuple[StepResult, float]]
    ) -> list[Event]:
        """Plans and books what has run behind the first step of a run."""
        state = self._state
        requests = tuple(state.running)
        events: list[Event] = []
        last = began + ran[0][1]
        try:
            for number, (result, ended) in enumerate(ran[1:], 1):
                plan = schedule(state, last)
                if [(row.row, row.num_new, row.num_context - number) for row in plan.rows] != [
                    (row.row, row.num_new, row.num_context) for row in first.rows
                ]:
                    raise EngineError("a run of steps was planned otherwise than it ran")
                given = self._booked(plan, result, last, began + ended)
                if self._observer is not None:
                    self._observer.stepped(last, plan, given, None, 1)
                events += given
                last = began + ended
        except BaseException:
            state.in_flight.clear()
            recompute(state, requests)
            raise
        return events

    @property
    def _prompt_share(self) -> Callable[[StepShape], float] | None:
        return self._times.prompt_share if self._times is not None and self._times.in_use else None

    def _followed(self, plan: StepPlan) -> dict[str, Wanted]:
        """Of a plan about to run, the rows under a grammar that it samples, by request."""
        wanted = {}
        for row, flying in zip(plan.rows, self._state.in_flight[-1], strict=True):
            request = flying.request
            if flying.samples and request.follower is not None:
                answer = request.token_ids[request.num_prompt :]
                wanted[request.id] = Wanted(row.row, request.follower, answer)
        return wanted

    def _append_forced(self, followed: Mapping[str, Wanted]) -> list[Event]:
        """Of the rows under a grammar that were just sampled, what has to follow."""
        state = self._state
        events: list[Event] = []
        for request_id, wanted in followed.items():
            request = state.requests.get(request_id)
            most = 0 if request is None else most_forced(state, request)
            if request is None or most <= 0:
                continue
            answer = request.token_ids[request.num_prompt :]
            forced = wanted.follower.forced(answer, most)
            if not forced:
                continue
            booked = append_forced(state, request, forced)
            events += booked
            self.book.appended(request.trace, len(booked))
            if request.status is not Status.RUNNING:
                continue
            try:
                self._executor.append_tokens(request.row, forced)
            except Exception as error:
                fault = _as_fault(error, "the executor refused tokens of this request")
                events.append(end(state, request, "error", fault))
        return events

    def _learn(self, plan: StepPlan, seconds: float) -> None:
        """Tells the cost model what the step took, if anybody asks that what steps will take."""
        times = self._times
        assert times is not None
        if not times.in_use:
            return
        self._num_steps += 1
        # Many steps are alike; asking about each would cost them more than it tells.
        if (
            self._num_steps > _ALL_SEEN
            and self._num_steps % _ONE_SEEN_OF
            and len(plan.rows) == sum(row.num_new for row in plan.rows)
        ):
            return
        if times.observe(plan.shape, seconds):
            self._told_factors()

    def use_factors(self, factors: tuple[float, float]) -> None:
        """What the cost model had learned when a recorded run came to this place."""
        if self._times is not None:
            self._times.factors = factors
            self._told_factors()

    def _told_factors(self) -> None:
        assert self._times is not None
        assert self._state.pace is not None
        self._state.pace.forget()
        if self._observer is not None:
            self._observer.learned(self._times.factors)

    def _open_and_close_rows(self, plan: StepPlan, events: list[Event]) -> StepPlan:
        """Tells the executor; what is left of the plan if it refuses a request."""
        state = self._state
        while state.closed:
            self._executor.close_row(state.closed.pop(0))
        refused = False
        for request in tuple(state.opened):
            try:
                self._executor.open_row(request.row, request.token_ids, request.sampling)
                if request.images:
                    self._executor.give_images(request.row, request.images)
            except Exception as error:
                fault = _as_fault(error, "the executor refused this request")
                events.append(end(state, request, "error", fault))  # takes it out of `opened`, too
                refused = True
            else:
                state.opened.remove(request)
        return prune(state, plan) if refused else plan


def _explained(events: list[Event], followed: Mapping[str, Wanted]) -> list[Event]:
    """A request under a grammar that could be given no token: why."""
    if not followed:
        return events
    return [
        event._replace(error=followed[event.request_id].follower.fault(event.error))
        if event.error is not None and event.request_id in followed
        else event
        for event in events
    ]


def _as_fault(error: Exception, what: str) -> EngineError:
    if isinstance(error, EngineError):
        return error
    fault = EngineError(f"{what}: {error!r}")
    fault.__cause__ = error
    return fault
