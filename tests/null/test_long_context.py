"""Contexts of 128K tokens: bytes of weights, of keys and values by kind of layer, and the peak of a
step's values, each against arithmetic done here; and what positions a long text has.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ridgeline.backends.reference.executor import ReferenceExecutor
from ridgeline.cost.count import count_kv_bytes, count_parameters
from ridgeline.cost.memory import memory_ledger
from ridgeline.errors import ModelError, RequestError
from ridgeline.model.graph.dims import SAMPLED, TOKENS
from ridgeline.model.graph.node import Graph
from ridgeline.model.graph.ops import Rope, Softcap, Split
from ridgeline.model.opened import describe, open_model
from ridgeline.model.passes.fuse import fuse
from ridgeline.model.passes.memory import plan_memory
from ridgeline.model.passes.positions import without_positions
from ridgeline.model.task import purpose_of
from ridgeline.step import PlanRow, RowSampling, StepPlan

MODELS: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parent / "data" / "models.json").read_text()
)
GOLDEN = Path(__file__).parents[1] / "golden"
CONTEXT = 131072
STEP_TOKENS, ROWS = 512, 64


def graph_of(name: str) -> Graph:
    config = {k: v for k, v in MODELS[name]["config"].items() if k != "quantization_config"}
    return fuse(describe(config, where=name))


def peak_of(graph: Graph) -> int:
    """Bytes that are needed at once, of the node where that is most: every value is float32, lives
    from the node that makes it to the last that reads it; a split's parts are its input, and a soft
    cap is taken in place.
    """
    rows = {TOKENS: STEP_TOKENS, SAMPLED: ROWS}
    base: dict[int, int] = {}
    size: dict[int, int] = {}
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for index, node in enumerate(graph.nodes):
        for value in node.inputs:
            last[base.get(value.id, value.id)] = index
        for value in node.outputs:
            if isinstance(node.op, Split | Softcap):
                base[value.id] = base.get(node.inputs[0].id, node.inputs[0].id)
                continue
            width = value.shape[-1]
            assert isinstance(width, int)
            assert value.shape[0] in rows
            size[value.id] = 4 * rows[value.shape[0]] * width  # type: ignore[index]
            first[value.id] = index
            last.setdefault(value.id, index)
    for value in graph.outputs:
        last[value.id] = len(graph.nodes)
    return max(
        sum(size[v] for v in size if first[v] <= index <= last[v])
        for index in range(len(graph.nodes))
    )


@pytest.mark.parametrize(
    ("name", "unbounded", "windowed"),
    [
        # Layers x KV heads x (keys and values) x 2 bytes; window: layers of that window.
        ("meta-llama/Meta-Llama-3.1-8B", 32 * 8 * 256 * 2, {}),
        ("meta-llama/Meta-Llama-3.1-405B", 126 * 8 * 256 * 2, {}),
        ("google/gemma-3-27b-it", 10 * 16 * 256 * 2, {1024: 52 * 16 * 256 * 2}),
        ("google/gemma-3-1b-it", 4 * 1 * 512 * 2, {512: 22 * 1 * 512 * 2}),
        ("nvidia/Gemma-4-31B-IT-NVFP4", 10 * 4 * 1024 * 2, {1024: 50 * 16 * 512 * 2}),
        ("mistralai/Mistral-Nemo-Instruct-2407", 40 * 8 * 256 * 2, {}),
        ("Qwen/Qwen3-0.6B", 28 * 8 * 256 * 2, {}),
    ],
)
def test_128k_tokens_are_counted(name: str, unbounded: int, windowed: dict[int, int]) -> None:
    graph = graph_of(name)
    kv = count_kv_bytes(graph)
    assert kv.unbounded == unbounded
    assert kv.windowed == windowed
    arena = plan_memory(
        graph, max_tokens=STEP_TOKENS, max_sampled=ROWS, max_sequences=ROWS
    ).arena_bytes
    ledger = memory_ledger(
        graph,
        rows=1,
        context=CONTEXT,
        arena_bytes=arena,
        block_tokens=16,
    )
    assert ledger.weight_bytes == count_parameters(graph).num_bytes
    full = CONTEXT * (unbounded + sum(windowed.values()))
    least = CONTEXT * unbounded + sum(window * each for window, each in windowed.items())
    assert least <= ledger.kv_bytes <= full
    if not windowed:
        assert ledger.kv_bytes == full
    # Places leave gaps between values of different sizes: few, and never too little room.
    peak = peak_of(graph)
    assert peak <= arena <= 1.02 * peak


def test_mrope_of_a_text_is_plain_rotation() -> None:
    config = {k: v for k, v in MODELS["Qwen/Qwen2.5-0.5B"]["config"].items() if k != "rope_scaling"}
    plain = describe(config)
    pairs = {"type": "mrope", "mrope_section": [8, 12, 12]}
    assert describe({**config, "rope_scaling": pairs}) == plain
    newer = {"rope_type": "default", "mrope_section": [8, 12, 12], "rope_theta": 1e6}
    without = {k: v for k, v in config.items() if k != "rope_theta"}
    assert describe({**without, "rope_parameters": newer}) == describe(
        {**config, "rope_theta": 1e6}
    )
    with pytest.raises(ModelError, match=r"mrope_section .*32 pairs"):
        describe({**config, "rope_scaling": {**pairs, "mrope_section": [8, 12, 13]}})


def test_dropped_positions_leave_nothing_of_the_rotation() -> None:
    """Without positions a model is the one whose frequencies are 0, number for number."""
    model = open_model(GOLDEN / "llama3")
    dropped = purpose_of(model, None, "dropped").graph
    assert not any(isinstance(node.op, Rope) for node in dropped.nodes)
    still = model.graph.nodes
    ids = list(range(5, 40))
    found = []
    for graph in (dropped, fuse(dropped), without_positions(fuse(model.graph))):
        executor = ReferenceExecutor(graph, model.weights, num_blocks=8, max_rows=1)
        executor.open_row(0, ids, RowSampling())
        found.append(executor.forward(StepPlan((PlanRow(0, 35, 0, 35, (0, 1, 2)),))))
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])
    # Order of what came before no longer matters to a single layer's attention; angles did.
    executor = ReferenceExecutor(model.graph, model.weights, num_blocks=8, max_rows=1)
    executor.open_row(0, ids, RowSampling())
    kept = executor.forward(StepPlan((PlanRow(0, 35, 0, 35, (0, 1, 2)),)))
    assert not np.allclose(found[0], kept, atol=1e-2)
    assert len(dropped.nodes) == len(still) - 4
    with pytest.raises(RequestError, match="there are: kept, dropped"):
        purpose_of(model, None, "lost")
    with pytest.raises(ModelError, match="no rotary positions"):
        without_positions(dropped)
