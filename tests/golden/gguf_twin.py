"""A Hugging Face checkpoint written as the GGUF file that llama.cpp's own converter would make.

Conventions (gguf-py's tensor names; llama.cpp's conversion scripts): Llama's and Mistral's query
and key rows are reordered for interleaved rotary pairs; Gemma's norm weights carry the 1 of
1 + w; Llama 3's frequency factors are the tensor rope_freqs.weight; LongRoPE's are the tensors
rope_factors_long/short.weight and its magnitude a key. Vectors are F32.

It knows the architectures of the golden cases and nothing else, and writes a byte-level
vocabulary that is only as large as the tiny models'.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from statistics import NormalDist
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]

_ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "step3p5": gguf.MODEL_ARCH.STEP35,
    "qwen2_5_vl": gguf.MODEL_ARCH.QWEN2VL,
    "qwen3_vl_text": gguf.MODEL_ARCH.QWEN3VL,
    "gemma3_text": gguf.MODEL_ARCH.GEMMA3,
    "phi3": gguf.MODEL_ARCH.PHI3,
    "gemma": gguf.MODEL_ARCH.GEMMA,
    "gemma2": gguf.MODEL_ARCH.GEMMA2,
    "olmo2": gguf.MODEL_ARCH.OLMO2,
    "granite": gguf.MODEL_ARCH.GRANITE,
    "cohere": gguf.MODEL_ARCH.COMMAND_R,
    "cohere2": gguf.MODEL_ARCH.COHERE2,
    "phi": gguf.MODEL_ARCH.PHI2,
    "starcoder2": gguf.MODEL_ARCH.STARCODER2,
    "gpt2": gguf.MODEL_ARCH.GPT2,
    "gpt_neox": gguf.MODEL_ARCH.GPTNEOX,
    "glm4": gguf.MODEL_ARCH.GLM4,
    "exaone4": gguf.MODEL_ARCH.EXAONE4,
    "smollm3": gguf.MODEL_ARCH.SMOLLM3,
    "ernie4_5": gguf.MODEL_ARCH.ERNIE4_5,
    "seed_oss": gguf.MODEL_ARCH.SEED_OSS,
    "arcee": gguf.MODEL_ARCH.ARCEE,
    "mixtral": gguf.MODEL_ARCH.LLAMA,
    "olmoe": gguf.MODEL_ARCH.OLMOE,
    "granitemoe": gguf.MODEL_ARCH.GRANITE_MOE,
    "glm4_moe": gguf.MODEL_ARCH.GLM4_MOE,
    "dots1": gguf.MODEL_ARCH.DOTS1,
    "minimax_m2": gguf.MODEL_ARCH.MINIMAXM2,
    "gpt_oss": gguf.MODEL_ARCH.GPT_OSS,
    "qwen2_moe": gguf.MODEL_ARCH.QWEN2MOE,
    "qwen3_moe": gguf.MODEL_ARCH.QWEN3MOE,
    "deepseek_v2": gguf.MODEL_ARCH.DEEPSEEK2,
    "deepseek_v3": gguf.MODEL_ARCH.DEEPSEEK2,
    "glm4_moe_lite": gguf.MODEL_ARCH.DEEPSEEK2,
    "llama4_text": gguf.MODEL_ARCH.LLAMA4,
    "ministral3": gguf.MODEL_ARCH.MISTRAL3,
    "qwen3_next": gguf.MODEL_ARCH.QWEN3NEXT,
    "qwen3_5_text": gguf.MODEL_ARCH.QWEN35,
    "qwen3_5_moe_text": gguf.MODEL_ARCH.QWEN35MOE,
    "gemma4_text": gguf.MODEL_ARCH.GEMMA4,
    "nemotron_h": gguf.MODEL_ARCH.NEMOTRON_H,
    "granitemoehybrid": gguf.MODEL_ARCH.GRANITE_HYBRID,
    "lfm2": gguf.MODEL_ARCH.LFM2,
    "lfm2_moe": gguf.MODEL_ARCH.LFM2MOE,
    "hunyuan_v1_dense": gguf.MODEL_ARCH.HUNYUAN_DENSE,
    "hunyuan_v1_moe": gguf.MODEL_ARCH.HUNYUAN_MOE,
    "ernie4_5_moe": gguf.MODEL_ARCH.ERNIE4_5_MOE,
    "kimi_linear": gguf.MODEL_ARCH.KIMI_LINEAR,
    "jamba": gguf.MODEL_ARCH.JAMBA,
    "falcon_h1": gguf.MODEL_ARCH.FALCON_H1,
    "exaone_moe": gguf.MODEL_ARCH.EXAONE_MOE,
    "olmo": gguf.MODEL_ARCH.OLMO,
    "stablelm": gguf.MODEL_ARCH.STABLELM,
    "nemotron": gguf.MODEL_ARCH.NEMOTRON,
    "gemma3n_text": gguf.MODEL_ARCH.GEMMA3N,
    "phimoe": gguf.MODEL_ARCH.PHIMOE,
    "apertus": gguf.MODEL_ARCH.APERTUS,
    "mimo_v2_flash": gguf.MODEL_ARCH.MIMO2,
    "glm_moe_dsa": gguf.MODEL_ARCH.GLM_DSA,
    "mamba": gguf.MODEL_ARCH.MAMBA,
    "falcon_mamba": gguf.MODEL_ARCH.MAMBA,
    "mamba2": gguf.MODEL_ARCH.MAMBA2,
}
# Query and key rows are reordered for interleaved rotary pairs.
_REORDERED = ("llama", "mixtral", "granite", "granitemoe", "smollm3", "arcee", "ministral3")
_REORDERED += ("olmo",)
# Norm weights carry the 1 of 1 + w.
_DELTA = ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text")
_SHIFTED = ("gemma3_text", "step3p5", "gemma", "gemma2", "nemotron", *_DELTA)
_MAMBA2 = ("mamba2", "nemotron_h", "granitemoehybrid", "falcon_h1")
_REORDERED += _MAMBA2[1:3]
# Heads of keys and values are listed by layer.
_LISTED = (
    "kimi_linear",
    "gemma4_text",
    "nemotron_h",
    "granitemoehybrid",
    "lfm2",
    "lfm2_moe",
    "jamba",
    "mimo_v2_flash",
)
_FILE_TYPES = {
    "F32": gguf.LlamaFileType.ALL_F32,
    "F16": gguf.LlamaFileType.MOSTLY_F16,
    "BF16": gguf.LlamaFileType.MOSTLY_BF16,
}


def interleave_rows(weight: F32, heads: int) -> F32:
    """Rows of each head reordered from halves (i, i + d/2) to neighbours (2i, 2i + 1)."""
    head_dim = weight.shape[0] // heads
    halves = weight.reshape(heads, 2, head_dim // 2, -1)
    return np.ascontiguousarray(halves.transpose(0, 2, 1, 3)).reshape(weight.shape)


def llama3_frequency_factors(scaling: Mapping[str, float], theta: float, head_dim: int) -> F32:
    """Divisors of the rotary frequencies (Llama 3.1): 1, blended, or the whole factor."""
    context = scaling["original_max_position_embeddings"]
    low, high, factor = (scaling[key] for key in ("low_freq_factor", "high_freq_factor", "factor"))
    wavelengths = 2 * math.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    share = np.clip((context / wavelengths - low) / (high - low), 0.0, 1.0)
    return (1.0 / ((1.0 - share) / factor + share)).astype(np.float32)


def _byte_tokens(count: int) -> list[str]:
    """The first bytes in GPT-2's spelling, one merged pair, and two control tokens."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = iter(range(256, 512))
    spelling = {byte: chr(byte if byte in printable else next(spare)) for byte in range(256)}
    return [spelling[byte] for byte in range(count - 3)] + ["he", "<bos>", "<eos>"]


