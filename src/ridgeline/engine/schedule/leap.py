"""Many steps at once, for the simulator: where every running request gets one token a step and
nothing else happens but that the last step ends some, the steps need not be planned one by one.

What state this leaves is the one that `schedule` and `apply` would have left, but for which free
block went to whom and, where blocks are short and two rows write the same tokens, whose block keeps
the name. The engine does not use it: there, a token can end a request.
"""

from __future__ import annotations

from array import array

from ridgeline.engine.request import Event, Request
from ridgeline.engine.schedule.memory import blocks_for, grow, has_room, publish
from ridgeline.engine.schedule.state import SchedulerState
from ridgeline.engine.schedule.step import end, ended_by, learn_length


def quiet_steps(state: SchedulerState) -> tuple[int, bool]:
    """How many of the coming steps will give each running request one token, admit none and preempt
    none, if nobody comes or goes and no deadline passes; and whether the last of them ends
    somebody, as no other does.
    """
    num_running = len(state.running) + state.asleep.count
    if not num_running or state.in_flight or state.suspects or _admits(state):
        return 0, False
    limits = state.limits
    if num_running > limits.max_tokens_per_step:
        return 0, False
    steps = 1 << 30
    for request in state.running:
        written = request.num_generated
        # A first token is an event, even where all of a prompt but one token is computed.
        if written == 0 or len(request.token_ids) - request.num_planned != 1:
            return 0, False
        if request.stop_token_ids:
            return 0, False
        steps = min(
            steps, request.max_tokens - written, limits.max_context - len(request.token_ids)
        )
    if state.asleep.count:
        steps = min(steps, min(state.asleep.ends.values()) - state.asleep.ticks + 1)
    # Rows with recurrent states have snapshots to take as they end; and with a policy that charges,
    # who is next may be another one by then. That is left to those who plan.
    is_plain = not limits.is_recurrent and not (state.waiting.charges and state.waiting)
    if steps > 0 and is_plain and _has_blocks(state, steps):
        return steps, True
    steps -= 1
    while steps > 0 and not _has_blocks(state, steps):
        steps //= 2
    return max(steps, 0), False


def leap(state: SchedulerState, num_steps: int, token_id: int = 0) -> None:
    """Books `num_steps` of the quiet steps, each giving `token_id` to every running request. Who
    sleeps beyond them goes on; all others are awake.
    """
    tokens = array("i", [token_id]) * num_steps
    size = state.limits.block_tokens
    for request in state.running:
        end = request.num_planned + num_steps
        grown = grow(state, request, end)
        assert grown
        request.token_ids.extend(tokens)
        request.num_planned = request.num_computed = end
        request.num_told = len(request.blocks)
        if end // size > request.num_published:
            publish(state, request)
        if state.waiting.charges and end > request.num_charged:
            state.waiting.charge(request, min(num_steps, end - request.num_charged))
            request.num_charged = end


def grow_all(state: SchedulerState) -> None:
    """Blocks for the next of the quiet steps."""
    for request in state.running:
        grown = grow(state, request, request.num_planned + 1)
        assert grown


def last_step(state: SchedulerState) -> list[tuple[Request, Event]]:
    """Books the quiet step that ends somebody, for which there are blocks, and ends those."""
    leap(state, 1)
    ended = []
    for request in tuple(state.running):
        reason = ended_by(state, request, request.token_ids[-1])
        if reason is not None:
            learn_length(state, request)
            ended.append((request, end(state, request, reason)))
    return ended


def _admits(state: SchedulerState) -> bool:
    """Whether the first of those who wait might be admitted; what runs only takes more blocks."""
    first = state.waiting.first()
    if first is None:
        return False
    if state.waiting.preempts and first.rank < state.running[-1].rank:
        return True
    return state.has_row and has_room(state, first)


def _has_blocks(state: SchedulerState, num_steps: int) -> bool:
    """For all steps at once: what windows give up meanwhile comes after."""
    asleep, size = state.asleep, state.limits.block_tokens
    most = state.pool.num_free // state.blocks_per_entry
    most -= sum(
        max(0, blocks_for(state, r.num_planned + num_steps) - len(r.blocks)) for r in state.running
    )
    if asleep.count * (num_steps // size + 1) <= most:
        return True
    ahead = asleep.ticks + num_steps
    return most >= sum(
        max(0, blocks_for(state, r.num_planned + ahead - tick) - len(r.blocks))
        for r, tick in asleep.since.items()
    )
