"""Each operator of the CPU backend but linear and attention, on each instruction set, against
NumPy in float64.
"""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import numpy.typing as npt
import pytest
from cpu_graphs import AVAILABLE, executor, one_operator, run

from ridgeline.backends.cpu import _native
from ridgeline.backends.cpu.bind import BINDERS
from ridgeline.backends.cpu.executor import ISAS, choose_isa
from ridgeline.errors import EngineError, ModelError, RidgelineError
from ridgeline.model.graph.build import Builder
from ridgeline.model.graph.node import KvState, Value
from ridgeline.model.graph.ops import (
    OPERATORS,
    Activate,
    Add,
    AddNorm,
    AllReduce,
    GatedActivation,
    Norm,
    Operator,
    Rope,
    RopeKvWrite,
    Rotation,
    Scale,
    SelectRows,
    Softcap,
)
from ridgeline.model.graph.ops.activation import OF_TWO, Activation
from ridgeline.model.passes.memory import plan_memory
from ridgeline.step import PlanRow, RowSampling, StepPlan

Doubles = npt.NDArray[np.float64]

isas = pytest.mark.parametrize("isa", AVAILABLE)
widths = pytest.mark.parametrize("width", [1, 15, 16, 17, 64, 96, 576, 1000])
ROWS = 7


def table(rows: int, width: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 2, (rows, width)).astype(np.float32)


def apply(
    op: Operator,
    x: npt.NDArray[np.float32],
    widths: tuple[int, ...],
    isa: str,
    weights: dict[str, npt.NDArray[np.float32]] | None = None,
    output: int = 0,
) -> npt.NDArray[np.float32]:
    weights = weights or {}

    def add(b: Builder, values: tuple[Value, ...]) -> Value:
        bound = tuple(b.weight(name, *w.shape) for name, w in weights.items())
        return b.add("op", op, *values, weights=bound)[output]

    graph = one_operator(len(x), widths, add)
    return run(executor(graph, {"table": x, **weights}, isa), len(x))


def close(found: npt.NDArray[np.float32], expected: Doubles, relative: float = 2e-6) -> None:
    scale = np.abs(expected).max() + 1e-30
    assert np.abs(found - expected).max() <= relative * scale


@isas
@widths
def test_add_scale_and_select(isa: str, width: int) -> None:
    x = table(ROWS, 2 * width)
    a, b = x[:, :width], x[:, width:]
    assert np.array_equal(apply(Add(), x, (width, width), isa), a + b)
    assert np.array_equal(apply(Scale(1.7), x, (2 * width,), isa), x * np.float32(1.7))


@isas
@widths
@pytest.mark.parametrize("cap", [0.5, 30.0])
def test_softcap(isa: str, width: int, cap: float) -> None:
    x = table(ROWS, width)
    expected = cap * np.tanh(x.astype(np.float64) / cap)
    found = apply(Softcap(cap), x, (width,), isa)
    assert np.abs(found / expected - 1).max() < 1e-6


def gate(kind: str, x: Doubles) -> Doubles:
    if kind == "silu":
        return x / (1 + np.exp(-x))
    if kind == "gelu":
        return x * 0.5 * np.vectorize(math.erfc)(-x / math.sqrt(2))
    if kind == "gelu_tanh":
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    if kind == "quick_gelu":
        return x / (1 + np.exp(-1.702 * x))
    if kind == "tanh":
        return np.tanh(x)
    if kind == "identity":
        return x
    if kind == "sigmoid":
        return 1 / (1 + np.exp(-x))
    return np.maximum(x, 0) ** (2 if kind == "relu2" else 1)


@isas
@widths
@pytest.mark.parametrize("kind", get_args(Activation))
@pytest.mark.parametrize("joint", [False, True])
def test_gated_activation(isa: str, width: int, kind: Activation, joint: bool) -> None:
    x = table(ROWS, 2 * width)
    x[0], x[1] = 10 * x[0], 10 * x[1]
    x[0, 0], x[1, 0] = -200.0, 200.0
    one, other = x[:, :width].astype(np.float64), x[:, width:].astype(np.float64)
    if kind == "clamped_swiglu":
        one, other = np.minimum(one, 7), np.clip(other, -7, 7) + 1
        expected = one / (1 + np.exp(-1.702 * one)) * other
    elif kind in ("capped_silu_7", "capped_silu_16"):
        cap = float(kind.rpartition("_")[2])
        expected = np.minimum(gate("silu", one), cap) * np.clip(other, -cap, cap)
    elif kind == "silu_of_capped_10":
        expected = gate("silu", np.minimum(one, 10)) * np.clip(other, -10, 10)
    else:
        expected = gate(kind, one) * other
    sizes = (2 * width,) if joint else (width, width)
    close(apply(GatedActivation(kind, joint), x, sizes, isa), expected)


