"""token_shift: a token mixed with the one before it."""

from __future__ import annotations

import numpy as np

from ridgeline.backends.reference.call import Array, Call
from ridgeline.model.graph.ops.token_shift import TokenShift


def token_shift(op: TokenShift, call: Call) -> tuple[Array, ...]:
    assert call.memory is not None
    (x,) = call.inputs
    before = np.empty_like(x)
    for (row, x_row), (_, before_row) in zip(call.by_row(x), call.by_row(before), strict=True):
        for at, state in call.memory.tokens(row):
            before_row[at] = state[:, 0]
            state[:, 0] = x_row[at]
    return tuple(x + weight.astype(x.dtype) * (before - x) for weight in call.weights)
