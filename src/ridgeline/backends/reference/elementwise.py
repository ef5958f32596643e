"""elementwise: add, multiply by a number, soft cap, weigh; splits into columns, and the join."""

from __future__ import annotations

import numpy as np

from ridgeline.backends.reference.call import Array, Call
from ridgeline.model.graph.ops.elementwise import (
    Add,
    Join,
    Scale,
    Softcap,
    Split,
    SplitGroups,
    Weigh,
)
from ridgeline.model.graph.ops.scale_by import ScaleBy, ScaleByPosition


def add(op: Add, call: Call) -> tuple[Array]:
    a, b = call.inputs
    return (a + b,)


def scale(op: Scale, call: Call) -> tuple[Array]:
    (x,) = call.inputs
    return (x * x.dtype.type(op.factor),)


def scale_by(op: ScaleBy, call: Call) -> tuple[Array]:
    (x,), (weight,) = call.inputs, call.weights
    return (x * weight.astype(x.dtype),)


def scale_by_position(op: ScaleByPosition, call: Call) -> tuple[Array]:
    (x,) = call.inputs
    rounds = np.floor((call.positions + op.first) / op.period)
    factors = 1 + op.beta * np.log1p(rounds)
    return (x * factors[:, None].astype(x.dtype),)


def softcap(op: Softcap, call: Call) -> tuple[Array]:
    (x,) = call.inputs
    cap = x.dtype.type(op.cap)
    return (cap * np.tanh(x / cap),)


def weigh(op: Weigh, call: Call) -> tuple[Array]:
    x, g = call.inputs
    groups = x.reshape(*x.shape[:-1], op.num_groups, -1)
    weighed = groups / (1 + np.exp(-g.astype(np.float64)))[..., None]
    return (weighed.reshape(x.shape).astype(x.dtype),)


def split(op: Split, call: Call) -> tuple[Array, ...]:
    return tuple(np.split(call.inputs[0], np.cumsum(op.sizes)[:-1], axis=-1))


def split_groups(op: SplitGroups, call: Call) -> tuple[Array, ...]:
    (x,) = call.inputs
    groups = x.reshape(*x.shape[:-1], op.num_groups, -1)
    parts = np.split(groups, np.cumsum(op.sizes)[:-1], axis=-1)
    return tuple(part.reshape(*x.shape[:-1], -1) for part in parts)


def join(op: Join, call: Call) -> tuple[Array]:
    return (np.concatenate(call.inputs, axis=-1),)
