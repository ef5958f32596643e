"""block_linear: a matrix for each group of channels."""

from __future__ import annotations

import numpy as np

from ridgeline.backends.reference.call import Array, Call
from ridgeline.model.graph.ops.block_linear import BlockLinear


def block_linear(op: BlockLinear, call: Call) -> tuple[Array]:
    (x,), (matrices, bias) = call.inputs, call.weights
    groups = x.reshape(len(x), len(matrices), -1)
    y = np.einsum("tgk,gkn->tgn", groups, matrices, optimize=True) + bias
    return (y.reshape(len(x), -1).astype(x.dtype, copy=False),)
