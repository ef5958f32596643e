"""Rows that a simulator need not look at: to each of them nothing happens for some steps but that
it is given a token.

A row sleeps until the step in which it ends, needs a block, or has a full one to name; `schedule`
counts it in the step's budget and looks at the others only, so that a step of thousands of answers
takes as long as what happens in it. Awake again, a request is what it would be had each step looked
at it. The engine uses none of this: there, a token can end a request, and each row is told of.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ridgeline.engine.request import Rank, Request

if TYPE_CHECKING:
    from ridgeline.engine.schedule.state import Limits, SchedulerState

# Steps that a row sleeps at least; for fewer it takes more than it saves.
_LEAST_STEPS = 2


@dataclass(slots=True)
class Asleep:
    """context: of all rows that sleep, the tokens computed before the next step. ticks: steps that
    gave those who slept then a token. since: at which tick each fell asleep. due: who is to be
    awake in which tick, with the tick when they fell asleep (some are awake already, or sleep
    again). ends: the last tick before the one that ends each. least, most: between which all
    contexts were, or more, at tick 0.
    """

    context: int = 0
    ticks: int = 0
    least: int = 0
    most: int = 0
    since: dict[Request, int] = field(default_factory=dict)
    ends: dict[Request, int] = field(default_factory=dict)
    due: dict[int, list[tuple[Request, int]]] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return len(self.since)

    def tick(self, num_steps: int = 1) -> None:
        """So many steps gave each of them a token."""
        self.ticks += num_steps
        self.context += num_steps * len(self.since)

    def read(self, window: int | None) -> int:
        """Tokens that the next step reads for all of them where no more than `window` are seen, the
        new one among them.
        """
        if window is None or self.most + self.ticks < window:
            return self.context + len(self.since)
        if self.least + self.ticks + 1 >= window:
            return window * len(self.since)
        return sum([min(context + 1, window) for context in self.contexts()])

    def contexts(self) -> list[int]:
        """Of each, the tokens computed before the next step."""
        ticks = self.ticks
        return [request.num_planned + ticks - tick for request, tick in self.since.items()]


def may_sleep(state: SchedulerState) -> bool:
    """Whether the policy and all who are there let rows sleep."""
    waiting = state.waiting
    return not (
        waiting.charges or waiting.preempts or state.deadlines or state.suspects or state.forks
    )


def fall_asleep(state: SchedulerState) -> list[Request]:
    """Takes who may sleep out of those that run; nothing is in flight."""
    asleep, limits = state.asleep, state.limits
    slept: list[Request] = []
    if not asleep.since:
        asleep.least, asleep.most = 1 << 60, -(1 << 60)
    for request in state.running:
        left = _steps_left(limits, request)
        steps = min(left, _steps_within(limits, request)) if left else 0
        if steps < _LEAST_STEPS:
            continue
        slept.append(request)
        asleep.context += request.num_planned
        asleep.since[request] = asleep.ticks
        asleep.least = min(asleep.least, request.num_planned - asleep.ticks)
        asleep.most = max(asleep.most, request.num_planned - asleep.ticks)
        asleep.due.setdefault(asleep.ticks + steps + 1, []).append((request, asleep.ticks))
        asleep.ends[request] = asleep.ticks + left
    if slept:
        since = asleep.since
        state.running[:] = [request for request in state.running if request not in since]
    return slept


def _steps_left(limits: Limits, request: Request) -> int:
    """Before the one that ends it, if each gives it a token; 0: something else is to be done."""
    num_tokens = len(request.token_ids)
    written = num_tokens - request.num_prompt
    if (
        num_tokens - request.num_planned != 1
        or written <= 0
        or request.num_pending
        or request.stop_token_ids
        or request.snapshots
        or request.scores_prompt
        or request.sampling.mirostat_tau
    ):
        return 0
    return min(request.max_tokens - written, limits.max_context - num_tokens) - 1


def _steps_within(limits: Limits, request: Request) -> int:
    """Before one that needs a block, or fills one; or takes a snapshot of recurrent states."""
    size, num_tokens = limits.block_tokens, len(request.token_ids)
    # A step makes `num_tokens` computed, in blocks that are there; then they are one more.
    steps = min(len(request.blocks) * size + 1, (request.num_published + 1) * size) - num_tokens
    return min(steps, -request.num_planned % size) if limits.is_recurrent else steps


def due(state: SchedulerState, num_steps: int = 1) -> list[Request]:
    """Who sleeps and is to be awake in one of the next steps."""
    asleep = state.asleep
    if not asleep.since:
        asleep.due.clear()
        return []
    last = asleep.ticks + num_steps
    if num_steps == 1 and last not in asleep.due:
        return []
    found: list[Request] = []
    if num_steps == 1:
        ticks = [last]
    else:
        ticks = sorted([tick for tick in asleep.due if tick <= last])
    for tick in ticks:
        for request, since in asleep.due.pop(tick):
            if asleep.since.get(request) == since:
                found.append(request)
    return found


def wake(state: SchedulerState, requests: Sequence[Request]) -> None:
    """They run again as all others do."""
    if not requests:
        return
    asleep = state.asleep
    for request in requests:
        num_steps = asleep.ticks - asleep.since.pop(request)
        del asleep.ends[request]
        if num_steps:
            request.token_ids.extend(array("i", [0]) * num_steps)
            request.num_planned += num_steps
            request.num_computed = request.num_planned
        asleep.context -= request.num_planned
    state.running += requests
    state.running.sort(key=_rank)


def _rank(request: Request) -> Rank:
    return request.rank
