"""stream_weights: by what residual streams are mixed, in float64."""

from __future__ import annotations

import numpy as np

from ridgeline.backends.reference.call import Array, Call
from ridgeline.model.graph.ops.stream_weights import StreamWeights


def stream_weights(op: StreamWeights, call: Call) -> tuple[Array, ...]:
    n = op.num_streams
    dtype = call.inputs[0].dtype
    x = np.concatenate(call.inputs, axis=-1).astype(np.float64)
    matrix, bias, scales = (w.astype(np.float64) for w in call.weights)
    y = x @ matrix.T / np.sqrt((x * x).mean(axis=-1, keepdims=True) + op.eps)
    rows = y.shape[:-1]
    one = 1 / (1 + np.exp(-(y[..., :n] * scales[0] + bias[:n]))) + op.floor
    if op.last:
        return (one.astype(dtype),)
    again = 2 / (1 + np.exp(-(y[..., n : 2 * n] * scales[1] + bias[n : 2 * n])))
    kept = (y[..., 2 * n :] * scales[2] + bias[2 * n :]).reshape(*rows, n, n)
    kept = np.exp(kept - kept.max(axis=-1, keepdims=True))
    kept = kept / kept.sum(axis=-1, keepdims=True) + op.floor
    for i in range(op.iterations):
        if i > 0:
            kept = kept / (kept.sum(axis=-1, keepdims=True) + op.floor)
        kept = kept / (kept.sum(axis=-2, keepdims=True) + op.floor)
    numbers = np.concatenate([np.swapaxes(kept, -1, -2), again[..., None]], axis=-1)
    return one.astype(dtype), numbers.reshape(*rows, -1).astype(dtype)
