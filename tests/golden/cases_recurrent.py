"""The golden checkpoints of models that carry a state from token to token; see `cases`."""

from __future__ import annotations

from typing import Any

from case import VOCAB, Case, decoder


def _mamba(architecture: str, model_type: str, **changes: Any) -> dict[str, Any]:
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "vocab_size": VOCAB,
        "hidden_size": 40,
        "num_hidden_layers": 2,
        "layer_norm_epsilon": 1e-5,
        "expand": 2,
        "conv_kernel": 4,
        "hidden_act": "silu",
        "use_bias": False,
        "use_conv_bias": True,
        "residual_in_fp32": True,
        "tie_word_embeddings": True,
        "bos_token_id": VOCAB - 2,
        "eos_token_id": VOCAB - 1,
        "torch_dtype": "float32",
    } | changes


def _hybrid(architecture: str, model_type: str, **changes: Any) -> dict[str, Any]:
    config = decoder(architectures=[architecture], model_type=model_type) | {
        "num_hidden_layers": 3,
        "torch_dtype": "float32",
    }
    del config["rope_scaling"]
    return config | changes


_MAMBA2 = {
    "mamba_n_heads": 4,
    "mamba_d_head": 20,
    "mamba_n_groups": 2,
    "mamba_d_state": 18,
    "mamba_d_conv": 4,
    "mamba_chunk_size": 8,
}
_DELTA = {
    "head_dim": 24,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 12,
    "linear_value_head_dim": 20,
    "linear_conv_kernel_dim": 4,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
}

_MIXTURE = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 16,
}

