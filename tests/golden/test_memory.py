"""What a program allocates is known from the graph before a weight is read, kind by kind."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
from test_logits import FILES, HERE, open_case

from ridgeline import assemble as composition
from ridgeline.backends.cpu.executor import CpuExecutor
from ridgeline.backends.cpu.program import ProgramLimits, predict_memory, predict_needs
from ridgeline.config import read_settings
from ridgeline.cost.memory import MemoryLedger, Needs, memory_ledger
from ridgeline.cost.sizes import RESERVE_BYTES, Sizes, plan_sizes
from ridgeline.errors import CapacityError, ModelError
from ridgeline.model.graph.kv_format import KV_FORMATS
from ridgeline.model.graph.node import Graph
from ridgeline.model.graph.ops.experts import Experts
from ridgeline.model.passes import screen
from ridgeline.model.passes.fuse import fuse
from ridgeline.model.passes.kv_format import with_kv_format
from ridgeline.model.passes.screen import has_screen
from ridgeline.step import BLOCK_TOKENS

MAX_TOKENS, MAX_ROWS = 40, 3
KINDS = {
    "weights",
    "kv",
    "states",
    "arena",
    "shared",
    "activations",
    "partials",
    "scratch",
    "rope",
    "tables",
}


def limits_of(graph: Graph, isa: str, threads: int, logits: int = MAX_ROWS) -> ProgramLimits:
    return ProgramLimits(
        isa=isa,
        threads=threads,
        num_blocks=8,
        max_rows=MAX_ROWS,
        max_tokens=MAX_TOKENS,
        max_sampled=logits,
        num_slots=MAX_ROWS if graph.row_states else 0,
    )


@pytest.mark.parametrize(("threads", "logits"), [(1, MAX_ROWS), (3, 2 * MAX_TOKENS)])
@pytest.mark.parametrize(("case", "file"), FILES)
def test_each_kind_is_predicted(case: str, file: str, threads: int, logits: int) -> None:
    model = open_case(case, file, MAX_TOKENS)
    num_formats = 0
    for kv_format in ("bf16", "f16", "int8"):
        graph = fuse(with_kv_format(model.graph, KV_FORMATS[kv_format]))
        try:
            executor = CpuExecutor(
                graph,
                model.weights,
                num_blocks=8,
                max_rows=MAX_ROWS,
                max_tokens_per_step=MAX_TOKENS,
                max_logits_per_step=logits,
                threads=threads,
            )
        except (ModelError, ValueError):
            assert kv_format != "bf16"  # latents, and wide heads, are kept as bf16 only
            continue
        allocated = executor.memory()
        assert set(allocated) == KINDS
        limits = limits_of(graph, executor.isa, threads, logits)
        assert predict_memory(graph, limits) == allocated
        needs, unit = predict_needs(graph, limits), executor.unit_memory()
        assert (needs.block_bytes, needs.state_bytes) == (unit["kv_block"], unit["state"])
        assert allocated["kv"] == 8 * needs.block_bytes
        assert allocated["states"] == limits.num_slots * needs.state_bytes
        cache = allocated["kv"] + allocated["states"]
        assert sum(needs.fixed_bytes.values()) == sum(allocated.values()) - cache
        num_formats += 1
        for node in graph.nodes:
            if isinstance(node.op, Experts):
                width = node.outputs[0].shape[-1]
                assert isinstance(width, int)
                assert allocated["shared"] > MAX_TOKENS * node.op.top_k * width * 4
    assert num_formats >= 1


def sizes(graph: Graph, available: int, needs: Needs) -> Sizes:
    return plan_sizes(
        graph,
        memory=None,
        max_rows=MAX_ROWS,
        max_tokens_per_step=MAX_TOKENS,
        context_is_asked=False,
        rolling_bytes=4.0,
        available=available,
        needs=needs,
    )


def ledger_of(graph: Graph, needs: Needs) -> MemoryLedger:
    """Of one block: the least that a model is loaded with."""
    ledger = memory_ledger(
        graph,
        rows=1,
        context=BLOCK_TOKENS,
        weight_bytes=needs.weight_bytes,
        arena_bytes=needs.arena_bytes,
        shared_bytes=needs.shared_bytes,
        block_bytes=needs.block_bytes,
        block_tokens=BLOCK_TOKENS,
        step_tokens=2 * MAX_TOKENS,
    )
    assert ledger.total_bytes == sum(needs.fixed_bytes.values()) + ledger.kv_bytes
    return ledger


def needs_of(graph: Graph) -> Needs:
    isa = composition.machine_isa(read_settings())
    return predict_needs(graph, replace(limits_of(graph, isa, threads=1), num_blocks=1))


@pytest.mark.parametrize("case", ["qwen3_moe", "deepseek_v2"])
def test_it_must_fit(case: str) -> None:
    graph = fuse(open_case(case, "model.safetensors", MAX_TOKENS).graph)
    needs = needs_of(graph)
    least = RESERVE_BYTES + ledger_of(graph, needs).total_bytes
    assert sizes(graph, least, needs).num_blocks > 0
    shared = needs.fixed_bytes["shared"]
    assert shared > 0
    less = replace(needs, fixed_bytes={**needs.fixed_bytes, "shared": 0})
    assert sizes(graph, least - shared, less).num_blocks > 0
    with pytest.raises(CapacityError, match="within operators"):
        sizes(graph, least - 1, needs)


def test_a_model_that_is_loaded_is_held_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = fuse(open_case("qwen3_moe", "model.gguf", MAX_TOKENS).graph)
    needs = needs_of(graph)
    least = RESERVE_BYTES + ledger_of(graph, needs).total_bytes

    def load(backend: str, available: int) -> composition.Assembled:
        monkeypatch.setattr(composition, "available_bytes", lambda: available)
        return composition.assemble(
            str(HERE / "qwen3_moe" / "model.gguf"),
            replace(read_settings(), keep_packed=False, threads=1),
            composition.Options(backend=backend, max_rows=MAX_ROWS, max_tokens_per_step=MAX_TOKENS),
        )

    executor = load("cpu", least).executor
    assert isinstance(executor, CpuExecutor)
    allocated = executor.memory()
    assert {kind: allocated[kind] for kind in needs.fixed_bytes} == needs.fixed_bytes
    assert allocated["kv"] == executor.num_blocks * needs.block_bytes
    with pytest.raises(CapacityError, match="within operators"):
        load("cpu", least - 1)


def test_what_only_makes_it_faster_is_the_first_to_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen, "LEAST_CHANNELS", 32)

    def load(available: int) -> composition.Assembled:
        monkeypatch.setattr(composition, "available_bytes", lambda: available)
        model = str(HERE / "llama3" / "model.gguf")
        options = composition.Options(max_rows=2, max_tokens_per_step=16)
        return composition.assemble(model, replace(read_settings(), threads=1), options)

    least = 1 << 34
    for bit in reversed(range(34)):  # the least with which it loads
        with contextlib.suppress(CapacityError):
            load(least - (1 << bit))
            least -= 1 << bit
    assert not has_screen(load(least).bound_graph)
    assert has_screen(load(1 << 34).bound_graph)
