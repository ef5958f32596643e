"""Runs of steps for executors whose steps are not made of one native call: one after the other."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

from ridgeline.step import Masks, StepPlan, StepResult


class _Steps(Protocol):
    def submit(self, plan: StepPlan, masks: Masks | None = None) -> None: ...
    def collect(self) -> StepResult: ...


class OneByOne:
    """`run_on` of an `engine.executor.Executor`, by its `submit` and `collect`."""

    def run_on(
        self: _Steps, plan: StepPlan, steps: int, ends: Sequence[int]
    ) -> list[tuple[StepResult, float]]:
        begin = time.monotonic()
        ran: list[tuple[StepResult, float]] = []
        while len(ran) < steps:
            self.submit(plan)
            result = self.collect()
            ran.append((result, time.monotonic() - begin))
            if any(one.fault is not None or one.token_id in ends for one in result.sampled):
                break
            rows = [
                row._replace(num_context=row.num_context + 1, new_blocks=()) for row in plan.rows
            ]
            plan = StepPlan(tuple(rows))
        return ran
