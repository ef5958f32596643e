"""Operators with a recurrent state on the CPU, on each instruction set: against their definition in
float64, and bit for bit however a row's tokens are cut, in whatever slot, from whatever snapshot.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
from cpu_graphs import AVAILABLE, Stored, one_operator

from ridgeline.backends.cpu.executor import CpuExecutor
from ridgeline.backends.reference.executor import ReferenceExecutor
from ridgeline.errors import EngineError
from ridgeline.model.graph.build import Builder
from ridgeline.model.graph.node import Graph, RowState, Value
from ridgeline.model.graph.ops import (
    CausalConv,
    DecayAttention,
    DeltaRule,
    Join,
    Operator,
    RgLru,
    SelectiveScan,
    Split,
    SplitGroups,
    SsdScan,
    TokenShift,
    Wkv7,
)
from ridgeline.step import PlanRow, RowSampling, SlotCopy, StepPlan

Floats = npt.NDArray[np.float32]

isas = pytest.mark.parametrize("isa", AVAILABLE)
TOKENS = 150
IDS = [token % 33 for token in range(TOKENS)]  # as few as the narrowest output has columns
GREEDY = RowSampling()


@dataclass(frozen=True)
class Case:
    """An operator, the widths of its inputs, its weights' shapes and its state."""

    op: Operator
    widths: tuple[int, ...]
    weights: tuple[tuple[int, ...], ...]
    state: RowState


def conv(channels: int, taps: int, *, bias: bool = True, silu: bool = True) -> Case:
    weights: tuple[tuple[int, ...], ...] = ((channels, taps),)
    return Case(
        CausalConv(taps, bias=bias, silu=silu),
        (channels,),
        (*weights, (channels,)) if bias else weights,
        RowState("s", channels, taps - 1, is_rolling=True),
    )


def selective(channels: int, size: int) -> Case:
    return Case(
        SelectiveScan(),
        (channels, channels, size, size),
        ((channels, size), (channels,)),
        RowState("s", channels, size),
    )


def ssd(heads: int, head_dim: int, groups: int, size: int) -> Case:
    return Case(
        SsdScan(heads, head_dim, groups, size, dt_limits=(0.0, 1.5)),
        (heads * head_dim, groups * size, groups * size, heads),
        ((heads,),) * 3,
        RowState("s", heads, head_dim * size),
    )


def delta(
    key_heads: int,
    heads: int,
    keys: int,
    values: int,
    *,
    by_channel: bool = False,
    floor: float | None = None,
) -> Case:
    decays = heads * (keys if by_channel else 1)
    return Case(
        DeltaRule(key_heads, heads, keys, values, by_channel, floor=floor),
        (key_heads * keys, key_heads * keys, heads * values, decays, heads),
        ((heads,), (decays,)),
        RowState("s", heads, keys * values),
    )


def decaying(rates: tuple[float, ...], keys: int, values: int) -> Case:
    heads = len(rates)
    widths = (heads * keys, heads * keys, heads * values)
    return Case(DecayAttention(rates), widths, (), RowState("s", heads, keys * values))


def shift(channels: int, count: int) -> Case:
    state = RowState("s", channels, 1, is_rolling=True)
    return Case(TokenShift(count), (channels,), ((channels,),) * count, state)


def wkv7(heads: int, head_dim: int) -> Case:
    width = heads * head_dim
    state = RowState("s", heads, head_dim**2)
    return Case(Wkv7(heads), (width,) * 5, ((width,),) * 3, state)


CASES = {
    "conv 4": conv(200, 4),
    "conv 3": conv(48, 3, bias=False, silu=False),
    "conv 7": conv(33, 7),
    "selective 16": selective(144, 16),
    "selective 5": selective(37, 5),
    "ssd 64 x 128": ssd(4, 64, 2, 128),
    "ssd 20 x 17": ssd(3, 20, 1, 17),
    "delta 64": delta(2, 4, 64, 64),
    "delta 12 x 20": delta(1, 3, 12, 20),
    "delta by channel": delta(3, 3, 24, 40, by_channel=True),
    "delta with a floor": delta(2, 2, 20, 36, by_channel=True, floor=-5.0),
    "decay 64": decaying((0.5, 0.06, 0.0), 64, 64),
    "decay 12 x 20": decaying((0.7, 0.01), 12, 20),
    "rg_lru 130": Case(RgLru(), (130,) * 3, ((130,),), RowState("s", 130, 1)),
    "shift 6": shift(70, 6),
    "shift 1": shift(33, 1),
    "wkv7 64": wkv7(2, 64),
    "wkv7 20": wkv7(3, 20),
}
cases = pytest.mark.parametrize("name", CASES)


