"""All configurations of the field that we have the facts of: counts against what vendors publish.

`data/models.json`: config.json fields, published total and active parameters, and KV bytes per
token in BF16 as counted by hand from the configuration. `data/model_notes.json` says for each
figure that is not ours why; `docs/models.md` has all of it as a table.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from ridgeline.cost.count import count_kv_bytes, count_parameters, count_step
from ridgeline.errors import ModelError
from ridgeline.model.architectures import ARCHITECTURES
from ridgeline.model.graph.node import Graph
from ridgeline.model.graph.work import Precision
from ridgeline.model.opened import describe
from ridgeline.model.passes.fuse import fuse
from ridgeline.model.predictors import describe_predictors
from ridgeline.step import StepShape

DATA = Path(__file__).parent / "data"
MODELS: dict[str, dict[str, Any]] = json.loads((DATA / "models.json").read_text())
NOTES: dict[str, dict[str, str]] = json.loads((DATA / "model_notes.json").read_text())
WHOLE = [name for name, facts in MODELS.items() if not facts.get("partial")]
TOLERANCE = 0.01


def graph_of(name: str) -> Graph:
    """Of the model before anybody quantized it."""
    config = dict(MODELS[name]["config"])
    if "text_config" in config:
        config["text_config"] = dict(config["text_config"])
    for section in (config, config.get("text_config", {})):
        section.pop("quantization_config", None)
    if config["architectures"][0] not in ARCHITECTURES:
        pytest.skip(f"{config['architectures'][0]} is not built yet")
    if "graph" in NOTES.get(name, {}):
        with pytest.raises(ModelError, match="is not supported here"):
            describe(config, where=name)
        pytest.skip(NOTES[name]["graph"])
    return describe(config, where=name)


def test_there_are_77_and_notes_are_of_them() -> None:
    assert len(MODELS) == 77
    assert set(NOTES) <= set(MODELS)
    assert {key for notes in NOTES.values() for key in notes} <= {"graph", "total", "active", "kv"}


def active_of(graph: Graph) -> tuple[int, ...]:
    """Vendors count active parameters with the embedding and the output matrix, or without."""
    size = {weight.name: weight.num_elements for weight in graph.weights}
    active, embedding = count_parameters(graph).active, size["embed.weight"]
    return (active, active - embedding, active - embedding - size.get("head.weight", 0))


@pytest.mark.parametrize("name", WHOLE)
def test_counts(name: str) -> None:
    facts, noted = MODELS[name], NOTES.get(name, {})
    graph = graph_of(name)
    for key, counts, tolerance in (
        ("total", (count_parameters(graph).total,), TOLERANCE),
        ("active", active_of(graph), TOLERANCE),
        ("kv", (count_kv_bytes(graph).per_token,), 0.0),
    ):
        if facts[key] is None:
            continue
        agrees = any(n == pytest.approx(facts[key], rel=tolerance, abs=0) for n in counts)
        assert agrees != (key in noted), (key, counts, facts[key], noted.get(key))


def test_the_largest_graphs_are_built_within_a_second() -> None:
    """Processor time, the best of three: a busy machine is not the builder's fault."""
    for name in (
        "meta-llama/Meta-Llama-3.1-405B",
        "google/gemma-3-27b-it",
        "zai-org/GLM-5.1",  # the most operators of all: 2,569
        "MiniMaxAI/MiniMax-M3",
        "deepseek-ai/DeepSeek-V4-Pro",
        "moonshotai/Kimi-K2-Instruct",
    ):
        seconds = []
        for _ in range(3):
            start = time.process_time()
            graph_of(name)
            seconds.append(time.process_time() - start)
        assert min(seconds) < 1


def test_deepseek_v4_as_its_model_cards_have_it() -> None:
    """284 G and 13 G active, 1.6 T and 49 G. Of Pro 1 Mi tokens take 9.62 GiB in BF16 beside their
    window (vLLM's blog on V4, April 2026): to the figure's last digit.
    """
    for name, total, active, digits in (
        ("deepseek-ai/DeepSeek-V4-Flash", 284e9, 13e9, 0.05),
        ("deepseek-ai/DeepSeek-V4-Pro", 1.6e12, 49e9, 0.01),
    ):
        graph = graph_of(name)
        assert count_parameters(graph).total == pytest.approx(total, rel=0.02)
        assert any(n == pytest.approx(active, rel=digits) for n in active_of(graph))
    assert count_parameters(graph_of("deepseek-ai/DeepSeek-V4-Flash")).total == pytest.approx(
        284e9, rel=0.002
    )
    held = count_kv_bytes(graph_of("deepseek-ai/DeepSeek-V4-Pro")).unbounded * 2**20
    assert round(held / 2**30, 2) == 9.62
    # With the module of multi-token prediction the files are as large as they are: 160, 865 GB.
    for name, num_bytes in (("Flash", 160e9), ("Pro", 865e9)):
        config = MODELS[f"deepseek-ai/DeepSeek-V4-{name}"]["config"]
        (module,) = describe_predictors(config)
        shared = 2 * 2 * config["vocab_size"] * config["hidden_size"]  # BF16, of both matrices
        own = count_parameters(module).num_bytes - shared
        whole = count_parameters(describe(config)).num_bytes + own
        assert whole == pytest.approx(num_bytes, rel=0.002)
        assert count_kv_bytes(module).windowed == {128: 2 * 512}


