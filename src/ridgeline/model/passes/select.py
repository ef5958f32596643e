"""Rows are selected as early as they can be: what follows the last cache is for few of them.

Logits are wanted of some rows of a step, of one in a prompt. All that the last layer does after its
attention is done row by row, so the rows are selected before it. Changes no row's result. Does not
know how many rows there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ridgeline.model.graph.dims import SAMPLED, TOKENS
from ridgeline.model.graph.node import Graph, Node, Value
from ridgeline.model.graph.ops.activation import Activate, GatedActivation, Xielu
from ridgeline.model.graph.ops.block_linear import BlockLinear
from ridgeline.model.graph.ops.elementwise import (
    Add,
    Join,
    Scale,
    Softcap,
    Split,
    SplitGroups,
    Weigh,
)
from ridgeline.model.graph.ops.experts import Experts, ZeroExperts
from ridgeline.model.graph.ops.gated_linear import GatedLinear
from ridgeline.model.graph.ops.linear import Linear
from ridgeline.model.graph.ops.norm import AddNorm, Norm
from ridgeline.model.graph.ops.operator import Operator
from ridgeline.model.graph.ops.route import Route
from ridgeline.model.graph.ops.rows import SelectRows
from ridgeline.model.graph.ops.scale_by import ScaleBy
from ridgeline.model.graph.ops.stream_weights import StreamWeights
from ridgeline.model.graph.ops.streams import KeepLargest, MatchSize, Mix

# A row of their outputs depends on that row of their inputs and on weights alone.
ROW_BY_ROW: tuple[type[Operator], ...] = (
    Linear,
    GatedLinear,
    Norm,
    AddNorm,
    Add,
    GatedActivation,
    Activate,
    Xielu,
    Scale,
    ScaleBy,
    Softcap,
    Split,
    SplitGroups,
    Weigh,
    Route,
    Experts,
    ZeroExperts,
    BlockLinear,
    Join,
    StreamWeights,
    Mix,
    MatchSize,
    KeepLargest,
)


def select_early(graph: Graph) -> Graph:
    """SelectRows moved up over every operator that works row by row and has no other reader."""
    late = _late_nodes(graph)
    if not late:
        return graph
    sampled: dict[int, Value] = {}  # value of all rows -> value of the selected ones
    next_id = 1 + max(value.id for node in graph.nodes for value in (*node.inputs, *node.outputs))
    makers = {value.id: node.name for node in graph.nodes for value in node.outputs}
    nodes: list[Node] = []
    for node in graph.nodes:
        if isinstance(node.op, SelectRows):
            (source,), (selected,) = node.inputs, node.outputs
            if source.id in sampled:
                # Whoever reads what this gave reads what is selected already.
                sampled[selected.id] = sampled[source.id]
            else:
                sampled[source.id] = selected
                nodes.append(node)
            continue
        if id(node) not in late:
            nodes.append(_reading(node, sampled) if _is_sampled(node) else node)
            continue
        for value in node.inputs:
            if value.id not in sampled:
                selected = Value(next_id, (SAMPLED, *value.shape[1:]))
                next_id += 1
                sampled[value.id] = selected
                nodes.append(
                    Node(f"{makers[value.id]}.select", SelectRows(), (value,), (selected,))
                )
        outputs = tuple(replace(value, shape=(SAMPLED, *value.shape[1:])) for value in node.outputs)
        sampled |= {value.id: value for value in outputs}
        nodes.append(replace(_reading(node, sampled), outputs=outputs))
    outputs = tuple(
        sampled.get(value.id, value) if value.shape[0] is SAMPLED else value
        for value in graph.outputs
    )
    return replace(graph, nodes=tuple(nodes), outputs=outputs)


def _late_nodes(graph: Graph) -> set[int]:
    """`id(node)` of those that need to see the selected rows only."""
    readers: dict[int, list[Node]] = {}
    for node in graph.nodes:
        for value in node.inputs:
            readers.setdefault(value.id, []).append(node)
    outputs = {value.id for value in graph.outputs}
    late: set[int] = set()
    for node in reversed(graph.nodes):
        values = node.outputs
        reading = [reader for value in values for reader in readers.get(value.id, [])]
        if (
            isinstance(node.op, ROW_BY_ROW)
            and not any(value.integer for value in node.inputs)
            and all(value.shape[0] is TOKENS and value.id not in outputs for value in values)
            and reading
            and all(isinstance(r.op, SelectRows) or id(r) in late for r in reading)
        ):
            late.add(id(node))
    return late


def _is_sampled(node: Node) -> bool:
    return any(value.shape[0] is SAMPLED for value in node.inputs)


def _reading(node: Node, sampled: Mapping[int, Value]) -> Node:
    return replace(node, inputs=tuple(sampled.get(value.id, value) for value in node.inputs))
