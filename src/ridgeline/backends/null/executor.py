"""An executor without a model: a row's token is a hash of all its tokens, as the cache has them.

A KV slot holds the token and the position that wrote it, and a row is read back through its block
tables as the attention of each group of layers would read it. So a block given twice, freed too
early, cached under a wrong name or left unwritten ends in an EngineError that names the row and the
position.

A token of an image is a hash of what is in the image and of its place there, and a step that ends
within an image is an error.

With slots a row's recurrent state is the name of all that it has seen, token by token, and a plan
that goes on from the state of other tokens ends likewise.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ridgeline.backends.reference.one_by_one import OneByOne
from ridgeline.backends.reference.row_images import RowImages
from ridgeline.backends.reference.sample import NO_MASK, NOTHING_LEFT
from ridgeline.backends.reference.state_table import BoundRow, StateTable
from ridgeline.errors import EngineError
from ridgeline.step import (
    ONE_GROUP,
    BlockGroup,
    Image,
    Masks,
    RowSampling,
    Sampled,
    Scored,
    StepPlan,
    StepResult,
    first_entry,
)

Ints = npt.NDArray[np.int64]

NO_LIMIT = 2**31


def null_token(prefix: Sequence[int] | Ints, vocab_size: int) -> int:
    """The token that follows `prefix`: a hash of it, the same everywhere and always."""
    tokens = np.asarray(prefix, "<i8").tobytes()
    digest = hashlib.blake2b(tokens, digest_size=8).digest()
    return int.from_bytes(digest, "little") % vocab_size


class NullExecutor(OneByOne):
    """Owns the state table and, for each slot of the cache, what was written there."""

    def __init__(
        self,
        *,
        vocab_size: int,
        num_blocks: int,
        max_rows: int,
        block_tokens: int = 16,
        max_context: int = NO_LIMIT,
        num_slots: int = 0,
        groups: Sequence[BlockGroup] = ONE_GROUP,
    ) -> None:
        self.groups = tuple(groups)
        self.vocab_size = vocab_size
        self.num_blocks = num_blocks
        self.blocks_together = 1
        self.steps_together = 8
        self.max_rows = max_rows
        self.block_tokens = block_tokens
        self.num_slots = num_slots
        self._states: dict[int, bytes] = {}  # of each slot, the tokens that its state has seen
        self._table = StateTable(
            num_blocks=num_blocks,
            max_rows=max_rows,
            block_tokens=block_tokens,
            vocab_size=vocab_size,
            max_context=max_context,
            num_slots=num_slots,
            windows=[group.window for group in groups for _ in range(group.blocks)],
        )
        self._slot_tokens: Ints = np.full((num_blocks, block_tokens), -1, np.int64)
        self._slot_positions: Ints = np.full((num_blocks, block_tokens), -1, np.int64)
        self._in_flight: StepResult | None = None
        self._images = RowImages(lambda image: self._image_tokens(image)[:, None])

    def open_row(self, row: int, token_ids: Sequence[int], sampling: RowSampling) -> None:
        self._table.open_row(row, token_ids, sampling)

    def give_images(self, row: int, images: Sequence[Image]) -> None:
        self._images.give(row, images)

    def append_tokens(self, row: int, token_ids: Sequence[int]) -> None:
        self._table.append_tokens(row, token_ids)

    def close_row(self, row: int) -> None:
        self._table.close_row(row)
        self._images.forget(row)

    def submit(self, plan: StepPlan, masks: Masks | None = None) -> None:
        """Of a constrained row the token is the first one allowed from the hash on, in a circle."""
        self._require_idle()
        rows = self._begin(plan, sampling=True)
        given = {} if masks is None else masks()
        sampled = []
        for row, prefix in self._prefixes(rows):
            if row.num_logits:
                sampled.append(self._sample(row, prefix, given.get(row.row)))
        self._in_flight = StepResult(tuple(sampled))

    def collect(self) -> StepResult:
        if self._in_flight is None:
            raise EngineError("no step is in flight; submit one first")
        result, self._in_flight = self._in_flight, None
        return result

    def forward(self, plan: StepPlan) -> npt.NDArray[np.float32]:
        """Logits that are 1 for the `null_token` of each prefix and 0 elsewhere."""
        self._require_idle()
        rows = self._begin(plan, sampling=False)
        tokens = [
            null_token(prefix[: row.num_tokens - after], self.vocab_size)
            for row, prefix in self._prefixes(rows)
            for after in reversed(range(row.num_logits))
        ]
        logits = np.zeros((len(tokens), self.vocab_size), np.float32)
        logits[np.arange(len(tokens)), tokens] = 1
        return logits

    def _sample(self, row: BoundRow, prefix: Ints, mask: npt.NDArray[np.uint32] | None) -> Sampled:
        """The token, if the row's last is computed; tokens that it has already have logprob 0."""
        whole = self._table.token_ids(row.row)
        token = -1
        if row.num_tokens == len(whole):
            token = null_token(prefix, self.vocab_size)
            if row.sampling.is_constrained:
                if mask is None:
                    return Sampled(row.row, -1, fault=NO_MASK)
                token = _allowed_from(token, mask, self.vocab_size)
                if token < 0:
                    return Sampled(row.row, -1, fault=NOTHING_LEFT)
            self._table.append_tokens(row.row, [token])
        first = row.num_tokens - row.num_logits + 1
        known = whole[first : row.num_tokens + 1]
        if row.sampling.num_prompt_logprobs < 0 or not known:
            return Sampled(row.row, token)
        scored = Scored(first, 1, array("i", known), array("f", [0.0] * len(known)))
        return Sampled(row.row, token, scored=scored)

    def _require_idle(self) -> None:
        if self._in_flight is not None:
            raise EngineError("a step is in flight; collect it first")

    def _begin(self, plan: StepPlan, *, sampling: bool) -> tuple[BoundRow, ...]:
        rows = self._table.begin(plan, sampling=sampling)
        for copy in plan.copies:
            self._slot_tokens[copy.target] = self._slot_tokens[copy.source]
            self._slot_positions[copy.target] = self._slot_positions[copy.source]
        for slot_copy in plan.slot_copies:
            self._states[slot_copy.target] = self._states[slot_copy.source]
        self._images.parts(plan)
        return tuple(self._with_images(row) for row in rows)

    def _with_images(self, row: BoundRow) -> BoundRow:
        """With the tokens of images as what they are, not as the placeholder's id."""
        images = self._images.of(row.row)
        if not images:
            return row
        ids = row.token_ids.copy()
        for image in images:
            part = ids[image.first : image.end]
            part[:] = self._image_tokens(image)[: len(part)]
        return replace(row, token_ids=ids)

    def _image_tokens(self, image: Image) -> Ints:
        """Ids that no text has."""
        first = int.from_bytes(hashlib.blake2b(image.name, digest_size=4).digest(), "little")
        return self.vocab_size + first + np.arange(image.count, dtype=np.int64)

    def _prefixes(self, rows: Sequence[BoundRow]) -> list[tuple[BoundRow, Ints]]:
        """Writes the new tokens of all rows, then reads every row back."""
        if self.num_slots:
            self._carry_states(rows)
        for row in rows:
            for column in range(row.block_table.shape[1]):
                slots = self._slots(row, column, row.positions)
                self._slot_tokens[slots] = row.token_ids[row.num_context :]
                self._slot_positions[slots] = row.positions
        for row in rows:
            for column, window in enumerate(self._table.windows):
                self._read(row, column, window)
        return [(row, row.token_ids) for row in rows]

    def _carry_states(self, rows: Sequence[BoundRow]) -> None:
        for row in rows:
            state = self._states.get(row.slot) if row.num_context else _seen(row, 0)
            if state != _seen(row, row.num_context):
                raise EngineError(
                    f"row {row.row}: the recurrent state in slot {row.slot} has not seen the "
                    f"{row.num_context} tokens of the row's context"
                )
            self._states[row.slot] = _seen(row, row.num_tokens)

    def _read(self, row: BoundRow, column: int, window: int | None) -> None:
        """What attention reads in a column: the row's tokens, from the window's first block on."""
        first = first_entry(window, row.num_context, self.block_tokens) * self.block_tokens
        positions = np.arange(first, row.num_tokens)
        slots = self._slots(row, column, positions)
        tokens, written = self._slot_tokens[slots], self._slot_positions[slots]
        wrong = np.flatnonzero((written != positions) | (tokens != row.token_ids[first:]))
        if wrong.size:
            at = int(wrong[0])
            block = int(slots[0][at])
            holds = (
                f"token {tokens[at]} of position {written[at]}" if written[at] >= 0 else "nothing"
            )
            raise EngineError(
                f"row {row.row}: block {block} holds {holds} where the row has token "
                f"{row.token_ids[first + at]} at position {first + at}"
            )

    def _slots(self, row: BoundRow, column: int, positions: Ints) -> tuple[Ints, Ints]:
        entries = row.block_table[:, column]
        return entries[positions // self.block_tokens], positions % self.block_tokens


def _allowed_from(token: int, mask: npt.NDArray[np.uint32], vocab_size: int) -> int:
    bits = np.unpackbits(mask.astype("<u4").view(np.uint8), bitorder="little")[:vocab_size]
    allowed = np.flatnonzero(bits)
    return int(allowed[np.searchsorted(allowed, token) % len(allowed)]) if len(allowed) else -1


def _seen(row: BoundRow, num_tokens: int) -> bytes:
    return hashlib.blake2b(row.token_ids[:num_tokens].astype("<i8").tobytes()).digest()
