"""Binders of attention over latents, and of what selects the tokens that it looks at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ridgeline.backends.cpu import _native
from ridgeline.model.graph.node import Node
from ridgeline.model.graph.ops.latent import LatentAttention
from ridgeline.model.graph.ops.select_tokens import SelectTokens

if TYPE_CHECKING:
    from ridgeline.backends.cpu.bind import Binding


def bind_latent_attention(b: Binding, node: Node, op: LatentAttention) -> None:
    """Each head's rows of `expand` apart: those that make keys transposed, as queries take them."""
    (expand,) = node.weights
    q, turned, *chosen = (b.view(value) for value in node.inputs)
    y = b.view(node.outputs[0])
    rank, head = expand.shape[1], op.nope_dim + op.value_dim
    values = b.weights.float32(expand).reshape(op.num_heads, head, rank)
    exact = "BF16" if expand.format.name == "BF16" else "F32"
    absorb = [b.pack(exact, values[h, : op.nope_dim].T) for h in range(op.num_heads)]
    rows = b.weights.raw(expand).reshape(op.num_heads, head, -1)
    name = expand.format.name
    if name in _native.packed_formats():
        give = [
            b.program.pack(
                name,
                np.ascontiguousarray(rows[h, op.nope_dim :]).reshape(-1),
                op.value_dim,
                rank,
                rows.shape[2],
                lambda: None,
            )
            for h in range(op.num_heads)
        ]
    else:
        give = [b.pack("F32", values[h, op.nope_dim :]) for h in range(op.num_heads)]
    b.weights.release(expand)
    b.program.add_latent_attention(
        node.name, q, turned, y, b.cache(node), absorb, give, op.scale, *chosen
    )


def bind_select_tokens(b: Binding, node: Node, op: SelectTokens) -> None:
    q_turned, q, weights, out = (b.view(value) for value in (*node.inputs, *node.outputs))
    b.program.add_select_tokens(node.name, q_turned, q, weights, out, b.cache(node))
