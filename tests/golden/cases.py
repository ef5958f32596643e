"""The golden checkpoints: one tiny model for each thing that an architecture can do differently.

A case is a config.json as its authors publish it (both the older spelling, `rope_theta` beside
`rope_scaling`, and the newer one, `rope_parameters`), the number type of the stored weights, and
whether a GGUF twin exists. Where GGUF or llama.cpp has no way to say what the configuration says,
there is no twin: Mistral's window, dynamic NTK, and a query scale other than head_dim.
"""

from __future__ import annotations

from typing import Any

from case import PROMPT_TOKENS, VOCAB, Case, decoder
from cases_dense import DENSE
from cases_moe import MIXTURES
from cases_recurrent import RECURRENT
from cases_seeing import SEEING

__all__ = ["CASES", "PROMPT_TOKENS", "VOCAB", "Case"]


def _other(architecture: str, model_type: str, **changes: Any) -> dict[str, Any]:
    config = decoder(architectures=[architecture], model_type=model_type) | changes
    for key in ("attention_bias", "mlp_bias"):
        if key not in changes:
            del config[key]
    return config


def _gemma3(**changes: Any) -> dict[str, Any]:
    config = _other(
        "Gemma3ForCausalLM",
        "gemma3_text",
        hidden_activation="gelu_pytorch_tanh",
        intermediate_size=32,
        num_hidden_layers=6,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=24,
        query_pre_attn_scalar=24,
        rms_norm_eps=1e-6,
        rope_theta=1000000.0,
        rope_local_base_freq=10000.0,
        sliding_window=12,
        sliding_window_pattern=6,
        attention_bias=False,
        attn_logit_softcapping=None,
        final_logit_softcapping=None,
        tie_word_embeddings=True,
    )
    del config["hidden_act"]
    return config | changes


def _phi3(**changes: Any) -> dict[str, Any]:
    return (
        _other(
            "Phi3ForCausalLM",
            "phi3",
            num_key_value_heads=4,
            original_max_position_embeddings=512,
            sliding_window=None,
            pad_token_id=VOCAB - 1,
        )
        | changes
    )


_LONG_FACTORS = [1.1, 1.3, 1.9, 2.7, 4.2, 6.5, 7.9, 8.3]
_SHORT_FACTORS = [1.0, 1.02, 1.05, 1.1, 1.2, 1.35, 1.6, 2.1]

CASES = (
    # Llama 1 and 2: every head has its own keys, the output matrix is its own.
    Case("llama2", decoder(num_key_value_heads=4), dtype="F16"),
    # Llama 3.x: grouped heads, rotary frequencies of which some are kept, some blended, some cut.
    Case(
        "llama3",
        decoder(
            rope_theta=500000.0,
            rope_scaling={
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 128,
                "rope_type": "llama3",
            },
            max_position_embeddings=1024,
        ),
    ),
    # SmolLM 1 and 2: the embedding is the output matrix; three query heads to a key head.
    Case(
        "smollm",
        decoder(
            hidden_size=96,
            intermediate_size=32,
            num_attention_heads=6,
            tie_word_embeddings=True,
            rope_theta=100000.0,
        ),
    ),
    # The older key "type", and a head that is not hidden_size / heads wide.
    Case(
        "llama_linear",
        decoder(
            head_dim=24,
            num_key_value_heads=1,
            tie_word_embeddings=True,
            rope_scaling={"type": "linear", "factor": 4.0},
        ),
    ),
    # The frequencies follow the length of the sequence once it is longer than the model's context.
    Case(
        "llama_dynamic",
        decoder(
            num_key_value_heads=1,
            tie_word_embeddings=True,
            max_position_embeddings=32,
            rope_scaling={"rope_type": "dynamic", "factor": 4.0},
        ),
        gguf_type=None,
    ),
    Case(
        "llama_yarn",
        decoder(
            num_key_value_heads=1,
            tie_word_embeddings=True,
            max_position_embeddings=1024,
            rope_scaling={
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 256,
            },
        ),
    ),
    # Mistral 7B v0.1's window, shorter than the prompt, in every layer.
    Case(
        "mistral",
        _other("MistralForCausalLM", "mistral", sliding_window=12, head_dim=None),
        gguf_type=None,
    ),
    Case(
        "qwen2",
        _other(
            "Qwen2ForCausalLM",
            "qwen2",
            rope_theta=1000000.0,
            rms_norm_eps=1e-6,
            sliding_window=12,
            use_sliding_window=False,
            max_window_layers=2,
        ),
        gguf_type="BF16",
    ),
    Case(
        "qwen3",
        _other(
            "Qwen3ForCausalLM",
            "qwen3",
            head_dim=24,
            rope_parameters={"rope_theta": 1000000.0, "rope_type": "default"},
            rms_norm_eps=1e-6,
            sliding_window=None,
            use_sliding_window=False,
            attention_bias=False,
            tie_word_embeddings=True,
        ),
    ),
    # Gemma 3 270M and 1B: five windowed layers to a global one.
    Case("gemma3", _gemma3()),
    # Gemma 3 4B and larger: the global layers' positions are divided.
    Case(
        "gemma3_linear",
        _gemma3(
            num_hidden_layers=3,
            sliding_window_pattern=2,
            rope_scaling={"factor": 8.0, "rope_type": "linear"},
        ),
    ),
    # Gemma 3 27B's query scale; the newer spelling of layers and rotary bases.
    Case(
        "gemma3_scalar",
        _gemma3(
            num_hidden_layers=2,
            query_pre_attn_scalar=40,
            layer_types=["full_attention", "sliding_attention"],
            rope_parameters={
                "full_attention": {"rope_theta": 1000000.0, "rope_type": "default"},
                "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
            },
        ),
        gguf_type=None,
    ),
    # Phi-3 mini 4k: query, key, value fused; gate and up fused; a window longer than the prompt.
    Case("phi3", _phi3(sliding_window=500)),
    # Phi-4 mini: grouped heads, a part of each head rotated, tied; and Phi-3's window at work.
    Case(
        "phi3_partial",
        _phi3(num_key_value_heads=2, partial_rotary_factor=0.75, tie_word_embeddings=True),
    ),
    Case(
        "phi3_window",
        _phi3(
            intermediate_size=32,
            num_key_value_heads=1,
            sliding_window=12,
            tie_word_embeddings=True,
        ),
        dtype="F32",
        gguf_type=None,
    ),
    Case(
        "phi3_longrope",
        _phi3(
            num_key_value_heads=2,
            max_position_embeddings=1024,
            original_max_position_embeddings=32,
            rope_scaling={
                "type": "longrope",
                "long_factor": _LONG_FACTORS,
                "short_factor": _SHORT_FACTORS,
            },
        ),
        short_tokens=32,
    ),
    *DENSE,
    *RECURRENT,
    *SEEING,
    *MIXTURES,
)
# The newer spelling has no loose keys; both at once would not be a file that anyone publishes.
for _case in CASES:
    if "rope_parameters" in _case.config:
        for _key in (
            "rope_theta",
            "rope_scaling",
            "rope_local_base_freq",
            "sliding_window_pattern",
        ):
            _case.config.pop(_key, None)