@isas
@widths
@pytest.mark.parametrize("kind", [k for k in get_args(Activation) if k not in OF_TWO])
def test_activate(isa: str, width: int, kind: Activation) -> None:
    x = table(ROWS, width)
    x[0, 0], x[1, 0] = -200.0, 200.0
    close(apply(Activate(kind), x, (width,), isa), gate(kind, x.astype(np.float64)))


def normed(op: Norm, x: Doubles, w: Doubles, b: Doubles | float) -> Doubles:
    groups = x.reshape(len(x), op.num_groups, -1)
    if op.kind == "layer":
        groups = groups - groups.mean(-1, keepdims=True)
    scale = 1 / np.sqrt((groups**2).mean(-1, keepdims=True) + op.eps)
    return (groups * scale * (w + op.offset) + b).reshape(x.shape)


NORMS = [
    Norm(),
    Norm(eps=1e-5, offset=1.0),
    Norm("layer", 1e-5),
    Norm(num_groups=3),
    Norm("layer", num_groups=3, offset=1.0),
]


@isas
@widths
@pytest.mark.parametrize("op", NORMS, ids=range(len(NORMS)))
def test_norm_and_add_norm(isa: str, width: int, op: Norm) -> None:
    x = table(ROWS, 2 * width * op.num_groups)
    x[2] *= 1e4
    weights = {"w": table(1, width, 1)[0]}
    bias: Doubles | float = 0.0
    if op.kind == "layer":
        weights["b"] = table(1, width, 2)[0]
        bias = weights["b"].astype(np.float64)
    w = weights["w"].astype(np.float64)
    half = width * op.num_groups
    a, b = x[:, :half], x[:, half:]
    close(apply(op, np.ascontiguousarray(a), (half,), isa, weights), normed(op, a * 1.0, w, bias))
    total = a + b
    assert np.array_equal(apply(AddNorm(op), x, (half, half), isa, weights, 0), total)
    expected = normed(op, total.astype(np.float64), w, bias)
    close(apply(AddNorm(op), x, (half, half), isa, weights, 1), expected)


@isas
@widths
def test_a_norm_without_weights(isa: str, width: int) -> None:
    x = table(ROWS, 3 * width)
    op = Norm("layer", 1e-5, num_groups=3)
    close(apply(op, x, (3 * width,), isa), normed(op, x.astype(np.float64), np.ones(width), 0.0))


def rotated(rotation: Rotation, x: Doubles, heads: int) -> Doubles:
    out = x.reshape(len(x), heads, -1).copy()
    half = len(rotation.frequencies)
    angle = np.arange(len(x))[:, None, None] * np.array(rotation.frequencies)
    cosine, sine = np.cos(angle) * rotation.magnitude, np.sin(angle) * rotation.magnitude
    first = np.arange(half) * 2 if rotation.interleaved else np.arange(half)
    second = first + 1 if rotation.interleaved else first + half
    x1, x2 = out[..., first].copy(), out[..., second].copy()
    out[..., first], out[..., second] = x1 * cosine - x2 * sine, x2 * cosine + x1 * sine
    return out.reshape(x.shape)


ROTATIONS = [
    (8, 8, False, 1.0),
    (64, 64, False, 1.0),
    (80, 80, False, 1.3),
    (96, 24, False, 1.0),
    (64, 64, True, 1.1),
    (256, 128, True, 1.0),
]


