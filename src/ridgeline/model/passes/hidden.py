"""A model that continues text gives its last hidden states, too: what a predictor goes on from.

Does not know predictors.
"""

from __future__ import annotations

from dataclasses import replace

from ridgeline.errors import ModelError
from ridgeline.model.graph.check import check_graph
from ridgeline.model.graph.node import Graph, Node, Value
from ridgeline.model.graph.ops.elementwise import Join
from ridgeline.model.graph.ops.norm import Norm
from ridgeline.model.graph.ops.rows import SelectRows
from ridgeline.model.graph.ops.stream_weights import StreamWeights


def with_hidden(graph: Graph) -> Graph:
    """The graph with a second output of all tokens: what its output matrix multiplies, [TOKENS,
    width], for one norm of every token more; or where residual streams become one at its end, these
    side by side, [TOKENS, streams * width]. The same logits. Before `fuse`. ModelError if rows are
    not selected just before the last norm.
    """
    streams = last_streams(graph)
    if streams:
        return with_streams(graph, streams)
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


def last_streams(graph: Graph) -> tuple[Value, ...]:
    """The residual streams that become one behind the last layer; none where there are none."""
    ends = [n for n in graph.nodes if isinstance(n.op, StreamWeights) and n.op.last]
    return ends[-1].inputs if ends else ()


def with_streams(graph: Graph, streams: tuple[Value, ...]) -> Graph:
    joined, nodes = streams[0], list(graph.nodes)
    fresh = 1 + max(value.id for node in graph.nodes for value in node.outputs)
    for k, stream in enumerate(streams[1:]):
        shape = Join().shape((joined.shape, stream.shape), ())
        both = Value(fresh + k, shape[0])
        nodes.append(Node(f"hidden.{k}", Join(), (joined, stream), (both,)))
        joined = both
    given = replace(graph, nodes=tuple(nodes), outputs=(*graph.outputs, joined))
    check_graph(given)
    return given
