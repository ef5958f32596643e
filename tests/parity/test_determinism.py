"""The same request, the same bits: a small Llama-like model on the CPU backend, for each weight
format and instruction set, however a row's computation is arranged.
"""

from __future__ import annotations

import subprocess
import sys
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest
from cpu_graphs import AVAILABLE, NUM_BLOCKS, Stored

from block_entries import blocks_for, spread
from ridgeline.backends.cpu.executor import CpuExecutor
from ridgeline.model.formats import FORMATS
from ridgeline.model.graph.build import Builder
from ridgeline.model.graph.kv_format import KV_FORMATS
from ridgeline.model.graph.node import Graph, KvState
from ridgeline.model.graph.ops import (
    Add,
    Attention,
    Embed,
    GatedActivation,
    KvWrite,
    Linear,
    Norm,
    Rope,
    Rotation,
    SelectRows,
)
from ridgeline.model.passes.fuse import fuse
from ridgeline.model.passes.kv_format import with_kv_format
from ridgeline.step import PlanRow, RowSampling, Sampled, StepPlan
from threads import USUAL

Floats = npt.NDArray[np.float32]

WIDTH, HIDDEN, VOCAB = 256, 512, 300
HEADS, KV_HEADS, HEAD_DIM = 8, 2, 64
LENGTH = 290
ROTATION = Rotation(tuple(10000.0 ** (-i / 32) for i in range(32)))
WINDOWS = (None, 100)

isas = pytest.mark.parametrize("isa", AVAILABLE)
formats = pytest.mark.parametrize(
    "format_name", ["F32", "BF16", "F16", "Q4_1", "Q8_0", "Q4_K", "Q6_K"]
)


def model(format_name: str) -> Graph:
    """Two layers, one with a window; biases and norms in F32."""
    matrix = FORMATS[format_name]
    b = Builder("small", lambda name: matrix if name.endswith(".w") else FORMATS["F32"])
    table = b.weight("embed.w", VOCAB, WIDTH)
    h = b.one("embed", Embed(), b.token_ids, weights=(table,))
    for i, window in enumerate(WINDOWS):
        layer = f"layers.{i}"
        state = KvState(f"{layer}.kv", KV_HEADS, HEAD_DIM, HEAD_DIM, window)
        norm = b.weight(f"{layer}.norm1", WIDTH)
        x = b.one(f"{layer}.n1", Norm(), h, weights=(norm,))
        heads = []
        for name, count in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
            w = b.weight(f"{layer}.{name}.w", count * HEAD_DIM, WIDTH)
            bias = b.weight(f"{layer}.{name}.b", count * HEAD_DIM)
            heads.append(b.one(f"{layer}.{name}", Linear(bias=True), x, weights=(w, bias)))
        q, k, v = heads
        q = b.one(f"{layer}.rope_q", Rope(HEADS, HEAD_DIM, ROTATION), q)
        k = b.one(f"{layer}.rope_k", Rope(KV_HEADS, HEAD_DIM, ROTATION), k)
        b.add(f"{layer}.write", KvWrite(), k, v, state=state)
        op = Attention(HEADS, HEAD_DIM, HEAD_DIM, 0.125)
        y = b.one(f"{layer}.attention", op, q, state=state)
        w = b.weight(f"{layer}.o.w", WIDTH, HEADS * HEAD_DIM)
        h = b.one(f"{layer}.add1", Add(), h, b.one(f"{layer}.o", Linear(), y, weights=(w,)))
        norm = b.weight(f"{layer}.norm2", WIDTH)
        x = b.one(f"{layer}.n2", Norm(), h, weights=(norm,))
        gate, up = (
            b.one(f"{layer}.{n}", Linear(), x, weights=(b.weight(f"{layer}.{n}.w", HIDDEN, WIDTH),))
            for n in ("gate", "up")
        )
        y = b.one(f"{layer}.act", GatedActivation("silu"), gate, up)
        w = b.weight(f"{layer}.down.w", WIDTH, HIDDEN)
        h = b.one(f"{layer}.add2", Add(), h, b.one(f"{layer}.down", Linear(), y, weights=(w,)))
    h = b.one("select", SelectRows(), h)
    h = b.one("norm", Norm(), h, weights=(b.weight("norm", WIDTH),))
    head = b.weight("head.w", VOCAB, WIDTH)
    return b.finish(b.one("head", Linear(), h, weights=(head,)), 1024)


@cache
def arrays() -> dict[str, Floats]:
    random = np.random.default_rng(8)
    out = {}
    for weight in model("F32").weights:
        scale = 1.0 if len(weight.shape) == 1 else weight.shape[1] ** -0.5
        out[weight.name] = random.normal(0, scale, weight.shape).astype(np.float32)
    return out


@cache
def stored() -> Stored:
    return Stored(arrays())