@isas
@pytest.mark.parametrize(("head_dim", "turned", "interleaved", "magnitude"), ROTATIONS)
def test_rope(isa: str, head_dim: int, turned: int, interleaved: bool, magnitude: float) -> None:
    frequencies = tuple(10000.0 ** (-2 * i / turned) for i in range(turned // 2))
    rotation = Rotation(frequencies, interleaved, magnitude)
    x = table(40, 3 * head_dim)
    found = apply(Rope(3, head_dim, rotation), x, (3 * head_dim,), isa)
    close(found, rotated(rotation, x.astype(np.float64), 3))


@isas
@pytest.mark.parametrize("head_norm", [None, Norm(offset=1.0)])
@pytest.mark.parametrize("rotates", [True, False])
def test_queries_of_rope_kv_write(isa: str, head_norm: Norm | None, rotates: bool) -> None:
    head_dim, heads, kv_heads = 48, 4, 2
    rotation = Rotation(tuple(1.0 / (i + 1) for i in range(20))) if rotates else None
    op = RopeKvWrite(heads, kv_heads, head_dim, rotation, head_norm)
    x = table(33, (heads + 2 * kv_heads) * head_dim)
    weights = {} if head_norm is None else {n: table(1, head_dim, 5)[0] for n in ("qn", "kn")}

    def add(b: Builder, values: tuple[Value, ...]) -> Value:
        bound = tuple(b.weight(name, *w.shape) for name, w in weights.items())
        state = KvState("kv", kv_heads, head_dim, head_dim)
        return b.one("op", op, *values, weights=bound, state=state)

    graph = one_operator(33, (x.shape[1],), add)
    found = run(executor(graph, {"table": x, **weights}, isa), 33)
    q = x[:, : heads * head_dim].astype(np.float64)
    if head_norm is not None:
        grouped = Norm(offset=1.0, num_groups=heads)
        q = normed(grouped, q, weights["qn"].astype(np.float64), 0.0)
    close(found, q if rotation is None else rotated(rotation, q, heads))


def test_every_operator_is_bound_or_refused_by_name() -> None:
    collectives = {"all_reduce", "all_gather", "dispatch", "combine"}
    assert {op for name, op in OPERATORS.items() if name not in collectives} == set(BINDERS)
    graph = one_operator(4, (8,), lambda b, values: b.one("sum", AllReduce(2), values[0]))
    with pytest.raises(ModelError, match="sum: the cpu backend has no operator AllReduce; it has"):
        executor(graph, {"table": table(4, 8)}, "portable")


@isas
def test_nothing_outside_a_value_is_written(isa: str) -> None:
    """The arena is full of sentinels; a step of few tokens touches only its values' first rows."""
    width, num_tokens = 50, 5

    def add(b: Builder, values: tuple[Value, ...]) -> Value:
        w = b.weight("w", width)
        h, y = b.add("add_norm", AddNorm(Norm()), *values, weights=(w,))
        y = b.one("act", GatedActivation("silu"), y, h)
        return b.one("cap", Softcap(3.0), y)

    graph = one_operator(9, (width, width), add)
    cpu = executor(graph, {"table": table(9, 2 * width), "w": table(1, width)[0]}, isa)
    arena = cpu._program.arena()
    arena[:] = 0xA5
    run(cpu, num_tokens)
    plan = plan_memory(graph, max_tokens=1024, max_sampled=1024, max_sequences=64)
    allowed = np.zeros(len(arena), bool)
    for node in graph.nodes:
        for value in node.outputs:
            columns = value.shape[1]
            assert isinstance(columns, int)
            for row in range(num_tokens):
                begin = plan.offsets[value.id] + 4 * row * plan.row_strides[value.id]
                allowed[begin : begin + 4 * columns] = True
    assert not allowed.all()
    assert (arena[~allowed] == 0xA5).all()
    assert (arena[allowed] != 0xA5).any()


class TestBadPlans:
    """Every number from outside is checked before anything of a plan is done."""

    def cpu(self):  # type: ignore[no-untyped-def]
        graph = one_operator(9, (8,), lambda b, v: b.one("scale", Scale(2.0), v[0]))
        return executor(graph, {"table": table(9, 8)}, "portable")

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            (PlanRow(0, 3, 0, 1, (256,)), "block 256"),
            (PlanRow(0, 3, 0, 1, (-1,)), "block -1"),
            (PlanRow(0, 3, 0, 1, ()), "too few"),
            (PlanRow(0, 4, 0, 1, (0,)), "has 3 tokens"),
            (PlanRow(0, 2, 2, 1, (0,)), "has 3 tokens"),
            (PlanRow(0, 2, -1, 1, (0,)), "below"),
            (PlanRow(0, 0, 0, 0, (0,)), "below"),
            (PlanRow(0, 3, 0, 4, (0,)), "more logits"),
            (PlanRow(1, 3, 0, 1, (0,)), "not open"),
            (PlanRow(64, 3, 0, 1, (0,)), "row 64"),
            (PlanRow(-1, 3, 0, 1, (0,)), "row -1"),
            (PlanRow(2**40, 3, 0, 1, (0,)), "out of bounds"),
        ],
    )
    def test_a_row_that_does_not_fit(self, row: PlanRow, message: str) -> None:
        cpu = self.cpu()
        cpu.open_row(0, [1, 2, 3], RowSampling())
        with pytest.raises(EngineError, match=message):
            cpu.forward(StepPlan((row,)))
        assert cpu.forward(StepPlan((PlanRow(0, 3, 0, 1, (0,)),))).shape == (1, 8)

    def test_rows_and_tokens(self) -> None:
        cpu = self.cpu()
        for tokens, message in (([9], "vocabulary"), ([-1], "vocabulary"), ([], "no tokens")):
            with pytest.raises(EngineError, match=message):
                cpu.open_row(0, tokens, RowSampling())
        with pytest.raises(EngineError, match="32 bits"):
            cpu.open_row(0, [2**31], RowSampling())
        with pytest.raises(EngineError, match="row 64"):
            cpu.open_row(64, [1], RowSampling())
        cpu.open_row(0, [1], RowSampling())
        with pytest.raises(EngineError, match="open already"):
            cpu.open_row(0, [1], RowSampling())
        plan = StepPlan((PlanRow(0, 1, 0, 1, (0,)),) * 2)
        with pytest.raises(EngineError, match="planned twice"):
            cpu.forward(plan)
        with pytest.raises(EngineError, match="temperature"):
            cpu.open_row(1, [1], RowSampling(temperature=float("nan")))
        with pytest.raises(EngineError, match="no step"):
            cpu.collect()
        cpu.close_row(0)
        with pytest.raises(EngineError, match="not open"):
            cpu.close_row(0)

    def test_more_than_a_step_takes(self) -> None:
        cpu = self.cpu()
        cpu.open_row(0, [1] * 1025, RowSampling())
        with pytest.raises(EngineError, match="1025 new tokens"):
            cpu.forward(StepPlan((PlanRow(0, 1025, 0, 1, tuple(range(65))),)))


