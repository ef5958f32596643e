"""How many of the coming steps can be run in one call: those that give each running request a token
and nobody else anything.

Between two steps of a small model Python costs more than it should, since what it works with has
left the caches. A run of steps is planned as its first; the others are planned and booked when they
have run, one after the other, and are the plans that single steps would have had, but that blocks
come up to a run earlier (`schedule`'s `ahead`).
"""

from __future__ import annotations

from ridgeline.engine.schedule.memory import blocks_for
from ridgeline.engine.schedule.state import SchedulerState


def steps_ahead(state: SchedulerState, most: int) -> int:
    """1 to `most`: so many steps can be run in one call if none of them ends an answer; one that
    does is the last.
    """
    limits, waiting = state.limits, state.waiting
    if (
        state.in_flight
        or state.opened
        or state.suspects
        or state.forks
        or state.deadlines
        or state.asleep.count
        or limits.is_recurrent
        or (len(waiting) and (state.free_rows or waiting.preempts or waiting.charges))
        or not 0 < len(state.running) <= limits.max_tokens_per_step
    ):
        return 1
    steps = most
    for request in state.running:
        num_tokens = len(request.token_ids)
        if (
            num_tokens - request.num_planned != 1
            or request.num_generated == 0
            or request.num_pending
            or request.follower is not None
            or request.images
            or request.scores_prompt
        ):
            return 1
        steps = min(
            steps, request.max_tokens - request.num_generated, limits.max_context - num_tokens
        )
    missing = sum(
        max(0, blocks_for(state, request.num_planned + steps) - len(request.blocks))
        for request in state.running
    )
    if missing * state.blocks_per_entry > state.pool.num_free:
        return 1
    return max(steps, 1)


def run_ends(state: SchedulerState) -> list[int]:
    """Tokens that may end an answer of those who run."""
    ends = {request.stop_token_ids for request in state.running}
    return sorted(frozenset().union(*ends))
