"""One engine under requests that are given one by one: what became of them, in plain lists."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ridgeline.engine.request import Request
from ridgeline.engine.schedule.state import SchedulerState
from ridgeline.plan.fleet import Fleet
from ridgeline.plan.replica import Times
from ridgeline.plan.simulate import Run
from ridgeline.plan.tally import Slo


@dataclass(slots=True)
class Simulation:
    """What became of a load on one replica. Seconds are of the virtual clock.

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


def simulate(
    requests: Iterable[Request], state: SchedulerState, times: Times, *, leaps: bool = True
) -> Simulation:
    """Runs requests, in order of arrival, through one empty scheduler.

    times: what steps take. leaps: steps that only give each running request a token are not planned
    one by one; what comes out is the same.
    """
    fleet = Fleet(lambda: state, times, leaps=leaps)
    found = Run(fleet, requests, None, Slo(), lambda: state).run()
    tally = found.tally
    return Simulation(
        ttft_seconds=list(tally.ttft),
        tpot_seconds=list(tally.tpot),
        e2e_seconds=list(tally.e2e),
        num_finished=tally.num_finished,
        num_refused=tally.num_refused,
        num_expired=tally.num_expired,
        num_preemptions=found.num_preemptions,
        num_steps=found.num_steps,
        num_planned_steps=found.num_planned_steps,
        prompt_tokens=tally.prompt_tokens,
        cached_tokens=tally.cached_tokens,
        output_tokens=tally.output_tokens,
        seconds=found.seconds,
        busy_seconds=found.busy_seconds,
    )
