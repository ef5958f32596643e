"""linear: y = x W^T + b."""

from __future__ import annotations

import numpy as np

from ridgeline.backends.reference.call import Array, Call
from ridgeline.model.graph.ops.linear import Linear


def linear(op: Linear, call: Call) -> tuple[Array]:
    (x,) = call.inputs
    matrices, biases = call.weights[: op.num_parts], call.weights[op.num_parts :]
    y = np.concatenate([x @ w.T for w in matrices], axis=-1)
    return (y + np.concatenate(biases) if op.bias else y,)