def graph_and_numbers(case: Case) -> tuple[Graph, dict[str, Floats]]:
    random = np.random.default_rng(1)

    def numbers(*shape: int) -> Floats:
        return random.standard_normal(shape).astype(np.float32)

    arrays = {f"w{i}": numbers(*shape) for i, shape in enumerate(case.weights)}
    arrays["table"] = numbers(TOKENS, sum(case.widths))

    def add(b: Builder, values: tuple[Value, ...]) -> Value:
        weights = tuple(b.weight(f"w{i}", *shape) for i, shape in enumerate(case.weights))
        y, *others = b.add("op", case.op, *values, weights=weights, state=case.state)
        for i, other in enumerate(others):
            y = b.one(f"join.{i}", Join(), y, other)
        return y

    return one_operator(TOKENS, case.widths, add), arrays


def executor(
    graph: Graph, arrays: dict[str, Floats], isa: str, threads: int = 2, num_slots: int = 6
) -> CpuExecutor:
    return CpuExecutor(
        graph,
        Stored(arrays),
        num_blocks=64,
        max_rows=4,
        max_tokens_per_step=512,
        max_logits_per_step=512,
        threads=threads,
        isa=isa,
        num_slots=num_slots,
    )


def compute(cpu: CpuExecutor, chunks: list[int], row: int = 0, slot: int | None = None) -> Floats:
    """The row of the first of IDS in so many steps."""
    cpu.open_row(row, IDS[: sum(chunks)], GREEDY)
    done, parts = 0, []
    for n in chunks:
        blocks = () if done else tuple(range(10))
        plan = StepPlan((PlanRow(row, n, done, n, blocks, slot),))
        parts.append(cpu.forward(plan))
        done += n
    cpu.close_row(row)
    return np.concatenate(parts)


@isas
@cases
def test_it_is_its_definition(isa: str, name: str) -> None:
    graph, arrays = graph_and_numbers(CASES[name])
    exact = ReferenceExecutor(graph, Stored(arrays), num_blocks=64, max_rows=1, dtype="float64")
    exact.open_row(0, IDS, GREEDY)
    expected = exact.forward(StepPlan((PlanRow(0, TOKENS, 0, TOKENS, tuple(range(10))),)))
    found = compute(executor(graph, arrays, isa), [TOKENS])
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@isas
@cases
def test_the_same_bits_however_it_is_computed(isa: str, name: str) -> None:
    graph, arrays = graph_and_numbers(CASES[name])
    two, one = (executor(graph, arrays, isa, threads) for threads in (2, 1))
    whole = compute(two, [TOKENS])
    for chunks in ([1] * TOKENS, [63, 1, 64, 22], [7, 9, 100, 34]):
        assert np.array_equal(compute(two, chunks, row=3), whole)
    assert np.array_equal(compute(one, [100, 1, 49], slot=5), whole)
    # Beside others, which have another slot.
    for row in (0, 1, 2):
        two.open_row(row, IDS[:90], GREEDY)
    found = []
    for context, n in ((0, 40), (40, 1), (41, 49)):
        blocks = (
            {row: tuple(range(20 * row, 20 * row + 6)) for row in range(3)} if not context else {}
        )
        rows = [PlanRow(row, n, context, n, blocks.get(row, ()), 5 - row) for row in range(3)]
        found.append(two.forward(StepPlan(tuple(rows))).reshape(3, n, -1))
    for row in range(3):
        assert np.array_equal(np.concatenate([part[row] for part in found]), whole[:90])