def executor(
    format_name: str,
    isa: str,
    threads: int = USUAL,
    fused: bool = True,
    quantize_early: bool = True,
    kv_format: str = "bf16",
) -> CpuExecutor:
    graph = with_kv_format(model(format_name), KV_FORMATS[kv_format])
    return CpuExecutor(
        fuse(graph) if fused else graph,
        stored(),
        num_blocks=blocks_for(graph, NUM_BLOCKS),
        max_rows=64,
        max_tokens_per_step=2048,
        max_logits_per_step=512,
        threads=threads,
        isa=isa,
        quantize_early=quantize_early,
    )


TOKENS = np.random.default_rng(9).integers(0, VOCAB, LENGTH).tolist()


def logits(cpu: CpuExecutor, chunks: list[int], blocks: list[int]) -> Floats:
    cpu.open_row(3, TOKENS, RowSampling())
    parts, done = [], 0
    while done < LENGTH:
        n = min(chunks[len(parts) % len(chunks)], LENGTH - done)
        have, need = -(-done // 16), -(-(done + n) // 16)
        new = spread(cpu, blocks[have:need])
        parts.append(cpu.forward(StepPlan((PlanRow(3, n, done, n, new),))))
        done += n
    cpu.close_row(3)
    return np.concatenate(parts)


def shuffled(seed: int) -> list[int]:
    return np.random.default_rng(seed).permutation(NUM_BLOCKS).tolist()


@isas
@formats
def test_whole_and_in_chunks(format_name: str, isa: str) -> None:
    cpu = executor(format_name, isa)
    whole = logits(cpu, [LENGTH], shuffled(0))
    assert np.isfinite(whole).all()
    assert whole.std() > 0.1
    chunks = [[64], [5, 33], [LENGTH - 7, 1]] + ([[1]] if isa == AVAILABLE[0] else [])
    for seed, each in enumerate(chunks):
        assert np.array_equal(logits(cpu, each, shuffled(seed)), whole), each


@isas
@formats
def test_threads_fusion(format_name: str, isa: str) -> None:
    first = logits(executor(format_name, isa, 1), [200, 3, 1], shuffled(0))
    for threads, fused in ((2, True), (3, True), (2, False)):
        cpu = executor(format_name, isa, threads, fused)
        assert np.array_equal(logits(cpu, [200, 3, 1], shuffled(1)), first), (threads, fused)


def of_batches(cpu: CpuExecutor) -> Floats:
    """Logits of 24 rows of all lengths: their prompts in one step, then three tokens each, then
    half of them decoding while the others prefill once more.
    """
    lengths = [1 + 11 * i % 127 for i in range(24)]
    blocks = iter(range(NUM_BLOCKS))
    have = [0] * len(lengths)

    def row(i: int, new: int, done: int) -> PlanRow:
        need = -(-(done + new) // 16)
        added = spread(cpu, [next(blocks) for _ in range(need - have[i])])
        have[i] = need
        return PlanRow(i, new, done, 1, added)

    for i, length in enumerate(lengths):
        cpu.open_row(i, TOKENS[: length + 12], RowSampling())
    steps = [[row(i, length, 0) for i, length in enumerate(lengths)]]
    steps.extend([row(i, 1, length + t) for i, length in enumerate(lengths)] for t in range(3))
    steps.append([row(i, 1 + 8 * (i % 2), n + 3) for i, n in enumerate(lengths)])
    found = [cpu.forward(StepPlan(tuple(rows))) for rows in steps]
    for i in range(len(lengths)):
        cpu.close_row(i)
    return np.concatenate(found)


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "plain"])
def test_who_computes_what(fused: bool) -> None:
    """More threads than cores: some are always held up, and others take the pieces of theirs."""
    expected = of_batches(executor("Q4_1", AVAILABLE[0], 1, fused))
    assert np.isfinite(expected).all()
    for threads in (2, 5):
        cpu = executor("Q4_1", AVAILABLE[0], threads, fused)
        for _ in range(3):
            assert np.array_equal(of_batches(cpu), expected), threads


def test_who_is_away() -> None:
    """Beside programs that want every core: threads come late, leave in the middle, miss steps."""
    expected = of_batches(executor("Q4_1", AVAILABLE[0], 1, True))
    spinners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3)]
    try:
        for threads in (2, 3):
            cpu = executor("Q4_1", AVAILABLE[0], threads, True)
            for _ in range(5):
                assert np.array_equal(of_batches(cpu), expected), threads
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()


@isas
@pytest.mark.parametrize("format_name", FORMATS)
def test_values_between_operators_as_float32_or_as_activations(format_name: str, isa: str) -> None:
    """Fused epilogues change no bit: not the gated unit's, nor that of whoever quantizes."""
    plain = executor(format_name, isa, fused=False, quantize_early=False)
    expected = logits(plain, [270, 9, 5, 1], shuffled(3))
    for fused, early in ((True, True), (True, False), (False, True)):
        cpu = executor(format_name, isa, fused=fused, quantize_early=early)
        found = logits(cpu, [270, 9, 5, 1], shuffled(4))
        assert np.array_equal(found, expected), (fused, early)
        assert cpu.memory()["arena"] <= plain.memory()["arena"]


