"""A request that goes on at another replica: its own sent it on, or was lost."""

from __future__ import annotations

from dataclasses import replace

from ridgeline.engine.request import Request
from ridgeline.plan.tally import Tally, Ticket


def again(request: Request, ticket: Ticket, num_received: int) -> Request:
    """The same request for another replica. num_received: tokens whose cache is sent along."""
    return Request(
        id=request.id,
        token_ids=request.token_ids,
        num_prompt=request.num_prompt,
        max_tokens=ticket.max_tokens - (request.num_prompt - ticket.num_prompt),
        sampling=request.sampling,
        stop_token_ids=request.stop_token_ids,
        salt=request.salt,
        tenant=request.tenant,
        priority=request.priority,
        arrival=request.arrival,
        deadline=request.deadline,
        num_received=num_received,
    )


def anew(
    request: Request, ticket: Ticket, tally: Tally, keeps_progress: bool, block_tokens: int
) -> Request:
    """The request as it is asked of another replica, since its own is lost. keeps_progress: what it
    had written is prompt there, in blocks of block_tokens; else it starts anew, which is booked.
    """
    if not keeps_progress and ticket.num_tokens:
        tally.num_lost_tokens += ticket.num_tokens
        tally.output_tokens -= ticket.num_tokens
        ticket.num_tokens = 0  # its caller has seen a first token, and waits for the next
    kept = ticket.num_prompt + ticket.num_tokens
    tokens = request.token_ids[:kept]
    assert len(tokens) == kept
    moved = again(request, ticket, 0)
    moved.names = request.names[: kept // block_tokens]
    return replace(
        moved, token_ids=tokens, num_prompt=kept, max_tokens=ticket.max_tokens - ticket.num_tokens
    )
