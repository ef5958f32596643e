"""Binders of a mixture's operators: the router, and the experts' matrices one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ridgeline.model.graph.node import Node
from ridgeline.model.graph.ops.experts import Experts, ZeroExperts
from ridgeline.model.graph.ops.route import Route

if TYPE_CHECKING:
    from ridgeline.backends.cpu.bind import Binding


def bind_route(b: Binding, node: Node, op: Route) -> None:
    router, *vectors = node.weights
    bias = b.floats(vectors.pop(0)) if op.bias else None
    correction = b.floats(vectors.pop(0)) if op.correction else None
    gain = b.floats(vectors.pop(0)) if op.gain else None
    table = b.floats(vectors.pop(0)).astype(np.int32) if op.by_token else None
    b.program.add_route(
        node.name,
        b.view(node.inputs[0]),
        b.view(node.outputs[0]),
        b.float_matrix(router),
        bias,
        correction,
        op.top_k,
        op.scores,
        op.normalize,
        op.scale,
        op.num_groups,
        op.top_groups,
        op.group_best,
        gain,
        op.jitter if op.scores == "sparsemixer" else -1.0,
        table,
    )


def bind_experts(b: Binding, node: Node, op: Experts) -> None:
    matrices, biases = op.matrices(node.weights), op.biases(node.weights)
    up, down = matrices[-2:]
    b.program.add_experts(
        node.name,
        b.view(node.inputs[0]),
        b.view(node.inputs[1]),
        b.view(node.outputs[0]),
        b.entries(matrices[0]) if op.gated else [],
        b.entries(up),
        b.entries(down),
        [b.floats(bias) for bias in biases],
        op.top_k,
        op.first_expert,
        op.activation,
        op.weigh_input,
    )


def bind_zero_experts(b: Binding, node: Node, op: ZeroExperts) -> None:
    x, slots, y = (b.view(value) for value in (*node.inputs, *node.outputs))
    b.program.add_zero_experts(node.name, x, slots, y, op.top_k, op.first)
