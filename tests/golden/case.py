"""What a golden case is, and the configuration that most of them start from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

VOCAB = 128
PROMPT_TOKENS = 36


@dataclass(frozen=True)
class Case:
    """One golden checkpoint.

    `dtype` is the type of the safetensors weights: "BF16", "F16" or "F32". `gguf_type` is the type
    of the GGUF's matrices, None where there is no twin. `short_tokens`, where not 0, asks for a
    second prompt of that length (LongRoPE takes other factors below the original context). `draw`
    makes other random weights: of mixtures, where those of the first draw send a token to an
    expert by a margin that is less than the rounding of a backend. `predictors` modules of
    multi-token prediction are in the file besides.
    """

    name: str
    config: dict[str, Any]
    dtype: str = "BF16"
    gguf_type: str | None = "F16"
    short_tokens: int = 0
    draw: int = 0
    predictors: int = 0


def decoder(**changes: Any) -> dict[str, Any]:
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCAB,
        "hidden_size": 64,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "hidden_act": "silu",
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": VOCAB - 2,
        "eos_token_id": VOCAB - 1,
        "torch_dtype": "bfloat16",
    }
    return config | changes
