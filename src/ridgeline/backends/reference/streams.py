"""streams: rows mixed among residual streams, made as large as others, cut to their largest."""

from __future__ import annotations

import numpy as np

from ridgeline.backends.reference.call import Array, Call
from ridgeline.model.graph.ops.streams import KeepLargest, MatchSize, Mix


def mix(op: Mix, call: Call) -> tuple[Array, ...]:
    *streams, numbers = call.inputs
    weights = (numbers + numbers.dtype.type(op.offset)).reshape(
        *numbers.shape[:-1], op.num_outputs, op.num_inputs
    )
    mixed = np.einsum("...ij,j...d->i...d", weights, np.stack(streams))
    return tuple(y.astype(streams[0].dtype, copy=False) for y in mixed)


def match_size(op: MatchSize, call: Call) -> tuple[Array]:
    x, like = (each.astype(np.float64) for each in call.inputs)
    size, wanted = ((each * each).mean(axis=-1, keepdims=True) for each in (x, like))
    y = x * np.sqrt(wanted / np.maximum(size, op.floor))
    return (y.astype(call.inputs[0].dtype),)


def keep_largest(op: KeepLargest, call: Call) -> tuple[Array]:
    x = call.inputs[0].astype(np.float64)
    cut = x.mean(axis=-1, keepdims=True) + op.z * x.std(axis=-1, keepdims=True)
    return (np.maximum(x - cut, 0).astype(call.inputs[0].dtype),)
