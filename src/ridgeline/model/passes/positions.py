"""Positions dropped: a model that was trained with rotary positions reads without them (DroPE).

After a short training without positions, or none, contexts longer than the trained ones no longer
meet angles that were never seen (Gelberg et al. 2025). Does not know how well a model takes it.
"""

from __future__ import annotations

from dataclasses import replace

from ridgeline.errors import ModelError
from ridgeline.model.graph.node import Graph, Node, Value
from ridgeline.model.graph.ops.rope import Rope, RopeKvWrite


def without_positions(graph: Graph) -> Graph:
    """The graph without a rotation anywhere. ModelError if it has none to leave out."""
    if not any(isinstance(node.op, Rope | RopeKvWrite) for node in graph.nodes):
        raise ModelError(f"{graph.name}: has no rotary positions that could be dropped")
    before: dict[int, Value] = {}  # what a rotation gave -> what it was given
    nodes: list[Node] = []
    for node in graph.nodes:
        inputs = tuple(before.get(value.id, value) for value in node.inputs)
        if isinstance(node.op, Rope):
            before[node.outputs[0].id] = inputs[0]
            continue
        op = replace(node.op, rotation=None) if isinstance(node.op, RopeKvWrite) else node.op
        nodes.append(replace(node, op=op, inputs=inputs))
    return replace(graph, nodes=tuple(nodes))
