"""What runs a `StepPlan`: the protocol that every backend and the simulator answer to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ridgeline.step import BlockGroup, Image, Masks, RowSampling, StepPlan, StepResult


class Executor(Protocol):
    """Owns the state table (token ids, block tables, sampling of each row), the weights and the KV
    memory, and recurrent states. One step is in flight at a time: `submit`, then `collect`.
    Whichever of them raises, no step is in flight any more, and rows that were in it are closed
    before they are used again.
    """

    @property
    def block_tokens(self) -> int:
        """Tokens that one KV block holds."""

    @property
    def num_blocks(self) -> int: ...
    @property
    def groups(self) -> tuple[BlockGroup, ...]:
        """Layers by how far they reach back; each has blocks of its own in a row's table."""

    @property
    def blocks_together(self) -> int:
        """Blocks of successive ids that lie side by side, so that a row had best have successive
        ones; 1: it does not matter which it has."""

    @property
    def steps_together(self) -> int:
        """Steps that `run_on` may be asked for; 1: it is not there."""

    @property
    def max_rows(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...

    @property
    def num_slots(self) -> int:
        """Places for the recurrent states of a row or a snapshot; 0: the model has none."""

    def open_row(self, row: int, token_ids: Sequence[int], sampling: RowSampling) -> None:
        """Gives a row its tokens; plans compute them, in one step or in several."""

    def give_images(self, row: int, images: Sequence[Image]) -> None:
        """The images of a row that was just opened. EngineError if the model sees none."""

    def append_tokens(self, row: int, token_ids: Sequence[int]) -> None:
        """Adds tokens to an open row that no step has sampled (draft tokens, a forced span)."""

    def close_row(self, row: int) -> None:
        """Forgets the row; its blocks are the scheduler's to give away again."""

    def submit(self, plan: StepPlan, masks: Masks | None = None) -> None:
        """Starts a step; sampled tokens are appended to their rows. EngineError on a bad plan.

        masks: called once, when the step's logits are there: of each row that is constrained and
        samples, the tokens that may come, as bits, the lowest first: uint32 [ceil(vocab_size /
        32)]. A constrained row without one gives no token.
        """

    def collect(self) -> StepResult:
        """Waits for the step in flight."""

    def run_on(
        self, plan: StepPlan, steps: int, ends: Sequence[int]
    ) -> Sequence[tuple[StepResult, float]]:
        """Runs a plan whose rows all write, copy nothing and need no masks, and goes on with the
        same rows, each a token further, up to `steps` steps in all; they have the blocks for it.
        Ends sooner behind a step in which a row sampled one of `ends` or a fault. Of each step that
        ran, what it gave and when it ended: seconds from the call.
        """

    def forward(self, plan: StepPlan) -> npt.NDArray[np.float32]:
        """Runs a step without sampling: logits [sum of num_logits, vocab_size]."""