@isas
@pytest.mark.parametrize("format_name", FORMATS)
def test_alone_and_among_64_rows(format_name: str, isa: str) -> None:
    alone_and_among_64_rows(executor(format_name, isa))


def alone_and_among_64_rows(cpu: CpuExecutor) -> None:
    """Row 3 decodes its last token in a step of 64 rows of all lengths, prefilling and decoding."""
    alone = logits(cpu, [LENGTH], shuffled(0))[-1]
    blocks = shuffled(2)
    random = np.random.default_rng(5)
    plans = []
    for row in range(64):
        length = LENGTH if row == 3 else int(random.integers(1, 40))
        tokens = TOKENS if row == 3 else random.integers(0, VOCAB, length).tolist()
        cpu.open_row(row, tokens, RowSampling())
        done = length - 1 if row == 3 or row % 2 else 0
        mine = spread(cpu, [blocks.pop() for _ in range(-(-length // 16))])
        if done:
            cpu.forward(StepPlan((PlanRow(row, done, 0, 0, mine),)))
            mine = ()
        plans.append(PlanRow(row, length - done, done, 1, mine))
    order = random.permutation(64).tolist()
    found = cpu.forward(StepPlan(tuple(plans[i] for i in order)))
    assert np.array_equal(found[order.index(3)], alone)


@isas
@pytest.mark.parametrize("kv_format", ["f16", "int8"])
def test_caches_in_other_formats(kv_format: str, isa: str) -> None:
    """Whole, in chunks, one by one, on 1, 2 and 3 threads, fused and not, alone and among 64."""
    cpu = executor("Q4_1", isa, kv_format=kv_format)
    whole = logits(cpu, [LENGTH], shuffled(0))
    assert np.isfinite(whole).all()
    assert not np.array_equal(whole, logits(executor("Q4_1", isa), [LENGTH], shuffled(0)))
    for seed, each in enumerate([[64], [5, 33], [LENGTH - 7, 1], [1]]):
        assert np.array_equal(logits(cpu, each, shuffled(seed)), whole), each
    for threads, fused in ((1, True), (3, True), (2, False)):
        other = executor("Q4_1", isa, threads, fused, kv_format=kv_format)
        assert np.array_equal(logits(other, [200, 3, 1], shuffled(1)), whole), (threads, fused)
    alone_and_among_64_rows(cpu)


@isas
def test_sampled_tokens(isa: str) -> None:
    """Seeded sampling: a function of the row alone."""
    cpu = executor("Q4_1", isa)
    hows = [
        RowSampling(temperature=0.9, seed=7),
        RowSampling(temperature=1.1, top_p=0.9, seed=8),
        RowSampling(temperature=1.0, top_k=40, min_p=0.02, seed=9, repetition_penalty=1.2),
        RowSampling(num_logprobs=3),
    ]

    def answer(rows: list[int], index: int) -> list[Sampled]:
        prompt = TOKENS[:20]
        for row in rows:
            cpu.open_row(row, prompt, hows[row % len(hows)])
        results = []
        for n in range(24):
            context, new, first = (0, 20, 3) if n == 0 else (19 + n, 1, 0)
            plan = StepPlan(
                tuple(
                    PlanRow(row, new, context, 1, spread(cpu, range(3 * row, 3 * row + first)))
                    for row in rows
                )
            )
            cpu.submit(plan)
            results.append(cpu.collect().sampled[rows.index(index)])
        for row in rows:
            cpu.close_row(row)
        return results

    for index in range(4):
        assert answer([index], index) == answer([9, 5, 2, 0, 1, 3, 12, 40], index)


@isas
def test_a_fault_touches_one_row(isa: str) -> None:
    numbers = dict(arrays())
    table = numbers["embed.w"].copy()
    table[0] = np.nan
    graph = fuse(model("F32"))
    broken = {**numbers, "embed.w": table}
    cpu = CpuExecutor(
        graph, Stored(broken), num_blocks=16, max_rows=2, max_tokens_per_step=32, threads=2, isa=isa
    )
    cpu.open_row(0, [0, 5], RowSampling())
    cpu.open_row(1, [4, 5], RowSampling())
    cpu.submit(StepPlan((PlanRow(0, 2, 0, 1, (0, 1)), PlanRow(1, 2, 0, 1, (2, 3)))))
    first, second = cpu.collect().sampled
    assert (first.row, first.token_id, first.fault) == (0, -1, "the logits have NaN")
    cpu.close_row(0)
    cpu.close_row(1)
    cpu.open_row(0, [4, 5], RowSampling())
    cpu.submit(StepPlan((PlanRow(0, 2, 0, 1, (0, 1)),)))
    (alone,) = cpu.collect().sampled
    assert second == Sampled(1, alone.token_id)
