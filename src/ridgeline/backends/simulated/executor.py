"""An executor that tells the time: a step moves a virtual clock by what the cost model says.

What tokens come is another's business: of an executor without arithmetic that it is given (the null
executor, which checks every block), or, without one, token 0 throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from ridgeline.backends.null.executor import NullExecutor
from ridgeline.backends.reference.one_by_one import OneByOne
from ridgeline.errors import EngineError
from ridgeline.step import (
    ONE_GROUP,
    BlockGroup,
    Image,
    Masks,
    RowSampling,
    Sampled,
    StepPlan,
    StepResult,
    StepShape,
)


class VirtualClock:
    """Seconds since a beginning of its own; called, it says them."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def wait_until(self, moment: float) -> None:
        self.now = max(self.now, moment)


class SimulatedExecutor(OneByOne):
    """See `engine.executor.Executor`. seconds: what a step takes."""

    def __init__(
        self,
        seconds: Callable[[StepShape], float],
        clock: VirtualClock,
        *,
        num_blocks: int,
        max_rows: int,
        block_tokens: int = 16,
        vocab_size: int = 2**31,
        tokens: NullExecutor | None = None,
        groups: Sequence[BlockGroup] = ONE_GROUP,
    ) -> None:
        self.groups = tuple(groups)
        self.seconds = seconds
        self.clock = clock
        self.num_blocks = num_blocks
        self.blocks_together = 1
        self.steps_together = 1
        self.max_rows = max_rows
        self.block_tokens = block_tokens
        self.vocab_size = vocab_size
        self.num_slots = 0 if tokens is None else tokens.num_slots
        self._tokens = tokens
        self._in_flight: StepResult | None = None

    def open_row(self, row: int, token_ids: Sequence[int], sampling: RowSampling) -> None:
        if self._tokens is not None:
            self._tokens.open_row(row, token_ids, sampling)

    def give_images(self, row: int, images: Sequence[Image]) -> None:
        if self._tokens is not None:
            self._tokens.give_images(row, images)

    def append_tokens(self, row: int, token_ids: Sequence[int]) -> None:
        if self._tokens is not None:
            self._tokens.append_tokens(row, token_ids)

    def close_row(self, row: int) -> None:
        if self._tokens is not None:
            self._tokens.close_row(row)

    def submit(self, plan: StepPlan, masks: Masks | None = None) -> None:
        """Without another's tokens masks are not asked for: it only tells the time."""
        if self._in_flight is not None:
            raise EngineError("a step is in flight; collect it first")
        if self._tokens is not None:
            self._tokens.submit(plan, masks)
            self._in_flight = self._tokens.collect()
        else:
            sampled = tuple(Sampled(row.row, 0) for row in plan.rows if row.num_logits)
            self._in_flight = StepResult(sampled)
        self.clock.now += self.seconds(plan.shape)

    def collect(self) -> StepResult:
        if self._in_flight is None:
            raise EngineError("no step is in flight; submit one first")
        result, self._in_flight = self._in_flight, None
        return result

    def forward(self, plan: StepPlan) -> npt.NDArray[np.float32]:
        raise EngineError("a simulated step has no logits")
