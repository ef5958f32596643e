"""The reference backend's logits on the golden checkpoints, against transformers' in float32."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from block_entries import blocks_for, spread
from ridgeline.backends.reference.executor import ReferenceExecutor, Weights
from ridgeline.model.graph.kv_format import KV_FORMATS
from ridgeline.model.graph.node import Graph, Weight
from ridgeline.model.opened import OpenedModel, open_model
from ridgeline.model.passes.fuse import fuse
from ridgeline.model.passes.kv_format import with_kv_format
from ridgeline.model.passes.shard import shard, share_of
from ridgeline.step import BLOCK_TOKENS, PlanRow, RowSampling, StepPlan

HERE = Path(__file__).parent
CASES = sorted(path.parent.name for path in HERE.glob("*/expected.npz"))
FILES = [
    (case, file)
    for case in CASES
    for file in ("model.safetensors", "model.gguf")
    if (HERE / case / file).exists()
]
# Rotations that transformers chooses by the length of the prompt.
CHOSEN = ("llama_dynamic", "phi3_longrope", "phimoe", "phimoe_plain")
BOUND = 1e-5  # of the logits' norm; found: at most 2e-6

Floats = npt.NDArray[np.float32]


def open_case(case: str, file: str, num_tokens: int) -> OpenedModel:
    """A Hugging Face checkpoint is its folder, a GGUF is its file. Opened once: many tests read it.

    Rotary scalings that follow a sequence's length are fixed when the graph is built: for these
    prompts, whose lengths transformers saw.
    """
    path = HERE / case
    context = num_tokens if case in CHOSEN else None
    return _opened(path / file if file.endswith(".gguf") else path, context)


@cache
def _opened(path: Path, context: int | None) -> OpenedModel:
    return open_model(path, context_length=context)


def exact(graph: Graph) -> Graph:
    """Keys and values as they were computed, as transformers keeps them."""
    return with_kv_format(graph, KV_FORMATS["f32"])


def prompts(case: str) -> list[tuple[list[int], Floats]]:
    with np.load(HERE / case / "expected.npz") as expected:
        names = ["", "short_"] if "short_logits" in expected else [""]
        return [(expected[f"{n}token_ids"].tolist(), expected[f"{n}logits"]) for n in names]


def plan(executor: ReferenceExecutor, num_tokens: int, num_context: int = 0) -> StepPlan:
    """All logits of `num_tokens` of row 0; blocks come with the first tokens."""
    blocks = spread(executor, range(8) if num_context == 0 else ())
    return StepPlan((PlanRow(0, num_tokens, num_context, num_tokens, blocks),))


def distance(found: Floats, expected: Floats) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


class SharedOut:
    """Ranks' shares of a model's weights."""

    def __init__(self, graph: Graph, weights: Weights) -> None:
        self._whole = {weight.name: weight for weight in graph.weights}
        self._weights = weights

    def float32(self, weight: Weight) -> Floats:
        share = share_of(weight)
        whole = self._weights.float32(self._whole[share.name])
        return np.split(whole, share.parts, axis=share.dim)[share.part]


def test_there_are_cases() -> None:
    assert len(FILES) >= 28


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize(("case", "file"), FILES)
def test_reference_is_transformers(case: str, file: str, fused: bool) -> None:
    for token_ids, logits in prompts(case):
        model = open_case(case, file, len(token_ids))
        graph = fuse(model.graph) if fused else model.graph
        num_blocks = blocks_for(graph, 8)
        executor = ReferenceExecutor(exact(graph), model.weights, num_blocks=num_blocks, max_rows=1)
        executor.open_row(0, token_ids, RowSampling())
        assert distance(executor.forward(plan(executor, len(token_ids))), logits) < BOUND


@pytest.mark.parametrize("case", CASES)
def test_reference_in_chunks_is_the_reference_whole(case: str) -> None:
    token_ids, _ = prompts(case)[0]
    model = open_case(case, "model.safetensors", len(token_ids))
    found = []
    num_blocks = blocks_for(model.graph, 8)
    for chunks in ([len(token_ids)], [1] * len(token_ids), [5, BLOCK_TOKENS, 1, 14]):
        graph = exact(model.graph)
        executor = ReferenceExecutor(graph, model.weights, num_blocks=num_blocks, max_rows=1)
        executor.open_row(0, token_ids, RowSampling())
        ends = np.cumsum(chunks)
        assert ends[-1] == len(token_ids)
        parts = [
            executor.forward(plan(executor, n, int(end) - n))
            for n, end in zip(chunks, ends, strict=True)
        ]
        found.append(np.concatenate(parts))
    assert distance(found[1], found[0]) < 1e-5
    assert distance(found[2], found[0]) < 1e-5


@pytest.mark.parametrize("ways", [2, 4])
@pytest.mark.parametrize("case", CASES)
def test_all_ranks_in_lock_step_are_the_whole_model(case: str, ways: int) -> None:
    token_ids, _ = prompts(case)[0]
    model = open_case(case, "model.safetensors", len(token_ids))
    graph = exact(model.graph)
    num_blocks = blocks_for(graph, 8)
    whole = ReferenceExecutor(graph, model.weights, num_blocks=num_blocks, max_rows=1)
    graphs = [fuse(rank) for rank in shard(graph, ways)]
    ranks = ReferenceExecutor(
        graphs, SharedOut(model.graph, model.weights), num_blocks=num_blocks, max_rows=1
    )
    for executor in (whole, ranks):
        executor.open_row(0, token_ids, RowSampling())
    step = plan(whole, len(token_ids))
    assert distance(ranks.forward(step), whole.forward(step)) < 1e-5
