"""`step_bound` in microseconds: the same least time of a step, for those who ask it every step.

An operator's work is linear in a handful of sums over a step's rows (new tokens, sampled rows, the
rows themselves, whose recurrent states are read and written, and for each window the attended pairs
and the cached tokens read). The coefficients are solved from
steps that `count_step` prices, and checked on one that it was not shown; nothing is described
twice. A head that is screened is priced by its own rule for each number of rows. Exact for steps
with fewer tokens than the vocabulary has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf, isclose

import numpy as np
from numpy.typing import NDArray

from ridgeline.cost.count import OperatorRow, count_step
from ridgeline.cost.device import Device
from ridgeline.cost.time import bound_of, step_bound
from ridgeline.errors import RidgelineError
from ridgeline.model.graph.node import Graph, Node
from ridgeline.model.graph.ops.linear import Linear
from ridgeline.model.graph.work import Precision
from ridgeline.step import Answers, StepShape

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

# Operators whose traffic is a state of each row, however many tokens it has.
CARRYING = (
    *("causal_conv", "selective_scan", "ssd_scan", "delta_rule", "decay_attention"),
    *("rg_lru", "token_shift", "wkv7"),
)


# Of an operator that reads a cache: where its sums begin; seconds of computing, and more for each
# pair; seconds of memory, and more for each token read; seconds of values that stay on the chip.
_Line = tuple[int, float, float, float, float, float]
_Folded = tuple[float, tuple[_Line, ...]]


@dataclass(frozen=True, slots=True)
class _Operator:
    """Seconds of computing and of memory, and bytes of values, as coefficients of (1, new tokens,
    sampled rows, rows); pairs, read: seconds of computing for a pair, of memory for a token read.
    """

    compute: tuple[float, ...]
    memory: tuple[float, ...]
    values: tuple[float, ...]
    count: int
    sampled_only: bool
    window: int
    pairs: float
    read: float

    def line(self, sums: Sequence[float], device: Device) -> _Line:
        """sums: 1, new tokens, sampled rows, rows."""
        _one, tokens, sampled, rows = sums
        fixed, a_token, a_sample, a_row = self.memory
        memory = fixed + a_token * tokens + a_sample * sampled + a_row * rows
        fixed, a_token, a_sample, a_row = self.values
        values = fixed + a_token * tokens + a_sample * sampled + a_row * rows
        cache = 0.0
        if values / self.count > device.cache_bytes:
            memory += values / device.memory_bytes_per_second
        else:
            cache = values / (device.cache_bytes_per_second or inf)
        fixed, a_token, a_sample, a_row = self.compute
        compute = fixed + a_token * tokens + a_sample * sampled + a_row * rows
        return self.window, compute, self.pairs, memory, self.read, cache

    def seconds(
        self, sums: Sequence[float], device: Device, pairs: float = 0, read: float = 0
    ) -> float:
        if self.sampled_only and not sums[2]:
            return 0.0
        _window, compute, pairs_cost, memory, read_cost, cache = self.line(sums, device)
        return max(compute + pairs_cost * pairs, memory + read_cost * read, cache)


class StepTimes:
    """`StepTimes(...)(shape)`: the seconds of `step_bound`. Raises RidgelineError for a graph with
    an operator whose work is not linear, or that sends over a link.
    """

    def __init__(self, graph: Graph, precision: Precision, device: Device) -> None:
        self._device = device
        self._precision = precision
        self.windows = tuple(dict.fromkeys(state.window for state in graph.states))
        # What is read of these is not linear in rows; they are priced for each number of them.
        self._screened = [node for node in graph.nodes if _is_screened(node)]
        unscreened = replace(graph, nodes=tuple(n for n in graph.nodes if not _is_screened(n)))
        tables = [count_step(unscreened, shape, precision).rows for shape in _PRICED]
        self._fixed: list[_Operator] = []
        self._attention: list[_Operator] = []
        for rows in zip(*tables, strict=True):
            operator = self._fit(rows)
            grows = operator.pairs or operator.read
            (self._attention if grows else self._fixed).append(operator)
        self._known: dict[tuple[int, int, int], _Folded] = {}

    def __call__(self, shape: StepShape) -> float:
        return self.at(*self.sums(shape))

    def beside(self, shape: StepShape, answers: Answers) -> float:
        """Of a step that has answers besides: to the bit as if they were in its shape."""
        tokens, sampled, rows, growing = self.sums(shape)
        for window, read in enumerate(answers.read):
            growing[2 * window] += read
            growing[2 * window + 1] += read
        more = answers.rows
        return self.at(tokens + more, sampled + more, rows + more, growing)

    def sums(self, shape: StepShape) -> tuple[int, int, int, list[float]]:
        """New tokens, sampled rows, rows, and for each window the pairs and the tokens read."""
        growing: list[float] = []
        for window in self.windows:
            growing += (shape.attended_pairs(window), shape.cached_tokens_read(window))
        return shape.num_tokens, shape.num_sampled, shape.num_sequences, growing

    def at(
        self, num_tokens: int, num_sampled: int, num_rows: int, growing: Sequence[float]
    ) -> float:
        """growing: for each window the attended pairs and the cached tokens read."""
        fixed, lines = self._folded(num_tokens, num_sampled, num_rows)
        for window, compute, pairs_cost, memory, read_cost, cache in lines:
            pairs, read = growing[window], growing[window + 1]
            fixed += max(compute + pairs_cost * pairs, memory + read_cost * read, cache)
        return fixed

    def decode_run(self, contexts: Sequence[int], count: int) -> NDArray[np.float64]:
        """The seconds of `count` decode steps one after the other, for rows that begin with
        `contexts`: to the bit what each would cost by itself.
        """
        rows = len(contexts)
        fixed, lines = self._folded(rows, rows, rows)
        sums = decode_sums(contexts, count, self.windows)
        seconds: NDArray[np.float64] | None = None
        for window, compute, pairs_cost, memory, read_cost, cache in lines:
            tokens = sums[window // 2]
            most = read_cost * tokens
            most += memory
            # What is less at the beginning and grows no faster is nowhere more, to the bit.
            if cache > memory:
                np.maximum(most, cache, out=most)
            if compute > memory or pairs_cost > read_cost:
                np.maximum(compute + pairs_cost * tokens, most, out=most)
            if seconds is None:
                seconds = most
                seconds += fixed
            else:
                seconds += most
        return np.full(count, fixed) if seconds is None else seconds

    def _folded(self, num_tokens: int, num_sampled: int, num_rows: int) -> _Folded:
        """What is left to add for each operator that reads a cache, and all else added up."""
        key = (num_tokens, num_sampled, num_rows)
        known = self._known.get(key)
        if known is None:
            sums = (1.0, num_tokens, num_sampled, num_rows)
            fixed = sum(op.seconds(sums, self._device) for op in self._fixed)
            if num_sampled:
                shape = StepShape((num_tokens,), (0,), num_sampled)
                for node in self._screened:
                    work = node.op.cost(node, shape, self._precision)
                    fixed += bound_of(work, self._device).seconds
            lines = tuple(op.line(sums, self._device) for op in self._attention)
            known = self._known[key] = (fixed, lines)
        return known

    def _fit(self, rows: Sequence[OperatorRow]) -> _Operator:
        """The operator that asks for these rows' work at the priced steps."""
        *rows, unsampled = rows
        reads = rows[0].operator not in CARRYING
        grows = reads and rows[0].window in self.windows and rows[0].work.kv_read_bytes > 0
        at = 2 * self.windows.index(rows[0].window) if grows else 0
        sums = []
        for shape in (*_SAMPLES, _UNSEEN):
            tokens, sampled, count, growing = self.sums(shape)
            sums.append((1.0, tokens, sampled, count, *(growing or (0.0, 0.0))[at : at + 2]))
        bounds = [bound_of(row.work, self._device, row.count) for row in rows]
        speed = self._device.memory_bytes_per_second
        compute = [bound.compute for bound in bounds]
        memory = [(row.work.total_bytes - row.work.activation_bytes) / speed for row in rows]
        values = [row.work.activation_bytes for row in rows]
        # A cache is read as its sums say, a recurrent state once a row; nothing does both.
        by_compute = _solve(sums, compute, (0, 1, 2, 4) if grows else (0, 1, 2))
        by_memory = _solve(sums, memory, (0, 1, 2, 5) if grows else (0, 1, 2, 3))
        by_values = _solve(sums, values, (0, 1, 2))
        operator = _Operator(
            by_compute[:4],
            by_memory[:4],
            by_values[:4],
            rows[0].count,
            not (unsampled.work.total_bytes or unsampled.work.total_flops),
            at,
            by_compute[4],
            by_memory[5],
        )
        found = operator.seconds(sums[-1][:4], self._device, *sums[-1][4:])
        if not isclose(found, bounds[-1].seconds, rel_tol=1e-6, abs_tol=1e-15):
            raise RidgelineError(f"{rows[0].name}: its work is not linear in a step's rows")
        return operator


