"""Encoders, embeddings of decoders and classifiers against transformers, and the same bits in any
company.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from ridgeline.backends.cpu.executor import ISAS, CpuExecutor, choose_isa
from ridgeline.backends.reference.executor import ReferenceExecutor
from ridgeline.engine.executor import Executor
from ridgeline.engine.pooled import Pooler
from ridgeline.errors import EngineError
from ridgeline.model.graph.kv_format import KV_FORMATS
from ridgeline.model.graph.node import Graph, Weight
from ridgeline.model.opened import open_model
from ridgeline.model.passes.fuse import fuse
from ridgeline.model.passes.kv_format import with_kv_format
from ridgeline.model.passes.shard import shard, share_of
from ridgeline.model.task import Purpose, purpose_of
from ridgeline.model.weights.bound import BoundWeights
from ridgeline.step import PlanRow, RowSampling, StepPlan
from threads import OTHER, USUAL

HERE = Path(__file__).parent
CASES = sorted(path.parent.name for path in HERE.glob("*/expected.npz"))
AVAILABLE = ISAS[ISAS.index(choose_isa(None)) :]
REFERENCE_BOUND = 1e-5
CPU_BOUND = 1.2e-2  # as of decoders in F32 (tests/golden/test_cpu.py)
MAX_CONTEXT = 64

Floats = npt.NDArray[np.float32]


def texts_of(case: str) -> list[list[int]]:
    with np.load(HERE / case / "expected.npz") as expected:
        ends = np.cumsum(expected["lengths"])[:-1]
        return [part.tolist() for part in np.split(expected["token_ids"], ends)]


def kinds(case: str) -> list[str]:
    with np.load(HERE / case / "expected.npz") as expected:
        return sorted(set(expected) - {"token_ids", "lengths"})


def rows_of(case: str, kind: str) -> Floats:
    with np.load(HERE / case / "expected.npz") as expected:
        return np.asarray(expected[kind])


KINDS = [(case, kind) for case in CASES for kind in kinds(case)]


def opened(case: str, kind: str) -> tuple[Purpose, BoundWeights]:
    model = open_model(HERE / case, pooling=kind if kind in ("mean", "cls") else None)
    return purpose_of(model, "embed" if kind == "last" else None), model.weights


def cpu(
    graph: Graph, weights: BoundWeights, isa: str | None = None, threads: int = USUAL
) -> Executor:
    return CpuExecutor(
        fuse(graph),
        weights,
        num_blocks=64,
        max_rows=8,
        max_tokens_per_step=MAX_CONTEXT,
        threads=threads,
        isa=isa,
    )


def pooler(executor: Executor, purpose: Purpose, max_tokens: int = MAX_CONTEXT) -> Pooler:
    return Pooler(executor, max_context=MAX_CONTEXT, max_tokens=max_tokens, whole=purpose.whole)


def distance(found: Floats, expected: Floats) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


class SharedOut:
    """Ranks' shares of a model's weights."""

    def __init__(self, graph: Graph, weights: BoundWeights) -> None:
        self._whole = {weight.name: weight for weight in graph.weights}
        self._weights = weights

    def float32(self, weight: Weight) -> Floats:
        share = share_of(weight)
        whole = self._weights.float32(self._whole[share.name])
        return np.split(whole, share.parts, axis=share.dim)[share.part]


def test_there_are_cases() -> None:
    assert len(KINDS) >= 8


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize(("case", "kind"), KINDS)
def test_reference_is_transformers(case: str, kind: str, fused: bool) -> None:
    purpose, weights = opened(case, kind)
    graph = with_kv_format(purpose.graph, KV_FORMATS["f32"])
    graph = fuse(graph) if fused else graph
    executor = ReferenceExecutor(graph, weights, num_blocks=64, max_rows=8)
    found = pooler(executor, purpose).rows(texts_of(case))
    assert distance(found, rows_of(case, kind)) < REFERENCE_BOUND


@pytest.mark.parametrize("isa", AVAILABLE)
@pytest.mark.parametrize(("case", "kind"), KINDS)
def test_cpu_is_transformers(case: str, kind: str, isa: str) -> None:
    purpose, weights = opened(case, kind)
    found = pooler(cpu(purpose.graph, weights, isa), purpose).rows(texts_of(case))
    assert distance(found, rows_of(case, kind)) < CPU_BOUND


@pytest.mark.parametrize("isa", AVAILABLE)
@pytest.mark.parametrize(("case", "kind"), KINDS)
def test_the_same_bits_in_any_company(case: str, kind: str, isa: str) -> None:
    purpose, weights = opened(case, kind)
    texts = texts_of(case)
    alone = pooler(cpu(purpose.graph, weights, isa, threads=OTHER), purpose)
    expected = np.concatenate([alone.rows([text]) for text in texts])
    random = np.random.default_rng(7)
    order = random.integers(0, len(texts), 40)
    shared = pooler(cpu(purpose.graph, weights, isa), purpose)
    assert np.array_equal(shared.rows([texts[i] for i in order]), expected[order])


def test_a_decoders_embedding_is_the_same_in_chunks() -> None:
    purpose, weights = opened("qwen3_embedding", "last")
    texts = texts_of("qwen3_embedding")
    executor = cpu(purpose.graph, weights)
    whole = pooler(executor, purpose).rows(texts)
    for max_tokens in (5, 16, 33):
        assert np.array_equal(pooler(executor, purpose, max_tokens).rows(texts), whole)


@pytest.mark.parametrize("case", ["bert", "modernbert"])
def test_an_encoder_keeps_keys_and_values_of_one_layer(case: str) -> None:
    purpose, _ = opened(case, "mean")
    windows = {state.window for state in purpose.graph.states}
    assert len(purpose.graph.states) == len(windows) <= 2


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_only_whole_texts_are_pooled(backend: str) -> None:
    purpose, weights = opened("bert", "mean")
    executor: Executor = (
        cpu(purpose.graph, weights)
        if backend == "cpu"
        else ReferenceExecutor(purpose.graph, weights, num_blocks=8, max_rows=2)
    )
    executor.open_row(0, [1, 2, 3, 4], RowSampling())
    with pytest.raises(EngineError, match="only whole sequences are pooled"):
        executor.forward(StepPlan((PlanRow(0, 2, 0, 2, (0,)),)))


@pytest.mark.parametrize("case", ["bert", "modernbert", "bert_pairs"])
def test_ranks_in_lock_step_are_the_whole_encoder(case: str) -> None:
    kind = kinds(case)[0]
    purpose, weights = opened(case, kind)
    ranks = ReferenceExecutor(
        [fuse(rank) for rank in shard(with_kv_format(purpose.graph, KV_FORMATS["f32"]), 2)],
        SharedOut(purpose.graph, weights),
        num_blocks=64,
        max_rows=8,
    )
    found = pooler(ranks, purpose).rows(texts_of(case))
    assert distance(found, rows_of(case, kind)) < REFERENCE_BOUND
