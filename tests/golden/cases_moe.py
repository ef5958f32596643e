"""The golden checkpoints of mixtures of experts: routers, shared experts, layers that differ."""

from __future__ import annotations

from typing import Any

from case import VOCAB, Case, decoder


def _mixture(architecture: str, model_type: str, **changes: Any) -> dict[str, Any]:
    config = decoder(
        architectures=[architecture],
        model_type=model_type,
        hidden_size=32,
        intermediate_size=16,
        num_experts_per_tok=2,
    )
    del config["attention_bias"], config["mlp_bias"]
    return config | changes


def _without(name: str, config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != name}


def _qwen(architecture: str, model_type: str, **changes: Any) -> dict[str, Any]:
    return (
        _mixture(
            architecture,
            model_type,
            intermediate_size=48,
            moe_intermediate_size=16,
            num_experts=8,
            num_experts_per_tok=3,
            decoder_sparse_step=1,
            mlp_only_layers=[],
            rms_norm_eps=1e-6,
            sliding_window=None,
            use_sliding_window=False,
            max_window_layers=2,
        )
        | changes
    )


def _grouped(architecture: str, model_type: str, **changes: Any) -> dict[str, Any]:
    return (
        _mixture(
            architecture,
            model_type,
            intermediate_size=48,
            moe_intermediate_size=16,
            n_routed_experts=8,
            n_shared_experts=2,
            num_experts_per_tok=3,
            n_group=1,
            topk_group=1,
            first_k_dense_replace=1,
            norm_topk_prob=True,
            routed_scaling_factor=1.5,
        )
        | changes
    )


_YARN = {
    "type": "yarn",
    "factor": 40.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "original_max_position_embeddings": 16,
}


def _phimoe(router_noise: float, long_magnitude: float) -> dict[str, Any]:
    return _mixture(
        "PhimoeForCausalLM",
        "phimoe",
        num_local_experts=8,
        router_jitter_noise=router_noise,
        input_jitter_noise=0.0,
        attention_bias=True,
        lm_head_bias=True,
        sliding_window=None,
        original_max_position_embeddings=256,
        rope_scaling={
            "type": "longrope",
            "original_max_position_embeddings": 256,
            "long_factor": [1.0, 2.0, 4.0, 8.0],
            "short_factor": [1.0, 1.1, 1.3, 1.7],
            "long_mscale": long_magnitude,
            "short_mscale": 1.15,
        },
    )


def _latent(architecture: str, model_type: str, **changes: Any) -> dict[str, Any]:
    return (
        _grouped(
            architecture,
            model_type,
            num_key_value_heads=4,
            q_lora_rank=24,
            kv_lora_rank=32,
            qk_nope_head_dim=12,
            qk_rope_head_dim=8,
            v_head_dim=10,
            n_group=4,
            topk_group=2,
            n_shared_experts=1,
            routed_scaling_factor=2.5,
            moe_layer_freq=1,
            attention_bias=False,
        )
        | changes
    )


_V4: dict[str, Any] = {
    "architectures": ["DeepseekV4ForCausalLM"],
    "model_type": "deepseek_v4",
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "moe_intermediate_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 24,
    "q_lora_rank": 20,
    "qk_rope_head_dim": 8,
    "num_experts_per_tok": 2,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "scoring_func": "sqrtsoftplus",
    "topk_method": "noaux_tc",
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.5,
    "max_position_embeddings": 512,
    "rope_theta": 10000,
    "rope_scaling": {
        "type": "yarn",
        "factor": 16,
        "beta_fast": 32,
        "beta_slow": 1,
        "original_max_position_embeddings": 32,
    },
    "compress_ratios": [0, 4, 128, 4, 0],
    "compress_rate_hca": 8,
    "compress_rope_theta": 160000,
    "hc_mult": 3,
    "hc_sinkhorn_iters": 5,
    "hc_eps": 1e-6,
    "num_hash_layers": 2,
    "swiglu_limit": 10.0,
    "sliding_window": 6,
    "o_groups": 2,
    "o_lora_rank": 8,
    "index_n_heads": 8,  # with few, scores of 0 tie
    "index_head_dim": 12,
    "index_topk": 3,
    "num_nextn_predict_layers": 1,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
    "attention_bias": False,
}

