"""Who runs next: `schedule(state) -> StepPlan`, `apply(state, plan, result) -> events`; both pure.

One budget of tokens a step, no phases: running rows get their token first (it bounds everyone's
inter-token latency), then prompts go on in chunks, then waiting requests are admitted while rows
and blocks last. When blocks run out, the youngest running request gives its own back and is
computed again later: the tokens it will then produce are the same ones, so nobody can tell. The
oldest running request is never preempted, so some request always ends.
"""

from __future__ import annotations

from ridgeline.engine.kv.prefix import prefix_hashes
from ridgeline.engine.request import Event, FinishReason, Request, Status
from ridgeline.engine.schedule.state import SchedulerState
from ridgeline.errors import EngineError, RequestError
from ridgeline.step import PlanRow, StepPlan, StepResult


def admit(state: SchedulerState, request: Request) -> None:
    """Queues a request. Raises RequestError if it could never run here."""
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
    if _blocks_for(state, longest) > state.pool.num_blocks:
        room = state.pool.num_blocks * limits.block_tokens
        raise RequestError(
            "max_tokens",
            f"prompt and answer may take {longest} tokens; the KV cache holds {room}. Ask for less "
            "or give the cache more memory",
        )
    if request.id in state.requests:
        raise RequestError("request_id", f"{request.id!r} is in use")
    state.requests[request.id] = request
    state.waiting.append(request)


def schedule(state: SchedulerState) -> StepPlan:
    """The next step's rows, with their blocks; empty when there is nothing to do."""
    budget = state.limits.max_tokens_per_step
    planned: list[tuple[Request, PlanRow]] = []
    preempted = False
    for request in list(state.running):
        if budget == 0:
            break
        if request.status is not Status.RUNNING:
            continue  # gave its blocks to an older request in this very loop
        num_new = min(len(request.token_ids) - request.num_computed, budget)
        while not _grow(state, request, request.num_computed + num_new):
            preempted = True
            _preempt(state, state.running[-1])
            if request.status is not Status.RUNNING:
                break
        else:
            planned.append((request, _plan_row(state, request, num_new)))
            budget -= num_new
    # Blocks just taken back are for those who run: admitting now would only preempt again.
    while state.waiting and budget > 0 and state.free_rows and not preempted:
        request = state.waiting[0]
        if not _start(state, request, budget):
            break
        state.waiting.popleft()
        num_new = min(len(request.token_ids) - request.num_computed, budget)
        planned.append((request, _plan_row(state, request, num_new)))
        budget -= num_new
    return StepPlan(tuple(row for request, row in planned if request.status is Status.RUNNING))


def apply(state: SchedulerState, plan: StepPlan, result: StepResult) -> list[Event]:
    """Books a step's outcome and says what happened to each request that was given a token."""
    by_row = {request.row: request for request in state.running}
    for row in plan.rows:
        request = by_row.get(row.row)
        if request is not None:
            request.num_computed = row.num_context + row.num_new
    events: list[Event] = []
    for sampled in result.sampled:
        request = by_row.get(sampled.row)
        if request is None:
            continue  # aborted while the step ran
        if sampled.fault is not None:
            events.append(end(state, request, "error", EngineError(sampled.fault)))
            continue
        request.token_ids.append(sampled.token_id)
        reason = _finish_reason(state, request, sampled.token_id)
        events.append(
            Event(
                request.id,
                sampled.token_id,
                sampled.logprob,
                tuple(sampled.top_logprobs),
                reason,
            )
        )
        if reason is not None:
            end(state, request, reason)
    for request in state.running:
        _publish(state, request)
    return events


def end(
    state: SchedulerState,
    request: Request,
    reason: FinishReason,
    error: EngineError | None = None,
) -> Event:
    """Ends a request at any moment and gives back what it holds."""
    if request.status is Status.RUNNING:
        _publish(state, request)
        _vacate(state, request)
    elif request.status is Status.WAITING:
        state.waiting.remove(request)
    request.status = Status.FINISHED
    state.requests.pop(request.id, None)
    return Event(request.id, finish_reason=reason, error=error)


def _start(state: SchedulerState, request: Request, budget: int) -> bool:
    """Gives a waiting request a row and its first blocks, cached if possible; False: no room."""
    size = state.limits.block_tokens
    # The last token is always computed: its logits are what the caller waits for.
    cacheable = request.token_ids[: (len(request.token_ids) - 1) // size * size]
    names = list(prefix_hashes(cacheable, size, request.salt))
    shared = state.pool.match(names)
    num_cached = len(shared) * size
    first = min(len(request.token_ids), num_cached + budget)
    state.pool.share(shared)
    fresh = state.pool.allocate(_blocks_for(state, first) - len(shared))
    if fresh is None:
        state.pool.release(shared)
        return False
    request.blocks = [*shared, *fresh]
    request.num_published = len(shared)
    request.last_hash = names[len(shared) - 1] if shared else b""
    request.num_computed = num_cached
    if request.num_cached is None:
        request.num_cached = num_cached
    request.row = state.free_rows.pop()
    request.status = Status.RUNNING
    state.running.append(request)
    state.opened.append(request)
    return True


def _grow(state: SchedulerState, request: Request, num_tokens: int) -> bool:
    """Blocks for `num_tokens` of a running request; False: the pool has too few."""
    fresh = state.pool.allocate(max(0, _blocks_for(state, num_tokens) - len(request.blocks)))
    if fresh is None:
        return False
    request.blocks += fresh
    return True


def _preempt(state: SchedulerState, request: Request) -> None:
    """Back to the head of the queue, to be computed again."""
    _vacate(state, request)
    request.status = Status.WAITING
    request.num_preemptions += 1
    state.waiting.appendleft(request)


def _vacate(state: SchedulerState, request: Request) -> None:
    state.running.remove(request)
    state.pool.release(request.blocks)
    if request in state.opened:
        state.opened.remove(request)  # the executor has not heard of it yet
    else:
        state.closed.append(request.row)
    state.free_rows.append(request.row)
    request.blocks = []
    request.row = -1
    request.num_computed = 0


def _plan_row(state: SchedulerState, request: Request, num_new: int) -> PlanRow:
    reaches_end = request.num_computed + num_new == len(request.token_ids)
    # The executor has the blocks of what it has computed; the rest is news to it.
    known = 0 if request in state.opened else _blocks_for(state, request.num_computed)
    return PlanRow(
        row=request.row,
        num_new=num_new,
        num_context=request.num_computed,
        num_logits=1 if reaches_end else 0,
        new_blocks=tuple(request.blocks[known:]),
    )


def _publish(state: SchedulerState, request: Request) -> None:
    """Names the blocks that are full by now, for others to find."""
    size = state.limits.block_tokens
    full = request.num_computed // size
    if full > request.num_published:
        fresh = request.token_ids[request.num_published * size : full * size]
        for name in prefix_hashes(fresh, size, request.salt, request.last_hash):
            state.pool.publish(request.blocks[request.num_published], name)
            request.num_published += 1
            request.last_hash = name


def _finish_reason(state: SchedulerState, request: Request, token_id: int) -> FinishReason | None:
    if token_id in request.stop_token_ids:
        return "stop"
    if request.num_generated >= request.max_tokens:
        return "length"
    if len(request.token_ids) >= state.limits.max_context:
        return "length"
    return None


def _blocks_for(state: SchedulerState, num_tokens: int) -> int:
    return -(-num_tokens // state.limits.block_tokens)
