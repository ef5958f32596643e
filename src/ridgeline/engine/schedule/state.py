"""What the scheduler knows: requests, rows and blocks. No clock, no tensors, no executor."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from ridgeline.engine.kv.blocks import BlockPool
from ridgeline.engine.request import Request


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes that the plan fixed at start: all that a step may use."""

    max_rows: int
    max_tokens_per_step: int
    max_context: int
    block_tokens: int


@dataclass(slots=True)
class SchedulerState:
    """Owned by the engine, changed only by `admit`, `schedule`, `apply` and `end`.

    waiting is in order of arrival, with preempted requests in front. running is in order of
    admission. opened, closed: requests whose rows the executor must open or forget before the next
    step.
    """

    limits: Limits
    pool: BlockPool
    requests: dict[str, Request] = field(default_factory=dict)
    waiting: deque[Request] = field(default_factory=deque)
    running: list[Request] = field(default_factory=list)
    free_rows: list[int] = field(default_factory=list)
    opened: list[Request] = field(default_factory=list)
    closed: list[int] = field(default_factory=list)

    @staticmethod
    def empty(limits: Limits, num_blocks: int) -> SchedulerState:
        return SchedulerState(
            limits, BlockPool(num_blocks), free_rows=list(range(limits.max_rows))[::-1]
        )

    def check_invariants(self) -> None:
        """Rows and blocks belong to running requests and to nobody else."""
        self.pool.check_invariants()
        rows = [r.row for r in self.running]
        assert sorted(rows + self.free_rows) == list(range(self.limits.max_rows))
        owners: dict[int, int] = {}
        for request in self.running:
            for block in request.blocks:
                owners[block] = owners.get(block, 0) + 1
        for block in range(self.pool.num_blocks):
            assert self.pool.num_owners(block) == owners.get(block, 0)
        for request in self.waiting:
            assert request.row == -1
            assert not request.blocks
