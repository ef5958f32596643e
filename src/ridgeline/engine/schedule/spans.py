"""Forced spans: tokens to which a grammar leaves no other come without a step for each.

Where a mask has one bit, sampling gives that token whatever the logits are, and noise is keyed by
position: what is appended unseen is what would have been sampled, and so is all that follows. It is
not done where something else is asked of each token's logits, or could forbid even the one that is
left: then the request has its steps, or its fault, as ever.
"""

from __future__ import annotations

from collections.abc import Sequence

from ridgeline.engine.request import Event, Request, Status
from ridgeline.engine.schedule.state import SchedulerState
from ridgeline.engine.schedule.step import MAX_SPAN, end, ended_by, learn_length
from ridgeline.step import RowSampling


def may_span(sampling: RowSampling) -> bool:
    """Whether tokens of a row may come unseen. Penalties change none where one is left; DRY's may
    be without bound.
    """
    return (
        sampling.is_constrained
        and sampling.num_logprobs < 0
        and sampling.mirostat_tau <= 0
        and sampling.dry_multiplier <= 0
        and not sampling.no_repeat_ngram
        and not sampling.min_tokens
        and not sampling.logit_bias
        and not sampling.bad_words
        and sampling.allowed_ids is None
    )


def most_forced(state: SchedulerState, request: Request) -> int:
    """Tokens that may be appended to a request now; 0: none, or it does not run."""
    if (
        request.status is not Status.RUNNING
        or request.num_pending
        or not may_span(request.sampling)
    ):
        return 0
    by_length = request.max_tokens - request.num_generated
    return min(MAX_SPAN, by_length, state.limits.max_context - len(request.token_ids))


def append_forced(state: SchedulerState, request: Request, token_ids: Sequence[int]) -> list[Event]:
    """Books tokens that follow the one that was just sampled, as `apply` books that; what comes
    after an end is left out. A request that still runs has all of them: its executor is to be told.
    """
    events = []
    for token_id in token_ids:
        request.token_ids.append(token_id)
        request.num_forced += 1
        reason = ended_by(state, request, token_id)
        events.append(Event(request.id, token_id, finish_reason=reason))
        if reason is not None:
            learn_length(state, request)
            end(state, request, reason)
            break
    return events
