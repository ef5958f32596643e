"""attention: scaled dot-product attention over a paged cache, and the write that fills it."""

from __future__ import annotations

import numpy as np

from ridgeline.backends.reference.call import Array, Call
from ridgeline.backends.reference.row_images import last_seen
from ridgeline.errors import EngineError
from ridgeline.model.graph.ops.attention import Attention, Blocks, KvWrite


def kv_write(op: KvWrite, call: Call) -> tuple[()]:
    k, v = call.inputs
    write_kv(call, k, v)
    return ()


def write_kv(call: Call, k: Array, v: Array) -> None:
    assert call.cache is not None
    for (row, k_row), (_, v_row) in zip(call.by_row(k), call.by_row(v), strict=True):
        call.cache.write(row, k_row, v_row)


def attention(op: Attention, call: Call) -> tuple[Array]:
    assert call.cache is not None
    state = call.cache.state
    group = op.num_heads // state.kv_heads
    outputs: list[Array] = []
    begin = 0
    seen = last_seen(call.images if op.whole_images else (), call.positions)
    ends = part_ends(call) if op.parts else seen
    for (row, q), (_, last), (_, end) in zip(
        call.by_row(call.inputs[0]), call.by_row(seen), call.by_row(ends), strict=True
    ):
        keys, values = call.cache.read(row)
        queries = q.reshape(row.num_new, op.num_heads, op.head_dim)
        hidden = unseen(
            row.num_context, row.num_new, state.window, op.causal, op.ahead, op.chunked, last
        )
        if op.parts:
            hidden = end[:, None] != end[None, :]
        chosen = None if op.blocks is None else call.inputs[1][begin : begin + row.num_new]
        begin += row.num_new
        heads = [
            attend_head(
                op,
                queries[:, h],
                keys[:, h // group],
                values[:, h // group],
                hidden
                if op.blocks is None or chosen is None
                else hidden | unselected(op.blocks, chosen, h // group, len(keys)),
                call.weights[0][h] if op.sinks else None,
            )
            for h in range(op.num_heads)
        ]
        outputs.append(np.concatenate(heads, axis=-1))
    return (np.concatenate(outputs),)


def part_ends(call: Call) -> Array:
    """Of each token of a step of whole sequences, where its part ends."""
    if (
        call.places is None
        or call.places.part_ends is None
        or any(r.num_context for r in call.rows)
    ):
        raise EngineError("attention within parts needs whole sequences and their parts' ends")
    return call.places.part_ends


def unselected(blocks: Blocks, chosen: Array, kv_head: int, num_keys: int) -> Array:
    """[new, num_keys]: whether the key is in no block that the KV head looks at."""
    first = (blocks.first + kv_head) * blocks.top
    block = np.arange(num_keys) // blocks.tokens
    return np.array([~np.isin(block, own) for own in chosen[:, first : first + blocks.top]])


def attend_head(
    op: Attention, q: Array, k: Array, v: Array, hidden: Array, sink: Array | None = None
) -> Array:
    """q [new, head_dim], k [all, head_dim], v [all, value_dim] -> [new, value_dim].

    hidden: see `unseen`. sink: a score without a value.
    """
    scores = q @ k.T * q.dtype.type(op.scale)
    if op.softcap is not None:
        cap = q.dtype.type(op.softcap)
        scores = cap * np.tanh(scores / cap)
    scores = np.where(hidden, q.dtype.type(-np.inf), scores)
    top = scores.max(axis=-1, keepdims=True)
    if sink is not None:
        top = np.maximum(top, sink)
    weights = np.exp(scores - top)
    total = weights.sum(axis=-1, keepdims=True, dtype=np.float64)
    if sink is not None:
        total = total + np.exp((sink - top).astype(np.float64))
    return np.asarray(weights @ v / total, q.dtype)


def unseen(
    num_context: int,
    num_new: int,
    window: int | None,
    causal: bool,
    ahead: int | None = None,
    chunked: bool = False,
    last: Array | None = None,
) -> Array:
    """[new, all]: whether the query must not see the key. last [new]: of causal queries, the last
    position that each sees; None: its own.
    """
    query = np.arange(num_context, num_context + num_new)[:, None]
    key = np.arange(num_context + num_new)[None, :]
    hidden = np.zeros((num_new, num_context + num_new), bool)
    if causal:
        hidden |= key > (query if last is None else last[:, None])
    if ahead is not None:
        hidden |= key > query + ahead
    if window is not None and chunked:
        hidden |= key // window != query // window
    elif window is not None:
        hidden |= key <= query - window
    return hidden
