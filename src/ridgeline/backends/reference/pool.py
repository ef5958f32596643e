"""pool: a row of numbers for each sequence of a step, or for each square or run of tokens; sums in
float64.
"""

from __future__ import annotations

import numpy as np

from ridgeline.backends.reference.call import Array, Call
from ridgeline.errors import EngineError
from ridgeline.model.graph.ops.pool import GridPool, JoinTokens, Pool


def pool(op: Pool, call: Call) -> tuple[Array]:
    pooled: list[Array] = []
    for row, x in call.by_row(call.inputs[0]):
        if row.num_context or row.num_logits != 1:
            raise EngineError(f"row {row.row}: only whole sequences are pooled, into one row each")
        mean = x.mean(axis=0, dtype=np.float64)
        pooled.append((x[0] if op.kind == "first" else mean).astype(x.dtype))
    return (np.stack(pooled),)


def grid_pool(op: GridPool, call: Call) -> tuple[Array]:
    cells, kernel = op.side // op.kernel, op.kernel
    pooled: list[Array] = []
    for row, x in call.by_row(call.inputs[0]):
        if row.num_context or (row.num_new, row.num_logits) != (op.num_tokens, op.num_rows):
            raise EngineError(f"row {row.row}: only whole squares of {op.num_tokens} are pooled")
        squares = x.reshape(cells, kernel, cells, kernel, -1)
        means = squares.mean(axis=(1, 3), dtype=np.float64)
        pooled.append(means.reshape(op.num_rows, -1).astype(x.dtype))
    return (np.concatenate(pooled),)


def join_tokens(op: JoinTokens, call: Call) -> tuple[Array]:
    (x,) = call.inputs
    for row in call.rows:
        if row.num_context or row.num_new != op.count * row.num_logits:
            raise EngineError(f"row {row.row}: {op.count} tokens of whole sequences make a row")
    return (x.reshape(len(x) // op.count, -1),)
