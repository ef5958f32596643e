"""latent attention: each head's keys and values, made of the latents, and attention over them."""

from __future__ import annotations

import numpy as np

from ridgeline.backends.reference.attention import attend_head, unseen
from ridgeline.backends.reference.call import Array, Call
from ridgeline.model.graph.ops.attention import Attention
from ridgeline.model.graph.ops.latent import LatentAttention


def latent_attention(op: LatentAttention, call: Call) -> tuple[Array]:
    assert call.cache is not None
    rank = call.cache.state.value_dim
    expand = call.weights[0].reshape(op.num_heads, op.nope_dim + op.value_dim, rank)
    plain = Attention(1, op.nope_dim + op.rope_dim, op.value_dim, op.scale)
    outputs: list[Array] = []
    begin = 0
    for (row, q_nope), (_, q_rope) in zip(
        call.by_row(call.inputs[0]), call.by_row(call.inputs[1]), strict=True
    ):
        keys, latents = (cached[:, 0] for cached in call.cache.read(row))
        turned = keys[:, rank:]
        hidden = unseen(row.num_context, row.num_new, None, causal=True)
        if op.top_k is not None:
            for i, chosen in enumerate(call.inputs[2][begin : begin + row.num_new]):
                seen = np.zeros(hidden.shape[1], bool)
                seen[chosen[chosen >= 0].astype(np.int64)] = True
                hidden[i] |= ~seen
        begin += row.num_new
        heads = []
        for h in range(op.num_heads):
            k = np.concatenate([latents @ expand[h, : op.nope_dim].T, turned], axis=-1)
            v = latents @ expand[h, op.nope_dim :].T
            nope, rope = slice(h * op.nope_dim, (h + 1) * op.nope_dim), op.rope_dim
            q = np.concatenate([q_nope[:, nope], q_rope[:, h * rope : (h + 1) * rope]], axis=-1)
            heads.append(attend_head(plain, q, k, v, hidden))
        outputs.append(np.concatenate(heads, axis=-1))
    return (np.concatenate(outputs),)
