"""Whose fault it is when a step fails as a whole: its requests run again, apart from all others.

What an executor raises does not say which row it came from. So the requests of a failed step are a
group of suspects: they are computed again, and nobody else beside them. If that goes well, whatever
it was has passed, and it cost time only. If it fails again, each half of the group is a group of
its own, and a request whose step fails with it alone, having failed before, is the guilty one.

Bounded: a group of n has at most 2n - 1 steps that fail, each of which parts it or ends a request;
between two of them every suspect gets past the place where it failed before it is cleared.
"""

from __future__ import annotations

from collections.abc import Sequence

from ridgeline.engine.request import Request
from ridgeline.engine.schedule.state import InFlight, SchedulerState


def accuse(state: SchedulerState, failed: Sequence[InFlight], num_rows: int) -> Request | None:
    """The requests of a failed step of `num_rows` rows that still run come under suspicion; the one
    that is guilty, if it is known by now: it is in no group any more.
    """
    for flying in failed:
        flying.request.suspected_to = max(flying.request.suspected_to, flying.num_tokens)
    present = [flying.request for flying in failed]
    group = state.suspects[0] if state.suspects else []
    if not all(request in group for request in present):
        known = {request for one in state.suspects for request in one}
        new = [request for request in present if request not in known]
        if new:
            state.suspects.append(new)
        return None
    if not present or num_rows > len(present) == 1:
        return None  # the guilty one may be among those that ended meanwhile
    state.suspects.popleft()
    untried = [request for request in group if request not in present]
    half = len(present) // 2
    parts = (present[:half], present[half:], untried)
    state.suspects.extendleft(part for part in reversed(parts if half else parts[2:]) if part)
    return None if half else present[0]


def clear(state: SchedulerState, request: Request) -> None:
    """The step of a request went well: it is no suspect once it is past the place of the fault."""
    group = state.suspects[0]
    if request in group and request.num_computed >= request.suspected_to:
        forget(state, request)


def forget(state: SchedulerState, request: Request) -> None:
    """The request is in no group any more."""
    request.suspected_to = 0
    for group in tuple(state.suspects):
        if request in group:
            group.remove(request)
            if not group:
                state.suspects.remove(group)
