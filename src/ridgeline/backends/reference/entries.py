"""entry_write, select_entries, entry_attention: keys for several tokens, beside a window."""

from __future__ import annotations

import numpy as np

from ridgeline.backends.reference.attention import attend_head, unseen
from ridgeline.backends.reference.call import Array, Call
from ridgeline.model.graph.ops.attention import Attention
from ridgeline.model.graph.ops.entries import EntryAttention, EntryWrite, SelectEntries


def entry_write(op: EntryWrite, call: Call) -> tuple[()]:
    assert call.cache is not None
    for row, x in call.by_row(call.inputs[0]):
        if call.cache.state.every == 1:
            call.cache.write(row, x, x[:, :0])
        else:
            call.cache.write_entries(row, x)
    return ()


def select_entries(op: SelectEntries, call: Call) -> tuple[Array]:
    """By scores in float64."""
    assert call.cache is not None
    found = np.full((len(call.inputs[0]), op.top_k), -1, call.inputs[0].dtype)
    for (row, chosen), (_, q), (_, weights) in zip(
        *(call.by_row(x) for x in (found, *call.inputs)), strict=True
    ):
        keys = call.cache.read_entries(row).astype(np.float64)
        heads = q.reshape(row.num_new, op.num_heads, -1).astype(np.float64)
        products = np.maximum(np.einsum("thd,sd->ths", heads, keys), 0)
        scores = np.einsum("th,ths->ts", weights.astype(np.float64), products)
        for i in range(row.num_new):
            complete = (row.num_context + i + 1) // call.cache.state.every
            best = np.argsort(-scores[i, :complete], kind="stable")[: op.top_k]
            chosen[i, : len(best)] = np.sort(best)
    return (found,)


def entry_attention(op: EntryAttention, call: Call) -> tuple[Array]:
    assert call.cache is not None
    plain = Attention(1, op.dim, op.dim, op.scale)
    outputs: list[Array] = []
    begin = 0
    for row, q in call.by_row(call.inputs[0]):
        keys = call.cache.read(row)[0][:, 0]
        hidden = unseen(row.num_context, row.num_new, call.cache.state.window, causal=True)
        if call.entries is not None:
            entries = call.entries.read_entries(row)
            complete = (row.positions + 1) // call.entries.state.every
            hides = np.arange(len(entries)) >= complete[:, None]
            if op.top_k is not None:
                for i, chosen in enumerate(call.inputs[1][begin : begin + row.num_new]):
                    seen = np.zeros(len(entries), bool)
                    seen[chosen[chosen >= 0].astype(np.int64)] = True
                    hides[i] |= ~seen
            keys = np.concatenate([entries, keys])
            hidden = np.concatenate([hides, hidden], axis=-1)
        begin += row.num_new
        heads = [
            attend_head(plain, q[:, h * op.dim : (h + 1) * op.dim], keys, keys, hidden, sink)
            for h, sink in enumerate(call.weights[0])
        ]
        outputs.append(np.concatenate(heads, axis=-1))
    return (np.concatenate(outputs),)
