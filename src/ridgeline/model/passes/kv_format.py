"""The format of a graph's caches: chosen when it is to run; architectures say nothing of it."""

from __future__ import annotations

from dataclasses import replace

from ridgeline.model.graph.check import check_graph
from ridgeline.model.graph.kv_format import KeyBalance, KvFormat
from ridgeline.model.graph.node import CrossState, Graph, KvState
from ridgeline.model.passes.balance import Numbers, key_balances

# Latents are small already, and all heads' keys and values are made of them.
LATENT_FORMATS = ("bf16", "f32")


def with_kv_format(graph: Graph, kv_format: KvFormat, numbers: Numbers | None = None) -> Graph:
    """`graph` with all keys and values kept in `kv_format`, latents as they were if it is none of
    `LATENT_FORMATS`. numbers: of weights, so that keys are balanced where the format is; what they
    cost is the same without. ModelError names a node whose heads the format cannot hold.
    """
    balances: dict[str, KeyBalance] = {}
    if kv_format.balanced and numbers is not None:
        balances = key_balances(graph, numbers)
    nodes = []
    for node in graph.nodes:
        state = node.state
        if isinstance(state, KvState):
            if not state.latent or kv_format.name in LATENT_FORMATS:
                kept = replace(state, format=kv_format, balance=balances.get(state.name))
                entries = node.entries and replace(node.entries, format=kv_format)
                node = replace(node, state=kept, entries=entries)
        elif isinstance(state, CrossState):
            node = replace(node, state=replace(state, format=kv_format))
        nodes.append(node)
    encoder = graph.encoder and with_kv_format(graph.encoder, kv_format, numbers)
    changed = replace(graph, nodes=tuple(nodes), encoder=encoder)
    check_graph(changed)
    return changed
