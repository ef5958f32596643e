"""Binders of encoders' operators, and the memory between an encoder and its decoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ridgeline.backends.cpu import _native
from ridgeline.errors import ModelError
from ridgeline.model.graph.node import CrossState, Node
from ridgeline.model.graph.ops.conv1d import Conv1d
from ridgeline.model.graph.ops.cross_attention import CrossAttention, CrossWrite
from ridgeline.model.graph.ops.operator import Operator

if TYPE_CHECKING:
    from ridgeline.backends.cpu.bind import Binding


def cross_memory(
    states: Sequence[CrossState], num_rows: int, counts_only: bool = False
) -> _native.CrossMemory | None:
    """A place for every row's `states`, in their order; None if there are none. MemoryError where
    the system refuses it.
    """
    if not states:
        return None
    first = states[0]
    if any((s.positions, s.format) != (first.positions, first.format) for s in states):
        raise ModelError(f"{first.name}: layers see encoders of different lengths or formats")
    if first.format.name not in _native.cache_formats():
        raise ModelError(
            f"{first.name}: the cpu backend keeps nothing in {first.format.name}; it has "
            f"{', '.join(_native.cache_formats())}"
        )
    layers = [(state.kv_heads, state.key_dim, state.value_dim) for state in states]
    return _native.CrossMemory(first.positions, num_rows, layers, first.format.name, counts_only)


def bind_conv1d(b: Binding, node: Node, op: Conv1d) -> None:
    """The matrix as [channels out][taps][channels in]; BF16 stays, all else is float32."""
    matrix, bias = node.weights
    values = b.weights.float32(matrix).transpose(0, 2, 1).reshape(matrix.shape[0], -1)
    exact = "BF16" if matrix.format.name == "BF16" else "F32"
    b.program.add_conv1d(
        node.name,
        b.view(node.inputs[0]),
        b.view(node.outputs[0]),
        b.pack(exact, np.ascontiguousarray(values)),
        b.floats(bias),
        op.taps,
        op.frames,
        op.stride,
    )
    b.weights.release(matrix)


def bind_cross_write(b: Binding, node: Node, op: CrossWrite) -> None:
    k, v = (b.view(value) for value in node.inputs)
    b.program.add_cross_write(node.name, k, v, layer_of(b, node))


def bind_cross_attention(b: Binding, node: Node, op: CrossAttention) -> None:
    q, y = b.view(node.inputs[0]), b.view(node.outputs[0])
    layer = layer_of(b, node)
    b.program.add_cross_attention(node.name, q, y, layer, op.num_heads, op.scale)


def layer_of(b: Binding, node: Node) -> int:
    names = [state.name for state in b.graph.cross_states]
    assert isinstance(node.state, CrossState)
    return names.index(node.state.name)


CROSS_BINDERS: dict[type[Operator], Callable[[Binding, Node, Any], None]] = {
    Conv1d: bind_conv1d,
    CrossWrite: bind_cross_write,
    CrossAttention: bind_cross_attention,
}
