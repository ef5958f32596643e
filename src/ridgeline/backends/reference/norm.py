"""norm: root-mean-square and layer norm; sums in float64."""

from __future__ import annotations

import numpy as np

from ridgeline.backends.reference.call import Array, Call
from ridgeline.model.graph.ops.norm import AddNorm, Norm


def norm(op: Norm, call: Call) -> tuple[Array]:
    return (normalized(op, call.inputs[0], call.weights),)


def add_norm(op: AddNorm, call: Call) -> tuple[Array, Array]:
    h, y = call.inputs
    total = h + y
    return total, normalized(op.norm, total, call.weights)


def normalized(op: Norm, x: Array, weights: tuple[Array, ...]) -> Array:
    width = x.shape[-1] // op.num_groups
    groups = x.reshape(*x.shape[:-1], op.num_groups, width).astype(np.float64)
    if op.kind == "layer":
        groups = groups - groups.mean(axis=-1, keepdims=True)
    mean_square = (groups**2).mean(axis=-1, keepdims=True)
    slices = (op.num_groups, width) if op.by_group else (width,)
    y = groups / np.sqrt(mean_square + op.eps)
    if weights:
        y = y * (weights[0].astype(np.float64).reshape(slices) + op.offset)
    if len(weights) > 1:
        y = y + weights[1].reshape(slices)
    return np.asarray(y.reshape(x.shape), x.dtype)
