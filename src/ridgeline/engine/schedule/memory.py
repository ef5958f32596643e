"""Rows and blocks: taken on admission, grown by the token, given back at any moment.

A row has a table of entries for each group of layers; the tables are of one length, and an entry
that a group's window has passed is given back (docs/kv_groups.md). An entry with several owners is
read only. Whole entries of a shared prefix get one owner more; those that a fork will write to,
because the common part ends within them, are copied when the fork is admitted. Their owner may go
on writing behind the common part: the copy is made before the step writes, and what lies behind the
common part is written over before it is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from ridgeline.engine.kv.prefix import CacheMiss, prefix_hashes
from ridgeline.engine.request import Request, Status
from ridgeline.engine.schedule.images import in_block
from ridgeline.engine.schedule.state import SchedulerState
from ridgeline.step import NO_BLOCK, BlockCopy, BlockGroup, SlotCopy

# Entries from one snapshot of an answer's recurrent states to the next.
SNAPSHOT_ENTRIES = 16


class Known(NamedTuple):
    """What is there already of a request's tokens.

    tables: entries of each group, from its own of `firsts` on. num_tokens: that they hold. sources:
    of each group, the entry that must be copied for the last of them; none if they end with one.
    """

    tables: list[list[int]]
    firsts: list[int]
    num_tokens: int
    sources: Sequence[int] = ()


def start(
    state: SchedulerState,
    request: Request,
    budget: int,
    reserved: int,
    copies: list[BlockCopy | SlotCopy],
) -> bool:
    """Gives a request that is to run a row and its first blocks, those that are cached among them.

    budget: tokens that it may compute in this step. reserved: free blocks that running prompts will
    need. False, and nothing is changed: no room for the whole prompt.
    """
    if not state.free_rows:
        return False
    size = state.limits.block_tokens
    pool = state.pool
    num_tokens = len(request.token_ids)
    name_blocks(request, size)
    known = _known_prefix(state, request)
    held = [table[first:] for table, first in zip(known.tables, known.firsts, strict=True)]
    for entries in held:
        pool.share(entries)
    fresh = None
    needed = _missing(state, num_tokens, len(known.tables[0]), known.firsts)
    computed = max(known.num_tokens, min(request.num_received, num_tokens - 1))
    if needed + reserved <= pool.num_free or not (state.running or state.asleep.count):
        first = min(num_tokens, computed + budget)
        fresh = _allocate(state, blocks_for(state, first) - len(known.tables[0]), known.tables)
    if fresh is None:
        for entries in held[::-1]:
            pool.release(entries)
        return False
    for source, targets in zip(known.sources, fresh, strict=False):
        pairs = zip(pool.blocks_of(source), pool.blocks_of(targets[0]), strict=True)
        copies += [BlockCopy(*pair) for pair in pairs]
    if request.num_cached is None:
        request.num_cached = known.num_tokens
        request.cache_miss = _why_not_more(state, request, known)
    else:
        request.num_recomputed += num_tokens - computed
    request.num_published = len(known.tables[0])
    for table, new in zip(known.tables, fresh, strict=True):
        table += new
    request.blocks, *request.other_tables = known.tables
    request.firsts = known.firsts
    request.num_planned = request.num_computed = computed
    request.num_received = 0
    request.row = state.free_rows.pop()
    if state.limits.is_recurrent:
        request.stops = _stops(state, request)
        if known.num_tokens:
            name = request.names[known.num_tokens // size - 1]
            copies.append(SlotCopy(state.snapshots.use(name), request.row))
    request.status = Status.RUNNING
    state.opened.append(request)
    return True


def grow(state: SchedulerState, request: Request, num_tokens: int) -> bool:
    """Blocks for `num_tokens` of a running request; False: the pool has too few."""
    missing = blocks_for(state, num_tokens) - len(request.blocks)
    if missing > 0:
        fresh = _allocate(state, missing, [request.blocks, *request.other_tables])
        if fresh is None:
            return False
        request.blocks += fresh[0]
        for table, entries in zip(request.other_tables, fresh[1:], strict=True):
            table += entries
    return True


def vacate(state: SchedulerState, request: Request) -> None:
    """Takes a running request's row and blocks; what full blocks hold stays findable."""
    state.running.remove(request)
    # Windows first: of a chain whose end is gone, what is left serves those who branch off before.
    for table, first in zip(request.other_tables, request.firsts[1:], strict=True):
        state.pool.release(table[first:])
    state.pool.release(request.blocks[request.firsts[0] :])
    if request in state.opened:
        state.opened.remove(request)  # the executor has not heard of it yet
    else:
        state.closed.append(request.row)
    state.free_rows.append(request.row)
    for _, slot in request.snapshots:
        state.snapshots.give_back(slot)
    request.snapshots = []
    request.blocks = []
    request.other_tables = []
    request.firsts = []
    request.row = -1
    request.num_told = 0
    request.num_planned = request.num_computed = request.num_pending = 0


