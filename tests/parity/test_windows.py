"""Layers with windows: the same request, the same bits, at contexts several windows long, whatever
was freed, cached, evicted and computed again meanwhile.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
from cpu_graphs import AVAILABLE
from test_determinism import TOKENS, VOCAB, executor, model, shuffled, stored

from block_entries import blocks_for, spread
from ridgeline.backends.cpu.executor import CpuExecutor
from ridgeline.backends.reference.executor import ReferenceExecutor
from ridgeline.engine.engine import Engine
from ridgeline.engine.executor import Executor
from ridgeline.engine.request import Request
from ridgeline.errors import EngineError
from ridgeline.model.graph.kv_format import KV_FORMATS
from ridgeline.model.passes.fuse import fuse
from ridgeline.model.passes.kv_format import with_kv_format
from ridgeline.step import NO_BLOCK, PlanRow, RowSampling, StepPlan
from threads import USUAL

Answer = list[tuple[int | None, float]]
GRAPH = fuse(model("F32"))  # of two layers, one with a window of 100
EXACT = with_kv_format(GRAPH, KV_FORMATS["f32"])  # a rounded cache makes much of the last bit
WINDOW = 100


def requests(scale: float = 1.0) -> list[Request]:
    """Up to six windows long, some with a beginning in common; and short ones that write much."""
    rng = random.Random(11)
    shared = [rng.randrange(VOCAB) for _ in range(450)]
    kinds = [(450, 30, 9), (0, 600, 20), (450, 1, 30), (230, 90, 15), (320, 250, 8), (450, 75, 12)]
    kinds += [(0, 3 + 20 * index, 110) for index in range(6)]
    made = []
    for index, (common, own, length) in enumerate(kinds):
        prompt = shared[: int(common * scale)]
        prompt += [rng.randrange(VOCAB) for _ in range(int(own * scale) + 1)]
        how = RowSampling(
            temperature=[0.0, 0.8][index % 2], seed=index, num_prompt=len(prompt), num_logprobs=0
        )
        made.append(Request(str(index), prompt, len(prompt), length, how, frozenset()))
    return made


def answers(engine: Engine, wanted: list[Request]) -> dict[str, Answer]:
    for request in wanted:
        engine.submit(request)
    found: dict[str, Answer] = {request.id: [] for request in wanted}
    while engine.has_work:
        for event in engine.step():
            assert event.error is None
            found[event.request_id].append((event.token_id, event.logprob))
        engine.state.check_invariants()
    return found


def on_cpu(isa: str) -> Callable[..., Executor]:
    def make(num_blocks: int, rows: int, chunk: int, threads: int = USUAL) -> Executor:
        return CpuExecutor(
            GRAPH,
            stored(),
            num_blocks=num_blocks,
            max_rows=rows,
            max_tokens_per_step=chunk,
            threads=threads,
            isa=isa,
        )

    return make


def on_reference(num_blocks: int, rows: int, chunk: int, threads: int = 1) -> Executor:
    return ReferenceExecutor(EXACT, stored(), num_blocks=num_blocks, max_rows=rows)


def engine(make: Callable[..., Executor], *, entries: int, rows: int, chunk: int) -> Engine:
    executor = make(blocks_for(GRAPH, entries), rows, chunk)
    return Engine(executor, max_context=700, max_tokens_per_step=chunk)


def check(
    make: Callable[..., Executor], same: Callable[[Answer, Answer], bool], scale: float = 1.0
) -> None:
    roomy = engine(make, entries=400, rows=12, chunk=1024)
    expected = answers(roomy, requests(scale))
    runs = {}
    cached = requests(scale)
    runs["from the cache"] = {k: v for r in cached for k, v in answers(roomy, [r]).items()}
    assert sum(r.num_cached or 0 for r in cached) > 2000 * scale
    if scale == 1:
        runs["in chunks"] = answers(engine(make, entries=400, rows=3, chunk=37), requests())
    crowded = requests(scale)
    small = engine(make, entries=30 if scale == 1 else 22, rows=12, chunk=64)
    runs["preempted"] = answers(small, crowded)
    assert sum(r.num_preemptions for r in crowded) > 1
    evicted = requests(scale)[5::-1]
    runs["after evictions"] = {k: v for r in evicted for k, v in answers(small, [r]).items()}
    assert any(r.cache_miss is not None and r.cache_miss.kind == "evicted" for r in evicted)
    for name, found in runs.items():
        for request, answer in found.items():
            assert same(answer, expected[request]), f"{name}: request {request}"


@pytest.mark.parametrize("isa", AVAILABLE)
def test_the_same_bits_whatever_a_window_gave_up(isa: str) -> None:
    check(on_cpu(isa), lambda found, expected: found == expected)


def test_the_reference_draws_the_same_tokens() -> None:
    """Its sums are NumPy's, which adds up differently for other numbers of rows."""

    def same(found: Answer, expected: Answer) -> bool:
        tokens = [token for token, _ in found] == [token for token, _ in expected]
        return tokens and np.allclose([p for _, p in found], [p for _, p in expected], atol=1e-5)

    check(on_reference, same, scale=0.5)


