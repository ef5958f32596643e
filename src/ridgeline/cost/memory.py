"""Whether a model fits, before a weight is read: a ledger of bytes, and what would fit instead.

A ledger is computed, never probed. Does not know how a backend stores weights or values: whoever
repacks or sizes an arena says how many bytes that takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ridgeline.cost.count import count_parameters
from ridgeline.errors import CapacityError
from ridgeline.model.graph.node import Graph
from ridgeline.model.passes.state_groups import state_groups
from ridgeline.step import BlockGroup, longest_row, most_row_blocks
from ridgeline.units import format_bytes


@dataclass(frozen=True, slots=True)
class Needs:
    """What a backend will allocate, by its own count, before a weight is read.

    fixed_bytes: by kind ("weights", "arena" and others), all but cache and recurrent states.
    block_bytes: of a KV block; state_bytes: of a slot of recurrent states; cross_bytes: of what a
    row's cross attention sees.
    """

    fixed_bytes: Mapping[str, int]
    block_bytes: int
    state_bytes: int
    cross_bytes: int = 0

    @property
    def weight_bytes(self) -> int:
        return self.fixed_bytes.get("weights", 0)

    @property
    def arena_bytes(self) -> int:
        return self.fixed_bytes.get("arena", 0)

    @property
    def shared_bytes(self) -> int:
        """All other kinds: what operators need while they run, and tables."""
        return sum(self.fixed_bytes.values()) - self.weight_bytes - self.arena_bytes


@dataclass(frozen=True, slots=True)
class MemoryLedger:
    """Bytes that a loaded model needs with `rows` sequences of `context` tokens each.

    groups: of layers, each with its blocks of `block_tokens` tokens; a block of any has
    block_bytes. Layers with a window keep what their next tokens see, and up to `step_tokens` new
    ones. arena_bytes: values of the largest step. shared_bytes: what the backend's operators need
    beside them while they run.
    """

    rows: int
    context: int
    block_tokens: int
    step_tokens: int
    weight_bytes: int
    groups: tuple[BlockGroup, ...]
    block_bytes: int
    arena_bytes: int
    shared_bytes: int = 0

    @property
    def kv_bytes(self) -> int:
        return self.rows * self.row_blocks(self.context) * self.block_bytes

    @property
    def kv_bytes_per_token(self) -> float:
        """Of a row that no window has passed yet."""
        return sum(g.blocks for g in self.groups) * self.block_bytes / self.block_tokens

    @property
    def fixed_bytes(self) -> int:
        """All but the KV cache."""
        return self.weight_bytes + self.arena_bytes + self.shared_bytes

    @property
    def total_bytes(self) -> int:
        return self.fixed_bytes + self.kv_bytes

    def row_blocks(self, num_tokens: int) -> int:
        """Blocks that a row holds at most while it grows to `num_tokens`."""
        return most_row_blocks(self.groups, num_tokens, self.block_tokens, self.step_tokens)

    def longest_row(self, num_blocks: int, most_tokens: int) -> int:
        """Tokens, `most_tokens` at most, that a row can grow to in `num_blocks` blocks."""
        return longest_row(
            self.groups, num_blocks, self.block_tokens, self.step_tokens, most_tokens
        )


def memory_ledger(
    graph: Graph,
    *,
    rows: int,
    context: int,
    arena_bytes: int = 0,
    shared_bytes: int = 0,
    weight_bytes: int | None = None,
    block_bytes: int | None = None,
    block_tokens: int = 1,
    step_tokens: int = 1,
) -> MemoryLedger:
    """weight_bytes, block_bytes: as the backend will hold them; as stored, and without padding
    between blocks, if None.
    """
    stored = count_parameters(graph).num_bytes
    # Without blocks, entries lie as close as they can.
    layout = state_groups(graph, block_tokens if block_tokens > 1 else graph.max_context)
    return MemoryLedger(
        rows=rows,
        context=context,
        block_tokens=block_tokens,
        step_tokens=step_tokens,
        weight_bytes=stored if weight_bytes is None else weight_bytes,
        groups=layout.groups,
        block_bytes=(block_tokens * layout.bytes_per_token if block_bytes is None else block_bytes),
        arena_bytes=arena_bytes,
        shared_bytes=shared_bytes,
    )


def longest_context(ledger: MemoryLedger, available_bytes: int) -> int:
    """Tokens that each of the ledger's rows can have in `available_bytes`, in whole blocks. Where
    windows bound what a row takes: its own context, if that fits.
    """
    left = available_bytes - ledger.fixed_bytes
    if left <= 0 or ledger.rows == 0:
        return 0
    if ledger.block_bytes == 0:
        return ledger.context
    num_blocks = left // ledger.block_bytes // ledger.rows
    return ledger.longest_row(num_blocks, max(ledger.context, num_blocks * ledger.block_tokens))


def check_fits(ledger: MemoryLedger, available_bytes: int, name: str) -> None:
    """CapacityError with the bytes needed, the bytes there and what would fit, if it does not."""
    if ledger.total_bytes <= available_bytes:
        return
    parts = ", ".join(
        f"{kind} {format_bytes(num_bytes)}"
        for kind, num_bytes in (
            ("weights", ledger.weight_bytes),
            (f"KV of {ledger.rows} x {ledger.context} tokens", ledger.kv_bytes),
            ("values", ledger.arena_bytes),
            ("within operators", ledger.shared_bytes),
        )
    )
    needs = (
        f"{name} needs {format_bytes(ledger.total_bytes)} ({parts}) and there are "
        f"{format_bytes(available_bytes)}"
    )
    context = min(longest_context(ledger, available_bytes), ledger.context)
    if context > 0:
        raise CapacityError(f"{needs}: {ledger.rows} x {context} tokens would fit")
    one_row = min(longest_context(replace(ledger, rows=1), available_bytes), ledger.context)
    if one_row > 0:
        raise CapacityError(f"{needs}: one row of {one_row} tokens would fit")
    raise CapacityError(f"{needs}: only a smaller or more coarsely quantized model would fit")
