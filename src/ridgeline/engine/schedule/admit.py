"""Who gets into the queue, and who must leave it because their time is over."""

from __future__ import annotations

import heapq

from ridgeline.engine.request import Event, Request, Status
from ridgeline.engine.schedule.images import check_images
from ridgeline.engine.schedule.predict import finish_seconds, wait_seconds
from ridgeline.engine.schedule.state import SchedulerState
from ridgeline.engine.schedule.step import end
from ridgeline.errors import Overloaded, RequestError
from ridgeline.step import longest_row, most_row_blocks

# Nobody is told to come back sooner; without a cost model nothing more is known.
_RETRY_SECONDS = 0.1


def admit(state: SchedulerState, request: Request, now: float = 0.0) -> None:
    """Queues a request.

    Raises RequestError if it could never run here; Overloaded if the queue is full, or if its
    deadline would pass before its answer is written.
    """
    _check_possible(state, request)
    _check_room(state, request, now)
    state.num_admitted += 1
    request.number = state.num_admitted
    state.requests[request.id] = request
    state.watch_deadline(request)
    parent = None if request.fork_of is None else state.requests.get(request.fork_of)
    if parent is not None and parent.num_computed < parent.num_prompt:
        state.forks.setdefault(parent.id, []).append(request)
    else:
        state.waiting.push(request)


def expire(state: SchedulerState, now: float) -> list[Event]:
    """Ends the requests whose deadline has come, whether they wait or run."""
    events = []
    while state.deadlines and state.deadlines[0][0] <= now:
        _deadline, _number, request = heapq.heappop(state.deadlines)
        if request.status is not Status.FINISHED:
            events.append(end(state, request, "deadline"))
    return events


def _check_possible(state: SchedulerState, request: Request) -> None:
    limits = state.limits
    longest = min(request.num_prompt + request.max_tokens, limits.max_context)
    if request.num_prompt == 0:
        raise RequestError("prompt", "is empty; at least one token is needed")
    if request.num_prompt >= limits.max_context:
        raise RequestError(
            "prompt",
            f"has {request.num_prompt} tokens; the context holds {limits.max_context}, "
            "the answer included",
        )
    check_images(request, limits.max_tokens_per_step, limits.max_rows)
    sizes = (limits.block_tokens, limits.most_unbooked_tokens)
    groups, num_blocks = state.pool.groups, state.pool.num_blocks
    if most_row_blocks(groups, longest, *sizes) > num_blocks:
        room = longest_row(groups, num_blocks, *sizes, longest)
        raise RequestError(
            "max_tokens",
            f"prompt and answer may take {longest} tokens; the KV cache holds {room}. Ask for less "
            "or give the cache more memory",
        )
    if request.id in state.requests:
        raise RequestError("request_id", f"{request.id!r} is in use")


def _check_room(state: SchedulerState, request: Request, now: float) -> None:
    most = state.limits.max_waiting
    if most is not None and state.num_waiting >= most:
        # A place falls free when the first of those who wait gets a row.
        retry = max(wait_seconds(state, 0), _RETRY_SECONDS)
        raise Overloaded(f"{most} requests wait already; come back in {retry:.1f} s", retry)
    if request.deadline is None:
        return
    finish = now + finish_seconds(state, request)
    if finish > request.deadline:
        late = finish - request.deadline
        raise Overloaded(
            f"the answer would come about {late:.1f} s after its deadline; come back in "
            f"{late:.1f} s or ask for fewer tokens",
            late,
        )
