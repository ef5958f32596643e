"""select_tokens: the positions that attention looks at, by scores in float64."""

from __future__ import annotations

import numpy as np

from ridgeline.backends.reference.call import Array, Call
from ridgeline.model.graph.ops.select_tokens import SelectTokens


def select_tokens(op: SelectTokens, call: Call) -> tuple[Array]:
    assert call.cache is not None
    found = np.full((len(call.inputs[0]), op.top_k), -1, call.inputs[0].dtype)
    for (row, chosen), (_, turned), (_, rest), (_, weights) in zip(
        *(call.by_row(x) for x in (found, *call.inputs)), strict=True
    ):
        keys = call.cache.read(row)[0][:, 0].astype(np.float64)
        heads = (row.num_new, op.num_heads, -1)
        q = np.concatenate([turned.reshape(heads), rest.reshape(heads)], axis=-1)
        products = np.maximum(np.einsum("thd,sd->ths", q.astype(np.float64), keys), 0)
        scores = np.einsum("th,ths->ts", weights.astype(np.float64), products)
        for i in range(row.num_new):
            visible = row.num_context + i + 1
            best = np.argsort(-scores[i, :visible], kind="stable")[: op.top_k]
            chosen[i, : len(best)] = np.sort(best)
    return (found,)