@isas
@cases
def test_a_row_goes_on_from_a_snapshot(isa: str, name: str) -> None:
    graph, arrays = graph_and_numbers(CASES[name])
    cpu = executor(graph, arrays, isa)
    whole = compute(cpu, [TOKENS])
    cpu.open_row(0, IDS, GREEDY)
    cpu.forward(StepPlan((PlanRow(0, 50, 0, 0, tuple(range(10))),)))
    # Slot 4 keeps what 50 tokens leave; rows 0 and 1 go on from there, at different speeds.
    cpu.open_row(1, IDS, GREEDY)
    rows = (PlanRow(0, 100, 50, 100), PlanRow(1, 30, 50, 30, tuple(range(20, 30)), 3))
    copies = (SlotCopy(0, 4), SlotCopy(4, 3))
    found = cpu.forward(StepPlan(rows, slot_copies=copies))
    assert np.array_equal(found, np.concatenate([whole[50:], whole[50:80]]))
    again = cpu.forward(StepPlan((PlanRow(1, 60, 50, 60, (), 2),), slot_copies=(SlotCopy(4, 2),)))
    assert np.array_equal(again, whole[50:110])


@isas
def test_plans_that_would_use_a_wrong_state_are_refused(isa: str) -> None:
    graph, arrays = graph_and_numbers(CASES["conv 3"])
    cpu = executor(graph, arrays, isa, num_slots=3)
    cpu.open_row(0, [1, 2, 3, 4, 5], GREEDY)
    cpu.open_row(1, [1, 2, 3, 4], GREEDY)
    cpu.forward(StepPlan((PlanRow(0, 3, 0, 0, (0,)),)))
    for plan, message in (
        (StepPlan((PlanRow(1, 1, 3, 1, (1,)),)), "row 1 has a context of 3.*slot 1 have seen 0"),
        (StepPlan((PlanRow(0, 1, 2, 1),)), "row 0 has a context of 2.*slot 0 have seen 3"),
        (StepPlan((PlanRow(0, 1, 3, 1, (), 7),)), "row 0: slot 7 is not one of 3"),
        (StepPlan((PlanRow(0, 1, 3, 1), PlanRow(1, 1, 0, 0, (1,), 0))), "slot 0 is another row's"),
        (StepPlan((PlanRow(0, 1, 3, 1),), slot_copies=(SlotCopy(1, 2),)), "holds no state"),
        (StepPlan((PlanRow(0, 1, 3, 1),), slot_copies=(SlotCopy(0, 3),)), "is not one of 3"),
    ):
        with pytest.raises(EngineError, match=message):
            cpu.forward(plan)
    cpu.forward(StepPlan((PlanRow(0, 2, 3, 1),)))


@isas
def test_nan_of_one_row_stays_there(isa: str) -> None:
    """And does not outlive it."""
    graph, arrays = graph_and_numbers(CASES["ssd 20 x 17"])
    arrays["table"][7] = np.nan
    cpu = executor(graph, arrays, isa)
    whole = compute(cpu, [7])
    cpu.open_row(0, [1, 7, 2], GREEDY)
    cpu.open_row(1, list(range(7)), GREEDY)
    rows = (PlanRow(0, 3, 0, 3, (0,)), PlanRow(1, 7, 0, 7, (1,)))
    found = cpu.forward(StepPlan(rows))
    assert np.isnan(found[1:3]).all()
    assert np.array_equal(found[3:], whole)
    cpu.close_row(0)
    cpu.close_row(1)
    assert np.array_equal(compute(cpu, [7]), whole)


@isas
def test_groups_are_parted(isa: str) -> None:
    x = np.arange(5 * 42, dtype=np.float32).reshape(5, 42)

    def add(b: Builder, values: tuple[Value, ...]) -> Value:
        return b.add("op", SplitGroups(3, (9, 5)), *values)[1]

    cpu = executor(one_operator(5, (42,), add), {"table": x}, isa)
    found = compute(cpu, [5])
    assert np.array_equal(found, x.reshape(5, 3, 14)[:, :, 9:].reshape(5, 15))


@isas
def test_values_are_joined(isa: str) -> None:
    x = np.arange(5 * 42, dtype=np.float32).reshape(5, 42)

    def add(b: Builder, values: tuple[Value, ...]) -> Value:
        first, second = b.add("part", Split((35, 7)), *values)
        return b.one("op", Join(), second, first)

    cpu = executor(one_operator(5, (42,), add), {"table": x}, isa)
    assert np.array_equal(compute(cpu, [5]), np.concatenate([x[:, 35:], x[:, :35]], axis=1))
