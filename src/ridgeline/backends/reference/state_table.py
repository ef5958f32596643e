"""The state table of the executors in Python: each row's tokens, block table and sampling.

It checks every plan before anything of it is done, so that a scheduler's mistake is an error that
names the row, not a wrong token. It does not know what a block holds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ridgeline.errors import EngineError
from ridgeline.step import PlanRow, RowSampling, StepPlan, first_entry


@dataclass(frozen=True, slots=True)
class BoundRow:
    """A plan row with what the table knows of it.

    token_ids: int64 [num_context + num_new], the row's tokens up to the last that is computed now.
    block_table: int64 [entries, columns]; slot of position p in a column: block
    block_table[p // block_tokens, column], p % block_tokens.
    slot: where its recurrent states lie.
    """

    row: int
    num_new: int
    num_context: int
    num_logits: int
    token_ids: npt.NDArray[np.int64]
    block_table: npt.NDArray[np.int64]
    sampling: RowSampling
    slot: int = 0

    @property
    def num_tokens(self) -> int:
        return self.num_context + self.num_new

    @property
    def positions(self) -> npt.NDArray[np.int64]:
        """Of the new tokens."""
        return np.arange(self.num_context, self.num_tokens)


@dataclass(slots=True)
class _Row:
    token_ids: list[int]
    sampling: RowSampling
    tables: list[list[int]]  # of each column
    num_computed: int | None = None  # None until the first plan, whose context a cache may supply


class StateTable:
    """Owns the rows. Methods raise EngineError and then have changed nothing.

    windows: of each block of a table's entries (`StateGroups.column_windows`).
    """

    def __init__(
        self,
        *,
        num_blocks: int,
        max_rows: int,
        block_tokens: int,
        vocab_size: int,
        max_context: int,
        num_slots: int = 0,
        windows: Sequence[int | None] = (None,),
    ) -> None:
        self.windows = tuple(windows)
        self.num_blocks = num_blocks
        self.max_rows = max_rows
        self.block_tokens = block_tokens
        self.vocab_size = vocab_size
        self.max_context = max_context
        self.num_slots = num_slots
        self._rows: dict[int, _Row] = {}
        self._slot_tokens: dict[int, int] = {}  # that the recurrent states in a slot have seen

    def open_row(self, row: int, token_ids: Sequence[int], sampling: RowSampling) -> None:
        _require(0 <= row < self.max_rows, row, f"there are rows 0 to {self.max_rows - 1}")
        _require(row not in self._rows, row, "is open already; close it first")
        _require(len(token_ids) > 0, row, "has no tokens; give it at least one")
        self._check_ids(row, token_ids)
        _check_sampling(row, sampling, self.vocab_size)
        tables: list[list[int]] = [[] for _ in self.windows]
        self._rows[row] = _Row([int(t) for t in token_ids], sampling, tables)

    def append_tokens(self, row: int, token_ids: Sequence[int]) -> None:
        state = self._open(row)
        self._check_ids(row, token_ids)
        state.token_ids += [int(t) for t in token_ids]

    def close_row(self, row: int) -> None:
        self._open(row)
        del self._rows[row]

    def token_ids(self, row: int) -> tuple[int, ...]:
        return tuple(self._open(row).token_ids)

    def begin(self, plan: StepPlan, *, sampling: bool) -> tuple[BoundRow, ...]:
        """Checks the whole plan, then appends its blocks. sampling: a row that wants logits gets a
        token, which must be its next.
        """
        seen: set[int] = set()
        for planned in plan.rows:
            _require(planned.row not in seen, planned.row, "is in the plan twice")
            seen.add(planned.row)
            self._check_counts(planned, sampling)
        self._check_blocks(plan)
        self._check_copies(plan)
        self._slot_tokens = self._checked_slots(plan)
        bound: list[BoundRow] = []
        for planned in plan.rows:
            state = self._rows[planned.row]
            for column, table in enumerate(state.tables):
                table += planned.new_blocks[column :: len(self.windows)]
            state.num_computed = planned.num_context + planned.num_new
            bound.append(
                BoundRow(
                    row=planned.row,
                    num_new=planned.num_new,
                    num_context=planned.num_context,
                    num_logits=planned.num_logits,
                    token_ids=np.array(state.token_ids[: state.num_computed], np.int64),
                    block_table=np.array(state.tables, np.int64).T,
                    sampling=state.sampling,
                    slot=planned.state_slot,
                )
            )
        return tuple(bound)

    def _check_counts(self, planned: PlanRow, sampling: bool) -> None:
        row = planned.row
        state = self._open(row)
        _require(planned.num_new >= 1, row, f"{planned.num_new} new tokens; at least 1 is needed")
        _require(planned.num_context >= 0, row, f"a context of {planned.num_context} tokens")
        total = planned.num_context + planned.num_new
        _require(
            total <= len(state.token_ids),
            row,
            f"{planned.num_context} tokens of context and {planned.num_new} new ones; the row has "
            f"{len(state.token_ids)}",
        )
        _require(
            total <= self.max_context,
            row,
            f"{total} tokens; the model's positions reach {self.max_context}",
        )
        _require(
            state.num_computed is None or planned.num_context <= state.num_computed,
            row,
            f"a context of {planned.num_context} tokens; {state.num_computed} are computed",
        )
        _require(
            0 <= planned.num_logits <= planned.num_new,
            row,
            f"{planned.num_logits} logits of {planned.num_new} new tokens",
        )
        scores = state.sampling.num_prompt_logprobs >= 0
        _require(
            not (sampling and planned.num_logits) or scores or total == len(state.token_ids),
            row,
            f"a token is to be sampled after {total} tokens; the row has {len(state.token_ids)}",
        )

    def _check_blocks(self, plan: StepPlan) -> None:
        planned_rows = {planned.row: planned for planned in plan.rows}
        holders: dict[int, list[int]] = {}
        for row in self._rows:
            held = self._held(row, planned_rows.get(row))
            for block in held:
                _require(
                    0 <= block < self.num_blocks,
                    row,
                    f"block {block}; there are blocks 0 to {self.num_blocks - 1}",
                )
                holders.setdefault(block, []).append(row)
            _require(len(set(held)) == len(held), row, "has a block twice in its table")
        for planned in plan.rows:
            row = planned.row
            total = planned.num_context + planned.num_new
            first = planned.num_context // self.block_tokens
            last = (total - 1) // self.block_tokens
            for table in self._tables(row, planned):
                _require(
                    len(table) * self.block_tokens >= total,
                    row,
                    f"{len(table)} blocks of {self.block_tokens} for {total} tokens",
                )
                for block in table[first : last + 1]:
                    others = [holder for holder in holders[block] if holder != row]
                    _require(
                        not others,
                        row,
                        f"writes to block {block}, which row {others[0] if others else row} holds "
                        "too; a shared block is read only",
                    )

    def _tables(self, row: int, planned: PlanRow | None) -> list[list[int]]:
        """A row's columns, with what a plan adds."""
        columns = len(self.windows)
        new = () if planned is None else planned.new_blocks
        _require(len(new) % columns == 0, row, f"{len(new)} blocks; an entry has {columns}")
        return [
            [*table, *new[column::columns]] for column, table in enumerate(self._rows[row].tables)
        ]

    def _held(self, row: int, planned: PlanRow | None) -> list[int]:
        """All blocks of a row that a window has not passed: the others may be somebody else's."""
        computed = self._rows[row].num_computed if planned is None else planned.num_context
        return [
            block
            for table, window in zip(self._tables(row, planned), self.windows, strict=True)
            for block in table[first_entry(window, computed or 0, self.block_tokens) :]
        ]

    def _check_copies(self, plan: StepPlan) -> None:
        held = {block for row in self._rows for block in self._held(row, None)}
        for copy in plan.copies:
            for block in (copy.source, copy.target):
                if not 0 <= block < self.num_blocks:
                    raise EngineError(
                        f"a copy of block {copy.source} to {copy.target}; there are blocks 0 to "
                        f"{self.num_blocks - 1}"
                    )
            if copy.target in held:
                raise EngineError(f"a copy to block {copy.target}, which a row holds already")

    def _checked_slots(self, plan: StepPlan) -> dict[int, int]:
        """How many tokens the recurrent states in each slot will have seen after the plan."""
        if not self.num_slots:
            if plan.slot_copies:
                raise EngineError("a slot of recurrent states is copied; the model has none")
            return {}
        seen = dict(self._slot_tokens)
        for copy in plan.slot_copies:
            if not (0 <= copy.target < self.num_slots and copy.source in seen):
                raise EngineError(
                    f"a copy of slot {copy.source} to {copy.target}; there are slots 0 to "
                    f"{self.num_slots - 1}, of which {len(seen)} hold a state"
                )
            seen[copy.target] = seen[copy.source]
        taken: set[int] = set()
        for planned in plan.rows:
            row, slot, context = planned.row, planned.state_slot, planned.num_context
            _require(
                0 <= slot < self.num_slots, row, f"slot {slot}; there are 0 to {self.num_slots - 1}"
            )
            _require(slot not in taken, row, f"slot {slot} is another row's, too")
            taken.add(slot)
            _require(
                context in (0, seen.get(slot)),
                row,
                f"a context of {context} tokens; the recurrent states in slot {slot} have seen "
                f"{seen.get(slot, 0)}",
            )
            seen[slot] = context + planned.num_new
        return seen

    def _open(self, row: int) -> _Row:
        _require(row in self._rows, row, "is not open")
        return self._rows[row]

    def _check_ids(self, row: int, token_ids: Sequence[int]) -> None:
        for token in token_ids:
            _require(
                0 <= token < self.vocab_size,
                row,
                f"token id {token}; the vocabulary has {self.vocab_size}",
            )


# What a row's sampling may hold: from the first number to the second; a third says that the first
# is not itself allowed.
_LARGEST = float(np.finfo(np.float32).max)
_RANGES: dict[str, tuple[float, float] | tuple[float, float, bool]] = {
    "repetition_penalty": (0, _LARGEST, True),
    "frequency_penalty": (-_LARGEST, _LARGEST),
    "presence_penalty": (-_LARGEST, _LARGEST),
    "dry_multiplier": (0, _LARGEST),
    "dry_base": (1, _LARGEST),
    "dry_allowed_length": (1, 2**31 - 1),
    "dry_last_n": (-1, 2**31 - 1),
    "penalty_last_n": (-1, 2**31 - 1),
    "no_repeat_ngram": (0, 2**31 - 1),
    "min_tokens": (0, 2**31 - 1),
    "temperature": (0, _LARGEST),
    "dynatemp_range": (0, _LARGEST),
    "dynatemp_exponent": (0, _LARGEST),
    "top_n_sigma": (0, _LARGEST),
    "top_k": (0, _LARGEST),
    "typical_p": (0, 1, True),
    "top_p": (0, 1, True),
    "min_p": (0, 1),
    "xtc_probability": (0, 1),
    "xtc_threshold": (0, 1),
    "mirostat_tau": (0, _LARGEST),
    "mirostat_eta": (0, _LARGEST),
    "mirostat_mu": (-_LARGEST, _LARGEST),
    "num_prompt": (0, 2**31 - 1),
    "num_logprobs": (-1, _LARGEST),
    "num_prompt_logprobs": (-1, _LARGEST),
}


def _check_sampling(row: int, sampling: RowSampling, vocab_size: int) -> None:
    for name, (low, high, *is_open) in _RANGES.items():
        value = getattr(sampling, name)
        ok = low < value <= high if is_open else low <= value <= high
        above = "above" if is_open else "from"
        _require(ok, row, f"{name} is {value}; it may be {above} {low:g} up to {high:g}")
    amounts = [amount for _, amount in sampling.logit_bias]
    _require(all(map(math.isfinite, amounts)), row, f"a logit_bias of {amounts}, not all finite")
    _require(all(sampling.bad_words), row, "bad_words has one of no tokens")
    for ids in (
        [token for token, _ in sampling.logit_bias],
        sampling.dry_breakers,
        [token for word in sampling.bad_words for token in word],
        sampling.allowed_ids or (),
        sampling.stop_ids,
    ):
        for token in ids:
            _require(
                0 <= token < vocab_size,
                row,
                f"sampling names token id {token}; the vocabulary has {vocab_size}",
            )


def _require(condition: bool, row: int, message: str) -> None:
    if not condition:
        raise EngineError(f"row {row}: {message}")
