"""compress: entries of several tokens' keys, by softmaxes that are summed up token by token."""

from __future__ import annotations

import numpy as np

from ridgeline.backends.reference.call import Array, Call
from ridgeline.model.graph.ops.compress import Compress


def compress(op: Compress, call: Call) -> tuple[Array]:
    """A softmax that is not complete: its largest score, the sum of its weights relative to that,
    and the sum of what they weigh.
    """
    assert call.memory is not None
    x, scores = call.inputs
    bias = call.weights[0]
    width = x.shape[-1] // (2 if op.overlaps else 1)
    y = np.zeros((len(x), width), x.dtype)
    for (row, x_row), (_, s_row), (_, y_row) in zip(
        *(call.by_row(each) for each in (x, scores, y)), strict=True
    ):
        for i, state in call.memory.tokens(row):
            position = row.num_context + i
            step = position % op.every
            score = s_row[i] + bias[step]
            if op.overlaps:
                before, ahead, own = state[:, :3], state[:, 3:6], state[:, 6:]
                take(ahead, step == 0, score[:width], x_row[i, :width])
            else:
                own = state
            take(own, step == 0, score[-width:], x_row[i, -width:])
            if step < op.every - 1:
                continue
            if op.overlaps and position >= op.every:
                most = np.maximum(before[:, :1], own[:, :1])
                sums = sum(np.exp(s[:, :1] - most) * s[:, 1:] for s in (before, own))
                y_row[i] = sums[:, 1] / sums[:, 0]
            else:
                y_row[i] = own[:, 2] / own[:, 1]
            if op.overlaps:
                before[:] = ahead
    return (y,)


def take(sums: Array, is_first: bool, score: Array, x: Array) -> None:
    """One more token's scores and numbers [D] into sums [D, 3]."""
    if is_first:
        sums[:, 0], sums[:, 1], sums[:, 2] = score, 1, x
        return
    most = np.maximum(sums[:, 0], score)
    old, new = np.exp(sums[:, 0] - most), np.exp(score - most)
    sums[:, 1] = sums[:, 1] * old + new
    sums[:, 2] = sums[:, 2] * old + new * x
    sums[:, 0] = most
