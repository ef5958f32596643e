"""What operators need beside the arena: known before a weight is read, and what is allocated."""

from __future__ import annotations

from dataclasses import replace

import pytest
from test_logits import FILES, HERE, open_case

from ridgeline import assemble as composition
from ridgeline.backends.cpu.executor import CpuExecutor
from ridgeline.backends.cpu.shared_memory import shared_bytes
from ridgeline.config import read_settings
from ridgeline.cost.memory import MemoryLedger, memory_ledger
from ridgeline.cost.sizes import BLOCK_TOKENS, RESERVE_BYTES, Sizes, plan_sizes
from ridgeline.errors import CapacityError
from ridgeline.model.graph.node import Graph
from ridgeline.model.graph.ops.experts import Experts
from ridgeline.model.passes.fuse import fuse
from ridgeline.model.passes.memory import plan_memory

MAX_TOKENS, MAX_ROWS = 40, 3


def sizes(graph: Graph, available: int, shared: int) -> Sizes:
    return plan_sizes(
        graph,
        memory=None,
        max_rows=MAX_ROWS,
        max_tokens_per_step=MAX_TOKENS,
        context_is_asked=False,
        rolling_bytes=4.0,
        available=available,
        shared_bytes=shared,
    )


@pytest.mark.parametrize("logits", [MAX_ROWS, 2 * MAX_TOKENS])
@pytest.mark.parametrize(("case", "file"), FILES)
def test_what_threads_share_is_counted(case: str, file: str, logits: int) -> None:
    model = open_case(case, file, MAX_TOKENS)
    graph = fuse(model.graph)
    executor = CpuExecutor(
        graph,
        model.weights,
        num_blocks=8,
        max_rows=MAX_ROWS,
        max_tokens_per_step=MAX_TOKENS,
        max_logits_per_step=logits,
        threads=1,
    )
    allocated = executor.memory()["shared"]
    assert shared_bytes(graph, max(MAX_TOKENS, logits)) == allocated
    for node in graph.nodes:
        if isinstance(node.op, Experts):
            width = node.outputs[0].shape[-1]
            assert isinstance(width, int)
            assert allocated > MAX_TOKENS * node.op.top_k * width * 4


def ledger_of(graph: Graph, shared: int) -> MemoryLedger:
    """Of one block: the least that a model is loaded with."""
    arena = plan_memory(
        graph, max_tokens=MAX_TOKENS, max_sampled=MAX_ROWS, max_sequences=MAX_ROWS
    ).arena_bytes
    ledger = memory_ledger(
        graph,
        rows=1,
        context=BLOCK_TOKENS,
        arena_bytes=arena,
        shared_bytes=shared,
        block_tokens=BLOCK_TOKENS,
        step_tokens=2 * MAX_TOKENS,
    )
    assert ledger.total_bytes == ledger.weight_bytes + ledger.kv_bytes + arena + shared
    return ledger


@pytest.mark.parametrize("case", ["qwen3_moe", "deepseek_v2"])
def test_it_must_fit(case: str) -> None:
    graph = fuse(open_case(case, "model.safetensors", MAX_TOKENS).graph)
    shared = shared_bytes(graph, MAX_TOKENS)
    least = RESERVE_BYTES + ledger_of(graph, shared).total_bytes
    assert sizes(graph, least, shared).num_blocks > 0
    assert sizes(graph, least - shared, 0).num_blocks > 0
    with pytest.raises(CapacityError, match="within operators"):
        sizes(graph, least - 1, shared)


def test_a_model_that_is_loaded_is_held_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = fuse(open_case("qwen3_moe", "model.gguf", MAX_TOKENS).graph)
    shared = shared_bytes(graph, MAX_TOKENS)
    least = RESERVE_BYTES + ledger_of(graph, shared).total_bytes

    def load(backend: str, available: int) -> composition.Assembled:
        monkeypatch.setattr(composition, "available_bytes", lambda: available)
        return composition.assemble(
            str(HERE / "qwen3_moe" / "model.gguf"),
            replace(read_settings(), keep_packed=False, threads=1),
            composition.Options(backend=backend, max_rows=MAX_ROWS, max_tokens_per_step=MAX_TOKENS),
        )

    executor = load("cpu", least).executor
    assert isinstance(executor, CpuExecutor)
    assert executor.memory()["shared"] == shared
    with pytest.raises(CapacityError, match="within operators"):
        load("cpu", least - 1)
    load("null", least - shared)
