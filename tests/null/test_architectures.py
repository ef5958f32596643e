"""Architectures: what a configuration builds, and what becomes of one that is wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ridgeline.errors import ModelError
from ridgeline.model.architectures import ARCHITECTURES, build, find_architecture
from ridgeline.model.architectures.fields import MAX_LAYERS
from ridgeline.model.configurations import load_configuration
from ridgeline.model.formats import FORMATS
from ridgeline.model.graph.check import check_graph
from ridgeline.model.graph.dims import SAMPLED
from ridgeline.model.graph.node import Graph, Node
from ridgeline.model.graph.ops import (
    Attention,
    Embed,
    Experts,
    Linear,
    Norm,
    Rope,
    ScaleByPosition,
    SelectRows,
    Softcap,
)

DATA = Path(__file__).parent / "data"
LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
}


GROUPED: dict[str, Any] = {
    "num_experts_per_tok": 2,
    "n_routed_experts": 8,
    "moe_intermediate_size": 32,
}
QWEN_MOE: dict[str, Any] = {
    "num_experts_per_tok": 2,
    "num_experts": 8,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 40,
}
# What an architecture needs to be told besides.
DECI_BLOCK = {"attention": {"n_heads_in_group": 2}, "ffn": {"ffn_mult": 6.0}}
ALSO: dict[str, dict[str, Any]] = {
    "DeciLMForCausalLM": {"block_configs": [DECI_BLOCK] * 3},
    "Gemma4ForCausalLM": {"hidden_size_per_layer_input": 0},
    "Gemma4ForConditionalGeneration": {"hidden_size_per_layer_input": 0},
    "Mamba2ForCausalLM": {"num_heads": 4, "head_dim": 32, "n_groups": 2, "state_size": 8},
    "Qwen2MoeForCausalLM": QWEN_MOE,
    "Qwen3MoeForCausalLM": QWEN_MOE,
    "qwen2moe": QWEN_MOE,
    "qwen3moe": QWEN_MOE,
    "Dots1ForCausalLM": GROUPED | {"n_shared_experts": 1},
    "dots1": GROUPED | {"n_shared_experts": 1},
    "mamba2": {"num_heads": 4, "head_dim": 32, "n_groups": 2, "state_size": 8},
    "GPTNeoXForCausalLM": {"num_key_value_heads": None},
    "gptneox": {"num_key_value_heads": None},
    "NemotronHForCausalLM": {"hybrid_override_pattern": "M*M", "mamba_num_heads": 8},
    "JambaForCausalLM": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "BambaForCausalLM": {"attn_layer_indices": [2]},
    "GraniteMoeHybridForCausalLM": {"layer_types": ["mamba", "attention", "mamba"]},
    "Lfm2ForCausalLM": {"layer_types": ["conv", "full_attention", "conv"]},
    "Qwen3_5ForCausalLM": {"full_attention_interval": 3},
    "Qwen3NextForCausalLM": {"full_attention_interval": 2, "mlp_only_layers": [0]},
    "DeepseekV2ForCausalLM": GROUPED,
    "DeepseekV32ForCausalLM": GROUPED,
    "DeepseekV4ForCausalLM": GROUPED
    | {"num_key_value_heads": 1, "head_dim": 24, "qk_rope_head_dim": 8, "o_groups": 2}
    | {"compress_ratios": [0, 4, 128], "num_hash_layers": 1},
    "GlmMoeDsaForCausalLM": GROUPED,
    "Glm4MoeLiteForCausalLM": GROUPED,
    "KimiK25ForConditionalGeneration": GROUPED,
    "deepseek2": GROUPED,
    "glm-dsa": GROUPED,
    "nemotron_h": {"layers_block_type": ["mamba", "attention", "mamba"]},
    "nemotron_h_moe": {"layers_block_type": ["mamba", "attention", "mamba"]},
    "gemma4": {"hidden_size_per_layer_input": 0},
    "gemma3n": {"num_kv_shared_layers": 0},
    "Gemma3nForCausalLM": {"num_kv_shared_layers": 0},
    "Gemma3nForConditionalGeneration": {"num_kv_shared_layers": 0},
    "RWKV7ForCausalLM": {f"{name}_low_rank_dim": 8 for name in ("decay", "a", "v", "gate")}
    | {"hidden_act": "sqrelu", "attn": None},
    "RecurrentGemmaForCausalLM": {"block_types": ["recurrent", "attention"]},
    "ApertusForCausalLM": {"hidden_act": "xielu"},
    "apertus": {"hidden_act": "xielu"},
    "LongcatFlashForCausalLM": {"num_layers": 3, "expert_ffn_hidden_size": 32},
    "BailingHybridForCausalLM": {"layer_group_size": 2},
    "KimiLinearForCausalLM": {
        "layer_types": ["linear_attention", "full_attention", "linear_attention"]
    },
}


WHISPER: dict[str, Any] = {
    "vocab_size": 96,
    "d_model": 64,
    "num_mel_bins": 8,
    "encoder_layers": 3,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 80,
    "decoder_layers": 2,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 72,
    "max_source_positions": 50,
}


def of(architecture: str, **changes: Any) -> dict[str, Any]:
    """The small model as `architecture`; None leaves a field out."""
    config = LLAMA | {"architectures": [architecture]} | ALSO.get(architecture, {}) | changes
    del config["model_type"]
    return {key: value for key, value in config.items() if value is not None}


def built(config: dict[str, Any], context_length: int | None = None) -> Graph:
    return build(config, lambda _: FORMATS["BF16"], context_length=context_length)


def nodes(graph: Graph, operator: type) -> list[Node]:
    return [node for node in graph.nodes if isinstance(node.op, operator)]


def windows(graph: Graph) -> list[int | None]:
    return [state.window for state in graph.states]


def refusal(config: dict[str, Any], context_length: int | None = None) -> str:
    with pytest.raises(ModelError) as raised:
        built(config, context_length)
    message = str(raised.value)
    assert "\n" not in message
    listed = len(", ".join(ARCHITECTURES)) if "supported: LlamaForCausalLM" in message else 0
    assert len(message) < 700 + listed
    return message


# What gives embeddings or classes, no logits of tokens.
OTHERS = [name for name in ARCHITECTURES if "Bert" in name or "SequenceClassification" in name]
SPEECH = [name for name in ARCHITECTURES if name.startswith("Whisper")]
DECODERS = [name for name in ARCHITECTURES if name not in (*OTHERS, *SPEECH)]


@pytest.mark.parametrize("architecture", OTHERS)
def test_each_encoder_and_classifier_builds_a_sound_graph(architecture: str) -> None:
    graph = built(of(architecture, id2label={"0": "a", "1": "b", "2": "c"}))
    check_graph(graph)
    is_classifier = "SequenceClassification" in architecture
    assert graph.outputs[0].shape == (SAMPLED, 3 if is_classifier else 64)
    assert len({node.name for node in graph.nodes}) == len(graph.nodes)
    assert "head.weight" in {weight.name for weight in graph.weights} or not is_classifier


@pytest.mark.parametrize("architecture", DECODERS)
def test_each_architecture_builds_a_sound_graph(architecture: str) -> None:
    graph = built(of(architecture))
    check_graph(graph)
    assert graph.outputs[0].shape == (SAMPLED, 96)
    states = (*graph.states, *graph.row_states)
    assert {state.name.split(".")[1] for state in states} == {"0", "1", "2"}
    caches = [state for state in graph.states if not state.name.endswith(".index_kv")]
    a_layer = 2 if graph.name == "longcat_flash" else 1
    assert len(caches) == 3 * a_layer or graph.row_states
    assert len({node.name for node in graph.nodes}) == len(graph.nodes)


def test_decilm_is_llama_layer_by_layer() -> None:
    """There is no oracle for it: where its layers are alike it is Llama, node for node."""
    decilm = built(of("DeciLMForCausalLM", intermediate_size=None, num_key_value_heads=None))
    llama = built(LLAMA | {"intermediate_size": 256})
    assert replace(decilm, name="llama") == llama
    blocks = [
        {"attention": {"no_op": True}, "ffn": {"ffn_mult": 12.0}},
        {"attention": {"n_heads_in_group": 4}, "ffn": {"no_op": True}},
        DECI_BLOCK,
    ]
    mixed = built(of("DeciLMForCausalLM", block_configs=blocks))
    assert [(s.name, s.kv_heads) for s in mixed.states] == [("layers.1.kv", 1), ("layers.2.kv", 2)]
    widths = {w.name: w.shape[0] for w in mixed.weights if w.name.endswith("mlp.up.weight")}
    assert widths == {"layers.0.mlp.up.weight": 512, "layers.2.mlp.up.weight": 256}
    linear = {**DECI_BLOCK, "ffn": {"ffn_mult": 1.0, "replace_with_linear": True}}
    message = refusal(of("DeciLMForCausalLM", block_configs=[linear] * 3))
    assert "block_configs[0]: ffn: replace_with_linear = True" in message
    assert "a list of 3 objects" in refusal(of("DeciLMForCausalLM", block_configs=[DECI_BLOCK]))


def test_each_projection_is_a_linear_of_its_own_and_says_how_it_is_cut() -> None:
    graph = built(LLAMA)
    axes = {
        node.name.removeprefix("layers.1."): node.weights[0].axes
        for node in nodes(graph, Linear)
        if node.name.startswith("layers.1.")
    }
    assert axes == {
        "attn.q": ("heads", None),
        "attn.k": ("kv_heads", None),
        "attn.v": ("kv_heads", None),
        "attn.o": (None, "heads"),
        "mlp.gate": ("ffn", None),
        "mlp.up": ("ffn", None),
        "mlp.down": (None, "ffn"),
    }
    assert nodes(graph, Embed)[0].weights[0].axes == ("vocab", None)
    assert graph.nodes[-1].weights[0].axes == ("vocab", None)


def test_rows_are_selected_before_the_last_norm() -> None:
    names = [node.name for node in built(LLAMA).nodes]
    assert names[-3:] == ["select", "final_norm", "head"]
    assert len(nodes(built(LLAMA), SelectRows)) == 1


def test_a_tied_head_is_the_embedding() -> None:
    tied, apart = built(LLAMA | {"tie_word_embeddings": True}), built(LLAMA)
    assert tied.nodes[-1].weights == nodes(tied, Embed)[0].weights
    assert apart.nodes[-1].weights[0].name == "head.weight"
    assert len(apart.weights) == len(tied.weights) + 1


def test_biases_stand_where_the_configuration_says() -> None:
    def biased(config: dict[str, Any]) -> set[str]:
        prefix = "layers.0."
        found = {w.name for w in built(config).weights if w.name.endswith(".bias")}
        return {n.removeprefix(prefix).removesuffix(".bias") for n in found if prefix in n}

    assert biased(LLAMA) == set()
    assert biased(LLAMA | {"attention_bias": True}) == {"attn.q", "attn.k", "attn.v", "attn.o"}
    assert biased(LLAMA | {"mlp_bias": True}) == {"mlp.gate", "mlp.up", "mlp.down"}
    assert biased(of("Qwen2ForCausalLM")) == {"attn.q", "attn.k", "attn.v"}
    assert biased(of("Qwen3ForCausalLM")) == set()


def test_which_architectures_turn_neighbouring_channels() -> None:
    interleaved = {
        name: turned[0].op.rotation.interleaved  # type: ignore[attr-defined]
        for name in (*DECODERS, *OTHERS)
        if (turned := nodes(built(of(name)), Rope))
    }
    published = ["CohereForCausalLM", "Cohere2ForCausalLM", "GlmForCausalLM", "Glm4ForCausalLM"]
    assert {name for name, value in interleaved.items() if value} == {
        *published,
        *("Ernie4_5ForCausalLM", "DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM"),
        *("Ernie4_5_MoeForCausalLM", "Glm4MoeLiteForCausalLM", "DeepseekV4ForCausalLM"),
        *("GlmMoeDsaForCausalLM", "KimiK25ForConditionalGeneration"),
        *("LongcatFlashForCausalLM", "BailingHybridForCausalLM"),
        *("Llama4ForCausalLM", "Llama4ForConditionalGeneration"),
        *("command-r", "cohere2", "glm4", "ernie4_5", "deepseek2", "llama4"),
        *("ernie4_5-moe", "glm-dsa"),
        *(
            "llama",
            "granite",
            "granitemoe",
            "smollm3",
            "arcee",
            "mistral3",
            "olmo",
        ),  # whose rows GGUF reorders
    }


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        ("Mistral3ForConditionalGeneration", "Ministral3ForCausalLM"),
        ("Mistral3ForConditionalGeneration", "MistralForCausalLM"),
        ("Llama4ForConditionalGeneration", "Llama4ForCausalLM"),
        ("KimiK25ForConditionalGeneration", "DeepseekV3ForCausalLM"),
    ],
)
def test_the_language_part_of_a_model_that_sees_is_built(outer: str, inner: str) -> None:
    kinds = {"MistralForCausalLM": "mistral", "Ministral3ForCausalLM": "ministral3"}
    kinds["DeepseekV3ForCausalLM"] = "kimi_k2"
    text = of(inner) | {"model_type": kinds.get(inner, "llama4_text")}
    whole = {"architectures": [outer], "text_config": text, "vision_config": {"hidden_size": 8}}
    assert built(whole) == built(text)
    assert "text_config: hidden_size" in refusal(
        whole | {"text_config": text | {"hidden_size": -1}}
    )


def test_llama4_layers() -> None:
    """Chunks where q and k turn, neither in every fourth layer; experts in every second."""
    config = of(
        "Llama4ForCausalLM",
        num_hidden_layers=4,
        interleave_moe_layer_step=2,
        attention_chunk_size=64,
        floor_scale=32,
    )
    graph = built(config)
    assert windows(graph) == [64, 64, 64, None]
    chunked = [node.op.chunked for node in nodes(graph, Attention)]  # type: ignore[attr-defined]
    assert chunked == [True, True, True, False]
    assert [node.name for node in nodes(graph, ScaleByPosition)] == ["layers.3.attn.q_temperature"]
    mixed = [node.name for node in nodes(graph, Experts)]
    assert mixed == ["layers.1.moe.experts", "layers.3.moe.experts"]
    assert "no_rope_layers" in refusal(config | {"no_rope_layers": [1, 0]})
    assert "layer_types" in refusal(config | {"layer_types": ["sliding_attention"] * 4})
    assert "moe_layers" in refusal(config | {"moe_layers": [4]})


def test_mimo_has_no_chunks_of_another_size_than_its_windows() -> None:
    published = dict(load_configuration("XiaomiMiMo/MiMo-V2-Flash").config)
    del published["quantization_config"]  # of its files, not of its shape
    assert published["attention_chunk_size"] == published["sliding_window_size"]
    built(published)
    assert "attention_chunk_size = 64" in refusal(published | {"attention_chunk_size": 64})


def test_gemma_norms_add_one_unless_the_file_has_it() -> None:
    def offsets(name: str) -> set[float]:
        return {n.op.offset for n in nodes(built(of(name)), Norm)}  # type: ignore[attr-defined]

    assert offsets("Gemma3ForCausalLM") == {1.0}
    assert offsets("gemma3") == {0.0}
    assert offsets("LlamaForCausalLM") == {0.0}


def test_gemma_layers() -> None:
    config = of(
        "Gemma3ForCausalLM",
        num_hidden_layers=7,
        head_dim=32,
        query_pre_attn_scalar=144,
        sliding_window=16,
        rope_theta=1e6,
        final_logit_softcapping=30.0,
    )
    graph = built(config)
    assert windows(graph) == [16, 16, 16, 16, 16, None, 16]
    assert nodes(graph, Embed)[0].op.scale == 8.0  # type: ignore[attr-defined]
    assert {n.op.scale for n in nodes(graph, Attention)} == {1 / 12}  # type: ignore[attr-defined]
    slowest = [
        node.op.rotation.frequencies[-1]  # type: ignore[attr-defined]
        for node in nodes(graph, Rope)
        if node.name.endswith("q_rope")
    ]
    local, everywhere = 10000.0 ** (-30 / 32), 1e6 ** (-30 / 32)
    assert slowest == pytest.approx([local] * 5 + [everywhere, local])
    assert len(nodes(graph, Softcap)) == 1
    listed = built(config | {"layer_types": ["full_attention"] * 6 + ["sliding_attention"]})
    assert windows(listed) == [None] * 6 + [16]


def test_gemma_reads_the_text_part_of_a_nested_configuration() -> None:
    text = of("Gemma3ForCausalLM", head_dim=16)
    nested = {"architectures": ["Gemma3ForConditionalGeneration"], "text_config": text}
    assert built(nested).nodes == built(text).nodes
    message = refusal({**nested, "text_config": text | {"hidden_size": "wide"}})
    assert "text_config: hidden_size = 'wide'" in message


def test_windows_of_mistral_qwen_and_phi() -> None:
    assert windows(built(of("MistralForCausalLM", sliding_window=8))) == [8] * 3
    assert windows(built(of("MistralForCausalLM"))) == [None] * 3
    assert windows(built(of("Phi3ForCausalLM", sliding_window=8))) == [8] * 3
    qwen = of("Qwen2ForCausalLM", sliding_window=8, max_window_layers=1)
    assert windows(built(qwen)) == [None] * 3
    assert windows(built(qwen | {"use_sliding_window": True})) == [None, 8, 8]


def rope_cases() -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads((DATA / "rope_frequencies.json").read_text())["cases"]
    return cases


@pytest.mark.parametrize("case", rope_cases(), ids=lambda case: case["name"])
def test_frequencies_are_those_of_transformers(case: dict[str, Any]) -> None:
    graph = built(case["config"], case["context_length"])
    rotation = nodes(graph, Rope)[0].op.rotation  # type: ignore[attr-defined]
    assert rotation.frequencies == pytest.approx(case["frequencies"], rel=2e-6)
    assert rotation.magnitude == pytest.approx(case["magnitude"], rel=1e-9)


def test_the_older_spelling_of_rope_is_the_newer() -> None:
    case = next(case for case in rope_cases() if case["name"] == "yarn")
    older = {k: v for k, v in case["config"].items() if k != "rope_parameters"}
    older["rope_scaling"] = {
        k: v for k, v in case["config"]["rope_parameters"].items() if k != "rope_theta"
    }
    older["rope_scaling"]["type"] = older["rope_scaling"].pop("rope_type")
    assert built(older | {"rope_theta": 10000.0}).nodes == built(case["config"]).nodes


def test_explicit_factors_divide_the_frequencies() -> None:
    factors = [1.0, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0, 8.0]
    scaled = built(of("llama", rope_scaling={"frequency_factors": factors}))
    plain = built(of("llama"))
    ratio = [
        a / b
        for a, b in zip(
            nodes(plain, Rope)[0].op.rotation.frequencies,  # type: ignore[attr-defined]
            nodes(scaled, Rope)[0].op.rotation.frequencies,  # type: ignore[attr-defined]
            strict=True,
        )
    ]
    assert ratio == pytest.approx(factors)


def test_part_of_a_head_turns_in_phi_alone() -> None:
    graph = built(of("Phi3ForCausalLM", partial_rotary_factor=0.75))
    assert nodes(graph, Rope)[0].op.rotation.rotary_dim == 12  # type: ignore[attr-defined]
    assert "partial_rotary_factor = 0.75" in refusal(
        of("LlamaForCausalLM", partial_rotary_factor=0.75)
    )


def test_the_context_is_the_models_unless_another_is_asked_for() -> None:
    assert built(LLAMA).max_context == 512
    assert built(LLAMA, 100).max_context == 100
    assert "a context of 513 tokens" in refusal(LLAMA, 513)
    assert "a context of 0 tokens" in refusal(LLAMA, 0)
    dynamic = LLAMA | {"rope_scaling": {"type": "dynamic", "factor": 4.0}}
    assert built(dynamic).max_context == 512
    assert built(dynamic, 2048).max_context == 2048
    assert "reaches 1 to 2048" in refusal(dynamic, 2049)
    yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
    assert built(LLAMA | {"rope_scaling": yarn}).max_context == 2048


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no width": (of("LlamaForCausalLM", hidden_size=None), "hidden_size is missing"),
    "no layers": (of("LlamaForCausalLM", num_hidden_layers=None), "num_hidden_layers is missing"),
    "no heads": (
        of("LlamaForCausalLM", num_attention_heads=None),
        "num_attention_heads is missing",
    ),
    "no vocabulary": (of("LlamaForCausalLM", vocab_size=None), "vocab_size is missing"),
    "text": (LLAMA | {"hidden_size": "64"}, "hidden_size = '64': a whole number"),
    "bool": (LLAMA | {"num_hidden_layers": True}, "num_hidden_layers = True"),
    "fraction": (LLAMA | {"hidden_size": 64.5}, "hidden_size = 64.5"),
    "nan": (LLAMA | {"rms_norm_eps": float("nan")}, "rms_norm_eps = nan"),
    "infinity": (LLAMA | {"rope_theta": float("inf")}, "rope_theta = inf"),
    "list": (LLAMA | {"vocab_size": [96]}, "vocab_size = [96]"),
    "zero": (LLAMA | {"num_attention_heads": 0}, "num_attention_heads = 0"),
    "negative": (LLAMA | {"intermediate_size": -48}, "intermediate_size = -48"),
    "absurd layers": (LLAMA | {"num_hidden_layers": 10**9}, "num_hidden_layers = 1000000000"),
    "absurd width": (LLAMA | {"hidden_size": 10**400}, "a number of 1329 bits"),
    "absurd vocabulary": (LLAMA | {"vocab_size": 2**60}, "vocab_size = 1152921504606846976"),
    "kv heads": (LLAMA | {"num_key_value_heads": 3}, "num_key_value_heads = 3: does not divide"),
    "head size": (LLAMA | {"num_attention_heads": 6}, "hidden_size = 64: does not part"),
    "odd head": (LLAMA | {"head_dim": 15}, "head_dim = 15"),
    "activation": (LLAMA | {"hidden_act": "mish"}, "hidden_act = 'mish': is not supported"),
    "quantized": (
        LLAMA | {"quantization_config": {"quant_method": "gptq"}},
        "quantization_config = {'quant_method': 'gptq'}",
    ),
    "multiplier": (LLAMA | {"embedding_multiplier": 12.0}, "embedding_multiplier = 12.0"),
    "experts": (LLAMA | {"num_local_experts": 8}, "num_local_experts = 8"),
    "window of a llama": (LLAMA | {"sliding_window": 8}, "sliding_window = 8"),
    "model_type": (LLAMA | {"model_type": "qwen2"}, "model_type = 'qwen2' contradicts"),
    "rope type": (LLAMA | {"rope_scaling": {"rope_type": "spiral"}}, "rope_type = 'spiral'"),
    "two rope types": (
        LLAMA | {"rope_scaling": {"rope_type": "yarn", "type": "linear", "factor": 2.0}},
        "contradicts type = 'linear'",
    ),
    "two ropes": (
        LLAMA
        | {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {"factor": 4.0}},
        "contradicts rope_parameters",
    ),
    "unknown rope key": (LLAMA | {"rope_scaling": {"mrope_section": [1]}}, "mrope_section = [1]"),
    "rope factor": (
        LLAMA | {"rope_scaling": {"type": "linear", "factor": 0.5}},
        "rope_scaling: factor = 0.5",
    ),
    "no rope factor": (LLAMA | {"rope_scaling": {"type": "dynamic"}}, "factor is missing"),
    "rope list": (LLAMA | {"rope_scaling": [1, 2]}, "rope_scaling = [1, 2]: an object is needed"),
    "llama3 order": (
        LLAMA
        | {
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 4.0,
                "high_freq_factor": 3.0,
            }
        },
        "must not be below low_freq_factor",
    ),
    "longrope length": (
        LLAMA | {"rope_scaling": {"type": "su", "long_factor": [1.0], "short_factor": [1.0]}},
        "a list of 8 numbers is needed, not of 1",
    ),
    "longrope value": (
        LLAMA
        | {"rope_scaling": {"type": "longrope", "long_factor": [0.0] * 8, "short_factor": [1] * 8}},
        "and one is 0.0",
    ),
    "layer types": (
        of("Gemma3ForCausalLM", layer_types=["full_attention"]),
        "a list of 3 is needed, not of 1",
    ),
    "layer type": (
        of(
            "Qwen3ForCausalLM", layer_types=["full_attention", "linear_attention", "full_attention"]
        ),
        "'linear_attention' is not one of",
    ),
    "windows without a window": (
        of("Qwen3ForCausalLM", layer_types=["sliding_attention"] * 3),
        "sliding_window is missing",
    ),
    "bidirectional": (
        of("Gemma3ForCausalLM", use_bidirectional_attention=True),
        "use_bidirectional_attention = True",
    ),
    "attention softcap": (
        of("Gemma3ForCausalLM", attn_logit_softcapping=50.0),
        "attn_logit_softcapping = 50.0",
    ),
    "entries of 7": (
        of("DeepseekV4ForCausalLM", compress_ratios=[4, 7, 128]),
        "compress_ratios = [4, 7, 128]: 7 is not one of [0, 4, 128]",
    ),
    "entries across blocks": (
        of("DeepseekV4ForCausalLM", compress_rate_hca=24),
        "compress_rate_hca = 24: it must divide 16",
    ),
    "entries of too few layers": (
        of("DeepseekV4ForCausalLM", compress_ratios=[4]),
        "compress_ratios = [4]: a list of 3",
    ),
    "two keys a token": (
        of("DeepseekV4ForCausalLM", num_key_value_heads=2),
        "num_key_value_heads = 2: all heads share one key",
    ),
    "streams": (of("DeepseekV4ForCausalLM", hc_mult=8), "hc_mult = 8"),
    "output groups": (of("DeepseekV4ForCausalLM", o_groups=5), "o_groups = 5: does not divide"),
    "small index": (
        of("DeepseekV4ForCausalLM", index_head_dim=6),
        "index_head_dim = 6: an even number is needed, of which 8 turn",
    ),
    "scores": (of("DeepseekV4ForCausalLM", scoring_func="max"), "scoring_func = 'max'"),
    "clamp": (of("DeepseekV4ForCausalLM", swiglu_limit=7.0), "swiglu_limit = 7.0"),
    "hash layers": (
        of("DeepseekV4ForCausalLM", mlp_layer_types=["moe", "hash", "moe"]),
        "'hash' is not one of hash_moe, moe",
    ),
    "turned channels": (
        of("DeepseekV4ForCausalLM", qk_rope_head_dim=7),
        "7 of a head's 24 channels would turn",
    ),
    "line break": (LLAMA | {"hidden_act": "a\nb" * 99}, "hidden_act = 'a\\nb"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_configuration_is_one_line_that_names_the_field(name: str) -> None:
    config, expected = BAD[name]
    assert expected in refusal(config)


ABSURD = (-1, 0, 10**30, 1.5, "many", [3], True, float("nan"))


@pytest.mark.parametrize("architecture", [*DECODERS, *OTHERS])
def test_each_architecture_names_a_field_that_is_missing_or_absurd(architecture: str) -> None:
    """Sizes are read by all."""
    for field in ("hidden_size", "num_hidden_layers", "vocab_size"):
        for value in ABSURD:
            assert field in refusal(of(architecture) | {field: value})
    assert "hidden_size" in refusal(of(architecture, hidden_size=None))


@pytest.mark.parametrize("architecture", SPEECH)
def test_a_speech_model_names_a_field_that_is_missing_or_absurd(architecture: str) -> None:
    config = WHISPER | {"architectures": [architecture]}
    sizes = ("d_model", "num_mel_bins", "max_source_positions", "max_target_positions")
    parts = [f"{of}_{x}" for of in ("encoder", "decoder") for x in ("layers", "ffn_dim")]
    heads = [f"{of}_attention_heads" for of in ("encoder", "decoder")]
    for field in (*sizes, *parts, *heads, "vocab_size"):
        for value in ABSURD:
            assert field in refusal(config | {field: value})
    for field in ("d_model", *parts, *heads):
        assert f"{field} is missing" in refusal({k: v for k, v in config.items() if k != field})
    for field, value, reason in (
        ("scale_embedding", True, "can only be absent or False"),
        ("decoder_attention_heads", 5, "does not divide d_model = 64"),
        ("tie_word_embeddings", False, "output matrix is its embedding"),
        ("activation_function", "swiglu", "is not supported"),
    ):
        assert reason in refusal(config | {field: value})
    assert "449 tokens are asked for" in refusal(config, 449)


@pytest.mark.parametrize("architecture", SPEECH)
def test_a_speech_model_builds_two_sound_graphs(architecture: str) -> None:
    graph = built(WHISPER | {"architectures": [architecture]})
    check_graph(graph)
    assert graph.outputs[0].shape == (SAMPLED, 96)
    assert graph.encoder is not None
    assert graph.cross_states == graph.encoder.cross_states
    assert [state.name for state in graph.cross_states] == ["layers.0.cross", "layers.1.cross"]
    assert (graph.max_context, graph.encoder.max_context) == (448, 50)
    assert [state.name for state in graph.encoder.states] == ["kv"]
    names = [node.name for node in (*graph.encoder.nodes, *graph.nodes)]
    assert len(set(names)) == len(names)
    key_biases = [w for w in graph.weights if w.name.endswith(".k.bias")]
    assert len(key_biases) == (3 + 2 + 2 if architecture == "WhisperSpec" else 0)
    with pytest.raises(ModelError, match="over what no encoder writes"):
        check_graph(replace(graph, encoder=None))


def test_an_unsupported_architecture_is_named_with_what_is_supported() -> None:
    message = refusal({"architectures": ["RetNetForCausalLM"]})
    assert "'RetNetForCausalLM' is not supported" in message
    assert all(name in message for name in ARCHITECTURES)
    assert "architectures = None" in refusal({})
    assert "model_type = 'retnet'" in refusal({"model_type": "retnet"})
    with pytest.raises(ModelError, match="'llama' is not supported"):
        find_architecture({"architectures": ["llama"]}, "config.json", "hf")


def test_the_deepest_model_allowed_is_built() -> None:
    graph = built(LLAMA | {"num_hidden_layers": MAX_LAYERS})
    assert len(graph.states) == MAX_LAYERS


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 200),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(0, 3), max_size=4),
    st.sampled_from(["linear", "dynamic", "yarn", "longrope", "llama3", "gelu"]),
    st.dictionaries(
        st.sampled_from(
            ["type", "rope_type", "factor", "rope_theta", "original_max_position_embeddings"]
        ),
        st.one_of(
            st.sampled_from(["linear", "dynamic", "yarn", "llama3", "default"]),
            st.floats(),
            st.integers(0, 5000),
        ),
    ),
)
FIELDS = [
    *LLAMA,
    "head_dim",
    "rope_scaling",
    "rope_parameters",
    "sliding_window",
    "use_sliding_window",
    "layer_types",
    "tie_word_embeddings",
    "query_pre_attn_scalar",
    "partial_rotary_factor",
    "text_config",
    "original_max_position_embeddings",
]


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(sorted(ARCHITECTURES)),
    st.dictionaries(st.sampled_from(FIELDS), JUNK, max_size=4),
)
def test_junk_gives_a_sound_graph_or_a_model_error(architecture: str, junk: dict[str, Any]) -> None:
    config = LLAMA | {"architectures": [architecture], "model_type": None} | junk
    try:
        graph = built(config)
    except ModelError:
        return
    check_graph(graph)


@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "qwen3", "phi3"])
def test_a_configuration_without_architectures_is_told_by_its_model_type(model_type: str) -> None:
    name, row = find_architecture({"model_type": model_type}, "config.json", "hf")
    assert model_type in row.model_types
    assert name.endswith("ForCausalLM")
