"""rope: rotary position embedding; angles in float64."""

from __future__ import annotations

import numpy as np

from ridgeline.backends.reference.attention import write_kv
from ridgeline.backends.reference.call import Array, Call, Ints
from ridgeline.backends.reference.norm import normalized
from ridgeline.backends.reference.row_images import Places
from ridgeline.model.graph.ops.rope import Rope, RopeKvWrite, Rotation


def rope(op: Rope, call: Call) -> tuple[Array]:
    (x,) = call.inputs
    heads = x.reshape(len(x), op.num_heads, op.head_dim)
    positions = call.positions // op.every * op.every
    y = heads.copy()
    y[..., op.first :] = rotated(heads[..., op.first :], positions, op.rotation, call.places)
    return (y.reshape(x.shape),)


def rope_kv_write(op: RopeKvWrite, call: Call) -> tuple[Array]:
    (qkv,) = call.inputs
    q_width, kv_width = op.num_heads * op.head_dim, op.kv_heads * op.head_dim
    q, k, v = np.split(qkv, [q_width, q_width + kv_width], axis=-1)
    q = q.reshape(len(q), op.num_heads, op.head_dim)
    k = k.reshape(len(k), op.kv_heads, op.head_dim)
    if op.head_norm is not None:
        q_weight, k_weight = call.weights
        q = normalized(op.head_norm, q, (q_weight,))
        k = normalized(op.head_norm, k, (k_weight,))
    if op.rotation is not None:
        q = rotated(q, call.positions, op.rotation, call.places)
        k = rotated(k, call.positions, op.rotation, call.places)
    write_kv(call, k.reshape(len(k), -1), v)
    return (q.reshape(len(q), -1),)


def rotated(
    x_thd: Array, positions: Ints, rotation: Rotation, places: Places | None = None
) -> Array:
    """Each head turned by its token's position, or each pair by one of the positions that the step
    tells: t token, h head, d channel.
    """
    pairs = len(rotation.frequencies)
    of_pairs = positions[:, None]
    if rotation.axes and places is not None:
        of_pairs = places.positions[:, rotation.axes]
    angle = of_pairs[:, None, :] * np.array(rotation.frequencies, np.float64)
    cos = (np.cos(angle) * rotation.magnitude).astype(x_thd.dtype)
    sin = (np.sin(angle) * rotation.magnitude).astype(x_thd.dtype)
    if rotation.interleaved:
        first, second = slice(0, 2 * pairs, 2), slice(1, 2 * pairs, 2)
    else:
        first, second = slice(0, pairs), slice(pairs, 2 * pairs)
    a, b = x_thd[..., first], x_thd[..., second]
    y = x_thd.copy()
    y[..., first] = a * cos - b * sin
    y[..., second] = b * cos + a * sin
    return y
