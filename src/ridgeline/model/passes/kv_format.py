"""The format of a graph's caches: chosen when it is to run; architectures say nothing of it."""

from __future__ import annotations

from dataclasses import replace

from ridgeline.model.graph.check import check_graph
from ridgeline.model.graph.kv_format import KvFormat
from ridgeline.model.graph.node import Graph, KvState


def with_kv_format(graph: Graph, kv_format: KvFormat) -> Graph:
    """`graph` with all keys and values kept in `kv_format`. ModelError names a node whose heads the
    format cannot hold.
    """
    nodes = []
    for node in graph.nodes:
        if isinstance(node.state, KvState):
            state = replace(node.state, format=kv_format)
            node = replace(node, state=state)
        nodes.append(node)
    changed = replace(graph, nodes=tuple(nodes))
    check_graph(changed)
    return changed
