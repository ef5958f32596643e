"""Selected blocks on the CPU, on each instruction set: the very blocks of the definition where sums
are exact, ties included, and attention to them as the definition has it; the same bits whole, in
chunks, and beside rows that are shorter than what is looked at.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from cpu_graphs import AVAILABLE, Stored, in_chunks, one_operator, paged

from ridgeline.backends.cpu.executor import CpuExecutor
from ridgeline.backends.reference.executor import ReferenceExecutor
from ridgeline.model.graph.build import Builder
from ridgeline.model.graph.node import Graph, KvState, Value
from ridgeline.model.graph.ops import Attention, Blocks, Join, KvWrite, SelectBlocks
from ridgeline.step import PlanRow, RowSampling, StepPlan
from threads import OTHER, USUAL

Floats = npt.NDArray[np.float32]
LENGTH = 300
IDS, TABLE = [token % 90 for token in range(LENGTH)], tuple(range(10, 10 + -(-LENGTH // 16)))
HEADS, KV, DIM, INDEX_DIM = 6, 3, 10, 8
isas = pytest.mark.parametrize("isa", AVAILABLE)
WIDTHS = (KV * INDEX_DIM, INDEX_DIM // 2, INDEX_DIM // 2, HEADS * DIM, KV * DIM, KV * DIM)


def graph_of(blocks: Blocks | None, local: int = 1) -> Graph:
    """Blocks, and what attention to them gives; None: attention to all."""

    def add(b: Builder, values: tuple[Value, ...]) -> Value:
        index_q, index_k, index_rest, q, k, v = values
        index = KvState("index", 1, INDEX_DIM, INDEX_DIM // 2, latent=True)
        cache = KvState("kv", KV, DIM, DIM)
        b.add("index_write", KvWrite(), index_k, index_rest, state=index)
        b.add("kv_write", KvWrite(), k, v, state=cache)
        select = SelectBlocks(KV, blocks or Blocks(1, 16), local)
        chosen = b.one("select", select, index_q, state=index)
        given = (q,) if blocks is None else (q, chosen)
        y = b.one("attend", Attention(HEADS, DIM, DIM, 0.3, blocks=blocks), *given, state=cache)
        return b.one("join", Join(), chosen, y)

    return one_operator(90, WIDTHS, add)


def numbers() -> dict[str, Floats]:
    """Small whole numbers: exact in bfloat16, and so are their sums; many scores are the same."""
    table = np.random.default_rng(4).integers(-2, 3, (90, sum(WIDTHS)))
    return {"table": table.astype(np.float32)}


def cpu(blocks: Blocks | None, isa: str, threads: int = USUAL, local: int = 1) -> CpuExecutor:
    return paged(graph_of(blocks, local), numbers(), isa, threads, 512)


def compute(executor: CpuExecutor | ReferenceExecutor, chunks: list[int]) -> Floats:
    return in_chunks(executor, IDS, chunks, TABLE)


@isas
@pytest.mark.parametrize(
    ("blocks", "local"), [(Blocks(1, 16), 1), (Blocks(4, 32), 2), (Blocks(5, 48), 1)]
)
def test_it_is_its_definition(isa: str, blocks: Blocks, local: int) -> None:
    exact = ReferenceExecutor(
        graph_of(blocks, local), Stored(numbers()), num_blocks=40, max_rows=1, dtype="float64"
    )
    expected = compute(exact, [LENGTH])
    found = compute(cpu(blocks, isa, local=local), [LENGTH])
    width = KV * blocks.top
    assert np.array_equal(found[:, :width], expected[:, :width])
    chosen = found[:, :width].reshape(LENGTH, KV, blocks.top)
    for i in range(LENGTH):
        own = i // blocks.tokens
        for head in chosen[i]:
            taken = head[head >= 0]
            assert (np.diff(taken) > 0).all()
            assert len(taken) == min(own + 1, blocks.top)
            assert set(range(max(0, own + 1 - local), own + 1)) <= set(taken.astype(int))
    assert len(np.unique(chosen[-1], axis=0)) > (1 if blocks.top > local else 0)
    error = np.abs(found[:, width:] - expected[:, width:]).max()
    assert error < 2e-2 * np.abs(expected[:, width:]).max()


@isas
def test_the_same_bits_however_it_is_computed(isa: str) -> None:
    blocks = Blocks(3, 32)
    usual, other = cpu(blocks, isa), cpu(blocks, isa, threads=OTHER)
    whole = compute(usual, [LENGTH])
    for executor, chunks in (
        (usual, [1] * LENGTH),
        (usual, [15, 97, 60, 128]),
        (other, [LENGTH]),
        (other, [120, 1, 1, 178]),
    ):
        assert np.array_equal(compute(executor, chunks), whole)
    # Beside a row that looks at all of its tokens.
    usual.open_row(0, IDS, RowSampling())
    usual.open_row(1, IDS[:9], RowSampling())
    rows = (PlanRow(1, 9, 0, 9, (3,)), PlanRow(0, LENGTH, 0, LENGTH, TABLE))
    found = usual.forward(StepPlan(rows))
    assert np.array_equal(found[:9], whole[:9])
    assert np.array_equal(found[9:], whole)


@isas
def test_to_look_at_all_blocks_is_attention(isa: str) -> None:
    """With the same bits, also of tokens that are computed by themselves: those before the last
    block, which the last tokens cannot all look at.
    """
    every = compute(cpu(None, isa), [LENGTH])[:, KV:]
    assert np.array_equal(compute(cpu(Blocks(10, 32), isa), [LENGTH])[:, 30:], every)
    most = compute(cpu(Blocks(9, 32), isa), [LENGTH])[:, 27:]
    assert np.array_equal(most[:288], every[:288])
    assert not np.array_equal(most[288:], every[288:])
