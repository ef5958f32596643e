"""decay_attention: linear attention whose state forgets at a fixed rate; sums in float64."""

from __future__ import annotations

import numpy as np

from ridgeline.backends.reference.call import Array, Call
from ridgeline.model.graph.ops.decay_attention import DecayAttention


def decay_attention(op: DecayAttention, call: Call) -> tuple[Array]:
    assert call.memory is not None
    q, k, v = call.inputs
    heads = len(op.rates)
    decay = np.exp(-np.array(op.rates))[:, None, None]
    y = np.empty_like(v)
    for (row, q_row), *rest in zip(*(call.by_row(x) for x in (q, k, v, y)), strict=True):
        k_row, v_row, y_row = (part for _, part in rest)
        for i, state in call.memory.tokens(row):
            k_hk, v_hv = k_row[i].reshape(heads, -1), v_row[i].reshape(heads, -1)
            s = state.reshape(heads, k_hk.shape[1], v_hv.shape[1])
            s[:] = decay * s + k_hk[:, :, None] * v_hv[:, None]
            read = np.einsum("hkv,hk->hv", s.astype(np.float64), q_row[i].reshape(heads, -1))
            y_row[i] = read.reshape(-1)
    return (y,)
