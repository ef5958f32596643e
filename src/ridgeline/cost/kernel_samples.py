"""What was timed of a machine's kernels, as those who time it hand it to those who fit it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ridgeline.cost.device import ReadRates
from ridgeline.model.graph.node import Graph
from ridgeline.step import StepShape


@dataclass(frozen=True, slots=True)
class TimedStep:
    """seconds: of each node that ran, by name, and of "sample". cold_bytes: of its weights, as
    packed, where these are more than caches surely hold; else 0. read: GB/s at which the same
    threads read the same weights right beside it. pace: 10^9 operations a second that they did of
    the arithmetic that kernels follow (`measure.PACE`), as well; barrier_nanoseconds: that they
    needed to wait for each other.
    """

    graph: Graph
    shape: StepShape
    threads: int
    cold_bytes: float
    seconds: Mapping[str, float]
    read: ReadRates
    pace: float
    barrier_nanoseconds: float

    @property
    def total(self) -> float:
        return sum(self.seconds.values())

    def better(self, other: TimedStep) -> TimedStep:
        """The same step timed again: the timing that was disturbed less."""
        return self if self.total <= other.total else other
