"""Binders of operators on several residual streams, of linears of groups of channels, and of an
activation with parameters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ridgeline.backends.cpu import _native
from ridgeline.model.graph.node import Node
from ridgeline.model.graph.ops.activation import XIELU_SLOPE, Xielu
from ridgeline.model.graph.ops.block_linear import BlockLinear
from ridgeline.model.graph.ops.stream_weights import StreamWeights
from ridgeline.model.graph.ops.streams import KeepLargest, MatchSize, Mix

if TYPE_CHECKING:
    from ridgeline.backends.cpu.bind import Binding


def bind_block_linear(b: Binding, node: Node, op: BlockLinear) -> None:
    if op.num_groups is not None:
        bind_grouped(b, node, op.num_groups)
        return
    matrices, bias = node.weights
    packed = [b.pack("F32", np.ascontiguousarray(each.T)) for each in b.weights.float32(matrices)]
    x, y = b.view(node.inputs[0]), b.view(node.outputs[0])
    b.program.add_block_linear(node.name, x, y, packed, b.floats(bias))


def bind_grouped(b: Binding, node: Node, groups: int) -> None:
    """Each group's rows of the matrix, as they are stored if they can be packed so."""
    (weight,) = node.weights
    rows, columns = weight.shape
    name, raw = weight.format.name, b.weights.raw(weight)
    if name not in _native.packed_formats():
        name, raw = "F32", b.weights.float32(weight).view(np.uint8)
    parts = np.ascontiguousarray(raw).reshape(groups, -1)
    each = rows // groups
    packed = [
        b.program.pack(name, part, each, columns, part.size // each, lambda: None) for part in parts
    ]
    b.weights.release(weight)
    b.program.add_block_linear(
        node.name, b.view(node.inputs[0]), b.view(node.outputs[0]), packed, None
    )


def bind_stream_weights(b: Binding, node: Node, op: StreamWeights) -> None:
    """The matrix in a part for each stream."""
    matrix, bias, scales = node.weights
    parts = np.split(b.weights.float32(matrix), op.num_streams, axis=1)
    b.program.add_stream_weights(
        node.name,
        [b.view(value) for value in node.inputs],
        [b.view(value) for value in node.outputs],
        [b.pack("F32", np.ascontiguousarray(part)) for part in parts],
        b.floats(bias),
        b.floats(scales),
        op.iterations,
        op.eps,
        op.floor,
    )


def bind_mix(b: Binding, node: Node, op: Mix) -> None:
    *streams, numbers = (b.view(value) for value in node.inputs)
    outputs = [b.view(value) for value in node.outputs]
    b.program.add_mix(node.name, streams, numbers, outputs, op.offset)


def bind_match_size(b: Binding, node: Node, op: MatchSize) -> None:
    x, like, y = (b.view(value) for value in (*node.inputs, *node.outputs))
    b.program.add_match_size(node.name, x, like, y, op.floor)


def bind_keep_largest(b: Binding, node: Node, op: KeepLargest) -> None:
    x, y = b.view(node.inputs[0]), b.view(node.outputs[0])
    b.program.add_keep_largest(node.name, x, y, op.z)


def bind_xielu(b: Binding, node: Node, op: Xielu) -> None:
    x, y = b.view(node.inputs[0]), b.view(node.outputs[0])
    up, down = (
        float(np.logaddexp(0, b.weights.float32(weight).astype(np.float64)[0]))
        for weight in node.weights
    )
    b.program.add_xielu(node.name, x, y, up, XIELU_SLOPE + down)