def publish(state: SchedulerState, request: Request) -> None:
    """Names the entries that are full and computed by now, for others to find, and gives up those
    that windows have passed.
    """
    size = state.limits.block_tokens
    full = request.num_computed // size
    if full > len(request.names):
        name_blocks(request, size)
    index, names, blocks, salt = request.num_published, request.names, request.blocks, request.salt
    known = state.pool.names
    if state.is_plain and not known.explains:
        known.add_run(blocks, names, index, full, salt)
        request.num_published = max(full, index)
        return
    parent = names[index - 1] if index else b""
    tokens: Sequence[int] = ()
    while index < full:
        name = names[index]
        if known.explains:
            tokens = request.token_ids[index * size : (index + 1) * size]
        known.add(blocks[index], name, parent, tokens, salt)
        for group, table in enumerate(request.other_tables, 1):
            state.pool.add_name(table[index], name, group)
        parent = name
        index += 1
    request.num_published = index
    if not state.is_plain:
        _give_up(state, request)


def snapshot(state: SchedulerState, request: Request) -> SlotCopy | None:
    """The copy of a row's states before a step takes them on from a boundary where a snapshot is
    wanted; None: none is, or there is one.
    """
    size = state.limits.block_tokens
    position = request.num_planned
    if position % size or not position:
        return None
    if position not in request.stops and (
        position <= request.num_prompt or position // size % SNAPSHOT_ENTRIES
    ):
        return None
    name_blocks(request, size)
    if len(request.names) < position // size or request.names[position // size - 1] in (
        state.snapshots
    ):
        return None  # tokens that are on their way have no name yet
    slot = state.snapshots.take()
    if slot is None:
        return None
    request.snapshots.append((position, slot))
    return SlotCopy(request.row, slot)