def test_modules_of_multi_token_prediction() -> None:
    """README_WEIGHTS.md of DeepSeek V3: 11.5 G of its own, and 2.4 G active with the embedding and
    the output matrix (0.9 G each) that it shares with the model.
    """
    config = MODELS["deepseek-ai/DeepSeek-V3"]["config"]
    (module,) = describe_predictors(config)
    counted, shared = count_parameters(module), 2 * 129280 * 7168
    assert counted.total - shared == pytest.approx(11.5e9, rel=0.01)
    # 2.54 with the joining matrix, which the published figure seems to leave out.
    assert counted.active - 2 * 7168**2 == pytest.approx(2.4e9, rel=0.02)
    assert count_kv_bytes(module).per_token == 2 * (512 + 64)
    # A draft for each of 8 rows reads attention, the experts that are chosen, and the head.
    step = StepShape.decode(8, 4096)
    main = count_step(fuse(describe(config)), step, Precision()).total
    draft = count_step(fuse(module), step, Precision()).total
    assert 0.01 < draft.weight_bytes / main.weight_bytes < 0.04
    assert 0.01 < draft.total_flops / main.total_flops < 0.1
    for name in ("zai-org/GLM-4.5-Air", "Qwen/Qwen3.5-35B-A3B"):
        assert len(describe_predictors(MODELS[name]["config"])) == 1
    assert describe_predictors(MODELS["Qwen/Qwen3-8B"]["config"]) == ()


@pytest.mark.parametrize(
    ("layers", "mlp", "shared", "total"), [(30, 8192, 10, 4.46e9), (35, 16384, 15, 6.87e9)]
)
def test_gemma_3n(layers: int, mlp: int, shared: int, total: float) -> None:
    """E2B and E4B without their towers, as llama.cpp counts its files of them (those have matrices
    of keys and values also for layers that share others', half a percent).
    """
    text = {
        "hidden_size": 2048,
        "intermediate_size": [mlp] * layers,
        "num_hidden_layers": layers,
        "num_kv_shared_layers": shared,
    }
    config = {"architectures": ["Gemma3nForConditionalGeneration"], "text_config": text}
    graph = describe(config)
    assert count_parameters(graph).total == pytest.approx(total, rel=0.01)
    # 20 layers have keys and values of their own, 4 of them without a window.
    kv = count_kv_bytes(graph)
    assert (kv.per_token, kv.unbounded) == (20 * 2048, 4 * 2048)


MINIMAX_TEXT_01 = {
    "architectures": ["MiniMaxText01ForCausalLM"],
    "model_type": "minimax_text_01",
    "attn_type_list": [0, 0, 0, 0, 0, 0, 0, 1] * 10,
    "head_dim": 128,
    "hidden_size": 6144,
    "intermediate_size": 9216,
    "layernorm_full_attention_alpha": 3.5565588200778455,
    "layernorm_full_attention_beta": 1.0,
    "layernorm_linear_attention_alpha": 3.5565588200778455,
    "layernorm_linear_attention_beta": 1.0,
    "layernorm_mlp_alpha": 3.5565588200778455,
    "layernorm_mlp_beta": 1.0,
    "max_position_embeddings": 10240000,
    "num_attention_heads": 64,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 80,
    "num_key_value_heads": 8,
    "num_local_experts": 32,
    "postnorm": True,
    "rope_theta": 10000000,
    "rotary_dim": 64,
    "shared_intermediate_size": 0,
    "vocab_size": 200064,
}
LONGCAT_FLASH = {"architectures": ["LongcatFlashForCausalLM"], "model_type": "longcat_flash"} | {
    "expert_ffn_hidden_size": 2048,
    "ffn_hidden_size": 12288,
    "hidden_size": 6144,
    "num_layers": 28,
    "num_attention_heads": 64,
    "zero_expert_num": 256,
}
APERTUS_8B = {"architectures": ["ApertusForCausalLM"], "model_type": "apertus"} | {
    "hidden_size": 4096,
    "intermediate_size": 21504,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
}


@pytest.mark.parametrize(
    ("config", "total", "active", "kv_elements"),
    [
        # The technical report's 456 G and 45.9 G; 10 of 80 layers have keys and values.
        (MINIMAX_TEXT_01, 456e9, 45.9e9, 10 * 2 * 8 * 128),
        # 560 G; 27 G on average, as 8 of the 12 experts that a token gets compute something.
        (LONGCAT_FLASH, 560e9, 27e9, 56 * (512 + 64)),
        (APERTUS_8B, 8.05e9, 8.05e9, 32 * 2 * 8 * 128),
    ],
)
def test_models_that_the_list_does_not_have(
    config: dict[str, Any], total: float, active: float, kv_elements: int
) -> None:
    graph = describe(config)
    assert count_parameters(graph).total == pytest.approx(total, rel=0.01)
    assert any(n == pytest.approx(active, rel=0.01) for n in active_of(graph))
    assert count_kv_bytes(graph).per_token == 2 * kv_elements
