"""collectives: what the ranks of a mesh axis make of their values together.

`call.inputs` are the operator's one input on every rank, in rank order.
"""

from __future__ import annotations

import numpy as np

from ridgeline.backends.reference.call import Array, Call
from ridgeline.model.graph.ops.collectives import AllGather, AllReduce


def all_reduce(op: AllReduce, call: Call) -> tuple[Array]:
    assert len(call.inputs) == op.ways
    total = call.inputs[0]
    for x in call.inputs[1:]:
        total = total + x
    return (total,)


def all_gather(op: AllGather, call: Call) -> tuple[Array]:
    assert len(call.inputs) == op.ways
    return (np.concatenate(call.inputs, axis=-1),)
