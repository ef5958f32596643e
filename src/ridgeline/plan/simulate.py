"""The scheduler that serves, on a virtual clock: what a machine would make of a load.

Steps take what the cost model says, tokens have no value, and answers are as long as the trace says
they were. The roofline's times are the least possible ones, so what comes out is a bound on what
the machine can do; it is as good as the times that are put in.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf

from ridgeline.cost.step_times import StepTimes
from ridgeline.engine.request import Event, Request
from ridgeline.engine.schedule.admit import admit, expire
from ridgeline.engine.schedule.leap import leap, quiet_steps
from ridgeline.engine.schedule.state import SchedulerState
from ridgeline.engine.schedule.step import apply, schedule
from ridgeline.errors import Overloaded
from ridgeline.step import Sampled, StepPlan, StepResult


@dataclass(slots=True)
class Simulation:
    """What became of a load. Seconds are of the virtual clock.

    ttft_seconds, e2e_seconds: of requests that finished, in the order in which they did; from
    arrival. tpot_seconds: (e2e - TTFT) / (tokens - 1), of answers of two tokens and more.
    busy_seconds: time in steps. num_planned_steps: of num_steps, those that were not leapt over.
    """

    ttft_seconds: list[float] = field(default_factory=list)
    tpot_seconds: list[float] = field(default_factory=list)
    e2e_seconds: list[float] = field(default_factory=list)
    num_finished: int = 0
    num_refused: int = 0
    num_expired: int = 0
    num_preemptions: int = 0
    num_steps: int = 0
    num_planned_steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0
    busy_seconds: float = 0.0

    @property
    def hit_rate(self) -> float:
        """Prompt tokens that the prefix cache had."""
        return self.cached_tokens / max(1, self.prompt_tokens)


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest value that at least `share` (0 to 1) of them do not exceed; NaN of none."""
    ordered = sorted(values)
    if not ordered:
        return float("nan")
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def simulate(
    requests: Iterable[Request],
    state: SchedulerState,
    times: StepTimes,
    *,
    leaps: bool = True,
) -> Simulation:
    """Runs requests, in order of arrival, through an empty scheduler.

    times: see `StepTimes`. leaps: steps that only give each running request a token are not planned
    one by one; what comes out is the same.
    """
    found = Simulation()
    coming = iter(requests)
    following = next(coming, None)
    first_tokens: dict[str, float] = {}
    now = 0.0
    while following is not None or state.has_work:
        while following is not None and following.arrival <= now:
            try:
                admit(state, following, now)
            except Overloaded:
                found.num_refused += 1
            following = next(coming, None)
        if state.deadlines:
            found.num_expired += len(expire(state, now))
        plan = schedule(state, now)
        state.opened.clear()
        state.closed.clear()
        if not plan.rows:
            assert following is not None, "nothing runs, nobody comes, and somebody waits"
            now = max(now, following.arrival)
            continue
        step_seconds = times(plan.shape)
        now += step_seconds
        found.busy_seconds += step_seconds
        found.num_steps += 1
        found.num_planned_steps += 1
        ending = [flying.request for flying in state.in_flight[0] if flying.samples]
        for request, event in zip(ending, apply(state, _zeros(plan)), strict=True):
            _book(found, request, event, now, first_tokens)
        if leaps and (most := quiet_steps(state)) > 0:
            until = inf if following is None else following.arrival
            if state.deadlines:
                until = min(until, state.deadlines[0][0])
            taken = 0
            contexts = [request.num_planned for request in state.running]
            for step_seconds in times.decode_run(contexts):
                if taken == most or now >= until:
                    break
                now += step_seconds
                found.busy_seconds += step_seconds
                taken += 1
            if taken:
                leap(state, taken)
                found.num_steps += taken
                found.output_tokens += taken * len(contexts)
    found.num_preemptions = state.num_preemptions
    found.seconds = now
    return found


def _zeros(plan: StepPlan) -> StepResult:
    return StepResult(tuple(Sampled(row.row, 0) for row in plan.rows if row.num_logits))


def _book(
    found: Simulation, request: Request, event: Event, now: float, first_tokens: dict[str, float]
) -> None:
    found.output_tokens += 1
    first = first_tokens.setdefault(request.id, now)
    if event.finish_reason is not None:
        del first_tokens[request.id]
        found.num_finished += 1
        found.prompt_tokens += request.num_prompt
        found.cached_tokens += request.num_cached or 0
        found.ttft_seconds.append(first - request.arrival)
        found.e2e_seconds.append(now - request.arrival)
        if request.num_generated > 1:
            found.tpot_seconds.append((now - first) / (request.num_generated - 1))
