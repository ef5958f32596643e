"""Selected tokens on the CPU, on each instruction set: the very positions of the definition where
sums are exact, ties included, and attention to them as the definition has it; the same bits whole,
in chunks, and beside rows that are shorter than what is looked at.
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
from ridgeline.model.graph.ops import Join, KvWrite, LatentAttention, SelectTokens
from ridgeline.step import PlanRow, RowSampling, StepPlan
from threads import OTHER, USUAL

Floats = npt.NDArray[np.float32]
TOKENS, IDS = 100, [token % 90 for token in range(100)]
HEADS, TURNED, REST = 5, 6, 10
RANK, ROPE, NOPE, VALUE, ATTENTION_HEADS = 20, 4, 8, 12, 26
isas = pytest.mark.parametrize("isa", AVAILABLE)
WIDTHS = (
    *(HEADS * TURNED, HEADS * REST, HEADS, TURNED, REST),
    *(ATTENTION_HEADS * NOPE, ATTENTION_HEADS * ROPE, RANK, ROPE),
)


def graph_of(top_k: int | None) -> Graph:
    """Positions, and what attention to them gives; None: attention to all."""

    def add(b: Builder, values: tuple[Value, ...]) -> Value:
        turned, q, weights, k_turned, k, nope, rope, latent, k_rope = values
        index = KvState("index", 1, TURNED + REST, TURNED, latent=True)
        cache = KvState("kv", 1, RANK + ROPE, RANK, latent=True)
        b.add("index_write", KvWrite(), k_turned, k, state=index)
        b.add("kv_write", KvWrite(), latent, k_rope, state=cache)
        op = SelectTokens(HEADS, top_k or 7)
        chosen = b.one("select", op, turned, q, weights, state=index)
        rows = ATTENTION_HEADS * (NOPE + VALUE)
        y = b.one(
            "attend",
            LatentAttention(ATTENTION_HEADS, NOPE, ROPE, VALUE, 0.3, top_k),
            *(nope, rope, *([] if top_k is None else [chosen])),
            weights=(b.weight("w", rows, RANK),),
            state=cache,
        )
        return b.one("join", Join(), chosen, y)

    return one_operator(TOKENS, WIDTHS, add)


def numbers() -> dict[str, Floats]:
    """Small whole numbers: exact in bfloat16, and so are their sums; many scores are the same."""
    random = np.random.default_rng(4)
    table = random.integers(-2, 3, (TOKENS, sum(WIDTHS))).astype(np.float32)
    w = random.standard_normal((ATTENTION_HEADS * (NOPE + VALUE), RANK)).astype(np.float32)
    return {"table": table, "w": w}


def cpu(top_k: int | None, isa: str, threads: int = USUAL) -> CpuExecutor:
    return paged(graph_of(top_k), numbers(), isa, threads, 256)


def compute(executor: CpuExecutor | ReferenceExecutor, chunks: list[int]) -> Floats:
    return in_chunks(executor, IDS, chunks, tuple(range(10, 20)))


@isas
@pytest.mark.parametrize("top_k", [1, 16, 21, 64])
def test_it_is_its_definition(isa: str, top_k: int) -> None:
    exact = ReferenceExecutor(
        graph_of(top_k), Stored(numbers()), num_blocks=40, max_rows=1, dtype="float64"
    )
    expected, found = compute(exact, [TOKENS]), compute(cpu(top_k, isa), [TOKENS])
    assert np.array_equal(found[:, :top_k], expected[:, :top_k])
    for i in range(TOKENS):
        chosen = found[i, :top_k]
        assert (np.diff(chosen[chosen >= 0]) > 0).all()
        assert (chosen >= 0).sum() == min(i + 1, top_k)
        assert chosen.max() <= i
    error = np.abs(found[:, top_k:] - expected[:, top_k:]).max()
    assert error < 2e-2 * np.abs(expected[:, top_k:]).max()


@isas
def test_the_same_bits_however_it_is_computed(isa: str) -> None:
    usual, other = cpu(21, isa), cpu(21, isa, threads=OTHER)
    whole = compute(usual, [TOKENS])
    for executor, chunks in (
        (usual, [1] * TOKENS),
        (usual, [15, 7, 60, 18]),
        (other, [TOKENS]),
        (other, [20, 1, 1, 78]),
    ):
        assert np.array_equal(compute(executor, chunks), whole)
    # Beside a row that looks at all of its tokens.
    usual.open_row(0, IDS, RowSampling())
    usual.open_row(1, IDS[:9], RowSampling())
    rows = (PlanRow(1, 9, 0, 9, (3,)), PlanRow(0, TOKENS, 0, TOKENS, tuple(range(10, 20))))
    found = usual.forward(StepPlan(rows))
    assert np.array_equal(found[:9], whole[:9])
    assert np.array_equal(found[9:], whole)


@isas
def test_to_look_at_all_tokens_is_attention(isa: str) -> None:
    """With the same bits, also where the tokens were copied: at the last, of one more than 99."""
    every = compute(cpu(None, isa), [TOKENS])[:, 7:]
    assert np.array_equal(compute(cpu(100, isa), [TOKENS])[:, 100:], every)
    most = compute(cpu(99, isa), [TOKENS])[:, 99:]
    assert np.array_equal(most[:99], every[:99])


@isas
def test_nan_of_one_row_stays_there(isa: str) -> None:
    arrays = numbers()
    arrays["table"][89] = np.nan
    executor = CpuExecutor(
        graph_of(8),
        Stored(arrays),
        num_blocks=40,
        max_rows=2,
        max_tokens_per_step=256,
        max_logits_per_step=256,
        threads=2,
        isa=isa,
    )
    alone = compute(executor, [50])
    executor.open_row(0, IDS[:50], RowSampling())
    executor.open_row(1, [89, *range(40)], RowSampling())
    rows = (PlanRow(1, 41, 0, 41, (1, 2, 3)), PlanRow(0, 50, 0, 50, (10, 11, 12, 13)))
    found = executor.forward(StepPlan(rows))
    assert np.array_equal(found[41:], alone)
