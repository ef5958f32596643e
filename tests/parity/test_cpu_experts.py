"""route and experts on the CPU, on each instruction set: against the definition in float64, and bit
for bit whoever shares the step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pytest
from cpu_graphs import AVAILABLE, Stored, executor, run

from ridgeline.backends.reference.executor import ReferenceExecutor
from ridgeline.model.formats import FORMATS
from ridgeline.model.graph.build import Builder
from ridgeline.model.graph.node import Graph
from ridgeline.model.graph.ops import Embed, Experts, Route, SelectRows
from ridgeline.step import PlanRow, RowSampling, StepPlan

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class How:
    """A router and its experts over tokens of `width` numbers."""

    route: Route
    experts: int = 8
    width: int = 64
    hidden: int = 96
    format: str = "F32"
    activation: str = "silu"
    bias: bool = False
    weigh_input: bool = False
    first: int = 0
    rows: int = 40


PLAIN = How(Route(2))
CASES: dict[str, How] = {
    "plain": PLAIN,
    "one of one": replace(PLAIN, route=Route(1), experts=1),
    "all of them": replace(PLAIN, route=Route(8)),
    "not normalized": replace(PLAIN, route=Route(3, normalize=False, scale=2.5)),
    "sigmoid": replace(PLAIN, route=Route(2, "sigmoid", normalize=False), weigh_input=True),
    "groups by their two best": replace(
        PLAIN,
        experts=12,
        route=Route(3, "sigmoid", True, 1.5, 4, 2, 2, correction=True),
    ),
    "groups by their best": replace(
        PLAIN, experts=12, route=Route(2, "softmax", False, 1.0, 3, 1, 1)
    ),
    "gains": replace(PLAIN, route=Route(3, gain=True)),
    "sparse": replace(PLAIN, route=Route(2, "sparsemixer", False, jitter=0.3)),
    "biases": replace(PLAIN, route=Route(4, bias=True), bias=True, activation="clamped_swiglu"),
    "some of them": replace(PLAIN, first=3),
    "odd sizes": replace(PLAIN, width=50, hidden=70, experts=5),
    "wide": replace(PLAIN, width=320, hidden=576, rows=9),
    "an expert with many rows": replace(
        PLAIN, experts=2, route=Route(1), rows=700, width=704, hidden=32
    ),
}


def graph_of(how: How) -> Graph:
    b = Builder("experts", lambda name: FORMATS[how.format if name.startswith("e.") else "F32"])
    table = b.weight("table", how.rows, how.width)
    x = b.one("embed", Embed(), b.token_ids, weights=(table,))
    router = [b.weight("router", how.experts, how.width)]
    if how.route.bias:
        router.append(b.weight("router bias", how.experts))
    if how.route.correction:
        router.append(b.weight("correction", how.experts))
    if how.route.gain:
        router.append(b.weight("gain", how.experts))
    slots = b.one("route", how.route, x, weights=tuple(router))
    here = how.experts - how.first
    weights = [
        b.weight("e.gate", here, how.hidden, how.width),
        b.weight("e.up", here, how.hidden, how.width),
        b.weight("e.down", here, how.width, how.hidden),
    ]
    if how.bias:
        weights += [
            b.weight("gate bias", here, how.hidden),
            b.weight("up bias", here, how.hidden),
            b.weight("down bias", here, how.width),
        ]
    op = Experts(
        how.experts,
        how.route.top_k,
        how.activation,  # type: ignore[arg-type]
        how.bias,
        how.weigh_input,
        how.first,
    )
    y = b.one("experts", op, x, slots, weights=tuple(weights))
    return b.finish(b.one("select", SelectRows(), y), 4096)


def arrays_of(graph: Graph) -> dict[str, Floats]:
    random = np.random.default_rng(5)
    return {
        w.name: (
            random.standard_normal(w.shape) * (1 if w.name == "table" else 2 / w.shape[-1] ** 0.5)
        ).astype(np.float32)
        for w in graph.weights
    }


def defined(graph: Graph, weights: Stored, rows: int) -> Floats:
    blocks = -(-rows // 16)
    reference = ReferenceExecutor(graph, weights, num_blocks=blocks, max_rows=1, dtype="float64")
    reference.open_row(0, list(range(rows)), RowSampling())
    return reference.forward(StepPlan((PlanRow(0, rows, 0, rows, tuple(range(blocks))),)))


def distance(found: Floats, expected: Floats) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("isa", AVAILABLE)
@pytest.mark.parametrize("case", CASES)
def test_experts_are_the_definition(case: str, isa: str) -> None:
    how = CASES[case]
    graph = graph_of(how)
    arrays = arrays_of(graph)
    found = run(executor(graph, arrays, isa), how.rows)
    assert distance(found, defined(graph, Stored(arrays), how.rows)) < 1e-6


# Of int8 activations, twice; BF16 activations are rounded as finely as the weights are.
BOUNDS = {"BF16": 5e-3, "Q4_0": 1.5e-2, "Q4_K": 1.5e-2, "Q6_K": 1.5e-2, "Q8_0": 1.5e-2}
BOUNDS |= {"MXFP4": 1.5e-2, "F16": 1e-6}


@pytest.mark.parametrize("isa", AVAILABLE)
@pytest.mark.parametrize("format_name", BOUNDS)
def test_experts_of_every_kind_of_format(format_name: str, isa: str) -> None:
    how = replace(PLAIN, format=format_name, width=256, hidden=512, rows=20)
    graph = graph_of(how)
    arrays = arrays_of(graph)
    found = run(executor(graph, arrays, isa), how.rows)
    assert distance(found, defined(graph, Stored(arrays), how.rows)) < BOUNDS[format_name]


@pytest.mark.parametrize("isa", AVAILABLE)
@pytest.mark.parametrize("format_name", ["F32", "Q4_0"])
def test_a_token_has_the_same_bits_in_any_company(format_name: str, isa: str) -> None:
    """Alone, with others that share its experts or do not, and with one thread or three."""
    how = replace(CASES["an expert with many rows"], format=format_name, route=Route(2), experts=6)
    graph = graph_of(how)
    arrays = arrays_of(graph)
    whole = run(executor(graph, arrays, isa, threads=3), how.rows)
    one = executor(graph, arrays, isa, threads=1)
    for size in (1, 2, 9, 300):
        tokens = list(range(50, 50 + size))
        one.open_row(0, tokens, RowSampling())
        blocks = tuple(range(-(-size // 16)))
        found = one.forward(StepPlan((PlanRow(0, size, 0, size, blocks),)))
        one.close_row(0)
        assert np.array_equal(found, whole[50 : 50 + size]), size


@pytest.mark.parametrize("isa", AVAILABLE)
def test_a_row_that_is_not_finite_is_its_own_fault(isa: str) -> None:
    graph = graph_of(PLAIN)
    arrays = arrays_of(graph)
    clean = run(executor(graph, arrays, isa), PLAIN.rows)
    arrays["table"][7, 3], arrays["table"][11, 5] = np.nan, np.inf
    found = run(executor(graph, arrays, isa), PLAIN.rows)
    others = [row for row in range(PLAIN.rows) if row not in (7, 11)]
    assert np.array_equal(found[others], clean[others])
    assert not np.isfinite(found[[7, 11]]).any()


def test_of_equal_experts_the_first_is_chosen() -> None:
    graph = graph_of(replace(PLAIN, route=Route(3)))
    arrays = arrays_of(graph)
    arrays["router"][:] = arrays["router"][0]
    cpu = executor(graph, arrays, AVAILABLE[0])
    run(cpu, 4)
    (chosen,) = cpu.chosen_experts().values()
    assert chosen.tolist() == [[0, 1, 2]] * 4


@pytest.mark.parametrize(
    "change",
    [
        lambda how: replace(how, route=replace(how.route, correction=True)),
        lambda how: replace(how, experts=6),
    ],
)
def test_chosen_experts_are_those_of_the_router(change: Callable[[How], How]) -> None:
    how = change(PLAIN)
    graph = graph_of(how)
    arrays = arrays_of(graph)
    cpu = executor(graph, arrays, AVAILABLE[0])
    run(cpu, how.rows)
    (chosen,) = cpu.chosen_experts().values()
    logits = arrays["table"] @ arrays["router"].T
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    by = scores + arrays["correction"] if how.route.correction else scores
    assert np.array_equal(chosen, np.argsort(-by, axis=1)[:, :2])
