"""Rows and blocks: taken on admission, grown by the token, given back at any moment.

A block with several owners is read only. Whole blocks of a shared prefix get one owner more; the
one block that a fork will write to, because the common part ends within it, is copied when the fork
is admitted. Its owner may go on writing behind the common part: the copy is made before the step
writes, and what lies behind the common part is written over before it is read.
"""

from __future__ import annotations

from collections.abc import Sequence

from ridgeline.engine.kv.prefix import CacheMiss, prefix_hashes
from ridgeline.engine.request import Request, Status
from ridgeline.engine.schedule.state import SchedulerState
from ridgeline.step import BlockCopy


def start(
    state: SchedulerState, request: Request, budget: int, reserved: int, copies: list[BlockCopy]
) -> bool:
    """Gives a request that is to run a row and its first blocks, those that are cached among them.

    budget: tokens that it may compute in this step. reserved: free blocks that running prompts will
    need. False, and nothing is changed: no room for the whole prompt.
    """
    if not state.free_rows:
        return False
    size = state.limits.block_tokens
    name_blocks(request, size)
    shared, num_cached, source = _known_prefix(state, request)
    state.pool.share(shared)
    needed = blocks_for(state, len(request.token_ids)) - len(shared)
    first = min(len(request.token_ids), num_cached + budget)
    fresh = None
    if needed + reserved <= state.pool.num_free or not state.running:
        fresh = state.pool.allocate(blocks_for(state, first) - len(shared))
    if fresh is None:
        state.pool.release(shared)
        return False
    if source is not None:
        copies.append(BlockCopy(source, fresh[0]))
    if request.num_cached is None:
        request.num_cached = num_cached
        if request.scores_prompt:
            request.cache_miss = CacheMiss("scored", num_cached)
        elif state.limits.is_recurrent:
            request.cache_miss = CacheMiss("recurrent state", num_cached)
        elif source is None:
            cacheable = request.names[: (len(request.token_ids) - 1) // size]
            request.cache_miss = state.pool.names.explain(
                cacheable, len(shared), request.token_ids, size, request.salt
            )
    else:
        request.num_recomputed += len(request.token_ids) - num_cached
    request.blocks = [*shared, *fresh]
    request.num_published = len(shared)
    request.num_planned = request.num_computed = num_cached
    request.row = state.free_rows.pop()
    request.status = Status.RUNNING
    state.opened.append(request)
    return True


def grow(state: SchedulerState, request: Request, num_tokens: int) -> bool:
    """Blocks for `num_tokens` of a running request; False: the pool has too few."""
    missing = blocks_for(state, num_tokens) - len(request.blocks)
    if missing > 0:
        fresh = state.pool.allocate(missing)
        if fresh is None:
            return False
        request.blocks += fresh
    return True


def vacate(state: SchedulerState, request: Request) -> None:
    """Takes a running request's row and blocks; what full blocks hold stays findable."""
    state.running.remove(request)
    state.pool.release(request.blocks)
    if request in state.opened:
        state.opened.remove(request)  # the executor has not heard of it yet
    else:
        state.closed.append(request.row)
    state.free_rows.append(request.row)
    request.blocks = []
    request.row = -1
    request.num_told = 0
    request.num_planned = request.num_computed = request.num_pending = 0


def publish(state: SchedulerState, request: Request) -> None:
    """Names the blocks that are full and computed by now, for others to find."""
    size = state.limits.block_tokens
    full = request.num_computed // size
    if full > len(request.names):
        name_blocks(request, size)
    while request.num_published < full:
        index = request.num_published
        state.pool.names.add(
            request.blocks[index],
            request.names[index],
            request.names[index - 1] if index else b"",
            request.token_ids[index * size : (index + 1) * size],
            request.salt,
        )
        request.num_published += 1


def name_blocks(request: Request, block_tokens: int) -> None:
    """The names of all full blocks of the tokens that the request has."""
    named = len(request.names)
    full = len(request.token_ids) // block_tokens
    if full > named:
        tokens = request.token_ids[named * block_tokens : full * block_tokens]
        parent = request.names[-1] if named else b""
        request.names += prefix_hashes(tokens, block_tokens, request.salt, parent)


def blocks_for(state: SchedulerState, num_tokens: int) -> int:
    return -(-num_tokens // state.limits.block_tokens)


def _known_prefix(
    state: SchedulerState, request: Request
) -> tuple[tuple[int, ...], int, int | None]:
    """Blocks to share, the tokens that are there already, and a block to copy for the last of them.

    The last token is always computed: its logits are what the caller waits for.
    """
    size = state.limits.block_tokens
    if state.limits.is_recurrent:
        return (), 0, None
    most = len(request.token_ids) - 1
    if request.scores_prompt:
        most = min(most, request.num_scored)  # what the cache has came without logits
    cached = state.pool.names.find(request.names[: most // size])
    parent = state.requests.get(request.fork_of) if request.fork_of is not None else None
    if parent is not None and parent.row >= 0 and parent.salt == request.salt:
        limit = min(most, parent.num_computed)
        common = _num_alike(parent.token_ids, request.token_ids, limit)
        if common > len(cached) * size:
            whole, rest = divmod(common, size)
            source = parent.blocks[whole] if rest else None
            return tuple(parent.blocks[:whole]), common, source
    return cached, len(cached) * size, None


def _num_alike(a: Sequence[int], b: Sequence[int], limit: int) -> int:
    if a[:limit] == b[:limit]:
        return limit
    return next(i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
