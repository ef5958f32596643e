"""Expert parallelism: a rank's graph with its own part of the experts, and the two all-to-alls of a
layer that take tokens to their experts and back.

For ranks that have rows of their own (data-parallel attention): what a rank computes before and
after its experts is of its own tokens, its experts are for everybody's. Experts that do not part
evenly (256 over 72 ranks, where engines place copies) stay whole in the graph, and who prices it
shares them. Does not know which rank has which rows, or how ranks talk.
"""

from __future__ import annotations

from dataclasses import replace

from ridgeline.errors import ModelError
from ridgeline.model.graph.check import check_graph
from ridgeline.model.graph.node import Graph, Node, Value, Weight
from ridgeline.model.graph.ops.collectives import Combine, Dispatch
from ridgeline.model.graph.ops.experts import Experts
from ridgeline.model.passes.shard import Share, local_weight, share_of

# Of a number on its way: FP8 and a scale for each 128 (DeepEP), and back BF16.
THERE_BYTES = 1.0 + 4.0 / 128.0
BACK_BYTES = 2.0


def exchange(graph: Graph, ways: int, rank: int = 0) -> Graph:
    """The graph of `rank` of `ways` that each have rows of their own and share the experts.

    ModelError for a rank that there is not, and for a graph without experts.
    """
    if ways < 1 or not 0 <= rank < ways:
        raise ModelError(f"{graph.name}: rank {rank} is not among {ways}")
    if not any(isinstance(node.op, Experts) for node in graph.nodes):
        raise ModelError(f"{graph.name}: has no experts to exchange tokens for")
    if ways == 1:
        return graph
    next_id = 1 + max(
        value.id for node in graph.nodes for value in (*node.inputs, *node.outputs, *graph.inputs)
    )
    nodes: list[Node] = []
    for node in graph.nodes:
        if not isinstance(node.op, Experts):
            nodes.append(node)
            continue
        there = Dispatch(ways, node.op.top_k, THERE_BYTES)
        back = Combine(ways, node.op.top_k, BACK_BYTES)
        shapes = there.shape(tuple(value.shape for value in node.inputs), ())
        sent = tuple(Value(next_id + i, shape) for i, shape in enumerate(shapes))
        made = Value(next_id + 2, shapes[0])
        next_id += 3
        op, weights = _own(node.op, node.weights, ways, rank)
        nodes += [
            Node(f"{node.name}.dispatch", there, node.inputs, sent),
            Node(node.name, op, sent, (made,), weights),
            Node(f"{node.name}.combine", back, (made,), node.outputs),
        ]
    found = replace(graph, name=f"{graph.name}/{rank}of{ways}", nodes=tuple(nodes))
    check_graph(found)
    return found


def _own(
    op: Experts, weights: tuple[Weight, ...], ways: int, rank: int
) -> tuple[Experts, tuple[Weight, ...]]:
    here = weights[0].shape[0]
    if here % ways or any(share_of(weight).parts > 1 for weight in weights):
        return op, weights
    first = op.first_expert + rank * (here // ways)
    cut = tuple(local_weight(weight, Share(weight.name, 0, rank, ways)) for weight in weights)
    return replace(op, first_expert=first), cut
