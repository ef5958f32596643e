"""What was timed of a machine's kernels, as those who time it hand it to those who fit it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ridgeline.model.graph.node import Graph
from ridgeline.step import StepShape


@dataclass(frozen=True, slots=True)
class TimedStep:
    """seconds: of each node that ran, by name, and of "sample". cold: its weights are more than
    caches hold.
    """

    graph: Graph
    shape: StepShape
    threads: int
    cold: bool
    seconds: Mapping[str, float]

    @property
    def total(self) -> float:
        return sum(self.seconds.values())

    def better(self, other: TimedStep) -> TimedStep:
        """The same step timed again: of each node the time that was disturbed less."""
        both = {n: min(s, other.seconds.get(n, s)) for n, s in self.seconds.items()}
        return replace(self, seconds=both)
