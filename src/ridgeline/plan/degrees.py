"""In how many ranks attention can be cut: engines take only what divides its heads."""

from __future__ import annotations

from ridgeline.errors import RequestError
from ridgeline.model.graph.node import Graph, KvState
from ridgeline.model.graph.ops import Attention, LatentAttention

MOST = 128


def divides(graph: Graph, ways: int) -> bool:
    """Whether each rank has whole heads: query heads parted evenly, KV heads parted or copied."""
    for node in graph.nodes:
        if isinstance(node.op, Attention | LatentAttention) and node.op.num_heads % ways:
            return False
        state = node.state
        if isinstance(node.op, Attention) and isinstance(state, KvState):
            kv_heads = state.kv_heads
            if kv_heads % ways and ways % kv_heads:
                return False
    return True


def check_degree(graph: Graph, ways: int, option: str = "--tp") -> None:
    """RequestError says which would do."""
    if ways > 0 and divides(graph, ways):
        return
    heads = sorted(
        {n.op.num_heads for n in graph.nodes if isinstance(n.op, Attention | LatentAttention)}
    )
    can = [str(n) for n in range(1, MOST + 1) if divides(graph, n)]
    raise RequestError(
        option,
        f"{ways} ranks do not part the {' and '.join(map(str, heads))} heads of {graph.name} "
        f"evenly; these do: {', '.join(can)}",
    )
