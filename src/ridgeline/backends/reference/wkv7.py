"""wkv7: RWKV-7's time mixing; sums in float64."""

from __future__ import annotations

import numpy as np

from ridgeline.backends.reference.activation import sigmoid
from ridgeline.backends.reference.call import Array, Call
from ridgeline.model.graph.ops.wkv7 import Wkv7

SHORTEST = 1e-12
MOST_DECAY = np.exp(-0.5)


def wkv7(op: Wkv7, call: Call) -> tuple[Array, Array]:
    assert call.memory is not None
    r, w, k, v, a = (each.astype(np.float64) for each in call.inputs)
    kk, ka, rk = (weight.astype(np.float64) for weight in call.weights)

    def heads(x: Array) -> Array:
        return x.reshape(len(x), op.num_heads, -1)

    decay, rate = heads(np.exp(-MOST_DECAY * sigmoid(w))), heads(sigmoid(a))
    direction = heads(k * kk)
    length = np.sqrt((direction**2).sum(axis=-1, keepdims=True))
    direction = direction / np.maximum(length, SHORTEST)
    key = heads(k) * (1 + (rate - 1) * ka.reshape(op.num_heads, -1))
    values, read = heads(v), heads(r)
    own = (read * key * rk.reshape(op.num_heads, -1)).sum(axis=-1, keepdims=True) * values
    y = np.empty_like(values)
    for (row, y_row), *rest in zip(
        *(call.by_row(x) for x in (y, decay, direction, rate, key, values, read)), strict=True
    ):
        decay_row, direction_row, rate_row, key_row, value_row, read_row = (x for _, x in rest)
        for at, state in call.memory.tokens(row):
            s = state.reshape(op.num_heads, values.shape[-1], -1)
            known = np.einsum("hvk,hk->hv", s, direction_row[at])
            s *= decay_row[at][:, None]
            s -= known[:, :, None] * (rate_row[at] * direction_row[at])[:, None]
            s += value_row[at][:, :, None] * key_row[at][:, None]
            y_row[at] = np.einsum("hvk,hk->hv", s, read_row[at])
    shape, dtype = call.inputs[3].shape, call.inputs[3].dtype
    return y.reshape(shape).astype(dtype), own.reshape(shape).astype(dtype)
