"""Prompts that come together are read together, and their answers begin together: a wave.

Read one after the other, each prompt would begin its answer while the next ones are read, and wait
for a piece of them between any two of its tokens: all answers are slow until the last prompt is
read, and prompts in pieces are read at half the speed. Of a wave, steps are prompts' alone, and who
is read waits with the last token of its prompt; the step that reads the last of them gives everyone
a first token. No first token comes later than the last one would have come, and all answers end
sooner. Answers that are alike end together, too, so the next wave is let in as one.

A wave needs many prompts beside few answers. It is over once what is left fits in a step, or nobody
else can be let in. Times of requests change by it; their tokens never.
"""

from __future__ import annotations

from enum import IntEnum

from ridgeline.engine.request import Request
from ridgeline.engine.schedule.state import SchedulerState

# Prompts that a wave has at least; and for each answer that is being written meanwhile, a token a
# step, so many prompts.
LEAST_PROMPTS = 8
PROMPTS_PER_ANSWER = 4
# Those who wait for a row are not let in while most rows have so few tokens left, at most.
LAST_TOKENS = 8


class Wave(IntEnum):
    """NONE: prompts get what the pace leaves them. READS: steps are prompts', and who is read
    waits. ENDS: the rest of all prompts is in this step, and their first tokens.
    """

    NONE = 0
    READS = 1
    ENDS = 2


def wave_of(state: SchedulerState, budget: int) -> Wave:
    """Whether the next step, of `budget` tokens, is a wave's."""
    most = state.limits.wave_seconds
    if most is None or state.pace is None or state.suspects:
        return Wave.NONE
    prompts = left = 0
    for request in state.running:
        if may_wait(request):
            prompts += 1
            left += len(request.token_ids) - request.num_planned
    answers = len(state.running) - prompts + state.asleep.count
    places = min(len(state.free_rows), state.rows_at_once - len(state.running))
    coming = min(max(places, 0), len(state.waiting))
    prompts += coming
    if prompts < LEAST_PROMPTS or answers * PROMPTS_PER_ANSWER > prompts:
        return Wave.NONE
    if coming:
        waiting = sum(len(request.token_ids) for request in state.waiting)
        left += coming * waiting // len(state.waiting)
    if left <= budget:
        return Wave.ENDS
    return Wave.READS if state.pace.prefill_seconds(left) <= most else Wave.NONE


def may_wait(request: Request) -> bool:
    """Whether it has a prompt to read, and nothing comes out of that but a first token."""
    return not (
        request.num_generated or request.num_pending or request.scores_prompt or request.images
    )


def wave_ends(state: SchedulerState) -> bool:
    """Whether most of what runs is about to be over, so that those who wait may come as one."""
    asleep = state.asleep
    num_running = len(state.running) + asleep.count
    if state.limits.wave_seconds is None or state.waiting.preempts or num_running < LEAST_PROMPTS:
        return False
    most = state.limits.max_context
    last = sum(
        request.num_generated > 0
        and min(request.max_tokens - request.num_generated, most - len(request.token_ids))
        <= LAST_TOKENS
        for request in state.running
    )
    last += sum(end - asleep.ticks < LAST_TOKENS for end in asleep.ends.values())
    return 2 * last > num_running
