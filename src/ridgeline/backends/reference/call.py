"""What an operator's function is given: arrays, the step, and its layer's cache or states."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ridgeline.backends.reference.kv_formats import kept, kept_keys
from ridgeline.backends.reference.row_images import Part, Places
from ridgeline.backends.reference.state_table import BoundRow
from ridgeline.model.graph.node import KvState, RowState
from ridgeline.step import first_entry

if TYPE_CHECKING:
    from ridgeline.backends.reference.cross_attention import CrossMemory

Array = npt.NDArray[Any]  # of the executor's float type, float64 within a sum
Ints = npt.NDArray[np.int64]


class KvCache:
    """One layer's keys [block, token, kv_head, key_dim] and values [.., value_dim].

    column: of the rows' block tables. memory [num_blocks, block_tokens, elements_per_token]: the
    layer's part of all blocks; one of its own if None. What is written is rounded to the state's
    format. A slot that nobody wrote holds NaN, so that
    reading it shows.
    """

    def __init__(
        self,
        state: KvState,
        num_blocks: int,
        block_tokens: int,
        dtype: npt.DTypeLike,
        column: int = 0,
        memory: Array | None = None,
    ) -> None:
        self.state = state
        self.block_tokens = block_tokens
        self._column = column
        if memory is None:
            width = state.elements_within(block_tokens)
            memory = np.full((num_blocks, block_tokens, width), np.nan, dtype)
        self._memory = memory
        keys = state.kv_heads * state.key_dim
        self._keys, self._values = memory[..., :keys], memory[..., keys:]
        if state.latent:
            self._values = memory[..., : state.value_dim]

    def write(self, row: BoundRow, k: Array, v: Array) -> None:
        """k [num_new, kv_heads * key_dim], v likewise, at the positions of the row's new tokens."""
        slots = self._slots(row, row.positions)
        heads = (row.num_new, self.state.kv_heads, -1)
        if self.state.latent:
            # k is c, and v the channels that keys have besides; values are c, in the same place.
            k, v = np.concatenate([k, v], axis=-1), k
        name = self.state.format.name
        self._keys[slots] = kept_keys(k.reshape(heads), name, self.state.balance).reshape(k.shape)
        self._values[slots] = kept(v.reshape(heads), name).reshape(v.shape)

    def read(self, row: BoundRow) -> tuple[Array, Array]:
        """The row's keys and values so far: [num_tokens, kv_heads, key_dim or value_dim]; zeros in
        blocks that lie wholly behind the window of all new tokens, which the row has not.
        """
        first = first_entry(self.state.window, row.num_context, self.block_tokens)
        positions = np.arange(first * self.block_tokens, row.num_tokens)
        slots = self._slots(row, positions)
        found = []
        for memory in (self._keys, self._values):
            heads = np.zeros((row.num_tokens, memory.shape[-1]), memory.dtype)
            heads[len(heads) - len(positions) :] = memory[slots]
            found.append(heads.reshape(row.num_tokens, self.state.kv_heads, -1))
        return found[0], found[1]

    def write_entries(self, row: BoundRow, x: Array) -> None:
        """x [num_new, key_dim]: of new tokens that are the last of `every`, the entries."""
        kept_x = kept(x[:, None], self.state.format.name)[:, 0]
        for position, entry in zip(row.positions, kept_x, strict=True):
            if (position + 1) % self.state.every == 0:
                place = self._entry(row, int(position) // self.state.every)
                numbers = np.zeros(place.size, place.dtype)
                numbers[: len(entry)] = entry
                place[:] = numbers.reshape(place.shape)

    def read_entries(self, row: BoundRow) -> Array:
        """Those that are complete: [num_tokens // every, key_dim]."""
        count = row.num_tokens // self.state.every
        entries = [self._entry(row, index).reshape(-1) for index in range(count)]
        width = self.state.key_dim
        return np.array(entries)[:, :width] if entries else np.zeros((0, width), self._memory.dtype)

    def _entry(self, row: BoundRow, index: int) -> Array:
        """Where it lies: a few tokens' part of the block that its last token is in."""
        last = (index + 1) * self.state.every - 1
        run = min(self.state.every, self.block_tokens)
        block = row.block_table[last // self.block_tokens, self._column]
        first = last % self.block_tokens // run * run
        found: Array = self._memory[block, first : first + run]
        return found

    def _slots(self, row: BoundRow, positions: Ints) -> tuple[Ints, Ints]:
        entries = row.block_table[:, self._column]
        return entries[positions // self.block_tokens], positions % self.block_tokens


class RowMemory:
    """One layer's recurrent states, of each slot [parts, part_elements]. What nobody began holds
    NaN, so that reading it shows.
    """

    def __init__(self, state: RowState, num_slots: int, dtype: npt.DTypeLike) -> None:
        self.state = state
        self._slots: Array = np.full((num_slots, state.parts, state.part_elements), np.nan, dtype)

    def tokens(self, row: BoundRow) -> Iterator[tuple[int, Array]]:
        """For each new token its index in the row's part of the step, and the row's state, to be
        updated in place by the time the next is asked for. It is zero before a row's first token.
        """
        state = self._slots[row.slot]
        if row.num_context == 0:
            state[:] = 0
        for index in range(row.num_new):
            yield index, state

    def copy(self, source: int, target: int) -> None:
        self._slots[target] = self._slots[source]


@dataclass(frozen=True, slots=True)
class Call:
    """One application: inputs and weights in the order of the operator's docstring.

    rows: the step's, in plan order; their new tokens lie one after the other along TOKENS.
    entries: the second cache of attention over a window and entries.
    cross: the layer's keys and values of encoders. images: what the step has of them. places: of
    its tokens, where it tells more than the plan.
    """

    inputs: tuple[Array, ...]
    weights: tuple[Array, ...]
    rows: Sequence[BoundRow]
    cache: KvCache | None
    memory: RowMemory | None = None
    entries: KvCache | None = None
    cross: CrossMemory | None = None
    images: Sequence[Part] = ()
    places: Places | None = None

    @property
    def positions(self) -> Ints:
        """Of every token of the step, in its row: [TOKENS]."""
        return np.concatenate([row.positions for row in self.rows])

    def by_row(self, x: Array) -> list[tuple[BoundRow, Array]]:
        """`x` [TOKENS, D] in each row's part [num_new, D]."""
        ends = np.cumsum([row.num_new for row in self.rows])
        return list(zip(self.rows, np.split(x, ends[:-1]), strict=True))
