"""Attention of the CPU backend on each instruction set: against float64, and bit for bit however a
row's tokens are cut into steps.

A row's token i has the i-th row of the table as its q, k and v, side by side.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pytest
from cpu_graphs import AVAILABLE, NUM_BLOCKS, executor, one_operator

from ridgeline.backends.cpu.executor import CpuExecutor
from ridgeline.model.graph.build import Builder
from ridgeline.model.graph.node import KvState, Value
from ridgeline.model.graph.ops import Attention, KvWrite
from ridgeline.step import PlanRow, RowSampling, StepPlan

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

isas = pytest.mark.parametrize("isa", AVAILABLE)


@dataclass(frozen=True)
class Shape:
    heads: int = 6
    kv_heads: int = 2
    head_dim: int = 64
    value_dim: int = 64
    window: int | None = None
    softcap: float | None = None
    causal: bool = True
    tokens: int = 700
    scale: float = 0.125

    @property
    def widths(self) -> tuple[int, int, int]:
        return (
            self.heads * self.head_dim,
            self.kv_heads * self.head_dim,
            self.kv_heads * self.value_dim,
        )


# Contexts 1, 15, 16, 17, 255, 256, 257 and 700 are all among a prompt's tokens.
SHAPES = [
    Shape(),
    Shape(heads=4, kv_heads=4, head_dim=16, value_dim=16, tokens=300),
    Shape(heads=5, kv_heads=1, head_dim=80, value_dim=80, tokens=300),
    Shape(heads=4, kv_heads=1, head_dim=256, value_dim=256, tokens=300, window=100, scale=1 / 16),
    Shape(heads=2, kv_heads=1, head_dim=96, value_dim=40, tokens=270),
    Shape(heads=2, kv_heads=2, head_dim=10, value_dim=6, tokens=270),
    Shape(heads=3, kv_heads=1, window=1, tokens=40),
    Shape(heads=3, kv_heads=1, window=16),
    Shape(heads=3, kv_heads=1, window=257),
    Shape(heads=3, kv_heads=1, window=300, softcap=2.0),
    Shape(heads=16, kv_heads=1, softcap=20.0, tokens=280),
    Shape(heads=64, kv_heads=1, head_dim=32, value_dim=32, tokens=40),
    Shape(heads=3, kv_heads=1, causal=False, tokens=300),
    Shape(heads=3, kv_heads=1, causal=False, tokens=300, window=33),
]
CAUSAL = [shape for shape in SHAPES if shape.causal]


def numbers(shape: Shape, rows: int | None = None) -> Floats:
    random = np.random.default_rng(4)
    x = random.normal(0, 1, (rows or shape.tokens, sum(shape.widths))).astype(np.float32)
    x[:, : shape.widths[0]] *= 3
    return x


def attending(shape: Shape, isa: str, table: Floats, threads: int = 2) -> CpuExecutor:
    state = KvState("kv", shape.kv_heads, shape.head_dim, shape.value_dim, shape.window)
    op = Attention(
        shape.heads, shape.head_dim, shape.value_dim, shape.scale, shape.softcap, shape.causal
    )

    def add(b: Builder, values: tuple[Value, ...]) -> Value:
        q, k, v = values
        b.add("write", KvWrite(), k, v, state=state)
        return b.one("attend", op, q, state=state)

    return executor(one_operator(len(table), shape.widths, add), {"table": table}, isa, threads)


def rounded(x: Floats) -> Doubles:
    """To bfloat16, the nearest, ties to even."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    up = bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))
    return (up & np.uint32(0xFFFF0000)).view(np.float32).astype(np.float64)


