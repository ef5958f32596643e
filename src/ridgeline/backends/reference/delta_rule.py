"""delta_rule: a linear attention's state that forgets and is corrected; sums in float64."""

from __future__ import annotations

import numpy as np

from ridgeline.backends.reference.activation import sigmoid
from ridgeline.backends.reference.call import Array, Call
from ridgeline.backends.reference.state_space import decay_rate, softplus
from ridgeline.model.graph.ops.delta_rule import DeltaRule

NORM_EPS = 1e-6


def delta_rule(op: DeltaRule, call: Call) -> tuple[Array]:
    assert call.memory is not None
    q, k, v, g, beta = call.inputs
    a, dt_bias = call.weights
    heads, group = op.value_heads, op.value_heads // op.key_heads
    rate = decay_rate(a, op.log_a)[:, None]
    raw = (g + dt_bias).reshape(len(g), heads, -1)
    if op.floor is None:
        decay = np.exp(rate * softplus(raw))
    else:
        decay = np.exp(op.floor * sigmoid(-rate * raw.astype(np.float64)))
    correction = sigmoid(beta.astype(np.float64))
    of_key = np.arange(heads) % op.key_heads if op.tiled else np.arange(heads) // group
    queries, keys = (_unit(x.reshape(len(x), op.key_heads, op.key_dim))[:, of_key] for x in (q, k))
    queries = queries / np.sqrt(op.key_dim)
    y = np.empty_like(v)
    for (row, q_row), *rest in zip(
        *(call.by_row(x) for x in (queries, keys, v, decay, correction, y)), strict=True
    ):
        k_row, v_row, decay_row, beta_row, y_row = (part for _, part in rest)
        for i, state in call.memory.tokens(row):
            s = state.reshape(heads, op.key_dim, op.value_dim)
            s *= decay_row[i][:, :, None]
            known = np.einsum("hkv,hk->hv", s, k_row[i])
            new = (v_row[i].reshape(heads, -1) - known) * beta_row[i][:, None]
            s += k_row[i][:, :, None] * new[:, None]
            y_row[i] = np.einsum("hkv,hk->hv", s, q_row[i]).reshape(-1)
    return (y,)


def _unit(x: Array) -> Array:
    x = x.astype(np.float64)
    return np.asarray(x / np.sqrt((x * x).sum(axis=-1, keepdims=True) + NORM_EPS))