RECURRENT = (
    # Mamba 130M to 2.8B: 80 channels, which are whole tiles of 16 lanes.
    Case(
        "mamba",
        _mamba("MambaForCausalLM", "mamba", state_size=16, time_step_rank="auto"),
        dtype="F32",
    ),
    # Every bias, a longer filter, a state and channels (72) that fill no tile, an untied head.
    Case(
        "mamba_odd",
        _mamba(
            "MambaForCausalLM",
            "mamba",
            hidden_size=24,
            expand=3,
            state_size=5,
            time_step_rank=6,
            conv_kernel=5,
            use_bias=True,
            tie_word_embeddings=False,
        ),
    ),
    # Mamba 2: heads share b and c by groups, dt is limited, and the gate's norm is by group.
    Case(
        "mamba2",
        _mamba(
            "Mamba2ForCausalLM",
            "mamba2",
            num_heads=4,
            head_dim=20,
            n_groups=2,
            state_size=18,
            chunk_size=8,
            time_step_limit=[0.05, 0.9],
            tie_word_embeddings=False,
        ),
        gguf_type=None,  # which has no key for the limits
    ),
    Case(
        "mamba2_one_group",
        _mamba(
            "Mamba2ForCausalLM",
            "mamba2",
            num_heads=5,
            head_dim=16,
            n_groups=1,
            state_size=16,
            use_bias=True,
            use_conv_bias=False,
            conv_kernel=3,
            chunk_size=256,
        ),
    ),
    # dt, b and c are normalised, without weights.
    Case(
        "falcon_mamba",
        _mamba(
            "FalconMambaForCausalLM",
            "falcon_mamba",
            state_size=16,
            mixer_rms_eps=1e-6,
            intermediate_size=96,
        ),
    ),
    # Nemotron-H 8B to 56B: one of three kinds a layer, named by a letter.
    Case(
        "nemotron_h",
        _hybrid(
            "NemotronHForCausalLM",
            "nemotron_h",
            hybrid_override_pattern="M-M*-",
            num_hidden_layers=5,
            head_dim=24,
            mamba_num_heads=4,
            mamba_head_dim=20,
            n_groups=2,
            ssm_state_size=18,
            conv_kernel=4,
            chunk_size=8,
            mamba_hidden_act="silu",
            mlp_hidden_act="relu2",
            layer_norm_epsilon=1e-5,
        ),
        gguf_type=None,
    ),
    # Jamba without experts (Jamba reasoning 3B): a norm of dt, b and c; no rotation.
    Case(
        "jamba_dense",
        _hybrid(
            "JambaForCausalLM",
            "jamba",
            num_experts=1,
            num_experts_per_tok=1,
            attn_layer_period=3,
            attn_layer_offset=1,
            mamba_d_state=16,
            mamba_d_conv=4,
            mamba_expand=2,
            mamba_dt_rank=8,
            mamba_conv_bias=True,
            mamba_proj_bias=False,
        ),
        dtype="F16",
        gguf_type=None,
    ),
    Case(
        "bamba",
        _hybrid(
            "BambaForCausalLM",
            "bamba",
            hidden_size=40,
            num_attention_heads=2,
            attn_layer_indices=[1],
            mamba_expand=2,
            **_MAMBA2,
        ),
        gguf_type=None,
    ),
    # Every multiplier is another, so that none can be lost or taken for another.
    Case(
        "falcon_h1",
        _hybrid(
            "FalconH1ForCausalLM",
            "falcon_h1",
            mamba_d_ssm=80,
            num_hidden_layers=2,
            mamba_rms_norm=True,
            mamba_norm_before_gate=False,
            lm_head_multiplier=0.6,
            embedding_multiplier=1.7,
            mlp_multipliers=[0.8, 1.3],
            key_multiplier=0.7,
            attention_in_multiplier=1.2,
            attention_out_multiplier=0.9,
            ssm_multipliers=[0.9, 1.1, 0.8, 1.2, 0.7],
            ssm_in_multiplier=1.25,
            ssm_out_multiplier=0.85,
            **_MAMBA2,
        ),
        gguf_type=None,
    ),
    Case(
        "falcon_h1_plain",
        _hybrid(
            "FalconH1ForCausalLM",
            "falcon_h1",
            mamba_d_ssm=80,
            num_hidden_layers=2,
            mamba_rms_norm=False,
            tie_word_embeddings=True,
            **_MAMBA2,
        ),
        gguf_type=None,
    ),
    # Granite 4 H 350M and 1B: no experts, no positions in attention.
    Case(
        "granite_hybrid",
        _hybrid(
            "GraniteMoeHybridForCausalLM",
            "granitemoehybrid",
            hidden_size=40,
            num_attention_heads=2,
            layer_types=["mamba", "attention", "mamba"],
            num_local_experts=0,
            num_experts_per_tok=0,
            shared_intermediate_size=48,
            position_embedding_type="nope",
            embedding_multiplier=12.0,
            residual_multiplier=0.22,
            attention_multiplier=0.12,
            logits_scaling=3.0,
            tie_word_embeddings=True,
            **_MAMBA2,
        ),
        gguf_type=None,
    ),
    Case(
        "lfm2",
        _hybrid(
            "Lfm2ForCausalLM",
            "lfm2",
            layer_types=["conv", "full_attention", "conv"],
            conv_L_cache=3,
            conv_bias=False,
            norm_eps=1e-5,
            block_auto_adjust_ff_dim=True,
            block_ff_dim=50,
            block_ffn_dim_multiplier=1.5,
            block_multiple_of=16,
            tie_word_embeddings=True,
        ),
        gguf_type=None,
    ),
    Case(
        "qwen3_5",
        _hybrid(
            "Qwen3_5ForCausalLM",
            "qwen3_5_text",
            attn_output_gate=True,
            rms_norm_eps=1e-6,
            rope_parameters={
                "rope_theta": 10000.0,
                "rope_type": "default",
                "partial_rotary_factor": 0.25,
                "mrope_interleaved": True,
                "mrope_section": [1, 1, 1],
            },
            **_DELTA,
        ),
        gguf_type=None,
    ),
    # Every second layer's MLP is a mixture.
    Case(
        "jamba",
        _hybrid(
            "JambaForCausalLM",
            "jamba",
            num_experts=4,
            num_experts_per_tok=2,
            expert_layer_period=2,
            expert_layer_offset=1,
            attn_layer_period=3,
            attn_layer_offset=2,
            mamba_d_state=8,
            mamba_d_conv=4,
            mamba_expand=1,
            mamba_dt_rank="auto",
        ),
        dtype="F16",
        gguf_type=None,
    ),
    # Granite 4 H tiny and small: experts beside the shared MLP.
    Case(
        "granite_hybrid_moe",
        _hybrid(
            "GraniteMoeHybridForCausalLM",
            "granitemoehybrid",
            hidden_size=40,
            intermediate_size=24,
            num_attention_heads=2,
            num_hidden_layers=2,
            layer_types=["mamba", "attention"],
            num_local_experts=4,
            num_experts_per_tok=2,
            shared_intermediate_size=32,
            position_embedding_type="rope",
            embedding_multiplier=12.0,
            residual_multiplier=0.22,
            attention_multiplier=0.12,
            logits_scaling=3.0,
            tie_word_embeddings=True,
            **_MAMBA2,
        ),
        dtype="F16",
        gguf_type=None,
    ),
    Case(
        "qwen3_next",
        _hybrid(
            "Qwen3NextForCausalLM",
            "qwen3_next",
            rms_norm_eps=1e-6,
            partial_rotary_factor=0.25,
            decoder_sparse_step=1,
            mlp_only_layers=[1],
            norm_topk_prob=True,
            **_DELTA,
            **_MIXTURE,
        ),
        dtype="F16",
        gguf_type=None,
    ),
    Case(
        "qwen3_5_moe",
        _hybrid(
            "Qwen3_5MoeForCausalLM",
            "qwen3_5_moe_text",
            num_hidden_layers=2,
            attn_output_gate=True,
            rms_norm_eps=1e-6,
            rope_parameters={
                "rope_theta": 10000.0,
                "rope_type": "default",
                "partial_rotary_factor": 0.25,
                "mrope_interleaved": True,
                "mrope_section": [1, 1, 1],
            },
            **_DELTA | {"layer_types": ["linear_attention", "full_attention"]},
            **_MIXTURE,
        ),
        dtype="F16",
        gguf_type=None,
    ),
    # Nemotron 3: experts without gates, on fewer channels than the model has.
    Case(
        "nemotron_3",
        _hybrid(
            "NemotronHForCausalLM",
            "nemotron_h",
            hybrid_override_pattern="ME*E",
            num_hidden_layers=4,
            head_dim=24,
            mamba_num_heads=4,
            mamba_head_dim=20,
            n_groups=2,
            ssm_state_size=16,
            conv_kernel=4,
            chunk_size=8,
            mlp_hidden_act="relu2",
            layer_norm_epsilon=1e-5,
            n_routed_experts=4,
            n_shared_experts=1,
            num_experts_per_tok=2,
            moe_intermediate_size=20,
            moe_shared_expert_intermediate_size=24,
            moe_latent_size=32,
            n_group=1,
            topk_group=1,
            norm_topk_prob=True,
            routed_scaling_factor=2.5,
        ),
        dtype="F16",
        gguf_type=None,
    ),
    Case(
        "lfm2_moe",
        _hybrid(
            "Lfm2MoeForCausalLM",
            "lfm2_moe",
            layer_types=["conv", "conv", "full_attention"],
            norm_eps=1e-5,
            num_dense_layers=1,
            num_experts=4,
            num_experts_per_tok=2,
            moe_intermediate_size=24,
            use_expert_bias=True,
            routed_scaling_factor=1.5,
            tie_word_embeddings=True,
        ),
        dtype="F16",
        gguf_type=None,
    ),
    # Rates of decay by channel, latents that are not turned, experts in groups.
    Case(
        "kimi_linear",
        {
            key: value
            for key, value in _hybrid(
                "KimiLinearForCausalLM",
                "kimi_linear",
                head_dim=10,
                num_key_value_heads=4,
                linear_attn_config={
                    "kda_layers": [1, 3],
                    "full_attn_layers": [2],
                    "num_heads": 3,
                    "head_dim": 20,
                    "short_conv_kernel_size": 4,
                },
                kv_lora_rank=24,
                q_lora_rank=None,
                qk_nope_head_dim=12,
                qk_rope_head_dim=6,
                v_head_dim=20,
                pad_token_id=VOCAB - 1,
                mla_use_nope=True,
                model_max_length=512,
                num_experts=8,
                num_experts_per_token=3,
                num_shared_experts=1,
                num_expert_group=4,
                topk_group=2,
                moe_intermediate_size=24,
                moe_layer_freq=1,
                moe_renormalize=True,
                moe_router_activation_func="sigmoid",
                use_grouped_topk=True,
                routed_scaling_factor=2.446,
                first_k_dense_replace=1,
                num_nextn_predict_layers=0,
            ).items()
            if key != "max_position_embeddings"
        },
        gguf_type=None,
    ),
    # Qwen3-Next's module of multi-token prediction: `mtp.*`, a layer with attention.
    Case(
        "mtp_qwen3_next",
        _hybrid(
            "Qwen3NextForCausalLM",
            "qwen3_next",
            num_hidden_layers=2,
            rms_norm_eps=1e-6,
            partial_rotary_factor=0.25,
            decoder_sparse_step=1,
            norm_topk_prob=True,
            **_DELTA | {"layer_types": ["linear_attention", "full_attention"]},
            **_MIXTURE,
        ),
        dtype="F16",
        gguf_type=None,
        predictors=1,
    ),
)
