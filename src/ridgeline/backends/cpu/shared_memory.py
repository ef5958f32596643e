"""What the threads share within an operator, beside the arena: bytes, from the graph alone.

One area, as large as the operator that needs most, since one runs at a time. The native operators
size it (`shared_bytes` in src/native); a test holds the two together. Does not know the threads'
own scratch, nor attention's parts.
"""

from __future__ import annotations

from ridgeline.backends.cpu import _native
from ridgeline.model.graph.node import Graph, Node
from ridgeline.model.graph.ops.experts import Experts
from ridgeline.model.graph.ops.latent import LatentAttention
from ridgeline.model.graph.ops.route import Route

FLOAT_BYTES = 4
# Areas within that of experts are rounded up to a cache line each; there are four kinds.
EXPERTS_ROUNDING_BYTES = 4 * 64


def shared_bytes(graph: Graph, max_rows: int) -> int:
    """For steps of at most `max_rows` tokens, and rows of logits."""
    return max((_of(node, max_rows) for node in graph.nodes), default=0)


def _of(node: Node, max_rows: int) -> int:
    if isinstance(node.op, Experts):
        return max_rows * node.op.top_k * _slot_bytes(node, node.op) + EXPERTS_ROUNDING_BYTES
    if isinstance(node.op, Route):  # logits
        return max_rows * node.weights[0].shape[0] * FLOAT_BYTES
    if isinstance(node.op, LatentAttention):  # queries among latents, and what they find
        rank = node.weights[0].shape[1]
        return max_rows * node.op.num_heads * (2 * rank + node.op.rope_dim) * FLOAT_BYTES
    return 0


def _slot_bytes(node: Node, op: Experts) -> int:
    """Of one token at one of its experts: what the matrices multiply, and the expert's output."""
    *first, down = op.matrices(node.weights)
    width, hidden = down.shape[1:]
    kinds = {_native.activation_kind(weight.format.name) for weight in first}
    return (
        sum(_native.activation_row_bytes(kind, width) for kind in kinds)
        + _native.activation_row_bytes(_native.activation_kind(down.format.name), hidden)
        + width * FLOAT_BYTES
    )