def publish_snapshots(state: SchedulerState, request: Request) -> None:
    """Those that booked steps took can be found."""
    size = state.limits.block_tokens
    while request.snapshots and request.snapshots[0][0] < request.num_computed:
        position, slot = request.snapshots.pop(0)
        state.snapshots.add(slot, request.names[position // size - 1])


def new_blocks(state: SchedulerState, request: Request) -> tuple[int, ...]:
    """The blocks of entries that the executor has not been told of."""
    told = request.num_told
    if state.is_plain:
        return tuple(request.blocks[told:])
    pool = state.pool
    blocks: list[int] = []
    for entries in zip(
        request.blocks[told:], *(t[told:] for t in request.other_tables), strict=True
    ):
        for group, entry in zip(pool.groups, entries, strict=True):
            blocks += pool.blocks_of(entry) if entry >= 0 else (NO_BLOCK,) * group.blocks
    return tuple(blocks)


def name_blocks(request: Request, block_tokens: int) -> None:
    """The names of all full blocks of the tokens that the request has."""
    named = len(request.names)
    full = len(request.token_ids) // block_tokens
    if full > named:
        tokens = request.token_ids[named * block_tokens : full * block_tokens]
        parent = request.names[-1] if named else b""
        besides = None
        if request.images:
            begin = named * block_tokens

            def besides(start: int) -> bytes:
                return in_block(request, begin + start, block_tokens)

        request.names += prefix_hashes(tokens, block_tokens, request.salt, parent, besides)


def blocks_for(state: SchedulerState, num_tokens: int) -> int:
    """Entries of a table for so many tokens."""
    return -(-num_tokens // state.limits.block_tokens)


def missing_blocks(state: SchedulerState, request: Request) -> int:
    """Blocks that a running request will take yet, at most, until its tokens are computed."""
    return _missing(state, len(request.token_ids), len(request.blocks), request.firsts)


def has_room(state: SchedulerState, request: Request) -> bool:
    """Whether there are blocks for all tokens of a request that waits, beside those who run."""
    name_blocks(request, state.limits.block_tokens)
    known = _known_prefix(state, request)
    pool = state.pool
    unowned = sum(
        len(pool.blocks_of(entry))
        for table, first in zip(known.tables, known.firsts, strict=True)
        for entry in table[first:]
        if pool.num_owners(entry) == 0
    )
    needed = _missing(state, len(request.token_ids), len(known.tables[0]), known.firsts)
    return needed <= pool.num_free - unowned


def _known_prefix(state: SchedulerState, request: Request) -> Known:
    """What there is of a request that is named and has no blocks.

    The last token is always computed: its logits are what the caller waits for.
    """
    size = state.limits.block_tokens
    most = len(request.token_ids) - 1
    if request.scores_prompt:
        most = min(most, request.num_scored)  # what the cache has came without logits
    if state.limits.is_recurrent:
        return _prefix_with_snapshot(state, request.names[: most // size])
    cached = _cached_prefix(state, request.names[: most // size])
    parent = state.requests.get(request.fork_of) if request.fork_of is not None else None
    same = parent is not None and parent.salt == request.salt and parent.images == request.images
    if same and parent is not None and parent.row >= 0:
        limit = min(most, parent.num_computed)
        common = _num_alike(parent.token_ids, request.token_ids, limit)
        if common > cached.num_tokens:
            return _shared_prefix(state, parent, common) or cached
    return cached


def _cached_prefix(state: SchedulerState, names: Sequence[bytes]) -> Known:
    """The longest prefix of which every group has, by name, all that the next token sees."""
    pool, size = state.pool, state.limits.block_tokens
    if state.is_plain:
        run = list(pool.names.find(names))
        return Known([run], [0], len(run) * size)
    found = [pool.find(names, group) for group in range(len(pool.groups))]
    length, before = len(names), -1
    while length != before:
        before = length
        for group, entries in zip(pool.groups, found, strict=True):
            length = _longest(group, entries, length, size)
    firsts = [group.first_entry(length * size, size) for group in pool.groups]
    tables = [
        [NO_BLOCK] * first + [entry for entry in entries[first:length] if entry is not None]
        for first, entries in zip(firsts, found, strict=True)
    ]
    return Known(tables, firsts, length * size)


def _prefix_with_snapshot(state: SchedulerState, names: Sequence[bytes]) -> Known:
    """The longest prefix that has its blocks and, at its end, a snapshot of recurrent states."""
    length = len(_cached_prefix(state, names).tables[0])
    while length:
        if names[length - 1] in state.snapshots:
            known = _cached_prefix(state, names[:length])
            if len(known.tables[0]) == length:
                return known
        length -= 1
    return _cached_prefix(state, ())


def _stops(state: SchedulerState, request: Request) -> list[int]:
    """Where others may come back to: the last boundary of the prompt, and the end of what the cache
    has blocks of, for there somebody went another way.
    """
    size = state.limits.block_tokens
    most = (len(request.token_ids) - 1) // size
    known = len(_cached_prefix(state, request.names[:most]).tables[0])
    last = (request.num_prompt - 1) // size
    return sorted({entries * size for entries in (known, last, most) if entries})


def _longest(group: BlockGroup, entries: Sequence[int | None], most: int, size: int) -> int:
    """Up to `most` entries: of how many a group has those that the token after them sees."""
    if group.window is None:
        return next((at for at in range(most) if entries[at] is None), most)
    end = at = most
    while end:
        first = group.first_entry(end * size, size)
        while at > first and entries[at - 1] is not None:
            at -= 1
        if at <= first:
            return end
        end = at = at - 1  # all that are longer see the missing one
    return 0


def _shared_prefix(state: SchedulerState, parent: Request, common: int) -> Known | None:
    """What a running request has of the tokens that it shares; None: no more than names find."""
    size = state.limits.block_tokens
    whole, rest = divmod(common, size)
    tables, sources = [], []
    firsts = [group.first_entry(common, size) for group in state.pool.groups]
    parents = [parent.blocks, *parent.other_tables]
    for table, first, held in zip(parents, firsts, parent.firsts, strict=True):
        if held > first:
            return None
        tables.append([NO_BLOCK] * first + table[first:whole])
        if rest:
            sources.append(table[whole])
    return Known(tables, firsts, common, sources)


def _why_not_more(state: SchedulerState, request: Request, known: Known) -> CacheMiss | None:
    size = state.limits.block_tokens
    if request.scores_prompt:
        return CacheMiss("scored", known.num_tokens)
    if state.limits.is_recurrent and not state.snapshots.slots:
        return CacheMiss("recurrent state", known.num_tokens)
    if known.sources:
        return None
    cacheable = request.names[: (len(request.token_ids) - 1) // size]
    num_found = len(known.tables[0])
    names = state.pool.names
    if num_found < len(cacheable) and names.entry(cacheable[num_found]) is not None:
        # Of what a window needs, or the states after it.
        kind: Literal["recurrent state", "evicted"] = "evicted"
        if state.limits.is_recurrent:
            kind = "recurrent state"
        return CacheMiss(kind, known.num_tokens)
    return names.explain(cacheable, num_found, request.token_ids, size, request.salt)


def _allocate(
    state: SchedulerState, count: int, tables: Sequence[list[int]]
) -> list[tuple[int, ...]] | None:
    """`count` entries for each group, beside those of the row's tables, or None."""
    pool = state.pool
    if state.is_plain:
        table = tables[0]
        entries = pool.allocate(count, 0, table[-1] if table else -1)
        return None if entries is None else [entries]
    if count * state.blocks_per_entry > pool.num_free:
        return None
    lasts = [table[-1] if table else -1 for table in tables]
    return [pool.allocate(count, group, last) or () for group, last in enumerate(lasts)]


def _missing(state: SchedulerState, num_tokens: int, num_entries: int, firsts: list[int]) -> int:
    """Blocks that a row takes yet, at most, until `num_tokens` are computed; it has tables of
    `num_entries` entries, given up before `firsts`.
    """
    limits = state.limits
    more = blocks_for(state, num_tokens) - num_entries
    if state.is_plain:
        return more
    total = 0
    for group, first in zip(state.pool.groups, firsts, strict=True):
        most = group.most_entries(num_tokens, limits.block_tokens, limits.most_unbooked_tokens)
        total += group.blocks * max(0, min(more, most - (num_entries - first)))
    return total


def _give_up(state: SchedulerState, request: Request) -> None:
    """Entries that no token from `num_computed` on can see go back to the pool."""
    size = state.limits.block_tokens
    tables = [request.blocks, *request.other_tables]
    for index, (group, table) in enumerate(zip(state.pool.groups, tables, strict=True)):
        first = group.first_entry(request.num_computed, size)
        before = request.firsts[index]
        if first > before:
            state.pool.release(table[before:first][::-1])  # the oldest are the first to be evicted
            table[before:first] = [NO_BLOCK] * (first - before)
            request.firsts[index] = first


def _num_alike(a: Sequence[int], b: Sequence[int], limit: int) -> int:
    if a[:limit] == b[:limit]:
        return limit
    pairs = zip(a[:limit], b[:limit], strict=True)
    return next((i for i, (x, y) in enumerate(pairs) if x != y), limit)
