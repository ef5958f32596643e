"""causal_conv: a short depthwise convolution over a row's tokens; sums in float64."""

from __future__ import annotations

import numpy as np

from ridgeline.backends.reference.activation import silu
from ridgeline.backends.reference.call import Array, Call
from ridgeline.model.graph.ops.causal_conv import CausalConv


def causal_conv(op: CausalConv, call: Call) -> tuple[Array]:
    assert call.memory is not None
    (x,) = call.inputs
    w = call.weights[0].astype(np.float64)
    y = np.empty(x.shape, np.float64)
    for (row, x_row), (_, y_row) in zip(call.by_row(x), call.by_row(y), strict=True):
        for i, last in call.memory.tokens(row):
            inputs = np.column_stack([last, x_row[i]])
            y_row[i] = (inputs.astype(np.float64) * w).sum(axis=-1)
            last[:] = inputs[:, 1:]
    if op.bias:
        y = y + call.weights[1]
    return ((silu(y) if op.silu else y).astype(x.dtype),)
