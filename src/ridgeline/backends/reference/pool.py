"""pool: one row of numbers for each sequence of a step; sums in float64."""

from __future__ import annotations

import numpy as np

from ridgeline.backends.reference.call import Array, Call
from ridgeline.errors import EngineError
from ridgeline.model.graph.ops.pool import Pool


def pool(op: Pool, call: Call) -> tuple[Array]:
    pooled: list[Array] = []
    for row, x in call.by_row(call.inputs[0]):
        if row.num_context or row.num_logits != 1:
            raise EngineError(f"row {row.row}: only whole sequences are pooled, into one row each")
        mean = x.mean(axis=0, dtype=np.float64)
        pooled.append((x[0] if op.kind == "first" else mean).astype(x.dtype))
    return (np.stack(pooled),)
