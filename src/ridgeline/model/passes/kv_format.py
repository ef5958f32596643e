"""The format of a graph's caches: chosen when it is to run; architectures say nothing of it."""

from __future__ import annotations

from dataclasses import replace

from ridgeline.model.graph.check import check_graph
from ridgeline.model.graph.kv_format import KvFormat
from ridgeline.model.graph.node import CrossState, Graph, KvState

# Latents are small already, and all heads' keys and values are made of them.
LATENT_FORMATS = ("bf16", "f32")


def with_kv_format(graph: Graph, kv_format: KvFormat) -> Graph:
    """`graph` with all keys and values kept in `kv_format`, latents as they were if it is none of
    `LATENT_FORMATS`. ModelError names a node whose heads the format cannot hold.
    """
    nodes = []
    for node in graph.nodes:
        latent = isinstance(node.state, KvState) and node.state.latent
        stays = latent and kv_format.name not in LATENT_FORMATS
        if isinstance(node.state, KvState | CrossState) and not stays:
            state = replace(node.state, format=kv_format)
            node = replace(node, state=state)
        nodes.append(node)
    encoder = None if graph.encoder is None else with_kv_format(graph.encoder, kv_format)
    changed = replace(graph, nodes=tuple(nodes), encoder=encoder)
    check_graph(changed)
    return changed