def _is_screened(node: Node) -> bool:
    return isinstance(node.op, Linear) and node.op.screen is not None


_STEPS = np.arange(1.0, 2049.0)


def decode_sums(
    contexts: Sequence[int], count: int, windows: Sequence[int | None]
) -> list[NDArray[np.float64]]:
    """For each window the tokens that `count` decode steps read, one after the other; as many
    pairs are attended. contexts: of the rows at the first.
    """
    total = sum(contexts)
    if len(windows) == 1 and windows[0] is None and count <= len(_STEPS):
        # Whole numbers far below 2^53: exact, and what is below to the bit.
        return [_STEPS[:count] * len(contexts) + total]
    steps = np.arange(1, count + 1)
    start = np.array(contexts)
    return [
        (total + len(contexts) * steps).astype(np.float64)
        if window is None
        else np.minimum(start[None, :] + steps[:, None], window).sum(1).astype(np.float64)
        for window in windows
    ]


def least_seconds(
    graph: Graph, precision: Precision, device: Device
) -> Callable[[StepShape], float]:
    """The seconds of `step_bound`, in microseconds where `StepTimes` can."""
    try:
        return StepTimes(graph, precision, device)
    except RidgelineError:
        return lambda shape: step_bound(graph, shape, precision, device).seconds


def _solve(
    sums: Sequence[tuple[float, ...]], wanted: Sequence[float], used: tuple[int, ...]
) -> tuple[float, ...]:
    """Coefficients of the `used` sums, 0 for the others, that give all of `wanted` but the last."""
    matrix = np.array(sums[:-1], np.float64)[:, used]
    scale = matrix.max(axis=0)
    goal = np.array(wanted[:-1])
    solved = np.linalg.lstsq(matrix / scale, goal, rcond=None)[0]
    solved[np.abs(solved) < 1e-9 * np.abs(goal).max(initial=0.0)] = 0
    coefficients = np.zeros(6)
    coefficients[list(used)] = solved / scale
    return tuple(map(float, coefficients))
