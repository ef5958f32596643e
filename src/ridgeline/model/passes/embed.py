"""A model that continues text becomes one that gives embeddings: its output matrix is left out.

What remains is the last norm of the rows that are wanted, in a prompt the last token's: the pooling
of embedding models that are decoders (Qwen3-Embedding). Does not know which rows those are.
"""

from __future__ import annotations

from dataclasses import replace

from ridgeline.errors import ModelError
from ridgeline.model.graph.dims import SAMPLED
from ridgeline.model.graph.node import Graph
from ridgeline.model.graph.ops.elementwise import Scale, Softcap
from ridgeline.model.graph.ops.linear import Linear


def without_head(graph: Graph) -> Graph:
    """The graph whose output is what the output matrix multiplies: [SAMPLED, width]. ModelError if
    its output is not logits of a matrix.
    """
    makers = {value.id: node for node in graph.nodes for value in node.outputs}
    (logits,) = graph.outputs
    node = makers[logits.id]
    dropped = [node]
    while isinstance(node.op, Scale | Softcap):
        node = makers[node.inputs[0].id]
        dropped.append(node)
    if not isinstance(node.op, Linear) or node.inputs[0].shape[0] is not SAMPLED:
        raise ModelError(f"{graph.name}: its output is not logits, so it has no head to leave out")
    left_out = {id(each) for each in dropped}
    nodes = tuple(each for each in graph.nodes if id(each) not in left_out)
    return replace(graph, nodes=nodes, outputs=(node.inputs[0],))
