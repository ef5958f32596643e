"""Counts: parameters against what vendors publish, work against arithmetic done by hand."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from ridgeline.cost.count import (
    count_kv_bytes,
    count_parameters,
    count_step,
    intensity,
)
from ridgeline.cost.memory import check_fits, longest_context, memory_ledger
from ridgeline.errors import CapacityError
from ridgeline.model.graph.kv_format import KV_FORMATS, KvFormat
from ridgeline.model.graph.node import Graph
from ridgeline.model.graph.work import NO_WORK, Precision, Work
from ridgeline.model.opened import describe, open_model
from ridgeline.model.passes.fuse import fuse
from ridgeline.model.passes.kv_format import with_kv_format
from ridgeline.step import StepShape

PUBLISHED: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parent / "data" / "published_models.json").read_text()
)
MIXTURES: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parent / "data" / "published_mixtures.json").read_text()
)
# The vendor says "1.7B"; the weights are 1,720,574,976.
ROUNDED = {"Qwen/Qwen3-1.7B": 1.72e9}

SMALL = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 100,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
# By hand: embedding and head, two layers of (q + o, k + v, three of the MLP, two norms), a norm.
SMALL_LAYER = 2 * 16 * 16 + 2 * 16 * 8 + 3 * 16 * 24 + 2 * 16
SMALL_PARAMETERS = 2 * 100 * 16 + 2 * SMALL_LAYER + 16


def small(**changes: Any) -> Graph:
    return fuse(describe(SMALL | changes))


@pytest.mark.parametrize("name", PUBLISHED)
def test_totals_are_the_published_ones(name: str) -> None:
    graph = describe(PUBLISHED[name]["config"])
    parameters = count_parameters(graph)
    expected = ROUNDED.get(name, PUBLISHED[name]["published_parameters"])
    assert parameters.total == pytest.approx(expected, rel=0.01)
    assert parameters.active == parameters.total
    assert parameters.num_bytes == 2 * parameters.total
    assert count_kv_bytes(graph).per_token == PUBLISHED[name]["kv_bytes_per_token"]


@pytest.mark.parametrize("name", MIXTURES)
def test_mixtures_have_the_published_totals_and_the_active_share(name: str) -> None:
    """`counted`: by hand from the configurations, embedding and head included, norms partly not."""
    model = MIXTURES[name]
    started = time.process_time()
    graph = describe(model["config"])
    assert time.process_time() - started < 5, "a second on a free machine"
    parameters = count_parameters(graph)
    if model["published_parameters"] is not None:
        assert parameters.total == pytest.approx(model["published_parameters"], rel=0.01)
    assert parameters.total == pytest.approx(model["counted_total"], rel=1e-4)
    assert parameters.active == pytest.approx(model["counted_active"], rel=1e-4)
    assert count_kv_bytes(graph).per_token == model["kv_bytes_per_token"]


def test_experts_are_stored_as_the_configuration_says() -> None:
    def bits(name: str) -> float:
        parameters = count_parameters(describe(MIXTURES[name]["config"]))
        return 8 * parameters.num_bytes / parameters.total

    assert bits("Qwen/Qwen3-30B-A3B") == 16
    assert 8.2 < bits("deepseek-ai/DeepSeek-V3") < 8.5
    assert 4.25 < bits("openai/gpt-oss-120b") < 4.6


def test_a_mixture_reads_more_experts_the_more_tokens_there_are() -> None:
    graph = fuse(describe(MIXTURES["Qwen/Qwen3-30B-A3B"]["config"]))
    reads = [
        count_step(graph, StepShape.decode(batch, 32), Precision()).total.weight_bytes
        for batch in (1, 2, 64, 4096)
    ]
    parameters = count_parameters(graph)
    # All but the embedding, of which a token reads a row.
    table = 151936 * 2048
    assert reads[0] == pytest.approx(2 * (parameters.active - table + 2048), rel=1e-6)
    assert reads[0] < reads[1] < reads[2] < reads[3]
    assert reads[3] == pytest.approx(2 * (parameters.total - table + 4096 * 2048), rel=1e-3)


def test_known_totals_are_exact() -> None:
    exact = {
        "meta-llama/Meta-Llama-3.1-8B": 8030261248,
        "Qwen/Qwen2.5-7B-Instruct": 7615616512,
        "google/gemma-3-1b-it": 999885952,
        "mistralai/Mistral-7B-v0.3": 7248023552,
    }
    for name, total in exact.items():
        assert count_parameters(describe(PUBLISHED[name]["config"])).total == total


def test_parameters_by_hand() -> None:
    assert count_parameters(small()).total == SMALL_PARAMETERS
    assert count_parameters(small(tie_word_embeddings=True)).total == SMALL_PARAMETERS - 1600
    assert count_parameters(describe(SMALL)) == count_parameters(small())


def test_bytes_are_by_stored_format(smollm2_path: Path) -> None:
    parameters = count_parameters(open_model(smollm2_path).graph)
    assert parameters.total == 134_515_008
    # 32 weights in 34 bytes (Q8_0 embedding), 32 in 20 (Q4_1), 61 norms of 576 in F32.
    norms = 61 * 576
    embedding = 49152 * 576
    assert parameters.bytes_by_format == {
        "Q8_0": embedding // 32 * 34,
        "Q4_1": (134_515_008 - embedding - norms) // 32 * 20,
        "F32": norms * 4,
    }


def test_kv_bytes_part_by_window() -> None:
    config = PUBLISHED["google/gemma-3-1b-it"]["config"]
    kv = count_kv_bytes(describe(config))
    layer = 2 * 2 * 256  # bytes x (k and v) x one head
    windowed = config["layer_types"].count("sliding_attention")
    assert kv.windowed == {512: windowed * layer}
    assert kv.unbounded == (26 - windowed) * layer
    halved = with_kv_format(describe(config), KvFormat("bytes", element_bytes=1))
    assert count_kv_bytes(halved).per_token == 26 * layer / 2


def test_flops_of_a_step_by_hand() -> None:
    step = StepShape.prefill(10, batch=3)
    total = count_step(small(), step, Precision()).total
    qkv, after = 16 * 16 + 2 * 16 * 8, 16 * 16 + 3 * 16 * 24
    pairs = 3 * 10 * 11 // 2
    attention = 2 * pairs * 2 * 4 * (4 + 4)  # layers, a multiply-add, heads, q.k and p.v
    logits = 2 * 3 * 16 * 100
    # After its attention the last layer computes the rows that want logits.
    assert total.flops["bf16"] == 2 * (30 * (2 * qkv + after) + 3 * after) + attention + logits


def test_bytes_of_a_decode_step_by_hand() -> None:
    count = count_step(small(), StepShape.decode(8, 100), Precision())
    row_bytes = 16 * 2
    embedded = 8 * row_bytes
    assert count.total.weight_bytes == 2 * (SMALL_PARAMETERS - 1600) + embedded
    token_bytes = 2 * 2 * (2 * 4) * 2  # layers, k and v, heads x channels, bytes
    assert count.total.kv_write_bytes == 8 * token_bytes
    assert count.total.kv_read_bytes == 8 * 101 * token_bytes
    graph = with_kv_format(small(), KvFormat("bytes", element_bytes=1))
    halved = count_step(graph, StepShape.decode(8, 100), Precision())
    assert halved.total.kv_read_bytes == count.total.kv_read_bytes / 2


def test_kv_bytes_by_format_scales_included() -> None:
    graph = small()
    heads = 2 * 2 * 2  # layers, k and v, heads of 4 channels
    per_token = {"bf16": heads * 8, "f16": heads * 8, "int8": heads * (4 + 4), "f32": heads * 16}
    assert set(per_token) == set(KV_FORMATS)
    step = StepShape.decode(3, 50)
    for name, num_bytes in per_token.items():
        kept = with_kv_format(graph, KV_FORMATS[name])
        assert {state.format.name for state in kept.states} == {name}
        assert count_kv_bytes(kept).per_token == num_bytes
        count = count_step(kept, step, Precision())
        assert count.total.kv_read_bytes == 3 * 51 * num_bytes
        assert count.total.kv_write_bytes == 3 * num_bytes
        assert {row.kv_format for row in count.rows if row.work.kv_read_bytes} == {name}
        ledger = memory_ledger(kept, rows=2, context=32, block_tokens=16)
        assert ledger.kv_bytes == 2 * 32 * num_bytes


def test_int8_holds_nearly_twice_the_tokens() -> None:
    graph = describe(PUBLISHED["meta-llama/Meta-Llama-3.1-8B"]["config"])  # heads of 128
    room = 10**12
    tokens = {
        name: longest_context(
            memory_ledger(with_kv_format(graph, kv_format), rows=1, context=1, block_tokens=16),
            room,
        )
        for name, kv_format in KV_FORMATS.items()
    }
    assert tokens["f16"] == tokens["bf16"]
    assert 1.93 < tokens["int8"] / tokens["bf16"] < 1.95


def test_rows_are_one_a_kind_and_add_up_to_the_graph() -> None:
    graph = fuse(describe(PUBLISHED["google/gemma-3-4b-it"]["config"]))
    step = StepShape((5, 1, 1), (0, 3000, 7), 3)
    count = count_step(graph, step, Precision())
    assert sum(row.count for row in count.rows) == len(graph.nodes)
    summed, each = NO_WORK, NO_WORK
    for row in count.rows:
        summed += row.work
    for node in graph.nodes:
        each += node.op.cost(node, step, Precision())
    for work in (summed, each):
        assert work.total_flops == pytest.approx(count.total.total_flops)
        assert work.total_bytes == pytest.approx(count.total.total_bytes)
        assert work.launches == count.total.launches
    windows = {row.window for row in count.rows if row.operator == "attention"}
    assert windows == {None, 1024}
    names = [(row.name, row.window, row.formats, row.operator) for row in count.rows]
    assert len(set(names)) == len(names)


def test_arithmetic_is_the_formats() -> None:
    precision = Precision(compute={"BF16": "int8"}, default_compute="f32")
    flops = count_step(small(), StepShape.prefill(4), precision).total.flops
    assert set(flops) == {"int8", "f32"}


def test_intensity() -> None:
    assert intensity(Work(flops={"f32": 6.0, "int8": 6.0}, weight_bytes=3.0)) == 4.0
    assert intensity(NO_WORK) is None


def test_a_ledger_rounds_to_blocks() -> None:
    graph = small()
    per_token = 2 * 2 * (2 * 4) * 2
    ledger = memory_ledger(graph, rows=3, context=17, block_tokens=16, arena_bytes=1000)
    assert ledger.kv_bytes_per_token == per_token
    assert ledger.kv_bytes == 3 * 32 * per_token
    assert ledger.weight_bytes == 2 * SMALL_PARAMETERS
    assert ledger.total_bytes == 2 * SMALL_PARAMETERS + 3 * 32 * per_token + 1000
    assert memory_ledger(graph, rows=1, context=1, weight_bytes=7).weight_bytes == 7


def test_what_fits_is_said_and_fits() -> None:
    graph = small()
    ledger = memory_ledger(graph, rows=4, context=256, block_tokens=16)
    check_fits(ledger, ledger.total_bytes, "small")
    with pytest.raises(CapacityError, match=r"4 x 240 tokens would fit"):
        check_fits(ledger, ledger.total_bytes - 1, "small")
    assert longest_context(ledger, ledger.total_bytes - 1) == 240
    one_row = ledger.weight_bytes + 3 * 16 * ledger.kv_bytes_per_token
    with pytest.raises(CapacityError, match=r"one row of 48 tokens would fit"):
        check_fits(ledger, one_row, "small")
    with pytest.raises(CapacityError, match=r"small needs .* there are 10 B: only a smaller"):
        check_fits(ledger, 10, "small")