def expected(shape: Shape, table: Floats) -> tuple[Doubles, Doubles]:
    """In float64, of q, k and v rounded as they are multiplied; and how far rounding of the softmax
    weights, 2^-8 of each, and float32 sums may take a number from that.
    """
    q_width, k_width, _ = shape.widths
    n = len(table)
    log2_e = np.float32(1.44269504)
    scale = np.float32(shape.scale) * (np.float32(1) if shape.softcap else log2_e)
    q = rounded(table[:, :q_width] * scale).reshape(n, shape.heads, -1)
    stored = rounded(table[:, q_width:])
    k = stored[:, :k_width].reshape(n, shape.kv_heads, -1)
    v = stored[:, k_width:].reshape(n, shape.kv_heads, -1)
    query, key = np.arange(n)[:, None], np.arange(n)[None]
    hidden = (key > query) if shape.causal else np.zeros((n, n), bool)
    if shape.window is not None:
        hidden = hidden | (key <= query - shape.window)
    out, bound = (np.empty((n, shape.heads, shape.value_dim)) for _ in range(2))
    for head in range(shape.heads):
        group = head // (shape.heads // shape.kv_heads)
        scores = q[:, head] @ k[:, group].T
        if shape.softcap:
            scores = shape.softcap * np.tanh(scores / shape.softcap) * float(log2_e)
        scores = np.where(hidden, -np.inf, scores)
        weights = np.exp2(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        out[:, head] = weights @ v[:, group]
        bound[:, head] = (2**-8 + 3e-5) * (weights @ np.abs(v[:, group])) + 1e-30
    return out.reshape(n, -1), bound.reshape(n, -1)


def in_chunks(cpu: CpuExecutor, total: int, chunks: list[int], blocks: list[int]) -> Floats:
    """Outputs of all tokens of a row that computes so many at a time, then again and again."""
    cpu.open_row(5, list(range(total)), RowSampling())
    parts, done = [], 0
    for turn in range(total):
        n = min(chunks[turn % len(chunks)], total - done)
        have, need = -(-done // 16), -(-(done + n) // 16)
        row = PlanRow(5, n, done, n, tuple(blocks[have:need]))
        parts.append(cpu.forward(StepPlan((row,))))
        done += n
        if done == total:
            break
    cpu.close_row(5)
    return np.concatenate(parts)


def shuffled(seed: int) -> list[int]:
    return np.random.default_rng(seed).permutation(NUM_BLOCKS).tolist()


@isas
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_float64(shape: Shape, isa: str) -> None:
    table = numbers(shape)
    found = in_chunks(attending(shape, isa, table), shape.tokens, [shape.tokens], shuffled(0))
    want, bound = expected(shape, table)
    assert (np.abs(found - want) <= bound).all()
    # Roundings are as often up as down: over a row they come to less.
    error = np.linalg.norm(found - want, axis=1) / np.linalg.norm(want, axis=1)
    assert error.max() < 2**-8
    assert np.median(error) < 2**-9


@isas
@pytest.mark.parametrize("shape", CAUSAL, ids=str)
def test_chunks_and_blocks_do_not_change_a_bit(shape: Shape, isa: str) -> None:
    tokens = min(shape.tokens, 300)
    table = numbers(shape, tokens)
    cpu = attending(shape, isa, table)
    whole = in_chunks(cpu, tokens, [tokens], shuffled(1))
    for chunks in ([1], [7], [16], [31, 1, 2], [100], [255, 2], [256], [tokens - 1, 1]):
        assert np.array_equal(in_chunks(cpu, tokens, chunks, shuffled(len(chunks))), whole), chunks


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
@pytest.mark.parametrize("shape", [Shape(), Shape(heads=3, kv_heads=1, window=300)], ids=str)
def test_a_long_context_parted_over_threads(shape: Shape, threads: int) -> None:
    table = numbers(shape, 2100)
    cpu = attending(shape, AVAILABLE[0], table, threads)
    cpu.open_row(5, list(range(2100)), RowSampling())
    parts = []
    for done, n in ((0, 1000), (1000, 1000), (2000, 96), (2096, 1), (2097, 3)):
        have, need = -(-done // 16), -(-(done + n) // 16)
        row = PlanRow(5, n, done, n, tuple(range(have, need)))
        parts.append(cpu.forward(StepPlan((row,))))
    one = in_chunks(attending(shape, AVAILABLE[0], table, 1), 2100, [700], shuffled(2))
    assert np.array_equal(np.concatenate(parts), one)


@isas
def test_any_mix_of_rows(isa: str) -> None:
    """Prefill, decode and a chunk in one step, each as if alone."""
    shape = Shape(window=290)
    table = numbers(shape)
    cpu = attending(shape, isa, table)
    whole = in_chunks(cpu, 700, [700], shuffled(3))
    blocks = shuffled(4)
    ends = {0: 1, 1: 15, 2: 16, 3: 17, 4: 255, 6: 256, 7: 257, 8: 700}
    plans = []
    for row, end in ends.items():
        cpu.open_row(row, list(range(end)), RowSampling())
        done = {4: 250, 6: 100, 7: 256, 8: 699}.get(row, 0)
        if done:
            have = tuple(blocks.pop() for _ in range(-(-done // 16)))
            cpu.forward(StepPlan((PlanRow(row, done, 0, 1, have),)))
        new = tuple(blocks.pop() for _ in range(-(-end // 16) - -(-done // 16)))
        plans.append(PlanRow(row, end - done, done, 1, new))
    again = [replace(plan, new_blocks=()) for plan in reversed(plans)]
    for order in (plans, again):
        found = cpu.forward(StepPlan(tuple(order)))
        for row, logits in zip(order, found, strict=True):
            assert np.array_equal(logits, whole[ends[row.row] - 1]), row


@isas
def test_what_a_block_held_before_does_not_matter(isa: str) -> None:
    """NaN and infinity that another row left in a block are hidden, not multiplied by zero."""
    shape = Shape(heads=2, kv_heads=1, tokens=40)
    table = numbers(shape)
    clean = in_chunks(attending(shape, isa, table), 37, [5], shuffled(5))
    bad = np.concatenate([table, np.full_like(table, np.nan), np.full_like(table, np.inf)])
    cpu = attending(shape, isa, bad)
    for first in (40, 80):
        cpu.open_row(0, list(range(first, first + 40)), RowSampling())
        cpu.forward(StepPlan((PlanRow(0, 40, 0, 1, (3, 1, 2)),)))
        cpu.close_row(0)
        assert np.array_equal(in_chunks(cpu, 37, [5], [1, 2, 3]), clean)


@isas
def test_large_keys_and_values_keep_their_size(isa: str) -> None:
    shape = Shape(heads=1, kv_heads=1, head_dim=16, value_dim=16, tokens=3)
    table = numbers(shape)
    table[1, 32:] = [1e30, -1e30] * 8
    table[2, :32] = 0.0
    found = in_chunks(attending(shape, isa, table), 3, [3], shuffled(6))
    want, bound = expected(shape, table)
    assert np.isfinite(found).all()
    assert (np.abs(found - want) <= bound).all()


@isas
def test_a_row_with_nan_keeps_it_to_itself(isa: str) -> None:
    shape = Shape(heads=2, kv_heads=1, tokens=20)
    table = numbers(shape)
    table[10:] = np.nan
    cpu = attending(shape, isa, table)
    cpu.open_row(0, list(range(10)), RowSampling())
    cpu.open_row(1, list(range(10, 20)), RowSampling())
    found = cpu.forward(StepPlan((PlanRow(1, 10, 0, 1, (0,)), PlanRow(0, 10, 0, 1, (1,)))))
    assert np.isnan(found[0]).all()
    alone = in_chunks(cpu, 10, [10], shuffled(7))
    assert np.array_equal(found[1], alone[9])
