"""embed: rows of a table by token id."""

from __future__ import annotations

import numpy as np

from ridgeline.backends.reference.call import Array, Call
from ridgeline.model.graph.ops.embed import Embed


def embed(op: Embed, call: Call) -> tuple[Array]:
    token_ids, table = call.inputs[0].astype(np.int64), call.weights[0]
    index = token_ids - op.first_row
    held = (index >= 0) & (index < len(table))
    rows = np.where(held[:, None], table[np.where(held, index, 0)], 0)
    return ((rows * table.dtype.type(op.scale)).astype(table.dtype),)
