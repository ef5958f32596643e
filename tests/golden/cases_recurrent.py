"""The golden checkpoints of models that carry a state from token to token; see `cases`."""

from __future__ import annotations

from typing import Any

from case import VOCAB, Case


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


RECURRENT = (
    # Mamba 130M to 2.8B: 80 channels, which are whole tiles of 16 lanes.
    Case(
        "mamba",
        _mamba("MambaForCausalLM", "mamba", state_size=16, time_step_rank="auto"),
        dtype="F32",
        gguf_type=None,
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
        gguf_type=None,
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
        gguf_type=None,
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
        gguf_type=None,
    ),
)
