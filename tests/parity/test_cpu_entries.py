"""Keys for several tokens on the CPU, on each instruction set: entries as the definition makes
them, the very ones that it selects where sums are exact, attention over them beside a window;
the same bits whole, in chunks, and beside other rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
from cpu_graphs import AVAILABLE, Stored, in_chunks, one_operator, paged

from block_entries import spread
from ridgeline.backends.cpu.executor import CpuExecutor
from ridgeline.backends.reference.executor import ReferenceExecutor
from ridgeline.model.graph.build import Builder
from ridgeline.model.graph.node import Graph, KvState, RowState, Value
from ridgeline.model.graph.ops import (
    Compress,
    EntryAttention,
    EntryWrite,
    Join,
    Rope,
    Rotation,
    SelectEntries,
)
from ridgeline.step import PlanRow, RowSampling, SlotCopy, StepPlan
from threads import OTHER, USUAL

Floats = npt.NDArray[np.float32]
TOKENS, IDS = 100, [token % 90 for token in range(100)]
HEADS, DIM, INDEX_HEADS, INDEX = 26, 20, 5, 12
isas = pytest.mark.parametrize("isa", AVAILABLE)


@dataclass(frozen=True)
class Kind:
    """An entry for `every` tokens; a window; entries that are looked at, None: all."""

    every: int
    window: int
    top_k: int | None
    overlaps: bool


KINDS = [
    Kind(4, 6, 3, overlaps=True),
    Kind(4, 32, 7, overlaps=True),
    Kind(2, 16, None, overlaps=False),
    Kind(16, 48, 2, overlaps=True),
    Kind(32, 32, None, overlaps=False),
    Kind(48, 20, None, overlaps=False),
]
kinds = pytest.mark.parametrize("kind", KINDS, ids=str)


def graph_of(kind: Kind) -> Graph:
    """Entries as they are made, which of others are selected, and what attention gives."""
    parts = DIM * (2 if kind.overlaps else 1)
    widths = (parts, parts, HEADS * DIM, DIM, DIM, INDEX_HEADS * INDEX, INDEX_HEADS, INDEX)

    def add(b: Builder, values: tuple[Value, ...]) -> Value:
        x, scores, q, near, far, few, weights, small = values
        op = Compress(kind.every, kind.overlaps)
        made = b.one(
            "compress",
            op,
            x,
            scores,
            weights=(b.weight("bias", kind.every, parts),),
            state=RowState("sums", DIM, op.numbers),
        )
        turn = Rotation((1.0, 0.1), interleaved=True)
        made = b.one("rope", Rope(1, DIM, turn, DIM - 4, kind.every), made)
        window = KvState("near", 1, DIM, DIM, kind.window, latent=True)
        entries = KvState("far", 1, DIM, DIM, latent=True, every=kind.every)
        index = KvState("index", 1, INDEX, INDEX, latent=True, every=kind.every)
        for name, value, state in (
            ("near", near, window),
            ("far", far, entries),
            ("small", small, index),
        ):
            b.add(f"{name}_write", EntryWrite(), value, state=state)
        select = SelectEntries(INDEX_HEADS, kind.top_k or 2)
        chosen = b.one("select", select, few, weights, state=index)
        y = b.one(
            "attend",
            EntryAttention(HEADS, DIM, 0.3, kind.top_k),
            *(q, *([] if kind.top_k is None else [chosen])),
            weights=(b.weight("sinks", HEADS),),
            state=window,
            entries=entries,
        )
        return b.one("join", Join(), b.one("both", Join(), chosen, made), y)

    return one_operator(TOKENS, widths, add)


def numbers(kind: Kind) -> dict[str, Floats]:
    """Small whole numbers: exact in bfloat16, and so are their sums; many scores are the same."""
    random = np.random.default_rng(4)
    graph = graph_of(kind)
    shapes = {weight.name: weight.shape for weight in graph.weights}
    table = random.integers(-2, 3, shapes["table"]).astype(np.float32)
    others = {
        name: random.standard_normal(shape).astype(np.float32)
        for name, shape in shapes.items()
        if name != "table"
    }
    return {"table": table, **others}


def cpu(kind: Kind, isa: str, threads: int = USUAL) -> CpuExecutor:
    return paged(graph_of(kind), numbers(kind), isa, threads, 256)


def compute(executor: CpuExecutor | ReferenceExecutor, chunks: list[int]) -> Floats:
    return in_chunks(executor, IDS, chunks, spread(executor, range(3, 10)))


@isas
@kinds
def test_it_is_its_definition(isa: str, kind: Kind) -> None:
    exact = ReferenceExecutor(
        graph_of(kind), Stored(numbers(kind)), num_blocks=40, max_rows=1, dtype="float64"
    )
    expected, found = compute(exact, [TOKENS]), compute(cpu(kind, isa), [TOKENS])
    top = kind.top_k or 2
    assert np.array_equal(found[:, :top], expected[:, :top])
    for i in range(TOKENS):
        assert (found[i, :top] >= 0).sum() == min((i + 1) // kind.every, top)
    made, attended = (slice(top, top + DIM), slice(top + DIM, None))
    assert np.abs(found[:, made] - expected[:, made]).max() < 1e-5
    ends = (np.arange(TOKENS) + 1) % kind.every == 0
    assert not found[~ends, made].any()
    assert found[ends, made].any(axis=1).all()
    error = np.abs(found[:, attended] - expected[:, attended]).max()
    assert error < 2e-2 * np.abs(expected[:, attended]).max()


@isas
@kinds
def test_the_same_bits_however_it_is_computed(isa: str, kind: Kind) -> None:
    usual, other = cpu(kind, isa), cpu(kind, isa, threads=OTHER)
    whole = compute(usual, [TOKENS])
    for executor, chunks in (
        (usual, [1] * TOKENS),
        (usual, [15, 7, 60, 18]),
        (other, [TOKENS]),
        (other, [20, 1, 1, 78]),
    ):
        assert np.array_equal(compute(executor, chunks), whole)
    # Beside a row that is shorter, and one whose tokens end where the other's go on.
    usual.open_row(0, IDS, RowSampling())
    usual.open_row(1, IDS[:9], RowSampling())
    rows = (
        PlanRow(1, 9, 0, 9, spread(usual, (1,))),
        PlanRow(0, TOKENS, 0, TOKENS, spread(usual, range(3, 10))),
    )
    found = usual.forward(StepPlan(rows))
    assert np.array_equal(found[:9], whole[:9])
    assert np.array_equal(found[9:], whole)


@isas
def test_nan_of_one_row_stays_there(isa: str) -> None:
    kind, bad = KINDS[1], 89
    arrays = numbers(kind)
    arrays["table"][bad] = np.nan
    executor = paged(graph_of(kind), arrays, isa, 2, 256)
    good = list(range(40))
    executor.open_row(0, good, RowSampling())
    alone = executor.forward(StepPlan((PlanRow(0, 40, 0, 40, spread(executor, (4, 5, 6))),)))
    executor.close_row(0)
    executor.open_row(0, good, RowSampling())
    executor.open_row(1, [*good[:20], bad, *good[:19]], RowSampling())
    rows = (
        PlanRow(1, 40, 0, 40, spread(executor, (1, 2, 3))),
        PlanRow(0, 40, 0, 40, spread(executor, (4, 5, 6))),
    )
    found = executor.forward(StepPlan(rows))
    assert np.array_equal(found[40:], alone)
    assert np.isnan(found[20:40]).any()


def test_slots_of_unfinished_entries_are_copied() -> None:
    """A row that goes on from a copy of another's sums gives the same bits."""
    kind = KINDS[0]
    executor = cpu(kind, AVAILABLE[0])
    whole = compute(executor, [TOKENS])
    executor.open_row(0, IDS, RowSampling())
    executor.open_row(1, IDS, RowSampling())
    table = spread(executor, range(3, 10))
    executor.forward(StepPlan((PlanRow(0, 34, 0, 34, table),)))
    copied = StepPlan((PlanRow(0, 30, 34, 30),), slot_copies=(SlotCopy(0, 3),))
    assert np.array_equal(executor.forward(copied), whole[34:64])
    executor.close_row(0)
    going_on = StepPlan((PlanRow(1, 66, 34, 66, table, 2),), slot_copies=(SlotCopy(3, 2),))
    assert np.array_equal(executor.forward(going_on), whole[34:])
