"""A model that continues text gives its last hidden states, too: what a predictor goes on from.

Does not know predictors.
"""

from __future__ import annotations

from dataclasses import replace

from ridgeline.errors import ModelError
from ridgeline.model.graph.check import check_graph
from ridgeline.model.graph.node import Graph, Node, Value
from ridgeline.model.graph.ops.norm import Norm
from ridgeline.model.graph.ops.rows import SelectRows


def with_hidden(graph: Graph) -> Graph:
    """The graph with a second output, what its output matrix multiplies, of all tokens: [TOKENS,
    width]. The same logits, for one norm of every token more. Before `fuse`. ModelError if rows are
    not selected just before the last norm.
    """
    found = [i for i, node in enumerate(graph.nodes) if isinstance(node.op, SelectRows)]
    if len(found) == 1:
        (at,) = found
        select, norm = graph.nodes[at : at + 2]
        if isinstance(norm.op, Norm) and norm.inputs == select.outputs:
            source, (normed,) = select.inputs, norm.outputs
            last = max(value.id for node in graph.nodes for value in node.outputs)
            hidden = Value(last + 1, source[0].shape)
            nodes = (
                *graph.nodes[:at],
                replace(norm, inputs=source, outputs=(hidden,)),
                Node(select.name, select.op, (hidden,), (normed,)),
                *graph.nodes[at + 2 :],
            )
            given = replace(graph, nodes=nodes, outputs=(*graph.outputs, hidden))
            check_graph(given)
            return given
    raise ModelError(f"{graph.name}: no norm follows the selection of rows: no hidden states")
