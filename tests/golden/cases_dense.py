"""The golden checkpoints of dense families that are not Llama with other arguments."""

from __future__ import annotations

from typing import Any

from case import VOCAB, Case, decoder


def _family(architecture: str, model_type: str, *absent: str, **changes: Any) -> dict[str, Any]:
    config = decoder(
        architectures=[architecture],
        model_type=model_type,
        **{"hidden_size": 48, "intermediate_size": 32} | changes,
    )
    for key in ("attention_bias", "mlp_bias", *absent):
        if key not in changes:
            del config[key]
    return config


def _neox(**changes: Any) -> dict[str, Any]:
    return _family(
        "GPTNeoXForCausalLM",
        "gpt_neox",
        *("rms_norm_eps", "rope_theta", "rope_scaling", "num_key_value_heads"),
        hidden_act="gelu",
        hidden_size=64,
        layer_norm_eps=1e-5,
        rotary_pct=0.25,
        rotary_emb_base=10000,
        **changes,
    )


_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}

DENSE = (
    # Heads that are wider than hidden_size / heads, "gelu" that means its tanh form.
    Case(
        "gemma",
        _family(
            "GemmaForCausalLM",
            "gemma",
            "rope_scaling",
            hidden_act="gelu",
            hidden_activation="gelu_pytorch_tanh",
            num_key_value_heads=1,
            head_dim=16,
            rms_norm_eps=1e-6,
            tie_word_embeddings=True,
        ),
    ),
    # Soft caps low enough to bend, a window in every other layer, a query scale of its own.
    Case(
        "gemma2",
        _family(
            "Gemma2ForCausalLM",
            "gemma2",
            "rope_scaling",
            "hidden_act",
            hidden_activation="gelu_pytorch_tanh",
            num_hidden_layers=4,
            head_dim=16,
            query_pre_attn_scalar=16,
            sliding_window=12,
            attn_logit_softcapping=3.0,
            final_logit_softcapping=4.0,
            rms_norm_eps=1e-6,
            tie_word_embeddings=True,
        ),
    ),
    # Norms without weights.
    Case("olmo", _family("OlmoForCausalLM", "olmo", "rms_norm_eps", clip_qkv=None)),
    # All channels of q, and of k, normed together; a norm after each branch.
    Case("olmo2", _family("Olmo2ForCausalLM", "olmo2", attention_bias=False)),
    # Windows in three layers of four; YaRN in the fourth.
    Case(
        "olmo3",
        _family(
            "Olmo3ForCausalLM",
            "olmo3",
            rope_theta=500000.0,
            num_hidden_layers=4,
            sliding_window=12,
            attention_bias=False,
            rope_scaling={**_YARN, "attention_factor": 1.2, "beta_fast": 32.0, "beta_slow": 1.0},
            layer_types=[*["sliding_attention"] * 3, "full_attention"],
        ),
        gguf_type=None,
    ),
    # Every multiplier at work.
    Case(
        "granite",
        _family(
            "GraniteForCausalLM",
            "granite",
            attention_bias=False,
            mlp_bias=False,
            embedding_multiplier=3.0,
            residual_multiplier=0.22,
            attention_multiplier=0.4,
            logits_scaling=2.0,
            tie_word_embeddings=True,
        ),
    ),
    # Both branches read one norm; neighbours turn; the logits are scaled.
    Case(
        "cohere",
        _family(
            "CohereForCausalLM",
            "cohere",
            "rms_norm_eps",
            "rope_scaling",
            layer_norm_eps=1e-5,
            logit_scale=0.25,
            attention_bias=False,
            use_qk_norm=False,
            tie_word_embeddings=True,
        ),
    ),
    # Command R+: each head of q and k has a norm with weights of its own.
    Case(
        "cohere_plus",
        _family(
            "CohereForCausalLM",
            "cohere",
            "rms_norm_eps",
            "rope_scaling",
            layer_norm_eps=1e-5,
            logit_scale=0.25,
            attention_bias=True,
            use_qk_norm=True,
            tie_word_embeddings=True,
        ),
        gguf_type=None,
    ),
    # Pythia: branches beside each other, q, k and v by head, a quarter of each head turns.
    Case("gpt_neox", _neox(use_parallel_residual=True)),
    Case("gpt_neox_plain", _neox(use_parallel_residual=False, tie_word_embeddings=True)),
    # Inputs before outputs, learned positions.
    Case(
        "gpt2",
        {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "vocab_size": VOCAB,
            "n_embd": 48,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 64,
            "n_inner": None,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": 1e-5,
            "scale_attn_weights": True,
            "tie_word_embeddings": True,
            "bos_token_id": VOCAB - 2,
            "eos_token_id": VOCAB - 1,
        },
    ),
    # No positions in every fourth layer, windows in the others.
    Case(
        "cohere2",
        _family(
            "Cohere2ForCausalLM",
            "cohere2",
            "rms_norm_eps",
            "rope_scaling",
            num_hidden_layers=4,
            layer_norm_eps=1e-5,
            logit_scale=0.25,
            attention_bias=False,
            sliding_window=12,
            sliding_window_pattern=4,
            tie_word_embeddings=True,
        ),
    ),
    # Biases everywhere, in the output too; an MLP without a gate; half of each head turns.
    Case(
        "phi",
        _family(
            "PhiForCausalLM",
            "phi",
            "rms_norm_eps",
            "rope_scaling",
            hidden_act="gelu_new",
            hidden_size=64,
            num_key_value_heads=4,
            layer_norm_eps=1e-5,
            partial_rotary_factor=0.5,
            qk_layernorm=False,
        ),
    ),
    Case(
        "starcoder2",
        _family(
            "Starcoder2ForCausalLM",
            "starcoder2",
            "rms_norm_eps",
            "rope_scaling",
            hidden_act="gelu_pytorch_tanh",
            norm_epsilon=1e-5,
            use_bias=True,
            sliding_window=None,
            tie_word_embeddings=True,
        ),
    ),
    # StarCoder2's window at work.
    Case(
        "starcoder2_window",
        _family(
            "Starcoder2ForCausalLM",
            "starcoder2",
            "rms_norm_eps",
            "rope_scaling",
            hidden_act="gelu_pytorch_tanh",
            norm_epsilon=1e-5,
            use_bias=False,
            sliding_window=12,
            num_hidden_layers=1,
            tie_word_embeddings=True,
        ),
        gguf_type=None,
    ),
    # Half of each head turns, neighbours together; gate and up in one matrix; biases on q, k, v.
    Case(
        "glm",
        _family(
            "GlmForCausalLM",
            "glm",
            "rope_scaling",
            head_dim=16,
            partial_rotary_factor=0.5,
            attention_bias=True,
            pad_token_id=127,
        ),
        gguf_type=None,
    ),
    Case(
        "glm4",
        _family(
            "Glm4ForCausalLM",
            "glm4",
            "rope_scaling",
            head_dim=16,
            partial_rotary_factor=0.5,
            attention_bias=True,
            pad_token_id=127,
        ),
    ),
    # EXAONE 4 32B: windowed layers with positions, a full one without.
    Case(
        "exaone4",
        _family(
            "Exaone4ForCausalLM",
            "exaone4",
            num_hidden_layers=4,
            head_dim=16,
            sliding_window=12,
            sliding_window_pattern="LLLG",
            layer_types=[*["sliding_attention"] * 3, "full_attention"],
            rope_theta=1000000.0,
        ),
    ),
    # EXAONE 4 1.2B: no windows, positions everywhere.
    Case(
        "exaone4_full",
        _family(
            "Exaone4ForCausalLM",
            "exaone4",
            head_dim=16,
            sliding_window=None,
            sliding_window_pattern=None,
            layer_types=["full_attention"] * 2,
            tie_word_embeddings=True,
        ),
        gguf_type=None,
    ),
    Case(
        "smollm3",
        _family(
            "SmolLM3ForCausalLM",
            "smollm3",
            num_hidden_layers=4,
            no_rope_layers=[1, 1, 1, 0],
            no_rope_layer_interval=4,
            use_sliding_window=False,
            sliding_window=None,
            attention_bias=False,
            mlp_bias=False,
            rope_theta=5000000.0,
            tie_word_embeddings=True,
            pad_token_id=127,
        ),
    ),
    Case(
        "ernie4_5",
        _family(
            "Ernie4_5ForCausalLM",
            "ernie4_5",
            head_dim=16,
            use_bias=True,
            rope_theta=500000.0,
            tie_word_embeddings=True,
        ),
    ),
    Case(
        "seed_oss",
        _family(
            "SeedOssForCausalLM",
            "seed_oss",
            head_dim=16,
            attention_bias=True,
            attention_out_bias=False,
            mlp_bias=False,
        ),
    ),
    # One norm for both branches, a quarter of each head turns.
    Case(
        "stablelm",
        _family(
            "StableLmForCausalLM",
            "stablelm",
            "rms_norm_eps",
            "rope_scaling",
            hidden_size=64,
            layer_norm_eps=1e-5,
            partial_rotary_factor=0.25,
            use_qkv_bias=True,
            use_parallel_residual=True,
        ),
    ),
    # Norms with 1 + w and a bias, a squared ReLU.
    Case(
        "nemotron",
        _family(
            "NemotronForCausalLM",
            "nemotron",
            "rms_norm_eps",
            "rope_scaling",
            hidden_act="relu2",
            hidden_size=64,
            norm_eps=1e-5,
            partial_rotary_factor=0.5,
            attention_bias=False,
            mlp_bias=False,
        ),
    ),
    # Swiss AI: norms of heads, an activation with two parameters a layer, no gate.
    Case(
        "apertus",
        _family(
            "ApertusForCausalLM",
            "apertus",
            hidden_act="xielu",
            head_dim=16,
            rope_theta=12e6,
            rope_scaling={
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            },
            qk_norm=True,
        ),
    ),
    Case(
        "arcee",
        _family(
            "ArceeForCausalLM",
            "arcee",
            hidden_act="relu2",
            head_dim=16,
            attention_bias=False,
            mlp_bias=False,
            rope_scaling=_YARN,
        ),
    ),
    # Ministral 8B: windows in three layers of four.
    Case(
        "ministral",
        _family(
            "MinistralForCausalLM",
            "ministral",
            num_hidden_layers=4,
            head_dim=16,
            sliding_window=12,
            layer_types=["full_attention", *["sliding_attention"] * 3],
        ),
        gguf_type=None,
    ),
    # Ministral 3: YaRN as DeepSeek spells it; queries that grow with every 16 positions.
    Case(
        "ministral3",
        _family(
            "Ministral3ForCausalLM",
            "ministral3",
            "rope_theta",
            "rope_scaling",
            head_dim=16,
            sliding_window=None,
            rope_parameters={
                "type": "yarn",
                "rope_type": "yarn",
                "rope_theta": 1000000.0,
                "factor": 16.0,
                "original_max_position_embeddings": 16,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "llama_4_scaling_beta": 0.5,
            },
        ),
    ),
    # Gemma 4 31B: global layers with larger and fewer heads, whose keys are their values, and of
    # whose pairs a quarter turns.
    Case(
        "gemma4",
        _family(
            "Gemma4ForCausalLM",
            "gemma4_text",
            "rope_theta",
            "rope_scaling",
            "hidden_act",
            hidden_activation="gelu_pytorch_tanh",
            num_hidden_layers=4,
            head_dim=12,
            global_head_dim=24,
            num_global_key_value_heads=1,
            attention_k_eq_v=True,
            attention_bias=False,
            hidden_size_per_layer_input=0,
            vocab_size_per_layer_input=128,
            num_kv_shared_layers=0,
            enable_moe_block=False,
            use_double_wide_mlp=False,
            use_bidirectional_attention="vision",
            final_logit_softcapping=4.0,
            sliding_window=12,
            layer_types=["sliding_attention", "full_attention"] * 2,
            rope_parameters={
                "full_attention": {
                    "rope_type": "proportional",
                    "partial_rotary_factor": 0.25,
                    "rope_theta": 1000000.0,
                },
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
            tie_word_embeddings=True,
        ),
    ),
    # Gemma 4 26B-A4B: experts beside the MLP, of which each has a gain.
    Case(
        "gemma4_moe",
        _family(
            "Gemma4ForCausalLM",
            "gemma4_text",
            "rope_theta",
            "rope_scaling",
            "hidden_act",
            hidden_activation="gelu_pytorch_tanh",
            num_hidden_layers=2,
            head_dim=12,
            global_head_dim=24,
            num_global_key_value_heads=1,
            attention_k_eq_v=True,
            attention_bias=False,
            hidden_size_per_layer_input=0,
            vocab_size_per_layer_input=128,
            num_kv_shared_layers=0,
            enable_moe_block=True,
            num_experts=8,
            top_k_experts=3,
            moe_intermediate_size=16,
            use_double_wide_mlp=False,
            use_bidirectional_attention="vision",
            final_logit_softcapping=4.0,
            sliding_window=12,
            layer_types=["sliding_attention", "full_attention"],
            rope_parameters={
                "full_attention": {
                    "rope_type": "proportional",
                    "partial_rotary_factor": 0.25,
                    "rope_theta": 1000000.0,
                },
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
            tie_word_embeddings=True,
        ),
    ),
    # Gemma 3n: streams, a path beside attention, embeddings by layer, gates that keep their
    # largest, two layers that attend to the keys of others; MLPs of two sizes.
    Case(
        "gemma3n",
        {
            key: value
            for key, value in _family(
                "Gemma3nForCausalLM",
                "gemma3n_text",
                hidden_activation="gelu_pytorch_tanh",
                num_hidden_layers=4,
                intermediate_size=[96, 64, 96, 64],
                head_dim=16,
                attention_bias=False,
                hidden_size_per_layer_input=24,
                vocab_size_per_layer_input=128,
                altup_num_inputs=3,
                altup_active_idx=1,
                altup_correct_scale=True,
                altup_coef_clip=120.0,
                laurel_rank=20,
                num_kv_shared_layers=2,
                activation_sparsity_pattern=[0.7, 0.0, 0.7, 0.0],
                final_logit_softcapping=30.0,
                sliding_window=12,
                layer_types=["sliding_attention", "full_attention"] * 2,
                rope_theta=1000000.0,
                rope_local_base_freq=10000.0,
                rope_scaling=None,
                pad_token_id=0,
                tie_word_embeddings=True,
            ).items()
            if key not in ("hidden_act", "mlp_bias")
        },
    ),
)