def test_an_instruction_set_that_is_not_there() -> None:
    assert choose_isa(None) == _native.best_isa()
    with pytest.raises(RidgelineError, match="'avx1024' cannot run on this CPU; it runs: "):
        choose_isa("avx1024")
    for isa in ISAS:
        if isa not in AVAILABLE:
            with pytest.raises(RidgelineError, match="cannot run"):
                choose_isa(isa)


def test_select_rows_gives_each_rows_last_tokens() -> None:
    graph = one_operator(50, (8,), lambda b, v: b.one("scale", Scale(1.0), v[0]))
    assert any(isinstance(node.op, SelectRows) for node in graph.nodes)
    x = table(50, 8)
    cpu = executor(graph, {"table": x}, AVAILABLE[0])
    for row in range(3):
        cpu.open_row(row, list(range(10 * row, 10 * row + 10)), RowSampling())
    found = cpu.forward(
        StepPlan((PlanRow(2, 5, 0, 2, (0,)), PlanRow(0, 3, 0, 0, (1,)), PlanRow(1, 9, 0, 1, (2,))))
    )
    assert np.array_equal(found, x[[23, 24, 18]])


def test_operators_are_timed() -> None:
    graph = one_operator(9, (8,), lambda b, v: b.one("twice", Scale(2.0), v[0]))
    cpu = executor(graph, {"table": table(9, 8)}, AVAILABLE[0])
    run(cpu, 9)
    run(cpu, 4)
    times = {time.name: time for time in cpu.timers()}
    assert times["twice"].type == "scale"
    assert times["twice"].calls == 2
    assert times["twice"].nanoseconds > 0
    # A thread waits for the other at its end, or was not there: then it has not started.
    assert times["twice"].barrier_nanoseconds + times["twice"].start_nanoseconds > 0
    cpu.reset_timers()
    assert all(
        (time.calls, time.nanoseconds, time.barrier_nanoseconds) == (0, 0, 0)
        for time in cpu.timers()
    )
