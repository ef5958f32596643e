"""`step_bound` in microseconds: the same least time of a step, for those who ask it every step.

An operator's work is linear in a handful of sums over a step's rows (new tokens, sampled rows, and
for each window the attended pairs and the cached tokens read). The coefficients are solved from
steps that `count_step` prices, and checked on one that it was not shown; nothing is described
twice. Exact for steps with fewer tokens than the vocabulary has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isclose
from operator import mul

import numpy as np

from ridgeline.cost.count import OperatorRow, count_step
from ridgeline.cost.device import Device
from ridgeline.cost.time import bound_of
from ridgeline.errors import RidgelineError
from ridgeline.model.graph.node import Graph
from ridgeline.model.graph.work import Precision
from ridgeline.step import StepShape

_SAMPLES = (
    StepShape((1,), (0,), 1),
    StepShape((7,), (0,), 2),
    StepShape((40,), (3,), 1),
    StepShape((3, 90), (1000, 9), 3),
    StepShape((1, 1, 1), (5000, 70, 900), 3),
    StepShape((300, 2), (17, 2222), 2),
    StepShape((1, 60), (12000, 4000), 5),
)
# An operator on the rows of logits has nothing to do here.
_UNSAMPLED = StepShape((300, 2), (17, 2222), 0)
_UNSEEN = StepShape((5, 200, 1), (31, 700, 3100), 4)
_PRICED = (*_SAMPLES, _UNSEEN, _UNSAMPLED)


@dataclass(frozen=True, slots=True)
class _Operator:
    """Seconds of computing and of memory, and bytes of values, as coefficients of the sums."""

    compute: tuple[float, ...]
    memory: tuple[float, ...]
    values: tuple[float, ...]
    count: int
    sampled_only: bool

    def seconds(self, sums: Sequence[float], device: Device) -> float:
        if self.sampled_only and not sums[2]:
            return 0.0
        memory: float = sum(map(mul, self.memory, sums))
        values: float = sum(map(mul, self.values, sums))
        cache = 0.0
        if values / self.count > device.cache_bytes:
            memory += values / device.memory_bytes_per_second
        else:
            cache = values / (device.cache_bytes_per_second or inf)
        compute: float = sum(map(mul, self.compute, sums))
        return max(compute, memory, cache)


class StepTimes:
    """`StepTimes(...)(shape)`: the seconds of `step_bound`. Raises RidgelineError for a graph with
    an operator whose work is not linear, or that sends over a link.
    """

    def __init__(self, graph: Graph, precision: Precision, device: Device) -> None:
        self._device = device
        self.windows = tuple(dict.fromkeys(state.window for state in graph.states))
        tables = [count_step(graph, shape, precision).rows for shape in _PRICED]
        self._fixed: list[_Operator] = []
        self._attention: list[_Operator] = []
        for rows in zip(*tables, strict=True):
            operator = self._fit(rows)
            longer = (*operator.compute[3:], *operator.memory[3:], *operator.values[3:])
            (self._attention if any(longer) else self._fixed).append(operator)
        self._known: dict[tuple[int, int], float] = {}

    def __call__(self, shape: StepShape) -> float:
        return self.at(*self.sums(shape))

    def sums(self, shape: StepShape) -> tuple[int, int, list[float]]:
        """New tokens, sampled rows, and for each window the pairs and the tokens read."""
        growing: list[float] = []
        for window in self.windows:
            growing += (shape.attended_pairs(window), shape.cached_tokens_read(window))
        return shape.num_tokens, shape.num_sampled, growing

    def at(self, num_tokens: int, num_sampled: int, growing: Sequence[float]) -> float:
        key = (num_tokens, num_sampled)
        fixed = self._known.get(key)
        if fixed is None:
            shorter = (1, num_tokens, num_sampled)  # they have no further coefficients
            fixed = sum(operator.seconds(shorter, self._device) for operator in self._fixed)
            self._known[key] = fixed
        sums = (1, num_tokens, num_sampled, *growing)
        return fixed + sum(operator.seconds(sums, self._device) for operator in self._attention)

    def _fit(self, rows: Sequence[OperatorRow]) -> _Operator:
        """The operator that asks for these rows' work at the priced steps."""
        *rows, unsampled = rows
        sums = []
        for shape in _SAMPLES:
            tokens, sampled, growing = self.sums(shape)
            sums.append((1, tokens, sampled, *growing))
        used = [0, 1, 2]
        if rows[0].window in self.windows:
            at = 3 + 2 * self.windows.index(rows[0].window)
            used += [at, at + 1]
        matrix = np.array(sums, np.float64)[:, used]
        scale = matrix.max(axis=0)
        bounds = [bound_of(row.work, self._device, row.count) for row in rows]
        wanted = np.array(
            [
                (
                    bound.compute,
                    (row.work.total_bytes - row.work.activation_bytes)
                    / self._device.memory_bytes_per_second,
                    row.work.activation_bytes,
                )
                for row, bound in zip(rows, bounds, strict=True)
            ]
        )
        solved = np.linalg.lstsq(matrix / scale, wanted[:-1], rcond=None)[0] / scale[:, None]
        largest = np.abs(wanted).max(axis=0)
        solved[np.abs(solved) * scale[:, None] < 1e-9 * largest] = 0
        coefficients = np.zeros((3, 3 + 2 * len(self.windows)))
        coefficients[:, used] = solved.T
        compute, memory, values = (tuple(map(float, line)) for line in coefficients)
        idle = not (unsampled.work.total_bytes or unsampled.work.total_flops)
        operator = _Operator(compute, memory, values, rows[0].count, idle)
        tokens, sampled, growing = self.sums(_UNSEEN)
        found = operator.seconds((1, tokens, sampled, *growing), self._device)
        if not isclose(found, bounds[-1].seconds, rel_tol=1e-6, abs_tol=1e-15):
            raise RidgelineError(f"{rows[0].name}: its work is not linear in a step's rows")
        return operator
