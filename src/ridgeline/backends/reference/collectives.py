"""collectives: what the ranks of a mesh axis make of their values together.

`call.inputs` are the operator's inputs on every rank, in rank order. What `combine` gives is one
value for each rank, what the others give is the same on all.
"""

from __future__ import annotations

import numpy as np

from ridgeline.backends.reference.call import Array, Call
from ridgeline.model.graph.ops.collectives import AllGather, AllReduce, Combine, Dispatch


def all_reduce(op: AllReduce, call: Call) -> tuple[Array]:
    assert len(call.inputs) == op.ways
    total = call.inputs[0]
    for x in call.inputs[1:]:
        total = total + x
    return (total,)


def all_gather(op: AllGather, call: Call) -> tuple[Array]:
    assert len(call.inputs) == op.ways
    return (np.concatenate(call.inputs, axis=-1),)


def dispatch(op: Dispatch, call: Call) -> tuple[Array, Array]:
    assert len(call.inputs) == 2 * op.ways
    return np.stack(call.inputs[::2]), np.stack(call.inputs[1::2])


def combine(op: Combine, call: Call) -> tuple[Array, ...]:
    assert len(call.inputs) == op.ways
    total = call.inputs[0]
    for y in call.inputs[1:]:
        total = total + y
    return tuple(total)
