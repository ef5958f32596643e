"""rows: keep only the tokens whose logits are wanted."""

from __future__ import annotations

import numpy as np

from ridgeline.backends.reference.call import Array, Call
from ridgeline.model.graph.ops.rows import SelectRows


def select_rows(op: SelectRows, call: Call) -> tuple[Array]:
    parts = [x[row.num_new - row.num_logits :] for row, x in call.by_row(call.inputs[0])]
    return (np.concatenate(parts),)
