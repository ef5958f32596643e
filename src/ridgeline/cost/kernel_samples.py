"""What was timed of a machine's kernels, as those who time it hand it to those who fit it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ridgeline.model.graph.node import Graph
from ridgeline.step import StepShape


@dataclass(frozen=True, slots=True)
class TimedStep:
    """seconds: of each node that ran, by name, and of "sample". cold: no cache had anything of the
    step before it ran.
    """

    graph: Graph
    shape: StepShape
    threads: int
    cold: bool
    seconds: Mapping[str, float]