@pytest.mark.parametrize("isa", AVAILABLE)
def test_what_a_window_passed_may_be_another_rows(isa: str) -> None:
    """The windowed layer's blocks go round: each entry that a window has passed is given out again
    for the row's next tokens. The bits are those of a row that keeps all.
    """
    cpu = executor("F32", isa)
    length = len(TOKENS)
    cpu.open_row(0, TOKENS, RowSampling())
    entries = shuffled(5)[: -(-length // 16)]
    whole = cpu.forward(StepPlan((PlanRow(0, length, 0, length, spread(cpu, entries)),)))
    cpu.close_row(0)
    ring = [1, 3, 5, 7, 9, 11, 13, 15, 17]  # the window's length, what is written, and one
    cpu.open_row(1, TOKENS, RowSampling())
    done, parts = 0, []
    while done < length:
        n = min(16, length - done)
        blocks = (2 * (done // 16), ring[done // 16 % len(ring)])
        parts.append(cpu.forward(StepPlan((PlanRow(1, n, done, n, blocks),))))
        done += n
    assert np.array_equal(np.concatenate(parts), whole)
    # And a row that begins where others have been: no block for what its window does not see.
    cpu.open_row(2, TOKENS, RowSampling())
    context = length // 16 * 16
    first = (context - WINDOW + 1) // 16
    held = [
        (2 * at, NO_BLOCK if at < first else ring[at % len(ring)]) for at in range(context // 16)
    ]
    held.append((400, 401))
    blocks = tuple(block for entry in held for block in entry)
    n = length - context
    found = cpu.forward(StepPlan((PlanRow(2, n, context, n, blocks),)))
    assert np.array_equal(found, whole[context:])


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_missing_block_within_the_window_is_refused(backend: str) -> None:
    make = on_cpu(AVAILABLE[0]) if backend == "cpu" else on_reference
    running = make(num_blocks=512, rows=2, chunk=256)
    running.open_row(0, TOKENS[:200], RowSampling())
    missing = [(2 * at, NO_BLOCK if at < 7 else 2 * at + 1) for at in range(13)]
    blocks = tuple(block for entry in missing for block in entry)
    with pytest.raises(EngineError, match="block -1"):
        running.forward(StepPlan((PlanRow(0, 10, 190, 1, blocks),)))
    with pytest.raises(EngineError, match="an entry has 2"):
        running.forward(StepPlan((PlanRow(0, 10, 190, 1, blocks[:-1]),)))
    full = tuple(NO_BLOCK if at == 4 else block for at, block in enumerate(blocks))
    with pytest.raises(EngineError, match="block -1"):
        running.forward(StepPlan((PlanRow(0, 10, 190, 1, full),)))
    enough = [(2 * at, NO_BLOCK if at < 5 else 2 * at + 1) for at in range(13)]
    blocks = tuple(block for entry in enough for block in entry)
    assert len(running.forward(StepPlan((PlanRow(0, 10, 190, 0, blocks),)))) == 0
