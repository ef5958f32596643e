"""Binders of operators on several residual streams, and of linears of groups of channels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ridgeline.model.graph.node import Node
from ridgeline.model.graph.ops.block_linear import BlockLinear
from ridgeline.model.graph.ops.streams import KeepLargest, MatchSize, Mix

if TYPE_CHECKING:
    from ridgeline.backends.cpu.bind import Binding


def bind_block_linear(b: Binding, node: Node, op: BlockLinear) -> None:
    matrices, bias = node.weights
    packed = [b.pack("F32", np.ascontiguousarray(each.T)) for each in b.weights.float32(matrices)]
    x, y = b.view(node.inputs[0]), b.view(node.outputs[0])
    b.program.add_block_linear(node.name, x, y, packed, b.floats(bias))


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
