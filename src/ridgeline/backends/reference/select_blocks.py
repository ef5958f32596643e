"""select_blocks: the blocks that attention looks at, by scores in float64."""

from __future__ import annotations

import numpy as np

from ridgeline.backends.reference.call import Array, Call
from ridgeline.model.graph.ops.select_blocks import SelectBlocks


def select_blocks(op: SelectBlocks, call: Call) -> tuple[Array]:
    assert call.cache is not None
    (x,) = call.inputs
    top, tokens = op.blocks.top, op.blocks.tokens
    found = np.full((len(x), op.num_heads, top), -1, x.dtype)
    for (row, chosen), (_, q) in zip(call.by_row(found), call.by_row(x), strict=True):
        keys = call.cache.read(row)[0][:, 0].astype(np.float64)
        queries = q.reshape(row.num_new, op.num_heads, -1).astype(np.float64)
        products = np.einsum("thd,sd->ths", queries, keys)
        for i in range(row.num_new):
            visible = row.num_context + i + 1
            own = (visible - 1) // tokens
            for h in range(op.num_heads):
                seen = products[i, h, :visible]
                scores = np.array([seen[b * tokens :][:tokens].max() for b in range(own + 1)])
                scores[max(0, own + 1 - op.local) :] = np.inf
                best = np.argsort(-scores, kind="stable")[:top]
                chosen[i, h, : len(best)] = np.sort(best)
    return (found.reshape(len(x), -1),)
