"""rg_lru: the real-gated linear recurrent unit, in float64."""

from __future__ import annotations

import numpy as np

from ridgeline.backends.reference.activation import sigmoid
from ridgeline.backends.reference.call import Array, Call
from ridgeline.backends.reference.state_space import softplus
from ridgeline.model.graph.ops.rg_lru import DECAY, RgLru


def rg_lru(op: RgLru, call: Call) -> tuple[Array]:
    assert call.memory is not None
    x, r, i = (each.astype(np.float64) for each in call.inputs)
    log_decay = -DECAY * sigmoid(r) * softplus(call.weights[0].astype(np.float64))
    decay, gated = np.exp(log_decay), sigmoid(i) * x
    grown = np.sqrt(-np.expm1(2 * log_decay)) * gated
    y = np.empty_like(call.inputs[0])
    for (row, decay_row), *rest in zip(
        *(call.by_row(each) for each in (decay, gated, grown, y)), strict=True
    ):
        gated_row, grown_row, y_row = (part for _, part in rest)
        for at, state in call.memory.tokens(row):
            h = state[:, 0]
            is_first = row.num_context + at == 0
            h[:] = gated_row[at] if is_first else decay_row[at] * h + grown_row[at]
            y_row[at] = h
    return (y,)
