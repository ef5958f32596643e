"""When a request will have its answer, from what is ahead of it; an estimate, and said to be one.

Work ahead is priced by the cost model: prompts at the speed of full steps, answers at that of a
step with every row in use. How long answers get is the mean of those that ended, until then what
they may have at most, or a usual length if that is less. Prefix hits, preemption and requests yet
to come are not foreseen.
"""

from __future__ import annotations

from ridgeline.engine.request import Request
from ridgeline.engine.schedule.state import SchedulerState

# Tokens of an answer where none has ended yet and a request may fill the whole context.
USUAL_OUTPUT = 256


def wait_seconds(state: SchedulerState, num_ahead: int | None = None) -> float:
    """Until the first `num_ahead` of those who wait (None: all) have been served and a row is free;
    0 where there is no cost model, which then says nothing.
    """
    if state.pace is None:
        return 0.0
    waiting = [*state.waiting, *(r for group in state.forks.values() for r in group)]
    ahead = waiting if num_ahead is None else sorted(waiting, key=lambda r: r.rank)[:num_ahead]
    if not ahead and state.has_row:
        return 0.0
    # One walk: a queue of hundreds is looked at between two steps.
    usual = USUAL_OUTPUT if state.mean_output is None else max(1.0, state.mean_output)
    prompts, answers = 0, 0.0
    for request in ahead:
        length = len(request.token_ids)
        begun = length > request.num_prompt  # before it was preempted
        prompts += length
        answers += expected_output(state, request) if begun else min(request.max_tokens, usual)
    tokens = prompts
    for request in state.running:
        prompts += max(0, request.num_prompt - request.num_planned)
        tokens += len(request.token_ids)
        answers += expected_output(state, request)
    rows = state.rows_at_once
    mean = (tokens + answers / 2) / max(1, len(ahead) + len(state.running))
    context = min(state.limits.max_context, int(mean))
    # Half of what runs is done when the first row falls free.
    share = 1.0 if ahead else 1.0 / rows
    decode = state.pace.decode_seconds(rows, context) * answers / rows
    return share * (state.pace.prefill_seconds(prompts) + decode)


def finish_seconds(state: SchedulerState, request: Request) -> float:
    """From now until the request's last token if it were admitted now."""
    if state.pace is None:
        return 0.0
    rows = min(state.rows_at_once, state.num_waiting + len(state.running) + 1)
    context = _mean_context(state, [*state.running, request])
    own = state.pace.prefill_seconds(len(request.token_ids))
    decode = state.pace.decode_seconds(rows, context) * expected_output(state, request)
    return wait_seconds(state) + own + decode


def outlook(state: SchedulerState) -> tuple[float, float, float]:
    """Seconds until a newcomer would be begun, for a token of its prompt, and that an answer of
    usual length takes of all rows' time; zeros where there is no cost model.
    """
    if state.pace is None:
        return 0.0, 0.0, 0.0
    rows = state.rows_at_once
    context = _mean_context(state, state.running)
    length = USUAL_OUTPUT if state.mean_output is None else max(1.0, state.mean_output)
    answer = state.pace.decode_seconds(rows, max(1, context)) * length / rows
    return wait_seconds(state), state.pace.prefill_seconds(1), answer


def expected_output(state: SchedulerState, request: Request) -> float:
    """Tokens that a request will still write."""
    most = request.max_tokens - request.num_generated
    if state.mean_output is None:
        return min(most, USUAL_OUTPUT)
    return min(most, max(1.0, state.mean_output - request.num_generated))


def _mean_context(state: SchedulerState, requests: list[Request]) -> int:
    total = sum(len(r.token_ids) + expected_output(state, r) / 2 for r in requests)
    return min(state.limits.max_context, int(total / max(1, len(requests))))
