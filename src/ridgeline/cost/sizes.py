"""What of a machine's memory becomes cache: blocks, slots and rows, before a weight is read.

Computed from the graph and a budget, never probed. Does not know backends.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ridgeline.cost.count import count_cross_bytes, count_state_bytes
from ridgeline.cost.memory import Needs, check_fits, memory_ledger
from ridgeline.errors import CapacityError
from ridgeline.model.graph.node import Graph
from ridgeline.model.passes.memory import plan_memory
from ridgeline.step import BLOCK_TOKENS, BlockGroup
from ridgeline.units import GB, format_bytes

# Left to the rest of the machine and to this process beside weights, KV and arena.
RESERVE_BYTES = 1 * GB
# Without a --memory, a single process takes at most this share of what is free after the weights.
KV_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Sizes:
    """What the plan settled before anything was read.

    num_slots: for recurrent states, of rows and of snapshots. memory: bytes from which the same
    sizes come again.
    """

    num_blocks: int
    groups: tuple[BlockGroup, ...]
    block_bytes: int
    max_context: int
    max_rows: int
    max_tokens_per_step: int
    num_slots: int
    memory: int


def plan_sizes(
    graph: Graph,
    *,
    memory: int | None,
    max_rows: int,
    max_tokens_per_step: int,
    context_is_asked: bool,
    rolling_bytes: float,
    available: int,
    shared_bytes: int = 0,
    needs: Needs | None = None,
) -> Sizes:
    """The KV cache that fits, and the context that follows from it.

    memory: bytes of the cache; None: a share of what is free. context_is_asked: the graph's context
    must fit. rolling_bytes: of a number that a convolution keeps. available: bytes that the machine
    has free. shared_bytes: what the backend's operators need beside the arena. needs: all that the
    backend will allocate, where it says so; else it is taken from the graph. Raises CapacityError
    with bytes needed, bytes there, and what would fit.
    """
    if needs is None:
        arena = plan_memory(
            graph,
            max_tokens=max_tokens_per_step,
            max_sampled=max_rows,
            max_sequences=max_rows,
        )
        arena_bytes = arena.arena_bytes
    else:
        arena_bytes, shared_bytes = needs.arena_bytes, needs.shared_bytes
    ledger = memory_ledger(
        graph,
        rows=1,
        context=BLOCK_TOKENS,
        arena_bytes=arena_bytes,
        shared_bytes=shared_bytes,
        weight_bytes=None if needs is None else needs.weight_bytes,
        block_bytes=None if needs is None else needs.block_bytes,
        block_tokens=BLOCK_TOKENS,
        step_tokens=2 * max_tokens_per_step,  # one step is planned while another runs
    )
    usable = available - RESERVE_BYTES
    check_fits(ledger, usable, graph.name)
    fixed = ledger.fixed_bytes
    budget = memory
    if budget is None:
        budget = max(ledger.kv_bytes, int((usable - fixed) * KV_SHARE))
    elif fixed + budget > usable:
        raise CapacityError(
            f"memory: a KV cache of {format_bytes(budget)} does not fit; "
            f"{format_bytes(usable - fixed)} are left beside weights, activations and "
            f"{format_bytes(RESERVE_BYTES)} in reserve"
        )
    # Recurrent states first, in half of the memory: of as many rows as it has room for, but one
    # snapshot at least where it can be, then up to two snapshots a row.
    state_bytes = count_state_bytes(graph, rolling_bytes) if needs is None else needs.state_bytes
    num_slots, whole = 0, budget
    cross_bytes = count_cross_bytes(graph) if needs is None else needs.cross_bytes
    if cross_bytes:
        # What rows see of their encoders is there for as long as they are: half of the memory.
        if budget < cross_bytes:
            raise CapacityError(
                f"memory: {format_bytes(budget)} do not hold what one row sees of its encoder, "
                f"{format_bytes(cross_bytes)}"
            )
        max_rows = min(max_rows, max(1, budget // 2 // cross_bytes))
        budget -= max_rows * cross_bytes
    if state_bytes:
        if budget < state_bytes:
            raise CapacityError(
                f"memory: {format_bytes(budget)} do not hold the recurrent state of one row, "
                f"{format_bytes(state_bytes)}"
            )
        most_slots = budget // 2 // state_bytes
        max_rows = min(max_rows, max(1, most_slots - most_slots // 4))
        num_slots = max(max_rows, min(most_slots, 3 * max_rows))
        budget -= num_slots * state_bytes
    context = graph.max_context
    if context_is_asked:
        check_fits(replace(ledger, context=context), fixed + budget, graph.name)
    if budget < ledger.kv_bytes:
        raise CapacityError(
            f"memory: {format_bytes(budget)} hold no KV block; one of {BLOCK_TOKENS} tokens would "
            f"fit in {format_bytes(ledger.kv_bytes)}"
        )
    num_blocks = max_rows * ledger.row_blocks(context)
    if ledger.block_bytes:
        num_blocks = min(num_blocks, budget // ledger.block_bytes)
    return Sizes(
        num_blocks=num_blocks,
        groups=ledger.groups,
        block_bytes=ledger.block_bytes,
        max_context=ledger.longest_row(num_blocks, context),
        max_rows=max_rows,
        max_tokens_per_step=max_tokens_per_step,
        num_slots=num_slots,
        memory=whole if state_bytes or cross_bytes else num_blocks * ledger.block_bytes,
    )
