"""How long a step takes at least: each operator as long as what binds it, one after the other.

The roofline of a bound graph: its operators' own `Work` over a device's limits (Williams, Waterman
and Patterson, 2009). Efficiencies are not here: these are times that nothing can beat. Knows
neither who runs the graph nor how the limits were found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

from ridgeline.cost.count import OperatorRow, count_step
from ridgeline.cost.device import Device
from ridgeline.errors import RidgelineError
from ridgeline.model.graph.node import Graph
from ridgeline.model.graph.work import Precision, Work
from ridgeline.step import StepShape


@dataclass(frozen=True, slots=True)
class Bound:
    """The least time of some work, by resource, in seconds.

    compute_seconds: by arithmetic; arithmetics share the same units, so their times add up.
    memory_bytes: those that `memory_seconds` are for; cache_bytes: values that stay on the chip.
    """

    compute_seconds: Mapping[str, float]
    memory_seconds: float
    memory_bytes: float
    cache_seconds: float = 0.0
    cache_bytes: float = 0.0
    link_seconds: float = 0.0

    @property
    def compute(self) -> float:
        return sum(self.compute_seconds.values())

    @property
    def seconds(self) -> float:
        return max(self.compute, self.memory_seconds, self.cache_seconds, self.link_seconds)

    @property
    def binds(self) -> str:
        """What takes longest: "memory", "cache", "link", or the arithmetic that takes most of the
        compute time; "" where there is nothing to do.
        """
        longest = self.seconds
        if longest == 0:
            return ""
        if longest == self.compute:
            return max(self.compute_seconds, key=lambda name: self.compute_seconds[name])
        if longest == self.memory_seconds:
            return "memory"
        return "cache" if longest == self.cache_seconds else "link"

    def __add__(self, other: Bound) -> Bound:
        """One after the other, as if what binds bound both: at most the sum of their times."""
        compute = dict(self.compute_seconds)
        for name, seconds in other.compute_seconds.items():
            compute[name] = compute.get(name, 0.0) + seconds
        return Bound(
            compute,
            self.memory_seconds + other.memory_seconds,
            self.memory_bytes + other.memory_bytes,
            self.cache_seconds + other.cache_seconds,
            self.cache_bytes + other.cache_bytes,
            self.link_seconds + other.link_seconds,
        )

    def times(self, count: int) -> Bound:
        return Bound(
            {name: seconds * count for name, seconds in self.compute_seconds.items()},
            self.memory_seconds * count,
            self.memory_bytes * count,
            self.cache_seconds * count,
            self.cache_bytes * count,
            self.link_seconds * count,
        )


@dataclass(frozen=True, slots=True)
class RowBound:
    """A row of a step's operator table and the least time of all its nodes together."""

    row: OperatorRow
    bound: Bound


@dataclass(frozen=True, slots=True)
class StepBound:
    """The least time of a step.

    seconds: operators one after the other, each as long as what binds it. compute_seconds: as if
    only arithmetic took time; memory_seconds: as if only memory did.
    """

    rows: tuple[RowBound, ...]
    work: Work

    @property
    def seconds(self) -> float:
        return sum(row.bound.seconds for row in self.rows)

    @property
    def compute_seconds(self) -> float:
        return sum(row.bound.compute for row in self.rows)

    @property
    def memory_seconds(self) -> float:
        return sum(row.bound.memory_seconds for row in self.rows)

    @property
    def memory_bytes(self) -> float:
        return sum(row.bound.memory_bytes for row in self.rows)

    @property
    def binds(self) -> str:
        """What binds for the longest part of `seconds`."""
        shares: dict[str, float] = {}
        for row in self.rows:
            shares[row.bound.binds] = shares.get(row.bound.binds, 0.0) + row.bound.seconds
        return max(shares, key=lambda name: shares[name], default="")


def bound_of(work: Work, device: Device, count: int = 1) -> Bound:
    """The least time of `count` like operators that ask for `work` together.

    Weights and KV come from memory. Values between operators do so only where those of one operator
    do not fit `device.cache_bytes`. Raises RidgelineError for an arithmetic whose peak the device
    does not state, and for link traffic without a link.
    """
    compute = {}
    for arithmetic, flops in work.flops.items():
        peak = device.operations_per_second.get(arithmetic)
        if not peak:
            known = ", ".join(device.operations_per_second) or "none"
            raise RidgelineError(
                f"{device.name} has no peak for {arithmetic} arithmetic; there are: {known}"
            )
        compute[arithmetic] = flops / peak
    moved = work.weight_bytes + work.kv_read_bytes + work.kv_write_bytes
    cached = work.activation_bytes
    if cached / count > device.cache_bytes:
        moved, cached = moved + cached, 0.0
    link = 0.0
    if work.link_bytes:
        if not device.link_bytes_per_second:
            raise RidgelineError(f"{device.name} has no link, and the graph sends over one")
        link = work.link_bytes / device.link_bytes_per_second
    return Bound(
        compute_seconds=compute,
        memory_seconds=moved / device.memory_bytes_per_second,
        memory_bytes=moved,
        cache_seconds=cached / (device.cache_bytes_per_second or inf),
        cache_bytes=cached,
        link_seconds=link,
    )


def step_bound(graph: Graph, step: StepShape, precision: Precision, device: Device) -> StepBound:
    """The least time of one step of a bound (fused, sharded) graph on a device."""
    counted = count_step(graph, step, precision)
    rows = tuple(RowBound(row, bound_of(row.work, device, row.count)) for row in counted.rows)
    return StepBound(rows, counted.total)