MIXTURES = (
    # Mixtral 8x7B: one tensor an expert, two of eight a token, their weights sum to 1.
    Case("mixtral", _mixture("MixtralForCausalLM", "mixtral", num_local_experts=8, head_dim=None)),
    # Qwen1.5-MoE: an expert that all tokens share, weighed by a gate; weights that sum to less.
    Case(
        "qwen2_moe",
        _qwen(
            "Qwen2MoeForCausalLM",
            "qwen2_moe",
            shared_expert_intermediate_size=24,
            norm_topk_prob=False,
        ),
    ),
    # Qwen3-30B-A3B: weights that sum to 1, norms of the heads.
    Case("qwen3_moe", _qwen("Qwen3MoeForCausalLM", "qwen3_moe", norm_topk_prob=True, head_dim=16)),
    # Layers that are plain among those with experts; an odd number of experts.
    Case(
        "qwen3_moe_sparse",
        _qwen(
            "Qwen3MoeForCausalLM",
            "qwen3_moe",
            num_experts=5,
            num_hidden_layers=4,
            decoder_sparse_step=2,
            mlp_only_layers=[3],
            norm_topk_prob=False,
            tie_word_embeddings=True,
        ),
        gguf_type=None,
    ),
    # OLMoE: norms over all of q and of k.
    Case(
        "olmoe",
        _mixture(
            "OlmoeForCausalLM",
            "olmoe",
            num_experts=8,
            num_experts_per_tok=3,
            norm_topk_prob=False,
            clip_qkv=None,
        ),
        draw=1,
    ),
    # Granite 3 MoE: one tensor of all experts, gate above up; four multipliers.
    Case(
        "granitemoe",
        _mixture(
            "GraniteMoeForCausalLM",
            "granitemoe",
            num_local_experts=8,
            embedding_multiplier=12.0,
            residual_multiplier=0.22,
            attention_multiplier=0.1,
            logits_scaling=6.0,
            tie_word_embeddings=True,
        ),
    ),
    # MiniMax-M2: corrected sigmoids, a part of each head turns.
    Case(
        "minimax_m2",
        _mixture(
            "MiniMaxM2ForCausalLM",
            "minimax_m2",
            num_local_experts=8,
            head_dim=16,
            rotary_dim=8,
            scoring_func="sigmoid",
            use_routing_bias=True,
            use_qk_norm=True,
            qk_norm_type="per_layer",
            shared_intermediate_size=0,
        ),
    ),
    # GLM-4.5: a plain layer first, shared experts, biases, norms of the heads, half of each turns.
    Case(
        "glm4_moe",
        _grouped(
            "Glm4MoeForCausalLM",
            "glm4_moe",
            use_qk_norm=True,
            attention_bias=True,
            partial_rotary_factor=0.5,
            head_dim=16,
        ),
    ),
    # dots.llm1, with the groups that it could have: experts of the best two of four only.
    Case(
        "dots1",
        _grouped("Dots1ForCausalLM", "dots1", n_group=4, topk_group=2, sliding_window=None),
    ),
    # gpt-oss before it is quantized: inputs first, gate and up by turns; sinks, windows, YaRN.
    Case(
        "gpt_oss",
        _mixture(
            "GptOssForCausalLM",
            "gpt_oss",
            num_local_experts=8,
            num_experts_per_tok=3,
            head_dim=16,
            attention_bias=True,
            sliding_window=12,
            swiglu_limit=7.0,
            layer_types=["sliding_attention", "full_attention"],
            max_position_embeddings=512,
            rope_scaling={
                "rope_type": "yarn",
                "factor": 32.0,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "truncate": False,
                "original_max_position_embeddings": 16,
            },
        ),
    ),
    # Llama 4 Scout and Maverick in one: chunks, a layer without positions whose queries are scaled,
    # heads normed once they have turned, experts in every second layer, a shared one.
    Case(
        "llama4",
        _mixture(
            "Llama4ForCausalLM",
            "llama4_text",
            num_hidden_layers=4,
            num_local_experts=8,
            num_experts_per_tok=1,
            intermediate_size_mlp=48,
            interleave_moe_layer_step=2,
            head_dim=16,
            use_qk_norm=True,
            no_rope_layers=[1, 1, 1, 0],
            attention_chunk_size=12,
            attn_temperature_tuning=True,
            floor_scale=8,
            attn_scale=0.3,
            attention_bias=False,
            rope_theta=500000.0,
            rope_scaling={
                "rope_type": "llama3",
                "factor": 16.0,
                "high_freq_factor": 1.0,
                "low_freq_factor": 1.0,
                "original_max_position_embeddings": 64,
            },
        ),
        gguf_type=None,
    ),
    # As GGUF can say it: what chunks, temperatures and layers without positions are is in no key.
    Case(
        "llama4_scout",
        _mixture(
            "Llama4ForCausalLM",
            "llama4_text",
            num_hidden_layers=4,
            num_local_experts=4,
            num_experts_per_tok=1,
            intermediate_size_mlp=48,
            interleave_moe_layer_step=2,
            head_dim=16,
            use_qk_norm=True,
            attention_chunk_size=8192,
            attn_temperature_tuning=True,
            floor_scale=8192,
            attn_scale=0.1,
            attention_bias=False,
            rope_theta=500000.0,
            rope_scaling={
                "rope_type": "llama3",
                "factor": 8.0,
                "high_freq_factor": 4.0,
                "low_freq_factor": 1.0,
                "original_max_position_embeddings": 64,
            },
        ),
    ),
    # Two experts a token, no norm of heads, chunks in all layers but one.
    Case(
        "llama4_pairs",
        _mixture(
            "Llama4ForCausalLM",
            "llama4_text",
            num_local_experts=4,
            intermediate_size_mlp=48,
            head_dim=16,
            use_qk_norm=False,
            no_rope_layer_interval=2,
            attention_chunk_size=16,
            attn_temperature_tuning=False,
            attention_bias=True,
        ),
        gguf_type=None,
    ),
    # Phi-3.5-MoE: two experts one after the other, against those whose logits are near (a wide
    # jitter, so that there are some); layer norms, biases, magnitudes of LongRoPE that are given.
    Case(
        "phimoe",
        _phimoe(router_noise=0.2, long_magnitude=1.25),
        gguf_type=None,
        draw=5,
    ),
    # As published but for its sizes, so that a GGUF can say it: no key has the router's noise, and
    # one magnitude stands for both.
    Case(
        "phimoe_plain",
        _phimoe(router_noise=0.01, long_magnitude=1.15),
        draw=3,
    ),
    # DeepSeek V2: latents of queries, too; groups by their best expert; softmax, scaled.
    Case(
        "deepseek_v2",
        _latent(
            "DeepseekV2ForCausalLM",
            "deepseek_v2",
            scoring_func="softmax",
            topk_method="group_limited_greedy",
            norm_topk_prob=False,
            routed_scaling_factor=4.0,
            rope_scaling={**_YARN, "mscale": 0.707, "mscale_all_dim": 0.707},
        ),
        draw=2,
    ),
    # DeepSeek V2 Lite: queries without a latent, experts without groups.
    Case(
        "deepseek_v2_lite",
        _latent(
            "DeepseekV2ForCausalLM",
            "deepseek_v2",
            q_lora_rank=None,
            scoring_func="softmax",
            topk_method="greedy",
            n_group=1,
            topk_group=1,
            norm_topk_prob=False,
            routed_scaling_factor=1.0,
        ),
        draw=1,
    ),
    # DeepSeek V3: corrected sigmoids, groups by their two best, a scale of the softmax from YaRN.
    Case(
        "deepseek_v3",
        _latent(
            "DeepseekV3ForCausalLM",
            "deepseek_v3",
            scoring_func="sigmoid",
            topk_method="noaux_tc",
            rope_scaling={**_YARN, "mscale": 1.0, "mscale_all_dim": 1.0},
        ),
    ),
    # Multi-token prediction: two modules of DeepSeek's, each with copies of what is the model's.
    Case(
        "mtp_deepseek_v3",
        _latent(
            "DeepseekV3ForCausalLM",
            "deepseek_v3",
            scoring_func="sigmoid",
            topk_method="noaux_tc",
            num_nextn_predict_layers=2,
        ),
        gguf_type=None,
        predictors=2,
    ),
    Case(
        "mtp_glm4_moe",
        _grouped(
            "Glm4MoeForCausalLM",
            "glm4_moe",
            use_qk_norm=True,
            partial_rotary_factor=0.5,
            head_dim=16,
            num_nextn_predict_layers=1,
        ),
        gguf_type=None,
        predictors=1,
    ),
    # DeepSeek V3.2: attention to the 12 tokens that small heads select.
    Case(
        "deepseek_v32",
        _latent(
            "DeepseekV32ForCausalLM",
            "deepseek_v32",
            scoring_func="sigmoid",
            topk_method="noaux_tc",
            rope_scaling={**_YARN, "mscale": 1.0, "mscale_all_dim": 1.0},
            index_n_heads=6,
            index_head_dim=20,
            index_topk=12,
        ),
        gguf_type=None,
    ),
    # GLM-5: neighbours turn in the indexer, too; the last layer looks at what the one before did.
    Case(
        "glm_moe_dsa",
        _latent(
            "GlmMoeDsaForCausalLM",
            "glm_moe_dsa",
            num_hidden_layers=3,
            scoring_func="sigmoid",
            topk_method="noaux_tc",
            indexer_rope_interleave=True,
            indexer_types=["full", "full", "shared"],
            index_n_heads=5,
            index_head_dim=18,
            index_topk=16,
        ),
    ),
    # GLM-4.7 Flash: DeepSeek V3, whose plain layers are listed.
    Case(
        "glm4_moe_lite",
        _latent(
            "Glm4MoeLiteForCausalLM",
            "glm4_moe_lite",
            first_k_dense_replace=None,
            mlp_layer_types=["dense", "sparse"],
            topk_method="noaux_tc",
        ),
    ),
    # ERNIE 4.5 A3B: softmax and a correction, a shared expert, mixtures between plain layers.
    Case(
        "ernie4_5_moe",
        _mixture(
            "Ernie4_5_MoeForCausalLM",
            "ernie4_5_moe",
            num_hidden_layers=3,
            intermediate_size=48,
            moe_intermediate_size=16,
            moe_num_experts=8,
            moe_k=3,
            moe_num_shared_experts=2,
            moe_layer_start_index=1,
            moe_layer_end_index=2,
            moe_layer_interval=2,
            num_experts_per_tok=3,
            use_bias=False,
            tie_word_embeddings=True,
        ),
        draw=1,
    ),
    # K-EXAONE: layers without a window do not turn; experts chosen in groups.
    Case(
        "exaone_moe",
        _grouped(
            "ExaoneMoeForCausalLM",
            "exaone_moe",
            num_hidden_layers=3,
            head_dim=8,
            n_routed_experts=None,
            n_shared_experts=None,
            num_experts=8,
            num_shared_experts=1,
            n_group=4,
            topk_group=2,
            sliding_window=9,
            sliding_window_pattern="LLG",
            layer_types=["sliding_attention", "sliding_attention", "full_attention"],
            mlp_layer_types=["dense", "sparse", "sparse"],
        ),
    ),
    # Hunyuan: heads normed once they have turned, a base that alpha stretches.
    Case(
        "hunyuan",
        decoder(
            architectures=["HunYuanDenseV1ForCausalLM"],
            model_type="hunyuan_v1_dense",
            head_dim=12,
            rope_scaling={"type": "dynamic", "alpha": 1000.0, "factor": 1.0},
            use_qk_norm=True,
        ),
    ),
    Case(
        "hunyuan_moe",
        _mixture(
            "HunYuanMoEV1ForCausalLM",
            "hunyuan_v1_moe",
            head_dim=12,
            num_experts=8,
            moe_topk=3,
            num_experts_per_tok=3,
            num_shared_expert=[1, 1],
            moe_intermediate_size=[16, 16],
            use_qk_norm=True,
        ),
    ),
    # MiMo-V2-Flash: sinks and more keys in windows, values narrower than keys, a third of it turns.
    Case(
        "mimo_v2_flash",
        _without(
            "rope_scaling",
            _grouped(
                "MiMoV2FlashForCausalLM",
                "mimo_v2_flash",
                num_hidden_layers=3,
                num_key_value_heads=1,
                head_dim=12,
                v_head_dim=10,
                rope_theta=5e6,
                swa_rope_theta=1e4,
                partial_rotary_factor=0.334,
                sliding_window_size=8,
                sliding_window=8,
                hybrid_layer_pattern=[0, 1, 1],
                moe_layer_freq=[0, 1, 1],
                first_k_dense_replace=None,
                n_shared_experts=None,
                attention_value_scale=0.707,
                attention_bias=True,
            ),
        ),
        draw=3,
    ),
    # Step 3.7 Flash as it is published: more heads in windows, rotations as lists by layer (half of
    # a head, scaled llama3's way, where there is no window), gates, caps that differ by layer.
    Case(
        "step3p7",
        {
            "architectures": ["Step3p7ForConditionalGeneration"],
            "model_type": "step3p7",
            "tie_word_embeddings": False,
            "image_token_id": VOCAB - 3,
            "vision_config": {
                "width": 16,
                "layers": 1,
                "heads": 2,
                "image_size": 16,
                "patch_size": 4,
                "mlp_ratio": 2.0,
            },
            "text_config": {
                "architectures": ["Step3p5ForCausalLM"],
                "model_type": "step3p5",
                "vocab_size": VOCAB,
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 4,
                "num_nextn_predict_layers": 1,
                "num_attention_heads": 4,
                "num_attention_groups": 2,
                "head_dim": 16,
                "max_position_embeddings": 512,
                "rms_norm_eps": 1e-5,
                "layer_types": [
                    "full_attention",
                    *["sliding_attention"] * 2,
                    *["full_attention"] * 2,
                ],
                "sliding_window": 10,
                "attention_other_setting": {
                    "attention_type": "sliding_attention",
                    "num_attention_heads": 6,
                    "num_attention_groups": 2,
                    "head_dim": 16,
                },
                "use_head_wise_attn_gate": True,
                "rope_theta": [5e6, 1e4, 1e4, 5e6, 5e6],
                "partial_rotary_factors": [0.5, 1.0, 1.0, 0.5, 0.5],
                "rope_scaling": {
                    "rope_type": "llama3",
                    "factor": 2.0,
                    "original_max_position_embeddings": 64,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 32.0,
                },
                "yarn_only_types": ["full_attention"],
                "moe_layers_enum": "1,2,3",
                "moe_num_experts": 8,
                "moe_top_k": 3,
                "moe_intermediate_size": 16,
                "share_expert_dim": 24,
                "use_moe_router_bias": True,
                "moe_router_activation": "sigmoid",
                "moe_router_scaling_factor": 3.0,
                "norm_expert_weight": True,
                "swiglu_limits": [0.0, 0.0, 0.0, 7.0, 0.0],
                "swiglu_limits_shared": [0.0, 0.0, 16.0, 16.0, 0.0],
                "bos_token_id": VOCAB - 2,
                "eos_token_id": VOCAB - 1,
            },
        },
    ),
    # MiniMax-M3: of blocks of 16 tokens each KV head looks at its best and at its own; a plain
    # layer first. Of the second prompt a third of the tokens have blocks that they do not look at.
    Case(
        "minimax_m3",
        {
            "architectures": ["MiniMaxM3SparseForConditionalGeneration"],
            "model_type": "minimax_m3_vl",
            "tie_word_embeddings": False,
            "projector_hidden_size": 16,
            "vision_config": {
                "hidden_size": 16,
                "intermediate_size": 24,
                "num_hidden_layers": 1,
                "num_attention_heads": 1,
                "image_size": 16,
                "patch_size": 4,
            },
            "text_config": _mixture(
                "MiniMaxM3ForCausalLM",
                "minimax_m3_vl_text",
                num_hidden_layers=3,
                intermediate_size=16,
                dense_intermediate_size=48,
                shared_intermediate_size=24,
                n_shared_experts=1,
                num_local_experts=8,
                num_experts_per_tok=3,
                head_dim=16,
                rotary_dim=8,
                partial_rotary_factor=0.5,
                hidden_act="swigluoai",
                swiglu_alpha=1.702,
                swiglu_limit=7.0,
                scoring_func="sigmoid",
                use_routing_bias=True,
                use_qk_norm=True,
                qk_norm_type="per_head",
                use_gemma_norm=True,
                attention_output_gate=False,
                routed_scaling_factor=2.0,
                moe_layer_freq=[0, 1, 1],
                sparse_attention_config={
                    "use_sparse_attention": True,
                    "sparse_attention_freq": [0, 1, 1],
                    "sparse_block_size": 16,
                    "sparse_topk_blocks": 2,
                    "sparse_index_dim": 12,
                    "sparse_num_index_heads": 2,
                    "sparse_init_block": 0,
                    "sparse_local_block": 1,
                    "sparse_score_type": "max",
                },
            ),
        },
        gguf_type=None,
        short_tokens=48,
    ),
    # DeepSeek V4: all three kinds of layers, and both kinds of routers; an entry is of 4 tokens or
    # of 8, and 3 of up to 9 are looked at.
    Case(
        "deepseek_v4",
        _V4,
        gguf_type=None,
    ),
    # Two modules, each with a head of streams of its own, behind a model of all kinds of layers.
    Case("mtp_deepseek_v4", _V4 | {"num_nextn_predict_layers": 2}, gguf_type=None, predictors=2),
    # LongCat-Flash: two latent attentions and two MLPs a layer, three experts compute nothing.
    Case(
        "longcat_flash",
        {
            name: value
            for name, value in _latent(
                "LongcatFlashForCausalLM",
                "longcat_flash",
                num_layers=2,
                head_dim=8,
                ffn_hidden_size=48,
                expert_ffn_hidden_size=16,
                moe_topk=4,
                n_routed_experts=6,
                zero_expert_num=3,
                zero_expert_type="identity",
                attention_method="MLA",
                mla_scale_q_lora=True,
                mla_scale_kv_lora=True,
                routed_scaling_factor=6.0,
            ).items()
            if name
            not in (
                *("num_hidden_layers", "intermediate_size", "moe_intermediate_size", "n_group"),
                *("num_experts_per_tok", "topk_group", "n_shared_experts", "norm_topk_prob"),
                *("first_k_dense_replace", "moe_layer_freq"),
            )
        },
        gguf_type=None,
    ),
)
