"""block_linear: a matrix for each group of channels."""

from __future__ import annotations

import numpy as np

from ridgeline.backends.reference.call import Array, Call
from ridgeline.model.graph.ops.block_linear import BlockLinear


def block_linear(op: BlockLinear, call: Call) -> tuple[Array]:
    (x,) = call.inputs
    if op.num_groups is not None:
        parts = x.reshape(*x.shape[:-1], op.num_groups, -1)
        rows = call.weights[0].reshape(op.num_groups, -1, parts.shape[-1])
        y = np.einsum("...gk,gnk->...gn", parts, rows, optimize=True)
        return (y.reshape(*x.shape[:-1], -1).astype(x.dtype, copy=False),)
    matrices, bias = call.weights
    groups = x.reshape(len(x), len(matrices), -1)
    y = np.einsum("tgk,gkn->tgn", groups, matrices, optimize=True) + bias
    return (y.reshape(len(x), -1).astype(x.dtype, copy=False),)