def _write_vocabulary(writer: gguf.GGUFWriter, config: Mapping[str, Any]) -> None:
    tokens = _byte_tokens(config["vocab_size"])
    kinds = [gguf.TokenType.NORMAL] * (len(tokens) - 2) + [gguf.TokenType.CONTROL] * 2
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([int(kind) for kind in kinds])
    writer.add_token_merges(["h e"])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(False)


def _write_rope(writer: gguf.GGUFWriter, config: Mapping[str, Any], head_dim: int) -> None:
    if config["model_type"] == "gpt_neox":
        writer.add_rope_dimension_count(int(head_dim * config["rotary_pct"]))
        writer.add_parallel_residual(config["use_parallel_residual"])
        return  # llama.cpp's converter writes no base: 10000
    if config["model_type"] == "gemma4_text":
        whole, local = (
            config["rope_parameters"][f"{kind}_attention"] for kind in ("full", "sliding")
        )
        writer.add_rope_freq_base(whole["rope_theta"])
        writer.add_rope_freq_base_swa(local["rope_theta"])
        pairs = config["global_head_dim"] // 2
        turned = int(config["global_head_dim"] * whole["partial_rotary_factor"] / 2)
        factors = np.array([1.0] * turned + [1e30] * (pairs - turned), np.float32)
        writer.add_tensor("rope_freqs.weight", factors)
        return
    rope = config.get("rope_parameters") or {"rope_theta": config["rope_theta"]}
    scaling = config.get("rope_scaling") or {}
    if "rope_type" in rope:
        scaling = rope
    theta = rope["rope_theta"]
    if config["model_type"] == "step3p5":  # factors of half a head, as long as of a whole
        writer.add_rope_freq_base(theta[0])
        writer.add_rope_freq_base_swa(theta[1])
        factors = llama3_frequency_factors(scaling, theta[0], head_dim // 2)
        rest = np.ones(head_dim // 2 - len(factors), np.float32)
        writer.add_tensor("rope_freqs.weight", np.concatenate([factors, rest]))
        return
    if "alpha" in scaling:
        theta *= scaling["alpha"] ** (head_dim / (head_dim - 2))
        scaling = {}
    writer.add_rope_freq_base(theta)
    if config["model_type"] in ("gemma3_text", "gemma3n_text"):
        writer.add_rope_freq_base_swa(config["rope_local_base_freq"])
    elif "partial_rotary_factor" in config or config["model_type"] in (
        "llama",
        "mixtral",
        "phi3",
        "phimoe",
    ):
        writer.add_rope_dimension_count(int(head_dim * config.get("partial_rotary_factor", 1.0)))
    match scaling.get("rope_type", scaling.get("type")):
        case "linear":
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(scaling["factor"])
        case "yarn":
            writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
            writer.add_rope_scaling_factor(scaling["factor"])
            writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
            for name, add in (
                ("beta_fast", writer.add_rope_scaling_yarn_beta_fast),
                ("beta_slow", writer.add_rope_scaling_yarn_beta_slow),
            ):
                if name in scaling:
                    add(scaling[name])
        case "default" | "mrope":
            pass
        case "llama3":
            factors = llama3_frequency_factors(scaling, theta, head_dim)
            writer.add_tensor("rope_freqs.weight", factors)
        case "longrope":
            original = config["original_max_position_embeddings"]
            stretch = config["max_position_embeddings"] / original
            writer.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE)
            # The converter has no key for magnitudes that are given: here that of a short prompt.
            writer.add_rope_scaling_attn_factors(
                scaling.get("short_mscale", math.sqrt(1 + math.log(stretch) / math.log(original)))
            )
            for which in ("long", "short"):
                factors = np.array(scaling[f"{which}_factor"], np.float32)
                writer.add_tensor(f"rope_factors_{which}.weight", factors)
        case None:
            pass
        case other:
            raise ValueError(f"rope scaling {other!r} has no GGUF spelling here")
    if config["model_type"] in ("phi3", "phimoe"):
        writer.add_rope_scaling_orig_ctx_len(config["original_max_position_embeddings"])


def _write_mamba(writer: gguf.GGUFWriter, config: Mapping[str, Any]) -> None:
    """All that Mamba's and Mamba 2's files say; there are no heads and no positions."""
    width = config["hidden_size"]
    inner = config.get("intermediate_size", config["expand"] * width)
    rank = config.get("time_step_rank", "auto")
    writer.add_name("golden")
    writer.add_context_length(2**20)
    writer.add_embedding_length(width)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_layer_norm_rms_eps(config["layer_norm_epsilon"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_ssm_conv_kernel(config["conv_kernel"])
    writer.add_ssm_inner_size(inner)
    writer.add_ssm_state_size(config["state_size"])
    if config["model_type"] == "mamba2":
        writer.add_ssm_time_step_rank(config["num_heads"])
        writer.add_ssm_group_count(config["n_groups"])
    else:
        writer.add_ssm_time_step_rank(-(-width // 16) if rank == "auto" else rank)
        writer.add_ssm_dt_b_c_rms(config["model_type"] == "falcon_mamba")


def _write_gpt2(writer: gguf.GGUFWriter, config: Mapping[str, Any]) -> None:
    writer.add_name("golden")
    writer.add_context_length(config["n_positions"])
    writer.add_embedding_length(config["n_embd"])
    writer.add_block_count(config["n_layer"])
    writer.add_feed_forward_length(config["n_inner"] or 4 * config["n_embd"])
    writer.add_head_count(config["n_head"])
    writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    writer.add_vocab_size(config["vocab_size"])


def _write_hyperparameters(writer: gguf.GGUFWriter, config: Mapping[str, Any]) -> None:
    if "mamba" in config["model_type"] and "granite" not in config["model_type"]:
        _write_mamba(writer, config)
        return
    if config["model_type"] == "gpt2":
        _write_gpt2(writer, config)
        return
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    # A name with "phi3" in it would make llama.cpp look for Phi-3's own special tokens.
    writer.add_name("golden")
    writer.add_context_length(config.get("max_position_embeddings", config.get("model_max_length")))
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    if config["model_type"] not in ("qwen3_5_moe_text", "nemotron_h", "lfm2"):
        writer.add_feed_forward_length(
            config.get("intermediate_size_mlp", config["intermediate_size"])
        )
    if config["model_type"] != "step3p5":  # by layer
        writer.add_head_count(heads)
    if "kv_lora_rank" in config and config["model_type"] not in _LISTED:
        writer.add_head_count_kv(1)
    elif "num_key_value_heads" in config and config["model_type"] not in _LISTED:
        writer.add_head_count_kv(config["num_key_value_heads"])
    for key in ("layer_norm_eps", "norm_epsilon", "norm_eps"):
        if key in config:
            writer.add_layer_norm_eps(config[key])
    if "rms_norm_eps" in config:
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    if config.get("head_dim") and config["model_type"] not in ("gemma4_text", "kimi_linear"):
        writer.add_key_length(head_dim)
        writer.add_value_length(
            config["v_head_dim"] if config["model_type"] == "mimo_v2_flash" else head_dim
        )
    if config["model_type"] == "gemma3_text":
        writer.add_sliding_window(config["sliding_window"])
        # Files in the field lack the pattern's key: 6 is what a reader must assume.
        if config["sliding_window_pattern"] != 6:
            writer.add_sliding_window_pattern(config["sliding_window_pattern"])
    elif config["model_type"] in ("phi3", "phimoe"):
        writer.add_sliding_window(config["sliding_window"] or 0)
    _write_family(writer, config)
    counts = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
    experts = next((config[name] for name in counts if name in config), None)
    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(
            next(
                config[name]
                for name in (
                    *("num_experts_per_tok", "num_experts_per_token", "top_k_experts"),
                    "moe_top_k",
                )
                if name in config
            )
        )
    if isinstance(config.get("moe_intermediate_size"), int):
        writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    if "shared_expert_intermediate_size" in config:
        writer.add_expert_shared_feed_forward_length(config["shared_expert_intermediate_size"])
    _write_rope(writer, config, head_dim)


def _write_family(writer: gguf.GGUFWriter, config: Mapping[str, Any]) -> None:
    """What only some architectures have a key for."""
    match config["model_type"]:
        case "gemma2":
            writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
            writer.add_final_logit_softcapping(config["final_logit_softcapping"])
            writer.add_sliding_window(config["sliding_window"])
        case "glm4_moe" | "dots1":
            writer.add_leading_dense_block_count(config["first_k_dense_replace"])
            writer.add_expert_shared_count(config["n_shared_experts"])
            writer.add_expert_weights_scale(config["routed_scaling_factor"])
            writer.add_expert_weights_norm(config["norm_topk_prob"])
            writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
            writer.add_expert_group_count(config["n_group"])
            writer.add_expert_group_used_count(config["topk_group"])
        case "olmo":
            writer.add_layer_norm_eps(1e-5)
        case "stablelm":
            writer.add_parallel_residual(config["use_parallel_residual"])
        case "gemma3n_text":
            writer.add_altup_active_idx(config["altup_active_idx"])
            writer.add_altup_num_inputs(config["altup_num_inputs"])
            writer.add_embedding_length_per_layer_input(config["hidden_size_per_layer_input"])
            writer.add_shared_kv_layers(config["num_kv_shared_layers"])
            shares = config["activation_sparsity_pattern"]
            writer.add_activation_sparsity_scale(
                [NormalDist().inv_cdf(each) if each else -math.inf for each in shares]
            )
            writer.add_sliding_window(config["sliding_window"])
            writer.add_sliding_window_pattern(
                [kind == "sliding_attention" for kind in config["layer_types"]]
            )
            writer.add_final_logit_softcapping(config["final_logit_softcapping"])
        case "step3p5":
            layers = config["num_hidden_layers"]
            windowed = [kind == "sliding_attention" for kind in config["layer_types"][:layers]]
            other = config["attention_other_setting"]
            for name, add in (
                ("num_attention_heads", writer.add_head_count),
                ("num_attention_groups", writer.add_head_count_kv),
            ):
                add([other[name] if each else config[name] for each in windowed])
            writer.add_sliding_window(config["sliding_window"])
            writer.add_sliding_window_pattern(windowed)
            writer.add_expert_shared_feed_forward_length(config["share_expert_dim"])
            writer.add_expert_weights_scale(config["moe_router_scaling_factor"])
            writer.add_expert_weights_norm(config["norm_expert_weight"])
            writer.add_leading_dense_block_count(1)
            writer.add_swiglu_clamp_exp(config["swiglu_limits"][:layers])
            writer.add_swiglu_clamp_shexp(config["swiglu_limits_shared"][:layers])
        case "mimo_v2_flash":
            windowed = config["hybrid_layer_pattern"]
            kv = config["num_key_value_heads"]
            writer.add_head_count_kv([2 * kv if each else kv for each in windowed])
            writer.add_sliding_window(config["sliding_window"])
            writer.add_sliding_window_pattern([bool(each) for each in windowed])
            writer.add_rope_freq_base_swa(config["swa_rope_theta"])
            writer.add_float32("mimo2.attention.value_scale", config["attention_value_scale"])
            writer.add_expert_weights_scale(config["routed_scaling_factor"])
            writer.add_expert_weights_norm(config["norm_topk_prob"])
            writer.add_expert_group_count(config["n_group"])
            writer.add_expert_group_used_count(config["topk_group"])
        case "deepseek_v2" | "deepseek_v3" | "glm4_moe_lite" | "glm_moe_dsa":
            if config["model_type"] == "glm_moe_dsa":
                writer.add_indexer_head_count(config["index_n_heads"])
                writer.add_indexer_key_length(config["index_head_dim"])
                writer.add_indexer_top_k(config["index_topk"])
                full = [kind == "full" for kind in config["indexer_types"]]
                writer.add_array("glm-dsa.attention.indexer.types", full)
            rank, rope = config["kv_lora_rank"], config["qk_rope_head_dim"]
            first = config.get("first_k_dense_replace")
            writer.add_leading_dense_block_count(1 if first is None else first)
            if config["q_lora_rank"] is not None:
                writer.add_q_lora_rank(config["q_lora_rank"])
            writer.add_kv_lora_rank(rank)
            writer.add_key_length(rank + rope)
            writer.add_value_length(rank)
            writer.add_key_length_mla(config["qk_nope_head_dim"] + rope)
            writer.add_value_length_mla(config["v_head_dim"])
            writer.add_expert_shared_count(config["n_shared_experts"])
            writer.add_expert_weights_scale(config["routed_scaling_factor"])
            if config["norm_topk_prob"]:
                writer.add_expert_weights_norm(True)
            writer.add_expert_group_count(config["n_group"])
            writer.add_expert_group_used_count(config["topk_group"])
            softmax = config.get("scoring_func") == "softmax"
            functions = gguf.ExpertGatingFuncType
            writer.add_expert_gating_func(functions.SOFTMAX if softmax else functions.SIGMOID)
            writer.add_rope_dimension_count(rope)
            if (weight := (config["rope_scaling"] or {}).get("mscale_all_dim")) is not None:
                writer.add_rope_scaling_yarn_log_mul(0.1 * weight)
        case "qwen2_5_vl" | "qwen3_vl_text":
            rope = config.get("rope_parameters") or config["rope_scaling"]
            writer.add_rope_dimension_sections([*rope["mrope_section"], 0])
            if "deepstack_visual_indexes" in config["vision_config"]:
                writer.add_num_deepstack_layers(2)
        case "qwen3_next" | "qwen3_5_text" | "qwen3_5_moe_text":
            values = config["linear_num_value_heads"]
            writer.add_ssm_conv_kernel(config["linear_conv_kernel_dim"])
            writer.add_ssm_state_size(config["linear_key_head_dim"])
            writer.add_ssm_group_count(config["linear_num_key_heads"])
            writer.add_ssm_time_step_rank(values)
            writer.add_ssm_inner_size(values * config["linear_value_head_dim"])
            recurrent = [kind == "linear_attention" for kind in config["layer_types"]]
            writer.add_array(f"{writer.arch}.attention.recurrent_layers", recurrent)
            writer.add_uint32(f"{writer.arch}.full_attention_interval", 4)
            share = config.get("rope_parameters", config)["partial_rotary_factor"]
            writer.add_rope_dimension_count(int(config["head_dim"] * share))
        case "gemma4_text":
            windowed = [kind == "sliding_attention" for kind in config["layer_types"]]
            local, wide = config["num_key_value_heads"], config["num_global_key_value_heads"]
            writer.add_head_count_kv([local if each else wide for each in windowed])
            writer.add_sliding_window(config["sliding_window"])
            writer.add_sliding_window_pattern(windowed)
            writer.add_key_length(config["global_head_dim"])
            writer.add_value_length(config["global_head_dim"])
            writer.add_key_length_swa(config["head_dim"])
            writer.add_value_length_swa(config["head_dim"])
            writer.add_rope_dimension_count(config["global_head_dim"])
            writer.add_rope_dimension_count_swa(config["head_dim"])
            writer.add_shared_kv_layers(0)
            writer.add_embedding_length_per_layer_input(0)
            if config.get("final_logit_softcapping"):
                writer.add_final_logit_softcapping(config["final_logit_softcapping"])
        case "nemotron_h":
            pattern, kv = config["hybrid_override_pattern"], config["num_key_value_heads"]
            moe = "E" in pattern
            hidden = config["moe_intermediate_size" if moe else "intermediate_size"]
            writer.add_head_count_kv([kv if letter == "*" else 0 for letter in pattern])
            writer.add_feed_forward_length([hidden if x in "-E" else 0 for x in pattern])
            writer.add_layer_norm_eps(config["layer_norm_epsilon"])
            _write_ssm(writer, config, "mamba_num_heads", "mamba_head_dim", "ssm_state_size")
            if moe:
                writer.add_expert_shared_feed_forward_length(
                    config["moe_shared_expert_intermediate_size"]
                )
                writer.add_expert_shared_count(config["n_shared_experts"])
                writer.add_expert_weights_norm(config["norm_topk_prob"])
                writer.add_expert_weights_scale(config["routed_scaling_factor"])
                writer.add_expert_group_count(config["n_group"])
                writer.add_uint32(f"{writer.arch}.moe_latent_size", config["moe_latent_size"])
        case "granitemoehybrid":
            kv = config["num_key_value_heads"]
            writer.add_head_count_kv([kv if t == "attention" else 0 for t in config["layer_types"]])
            writer.add_expert_shared_feed_forward_length(config["shared_intermediate_size"])
            _write_ssm(writer, config, "mamba_n_heads", "mamba_d_head", "mamba_d_state")
            writer.add_rope_scaling_finetuned(config["position_embedding_type"] == "rope")
            writer.add_embedding_scale(config["embedding_multiplier"])
            writer.add_residual_scale(config["residual_multiplier"])
            writer.add_attention_scale(config["attention_multiplier"])
            writer.add_logit_scale(config["logits_scaling"])
        case "lfm2" | "lfm2_moe":
            kv = config["num_key_value_heads"]
            writer.add_head_count_kv(
                [0 if kind == "conv" else kv for kind in config["layer_types"]]
            )
            writer.add_shortconv_l_cache(config.get("conv_L_cache", 3))
            if config["model_type"] == "lfm2":
                hidden = int(2 * config["block_ff_dim"] / 3 * config["block_ffn_dim_multiplier"])
                multiple = config["block_multiple_of"]
                writer.add_feed_forward_length(-(-hidden // multiple) * multiple)
            else:
                writer.add_leading_dense_block_count(config["num_dense_layers"])
                # The converter leaves it out: it is 1 in what is published.
                writer.add_expert_weights_scale(config["routed_scaling_factor"])
                writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
        case "hunyuan_v1_moe":
            writer.add_expert_shared_feed_forward_length(config["intermediate_size"])
            writer.add_expert_feed_forward_length(config["moe_intermediate_size"][0])
            writer.add_expert_shared_count(config["num_shared_expert"][0])
        case "ernie4_5_moe":
            writer.add_interleave_moe_layer_step(config["moe_layer_interval"])
            writer.add_leading_dense_block_count(config["moe_layer_start_index"])
            writer.add_expert_shared_count(config["moe_num_shared_experts"])
        case "kimi_linear":
            linear, rank = config["linear_attn_config"], config["kv_lora_rank"]
            attending, rope = linear["full_attn_layers"], config["qk_rope_head_dim"]
            layers = range(1, config["num_hidden_layers"] + 1)
            writer.add_head_count_kv([int(i in attending) for i in layers])
            writer.add_ssm_conv_kernel(linear["short_conv_kernel_size"])
            writer.add_kda_head_dim(linear["head_dim"])
            writer.add_kv_lora_rank(rank)
            writer.add_rope_dimension_count(rope)
            writer.add_key_length(rank + rope)
            writer.add_key_length_mla(config["qk_nope_head_dim"] + rope)
            writer.add_value_length_mla(config["v_head_dim"])
            writer.add_expert_shared_count(config["num_shared_experts"])
            writer.add_leading_dense_block_count(config["first_k_dense_replace"])
            writer.add_expert_weights_scale(config["routed_scaling_factor"])
            # The converter leaves groups out: there is one in what is published.
            writer.add_expert_group_count(config["num_expert_group"])
            writer.add_expert_group_used_count(config["topk_group"])
        case "llama4_text":
            writer.add_interleave_moe_layer_step(config["interleave_moe_layer_step"])
            writer.add_expert_feed_forward_length(config["intermediate_size"])
        case "ministral3":
            rope = config["rope_parameters"]
            writer.add_rope_scaling_yarn_log_mul(rope["mscale_all_dim"])
            writer.add_attn_temperature_scale(rope["llama_4_scaling_beta"])
        case "minimax_m2":
            writer.add_rope_dimension_count(config["rotary_dim"])
            writer.add_expert_feed_forward_length(config["intermediate_size"])
            writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
        case "gpt_oss":
            writer.add_sliding_window(config["sliding_window"])
            writer.add_expert_feed_forward_length(config["intermediate_size"])
        case "granite" | "granitemoe":
            writer.add_embedding_scale(config["embedding_multiplier"])
            writer.add_residual_scale(config["residual_multiplier"])
            writer.add_attention_scale(config["attention_multiplier"])
            writer.add_logit_scale(config["logits_scaling"])
        case "cohere" | "cohere2":
            writer.add_logit_scale(config["logit_scale"])
            if "sliding_window" in config:
                writer.add_sliding_window(config["sliding_window"])
        case "falcon_h1":
            _write_ssm(writer, config, "mamba_n_heads", "mamba_d_head", "mamba_d_state")
        case "jamba":
            width, rank = config["hidden_size"], config["mamba_dt_rank"]
            period, offset = config["attn_layer_period"], config["attn_layer_offset"]
            layers = range(config["num_hidden_layers"])
            kv = config["num_key_value_heads"]
            writer.add_head_count_kv([kv if i % period == offset else 0 for i in layers])
            writer.add_ssm_conv_kernel(config["mamba_d_conv"])
            writer.add_ssm_inner_size(config["mamba_expand"] * width)
            writer.add_ssm_state_size(config["mamba_d_state"])
            writer.add_ssm_time_step_rank(-(-width // 16) if rank == "auto" else rank)
        case "exaone_moe":
            writer.add_sliding_window(config["sliding_window"])
            writer.add_sliding_window_pattern(
                [kind == "sliding_attention" for kind in config["layer_types"]]
            )
            shared = config["num_shared_experts"]
            writer.add_expert_shared_count(shared)
            writer.add_expert_shared_feed_forward_length(config["moe_intermediate_size"] * shared)
            writer.add_expert_weights_scale(config["routed_scaling_factor"])
            writer.add_expert_weights_norm(config["norm_topk_prob"])
            writer.add_leading_dense_block_count(config["first_k_dense_replace"])
            writer.add_expert_group_count(config["n_group"])
            writer.add_expert_group_used_count(config["topk_group"])
            writer.add_rope_scaling_type(gguf.RopeScalingType.NONE)
        case "exaone4":
            writer.add_sliding_window(config["sliding_window"])
            pattern = config["sliding_window_pattern"]
            layers = range(config["num_hidden_layers"])
            writer.add_sliding_window_pattern([pattern[i % len(pattern)] == "L" for i in layers])


def _write_xielu(writer: gguf.GGUFWriter, weights: Mapping[str, F32]) -> None:
    """Apertus' numbers of the activation, each a list by layer and no tensor."""
    for name, add in (
        ("alpha_p", writer.add_xielu_alpha_p),
        ("alpha_n", writer.add_xielu_alpha_n),
        ("beta", writer.add_xielu_beta),
        ("eps", writer.add_xielu_eps),
    ):
        values = [float(w.item()) for key, w in weights.items() if key.endswith(f"act_fn.{name}")]
        if values:
            add(values)


def _write_ssm(
    writer: gguf.GGUFWriter, config: Mapping[str, Any], heads: str, head_dim: str, state: str
) -> None:
    prefix = "mamba_" if heads == "mamba_n_heads" else ""
    writer.add_ssm_conv_kernel(config["mamba_d_conv" if prefix else "conv_kernel"])
    writer.add_ssm_state_size(config[state])
    writer.add_ssm_group_count(config[f"{prefix}n_groups"])
    writer.add_ssm_time_step_rank(config[heads])
    writer.add_ssm_inner_size(config[heads] * config[head_dim])


def _tiled(name: str, weight: F32, config: Mapping[str, Any]) -> F32:
    """Qwen3.5's value heads, those of one key head as many apart as there are key heads."""
    keys, values = config["linear_num_key_heads"], config["linear_num_value_heads"]
    if "out_proj" in name:
        return np.ascontiguousarray(_tiled("in_proj_z", weight.T, config).T)
    if not re.search(r"in_proj_(qkv|z|a|b)|A_log|dt_bias|conv1d", name):
        return weight
    first = 0
    if "in_proj_qkv" in name or "conv1d" in name:
        first = 2 * keys * config["linear_key_head_dim"]
    rows = weight[first:].reshape(keys, values // keys, -1, *weight.shape[1:]).swapaxes(0, 1)
    return np.concatenate([weight[:first], rows.reshape(weight[first:].shape)])


def _stored(name: str, weight: F32, config: Mapping[str, Any]) -> F32:
    if config["model_type"].startswith("qwen3_5") and "linear_attn." in name:
        weight = _tiled(name, weight, config)
    if config["model_type"] in _DELTA:
        if name.endswith("A_log"):
            return -np.exp(weight)
        if name.endswith("linear_attn.norm.weight"):
            return weight
    if name.endswith("_conv1d.weight"):
        return weight
    if name.endswith("self_attn.A_log"):
        return -np.exp(weight)
    if name.endswith("A_log"):
        rates = -np.exp(weight)
        return rates if rates.ndim == 2 else rates[:, None]
    if name.endswith(("conv1d.weight", "conv.conv.weight")):
        return weight[:, 0]
    if config["model_type"] in _MAMBA2 and name.endswith(".D"):
        return weight[:, None]
    if config["model_type"] in _MAMBA2 and name.endswith(
        ("mixer.norm.weight", "mamba.norm.weight")
    ):
        return weight.reshape(config.get("n_groups", config.get("mamba_n_groups")), -1)
    if config["model_type"] == "gpt2" and re.search(r"(c_\w+)\.weight", name):
        return np.ascontiguousarray(weight.T)
    if "query_key_value" in name:
        heads = config["num_attention_heads"]
        by_head = weight.reshape(heads, 3, -1, *weight.shape[1:])
        return np.ascontiguousarray(by_head.swapaxes(0, 1)).reshape(weight.shape)
    if config["model_type"] in _SHIFTED and name.endswith("norm.weight"):
        return weight + np.float32(1.0)
    if config["model_type"] in _REORDERED and ".q_proj." in name:
        return interleave_rows(weight, config["num_attention_heads"])
    if config["model_type"] in _REORDERED and ".k_proj." in name:
        return interleave_rows(weight, config["num_key_value_heads"])
    return weight


def parted(weights: Mapping[str, F32], config: Mapping[str, Any]) -> dict[str, F32]:
    """Tensors that hold gate and up of each expert as two, of GGUF's names: gate above up in
    Granite's, by turns and inputs first in gpt-oss's.
    """
    found: dict[str, F32] = {}
    for name, weight in weights.items():
        layer = re.match(r"(?:model|backbone)\.layers\.(\d+)\.", name)
        block = f"blk.{layer[1]}" if layer else ""
        if name.endswith("block_sparse_moe.input_linear.weight"):
            gate, up = np.split(weight, 2, axis=1)
            found |= {f"{block}.ffn_gate_exps.weight": gate, f"{block}.ffn_up_exps.weight": up}
        elif name.endswith("block_sparse_moe.output_linear.weight"):
            found[f"{block}.ffn_down_exps.weight"] = weight
        elif name.endswith("router.scale"):
            found[f"{block}.ffn_gate_inp.scale"] = weight
        elif name.endswith("per_expert_scale"):
            found[f"{block}.ffn_down_exps.scale"] = weight
        elif name.endswith("layer_scalar"):
            found[f"{block}.layer_output_scale.weight"] = weight
        elif config["model_type"] == "gemma4_text" and "experts.gate_up" in name:
            found[f"{block}.ffn_gate_up_exps.weight"] = weight
        elif config["model_type"] == "gemma4_text" and "experts.down" in name:
            found[f"{block}.ffn_down_exps.weight"] = weight
        elif name.endswith("shared_mlp.input_linear.weight"):
            shared = "_shexp" if config["num_local_experts"] else ""
            gate, up = np.split(weight, 2)
            found[f"{block}.ffn_gate{shared}.weight"] = gate
            found[f"{block}.ffn_up{shared}.weight"] = up
        elif name.endswith("shared_mlp.output_linear.weight"):
            shared = "_shexp" if config["num_local_experts"] else ""
            found[f"{block}.ffn_down{shared}.weight"] = weight
        elif match := re.search(r"(?:q|k|v)_conv1d\.weight", name):
            found[name] = weight.reshape(1, weight.shape[0], 1, -1)
        elif match := re.search(r"(?:mixer|feed_forward)\.experts\.(\d+)\.(\w+)\.weight", name):
            parts = {"w1": "gate", "w2": "down", "w3": "up", "up_proj": "up", "down_proj": "down"}
            parts["gate_proj"] = "gate"
            found[f"{block}.ffn_{parts[match[2]]}_exps.experts.{match[1]}.weight"] = weight
        elif match := re.search(r"altup_(projections|unembed_projections)\.(\d+)\.weight", name):
            whole = "altup_proj" if match[1] == "projections" else "altup_unembd_proj"
            found[f"{whole}.experts.{match[2]}.weight"] = weight
        elif name.startswith("mtp.") or "mlp.act_fn." in name:
            continue
        elif name.endswith("in_proj_qkvz.weight"):
            keys, key = config["linear_num_key_heads"], config["linear_key_head_dim"]
            share = config["linear_num_value_heads"] // keys * config["linear_value_head_dim"]
            by_head = weight.reshape(keys, -1, weight.shape[-1])
            parts = np.split(by_head, np.cumsum([key, key, share]), axis=1)
            *qkv, z = (part.reshape(-1, weight.shape[-1]) for part in parts)
            found[f"{block}.attn_qkv.weight"] = np.concatenate(qkv)
            found[f"{block}.attn_gate.weight"] = z
        elif name.endswith("kv_b_proj.weight"):
            whole = weight.reshape(config["num_attention_heads"], -1, weight.shape[-1])
            nope = config["qk_nope_head_dim"]
            found[f"{block}.attn_k_b.weight"] = whole[:, :nope].swapaxes(1, 2)
            found[f"{block}.attn_v_b.weight"] = whole[:, nope:]
        elif config["model_type"] == "llama4_text" and name.endswith("gate_up_proj"):
            gate, up = np.split(weight.swapaxes(1, 2), 2, axis=1)
            found |= {f"{block}.ffn_gate_exps.weight": gate, f"{block}.ffn_up_exps.weight": up}
        elif match := re.search(r"experts\.(gate_up|down)_proj(_bias)?$", name):
            leaf = "bias" if match[2] else "weight"
            rows = weight if match[2] else weight.swapaxes(1, 2)
            if match[1] == "down":
                found[f"{block}.ffn_down_exps.{leaf}"] = rows
            else:
                found[f"{block}.ffn_gate_exps.{leaf}"] = rows[:, ::2]
                found[f"{block}.ffn_up_exps.{leaf}"] = rows[:, 1::2]
        else:
            found[name] = weight
    return {name: np.ascontiguousarray(weight) for name, weight in found.items()}


def stacked(weights: Mapping[str, F32]) -> dict[str, F32]:
    """Weights of one expert each as one tensor of all, under the name without the number."""
    found: dict[str, F32] = {}
    stacks: dict[str, dict[int, F32]] = {}
    for name, weight in weights.items():
        match = re.fullmatch(r"(.*\.experts)\.(\d+)(\..*)", name)
        if match is None:
            found[name] = weight
        else:
            stacks.setdefault(match[1] + match[3], {})[int(match[2])] = weight
    for name, each in stacks.items():
        found[name] = np.stack([each[number] for number in sorted(each)])
    return found


def write_gguf(
    path: Path, config: Mapping[str, Any], weights: Mapping[str, F32], matrix_type: str
) -> None:
    """Write `weights` (Hugging Face names, float32) to `path`; matrices as "F32", "F16" or "BF16".

    Raises ValueError where a value has no exact counterpart in `matrix_type`: the twin must hold
    the very same weights. Of a model that sees, the language part: its tower is a file of its own.
    """
    config = {**config, **config.get("text_config", {})}
    weights = {name.replace("model.language_model.", "model."): w for name, w in weights.items()}
    architecture = _ARCHITECTURES[config["model_type"]]
    if config.get("moe_latent_size"):
        architecture = gguf.MODEL_ARCH.NEMOTRON_H_MOE
    layers = config.get("num_hidden_layers", config.get("n_layer"))
    names = gguf.get_tensor_name_map(architecture, layers)
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    writer.add_file_type(_FILE_TYPES[matrix_type])
    _write_hyperparameters(writer, config)
    _write_vocabulary(writer, config)
    _write_xielu(writer, weights)
    for source, weight in stacked(parted(weights, config)).items():
        known = source.replace("mixer.dt_bias", "mixer.dt_proj.bias")
        known = known.replace("moe.router_bias", "moe.router_bias.bias")
        known = known.replace("e_score_correction_bias", "e_score_correction.bias")
        known = known.replace("self_attn.dt_bias", "self_attn.dt_proj.bias")
        known = known.replace("mamba.dt_bias", "mamba.dt_proj.bias").replace(
            "feed_forward.expert_bias", "feed_forward.expert_bias.bias"
        )
        source = source.replace(".experts.weight", ".weight")
        known = known.replace("correct_output_scale", "correct_output_scale.weight")
        known = known.replace("linear_attn.dt_bias", "linear_attn.dt_proj.bias")
        known = re.sub(r"\.(sinks|attention_sink_bias)$", r".\1.weight", known)
        target = names.get_name(known, try_suffixes=(".weight", ".bias"))
        target = source if source.startswith(("blk.", "altup_")) else target
        if target is None:
            raise ValueError(f"{source} has no GGUF name")
        stored = _stored(source, weight, config)
        vectors = ("ffn_gate_inp", "ssm_a", "ssm_d", "ssm_norm", "ssm_conv1d", "shortconv.conv")
        is_matrix = stored.ndim > 1 and not any(name in target for name in vectors)
        is_matrix = is_matrix and not target.endswith(".bias")
        quantization = gguf.GGMLQuantizationType[matrix_type if is_matrix else "F32"]
        packed = gguf.quants.quantize(stored, quantization)
        if not np.array_equal(gguf.quants.dequantize(packed, quantization), stored):
            raise ValueError(f"{source} does not fit {quantization.name} exactly")
        writer.add_tensor(target, packed, raw_dtype=quantization)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
