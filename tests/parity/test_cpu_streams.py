"""Operators on residual streams and linears of groups on the CPU, on each instruction set: against
their definition in float64, and the same bits for a row in any company.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from cpu_graphs import AVAILABLE, Stored, executor, one_operator, run

from ridgeline.backends.reference.executor import ReferenceExecutor
from ridgeline.model.graph.build import Builder
from ridgeline.model.graph.node import Graph, Value
from ridgeline.model.graph.ops import (
    BlockLinear,
    Join,
    KeepLargest,
    MatchSize,
    Mix,
    Operator,
    Xielu,
    ZeroExperts,
)
from ridgeline.step import PlanRow, RowSampling, StepPlan

Floats = npt.NDArray[np.float32]
TOKENS = 300

# An operator, the widths of its inputs, and the shapes of its weights.
CASES: dict[str, tuple[Operator, tuple[int, ...], tuple[tuple[int, ...], ...]]] = {
    "block linear 5 x 40 -> 24": (BlockLinear(), (200,), ((5, 40, 24), (5, 24))),
    "block linear 1 x 17 -> 300": (BlockLinear(), (17,), ((1, 17, 300), (1, 300))),
    "mix 4 of 4": (Mix(4, 4), (600, 600, 600, 600, 16), ()),
    "mix 1 into 3": (Mix(1, 3, offset=1.0), (301, 3), ()),
    "match size": (MatchSize(), (310, 310), ()),
    "keep largest": (KeepLargest(1.2), (333,), ()),
    "xielu": (Xielu(), (600,), ((1,), (1,))),
    # Numbers of experts are any here: those of a normal distribution from 0 on.
    "zero experts": (ZeroExperts(0, 3), (310, 6), ()),
}
isas = pytest.mark.parametrize("isa", AVAILABLE)
cases = pytest.mark.parametrize("name", CASES)


def graph_and_numbers(name: str) -> tuple[Graph, dict[str, Floats]]:
    op, widths, shapes = CASES[name]
    random = np.random.default_rng(2)
    arrays = {
        f"w{i}": random.standard_normal(shape).astype(np.float32) for i, shape in enumerate(shapes)
    }
    arrays["table"] = random.standard_normal((TOKENS, sum(widths))).astype(np.float32)

    def add(b: Builder, values: tuple[Value, ...]) -> Value:
        weights = tuple(b.weight(f"w{i}", *shape) for i, shape in enumerate(shapes))
        y, *others = b.add("op", op, *values, weights=weights)
        for i, other in enumerate(others):
            y = b.one(f"join.{i}", Join(), y, other)
        return y

    return one_operator(TOKENS, widths, add), arrays


@isas
@cases
def test_it_is_its_definition(isa: str, name: str) -> None:
    graph, arrays = graph_and_numbers(name)
    exact = ReferenceExecutor(graph, Stored(arrays), num_blocks=32, max_rows=1, dtype="float64")
    width = graph.outputs[0].shape[-1]
    assert isinstance(width, int)
    count = min(TOKENS, width)
    exact.open_row(0, list(range(count)), RowSampling())
    blocks = tuple(range(-(-count // 16)))
    expected = exact.forward(StepPlan((PlanRow(0, count, 0, count, blocks),)))
    found = run(executor(graph, arrays, isa), count)
    assert np.abs(found - expected).max() <= 2e-6 * np.abs(expected).max()


@isas
@cases
def test_a_row_has_the_same_bits_in_any_company(isa: str, name: str) -> None:
    graph, arrays = graph_and_numbers(name)
    two, one = (executor(graph, arrays, isa, threads) for threads in (2, 1))
    width = graph.outputs[0].shape[-1]
    assert isinstance(width, int)
    whole = run(two, min(TOKENS, width))
    assert np.array_equal(run(one, min(TOKENS, width)), whole)
    for count in (1, 2, 7, 50):
        assert np.array_equal(run(two, count), whole[:count])
