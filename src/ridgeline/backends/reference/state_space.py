"""state_space: the recurrences of Mamba and Mamba 2, token by token; sums in float64."""

from __future__ import annotations

import numpy as np

from ridgeline.backends.reference.call import Array, Call
from ridgeline.model.graph.ops.state_space import SelectiveScan, SsdScan


def selective_scan(op: SelectiveScan, call: Call) -> tuple[Array]:
    assert call.memory is not None
    x, dt, b, c = call.inputs
    a, d = call.weights
    decay, step = decay_rate(a, op.log_a), softplus(dt)
    y = np.empty_like(x)
    for (row, x_row), *rest in zip(*(call.by_row(v) for v in (x, step, b, c, y)), strict=True):
        dt_row, b_row, c_row, y_row = (part for _, part in rest)
        for i, h in call.memory.tokens(row):
            grown = (dt_row[i] * x_row[i])[:, None] * b_row[i]
            h[:] = np.exp(dt_row[i][:, None] * decay) * h + grown
            y_row[i] = h.astype(np.float64) @ c_row[i] + d * x_row[i]
    return (y,)


def ssd_scan(op: SsdScan, call: Call) -> tuple[Array]:
    assert call.memory is not None
    x, b, c, dt = call.inputs
    a, d, dt_bias = call.weights
    step = np.clip(softplus(dt + dt_bias), *op.dt_limits)
    decay = np.exp(step * decay_rate(a, op.log_a))
    heads, group = op.num_heads, op.num_heads // op.num_groups
    y = np.empty_like(x)
    for (row, x_row), *rest in zip(
        *(call.by_row(v) for v in (x, step, decay, b, c, y)), strict=True
    ):
        dt_row, decay_row, b_row, c_row, y_row = (part for _, part in rest)
        for i, state in call.memory.tokens(row):
            h = state.reshape(heads, op.head_dim, op.state_size)
            x_hp = x_row[i].reshape(heads, op.head_dim)
            b_hn, c_hn = (
                np.repeat(v[i].reshape(op.num_groups, op.state_size), group, axis=0)
                for v in (b_row, c_row)
            )
            grown = (dt_row[i][:, None] * x_hp)[:, :, None] * b_hn[:, None]
            h[:] = decay_row[i][:, None, None] * h + grown
            read = np.einsum("hpn,hn->hp", h.astype(np.float64), c_hn)
            y_row[i] = (read + d[:, None] * x_hp).reshape(-1)
    return (y,)


def decay_rate(a: Array, log_a: bool) -> Array:
    return -np.exp(a.astype(np.float64)) if log_a else a.astype(np.float64)


def softplus(x: Array) -> Array:
    """log(1 + e^x) in float64."""
    return np.logaddexp(0, x.astype(np.float64))
