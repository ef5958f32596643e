"""Whether a model fits, before a weight is read: a ledger of bytes, and what would fit instead.

A ledger is computed, never probed. Does not know how a backend stores weights or values: whoever
repacks or sizes an arena says how many bytes that takes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ridgeline.cost.count import count_kv_bytes, count_parameters
from ridgeline.errors import CapacityError
from ridgeline.model.graph.node import Graph
from ridgeline.units import format_bytes


@dataclass(frozen=True, slots=True)
class MemoryLedger:
    """Bytes that a loaded model needs with `rows` sequences of `context` tokens each.

    kv_bytes: of whole blocks, at kv_bytes_per_token. Layers with a window are counted in full: the
    paged cache keeps their blocks as long as the others'. arena_bytes: values of the largest step.
    """

    rows: int
    context: int
    block_tokens: int
    weight_bytes: int
    kv_bytes_per_token: int
    arena_bytes: int

    @property
    def kv_bytes(self) -> int:
        blocks = self.rows * -(-self.context // self.block_tokens)
        return blocks * self.block_tokens * self.kv_bytes_per_token

    @property
    def total_bytes(self) -> int:
        return self.weight_bytes + self.kv_bytes + self.arena_bytes


def memory_ledger(
    graph: Graph,
    *,
    rows: int,
    context: int,
    arena_bytes: int = 0,
    weight_bytes: int | None = None,
    block_tokens: int = 1,
) -> MemoryLedger:
    """weight_bytes: as the backend will hold them; as stored if None."""
    stored = count_parameters(graph).num_bytes
    return MemoryLedger(
        rows=rows,
        context=context,
        block_tokens=block_tokens,
        weight_bytes=stored if weight_bytes is None else weight_bytes,
        kv_bytes_per_token=round(count_kv_bytes(graph).per_token),
        arena_bytes=arena_bytes,
    )


def longest_context(ledger: MemoryLedger, available_bytes: int) -> int:
    """Tokens that each of the ledger's rows can have in `available_bytes`, in whole blocks."""
    left = available_bytes - ledger.weight_bytes - ledger.arena_bytes
    block_bytes = ledger.kv_bytes_per_token * ledger.block_tokens
    if left <= 0 or ledger.rows == 0:
        return 0
    if block_bytes == 0:
        return ledger.context
    return left // (block_bytes * ledger.rows) * ledger.block_tokens


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
