"""Expert parallelism as a pass: ranks that exchange tokens are the whole and are priced so."""

from __future__ import annotations

import numpy as np
import pytest
from small_graphs import RandomWeights

from ridgeline.backends.reference.executor import ReferenceExecutor
from ridgeline.cost.accelerator import load_accelerator
from ridgeline.cost.chip import Mesh
from ridgeline.cost.count import count_step
from ridgeline.cost.deployment import deploy
from ridgeline.cost.described import describe
from ridgeline.errors import ModelError
from ridgeline.model.configurations import load_configuration
from ridgeline.model.formats import FORMATS
from ridgeline.model.graph.build import Builder
from ridgeline.model.graph.node import Graph
from ridgeline.model.graph.ops import Add, Combine, Dispatch, Embed, Experts, Linear, Route
from ridgeline.model.graph.work import Precision
from ridgeline.model.passes.exchange import BACK_BYTES, THERE_BYTES, exchange
from ridgeline.model.passes.shard import shard_rank, share_of
from ridgeline.step import PlanRow, RowSampling, StepPlan, StepShape

IDS = np.random.default_rng(0).integers(0, 64, 12).tolist()


def mixture(experts: int = 8) -> Graph:
    """Two layers of 8 experts, of which a token has 3."""
    b = Builder("mixture", lambda name: FORMATS["F32"])
    x = b.one("embed", Embed(), b.token_ids, weights=(b.weight("table", 64, 16),))
    for layer in ("layers.0", "layers.1"):
        router = b.weight(f"{layer}.router", experts, 16)
        slots = b.one(f"{layer}.route", Route(3), x, weights=(router,))
        sizes = ((experts, 24, 16), (experts, 24, 16), (experts, 16, 24))
        weights = tuple(
            b.weight(f"{layer}.{name}", *size, axes=("experts", None, None))
            for name, size in zip(("gate", "up", "down"), sizes, strict=True)
        )
        y = b.one(f"{layer}.experts", Experts(experts, 3, "silu"), x, slots, weights=weights)
        x = b.one(f"{layer}.add", Add(), x, y)
    return b.finish(b.one("head", Linear(), x, weights=(b.weight("head.w", 64, 16),)), 64)


def logits(ranks: list[Graph], whole: Graph) -> np.ndarray:
    executor = ReferenceExecutor(ranks, RandomWeights(whole), num_blocks=1, max_rows=1)
    executor.open_row(0, IDS, RowSampling())
    return executor.forward(StepPlan((PlanRow(0, len(IDS), 0, len(IDS), (0,)),)))


@pytest.mark.parametrize("ways", [2, 4, 8])
def test_ranks_that_exchange_tokens_are_the_whole(ways: int) -> None:
    graph = mixture()
    ranks = [exchange(graph, ways, rank) for rank in range(ways)]
    found, expected = logits(ranks, graph), logits([graph], graph)
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
    for number, rank in enumerate(ranks):
        own = [w for n in rank.nodes if isinstance(n.op, Experts) for w in n.weights]
        assert {(share_of(w).part, share_of(w).parts) for w in own} == {(number, ways)}


def test_experts_that_do_not_part_stay_whole() -> None:
    rank = exchange(mixture(), 3, 1)
    assert {n.weights[0].shape[0] for n in rank.nodes if isinstance(n.op, Experts)} == {8}
    assert sum(isinstance(n.op, Dispatch) for n in rank.nodes) == 2


def test_experts_cut_for_a_group_of_ranks_are_not_cut_again() -> None:
    rank = exchange(shard_rank(mixture(), 2), 4)
    experts = [n for n in rank.nodes if isinstance(n.op, Experts)]
    assert {n.weights[0].shape[0] for n in experts} == {4}
    assert {share_of(n.weights[0]).parts for n in experts} == {2}


def test_what_a_rank_computes_is_its_share_of_everybodys_tokens() -> None:
    """So many tokens come as go: flops of experts are those of its own tokens."""
    graph, step = mixture(), StepShape.prefill(16)
    whole, rank = (count_step(g, step, Precision()).total for g in (graph, exchange(graph, 4)))
    assert rank.flops["bf16"] == pytest.approx(whole.flops["bf16"])
    others = 3 * (1 - (3 / 4) ** 3)
    sent = others * 16 * (16 * THERE_BYTES + 6 * 4.0 + 16 * BACK_BYTES)
    assert rank.link_bytes == pytest.approx(2 * sent)


def test_one_rank_exchanges_nothing_and_a_dense_model_cannot() -> None:
    graph = mixture()
    assert exchange(graph, 1) is graph
    with pytest.raises(ModelError, match="rank 2 is not among 2"):
        exchange(graph, 2, 2)
    b = Builder("dense", lambda name: FORMATS["F32"])
    dense = b.finish(b.one("embed", Embed(), b.token_ids, weights=(b.weight("t", 8, 4),)), 8)
    with pytest.raises(ModelError, match="dense: has no experts"):
        exchange(dense, 2)


def test_a_deployment_is_priced_by_these_nodes() -> None:
    described = describe(load_configuration("qwen3-30b-a3b").config, "fp8")
    chip = load_accelerator("h100").chip()
    apart = deploy(described, chip=chip, mesh=Mesh(dp=8, ep=8))
    lines = [line for line in apart.lines if line.collective == "all_to_all"]
    assert {line.name.rpartition(".")[2] for line in lines} == {"dispatch", "combine"}
    rank = exchange(described.graph, 8)
    nodes = [n for n in rank.nodes if isinstance(n.op, Dispatch | Combine)]
    assert sum(line.count for line in lines) == len(nodes)
    together = deploy(described, chip=chip, mesh=Mesh(tp=8, ep=8))
    assert not [line for line in together.lines if line.collective == "all_to_all"]
