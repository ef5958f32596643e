"""cross attention over what an encoder wrote, and that write."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ridgeline.backends.reference.attention import attend_head
from ridgeline.backends.reference.call import Array, Call
from ridgeline.backends.reference.kv_formats import kept, kept_keys
from ridgeline.backends.reference.state_table import BoundRow
from ridgeline.errors import EngineError
from ridgeline.model.graph.node import CrossState
from ridgeline.model.graph.ops.attention import Attention
from ridgeline.model.graph.ops.cross_attention import CrossAttention, CrossWrite


class CrossMemory:
    """One layer's keys and values of all rows. What nobody wrote holds NaN, so that reading it
    shows.
    """

    def __init__(self, state: CrossState, num_rows: int, dtype: npt.DTypeLike) -> None:
        self.state = state
        shape = (num_rows, state.positions, state.kv_heads)
        self._keys: Array = np.full((*shape, state.key_dim), np.nan, dtype)
        self._values: Array = np.full((*shape, state.value_dim), np.nan, dtype)

    def write(self, row: BoundRow, k: Array, v: Array) -> None:
        """k [positions, kv_heads * key_dim], v likewise."""
        if row.num_context or row.num_new != self.state.positions:
            raise EngineError(
                f"row {row.row}: {row.num_new} positions are encoded; {self.state.positions} "
                "together are needed"
            )
        name = self.state.format.name
        self._keys[row.row] = kept_keys(k.reshape(self._keys.shape[1:]), name)
        self._values[row.row] = kept(v.reshape(self._values.shape[1:]), name)

    def read(self, row: BoundRow) -> tuple[Array, Array]:
        """[positions, kv_heads, key_dim], and values likewise."""
        return self._keys[row.row], self._values[row.row]


def cross_write(op: CrossWrite, call: Call) -> tuple[()]:
    assert call.cross is not None
    k, v = call.inputs
    for (row, k_row), (_, v_row) in zip(call.by_row(k), call.by_row(v), strict=True):
        call.cross.write(row, k_row, v_row)
    return ()


def cross_attention(op: CrossAttention, call: Call) -> tuple[Array]:
    assert call.cross is not None
    group = op.num_heads // call.cross.state.kv_heads
    plain = Attention(1, op.head_dim, op.value_dim, op.scale, causal=False)
    outputs: list[Array] = []
    for row, q in call.by_row(call.inputs[0]):
        keys, values = call.cross.read(row)
        queries = q.reshape(row.num_new, op.num_heads, op.head_dim)
        nothing = np.zeros((row.num_new, len(keys)), bool)
        heads = [
            attend_head(plain, queries[:, h], keys[:, h // group], values[:, h // group], nothing)
            for h in range(op.num_heads)
        ]
        outputs.append(np.concatenate(heads, axis=-1))
    return (np.concatenate(outputs),)
