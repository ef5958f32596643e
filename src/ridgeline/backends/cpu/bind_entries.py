"""Binders of caches with an entry for several tokens, and of what looks at them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ridgeline.model.graph.node import Node
from ridgeline.model.graph.ops.compress import Compress
from ridgeline.model.graph.ops.entries import EntryAttention, EntryWrite, SelectEntries
from ridgeline.model.graph.ops.operator import Operator

if TYPE_CHECKING:
    from ridgeline.backends.cpu.bind import Binding


def bind_compress(b: Binding, node: Node, op: Compress) -> None:
    x, scores, y = (b.view(value) for value in (*node.inputs, *node.outputs))
    bias = b.floats(node.weights[0])
    b.program.add_compress(node.name, x, scores, y, op.every, op.overlaps, bias)


def bind_entry_write(b: Binding, node: Node, op: EntryWrite) -> None:
    b.program.add_entry_write(node.name, b.view(node.inputs[0]), b.cache(node.state))


def bind_select_entries(b: Binding, node: Node, op: SelectEntries) -> None:
    q, weights, out = (b.view(value) for value in (*node.inputs, *node.outputs))
    b.program.add_select_entries(node.name, q, weights, out, b.cache(node.state))


def bind_entry_attention(b: Binding, node: Node, op: EntryAttention) -> None:
    q, *chosen = (b.view(value) for value in node.inputs)
    b.program.add_entry_attention(
        node.name,
        q,
        b.view(node.outputs[0]),
        b.cache(node.state),
        None if node.entries is None else b.cache(node.entries),
        chosen[0] if chosen else None,
        op.scale,
        b.floats(node.weights[0]),
    )


# Each function takes its own operator class, hence Any.
ENTRY_BINDERS: dict[type[Operator], Callable[[Binding, Node, Any], None]] = {
    Compress: bind_compress,
    EntryWrite: bind_entry_write,
    SelectEntries: bind_select_entries,
    EntryAttention: bind_entry_attention,
}
