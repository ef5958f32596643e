"""GGUF metadata -> a configuration in Hugging Face's words, so that one builder serves both.

One table of keys for all families; what only some files have is simply absent in the others. The
keys are those of ggml's `docs/gguf.md` and of gguf-py's constants.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from ridgeline.errors import ModelError
from ridgeline.model.weights.checkpoint import Checkpoint

# Hugging Face's field -> GGUF's key, less the architecture that it begins with.
KEYS: dict[str, str] = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "max_position_embeddings": "context_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
    "rope_local_base_freq": "rope.freq_base_swa",
    "sliding_window": "attention.sliding_window",
    "final_logit_softcapping": "final_logit_softcapping",
}
REQUIRED = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "rms_norm_eps",
)
# The same kind of thing for all layers here; a file may list it by layer.
BY_LAYER = ("num_attention_heads", "num_key_value_heads", "intermediate_size")

SCALING_KEYS: dict[str, str] = {
    "rope_type": "rope.scaling.type",
    "rotary_dim": "rope.dimension_count",
    "attention_factor": "rope.scaling.attn_factor",
    "factor": "rope.scaling.factor",
    "original_max_position_embeddings": "rope.scaling.original_context_length",
    "beta_fast": "rope.scaling.yarn_beta_fast",
    "beta_slow": "rope.scaling.yarn_beta_slow",
}

ROPE_TENSORS: dict[str, str] = {
    "frequency_factors": "rope_freqs.weight",
    "long_factor": "rope_factors_long.weight",
    "short_factor": "rope_factors_short.weight",
}
# Nothing is made as long as a file says: these are far above anything real.
MAX_FACTORS = MAX_LAYERS = 1 << 12

# Keys that change numbers in ways that are not built here, and the values that do not.
NEUTRAL: dict[str, tuple[object, ...]] = {
    "attention.causal": (True,),
    "attention.clamp_kqv": (0.0,),
    "attention.max_alibi_bias": (0.0,),
    "attention.layer_norm_epsilon": (),
    "attn_logit_softcapping": (0.0,),
    "embedding_scale": (0.0, 1.0),
    "residual_scale": (0.0, 1.0),
    "logit_scale": (0.0, 1.0),
    "expert_count": (0,),
    "use_parallel_residual": (False,),
    "rope.scale_linear": (0.0, 1.0),
    "rope.scaling.yarn_ext_factor": (1.0,),
    "rope.scaling.yarn_attn_factor": (1.0,),
    "rope.scaling.yarn_log_multiplier": (0.0,),
}

# Metadata does not say whether there are biases; the first layer's tensors do.
BIASES = {"attention_bias": "blk.0.attn_output.bias", "mlp_bias": "blk.0.ffn_down.bias"}

# Of Gemma 3's sizes only this one scales queries by width / heads, and files have no key for it.
GEMMA3_27B_LAYERS = 62


def spelled(architecture: str) -> dict[str, str]:
    """What a field is called in the user's file, for messages."""
    return {
        **{name: f"{architecture}.{key}" for name, key in KEYS.items()},
        **{f"rope_scaling.{name}": f"{architecture}.{key}" for name, key in SCALING_KEYS.items()},
        **{f"rope_scaling.{name}": tensor for name, tensor in ROPE_TENSORS.items()},
        "vocab_size": "rows of token_embd.weight",
        "layer_types": f"{architecture}.attention.sliding_window_pattern",
        "sliding_window_pattern": f"{architecture}.attention.sliding_window_pattern",
        "query_pre_attn_scalar": f"{architecture}.attention.scale",
    }


def gguf_architecture(checkpoint: Checkpoint) -> str:
    name = checkpoint.metadata.get("general.architecture")
    if not isinstance(name, str):
        raise ModelError(
            f"{checkpoint.path}: metadata 'general.architecture' is missing or no text"
        )
    return name


def gguf_config(checkpoint: Checkpoint) -> dict[str, object]:
    """The configuration that a GGUF's metadata and rotary tensors say.

    `architectures` holds general.architecture. ModelError names a key that is missing, of the wrong
    kind, or not supported. Ranges are checked where the graph is built.
    """
    architecture = gguf_architecture(checkpoint)
    config: dict[str, object] = {"architectures": [architecture]}
    for name, key in KEYS.items():
        config[name] = read_scalar(checkpoint, f"{architecture}.{key}", name in BY_LAYER)
        if config[name] is None and name in REQUIRED:
            raise ModelError(f"{checkpoint.path}: metadata '{architecture}.{key}' is missing")
    for key, allowed in NEUTRAL.items():
        value = read_scalar(checkpoint, f"{architecture}.{key}")
        if value is not None and value not in allowed:
            raise ModelError(
                f"{checkpoint.path}: metadata '{architecture}.{key}' = {value!r} is not supported"
            )
    value_length = read_scalar(checkpoint, f"{architecture}.attention.value_length")
    if value_length != config["head_dim"]:
        raise ModelError(
            f"{checkpoint.path}: metadata '{architecture}.attention.value_length' = "
            f"{value_length!r}: keys of another length ({config['head_dim']!r}) are not supported"
        )
    # What a file may leave out, and means the same thing in all families.
    heads, width = config["num_attention_heads"], config["hidden_size"]
    config["num_key_value_heads"] = config["num_key_value_heads"] or heads
    if config["head_dim"] is None and isinstance(width, int) and isinstance(heads, int) and heads:
        config["head_dim"] = width // heads
    # 0 says none.
    for name in ("sliding_window", "final_logit_softcapping"):
        config[name] = config[name] or None
    config["vocab_size"] = read_vocab_size(checkpoint)
    config["tie_word_embeddings"] = "output.weight" not in checkpoint.tensors
    for name, tensor in BIASES.items():
        config[name] = tensor in checkpoint.tensors
    config["rope_scaling"] = read_scaling(checkpoint, architecture)
    if architecture == "gemma3":
        config |= gemma3_fields(checkpoint, config)
    return config


def read_scalar(
    checkpoint: Checkpoint, key: str, by_layer: bool = False
) -> int | float | bool | str | None:
    """The value of a key, None if there is none; a list by layer is one value if all are equal."""
    value = checkpoint.metadata.get(key)
    if by_layer and isinstance(value, np.ndarray) and value.size:
        if (value != value[0]).any():
            raise ModelError(
                f"{checkpoint.path}: metadata {key!r}: layers that differ in it are not supported"
            )
        value = value[0].item()
    if value is not None and not isinstance(value, int | float | bool | str):
        raise ModelError(f"{checkpoint.path}: metadata {key!r}: one value is needed, not a list")
    return value


def read_vocab_size(checkpoint: Checkpoint) -> int:
    """Rows of the embedding: the key for it is often absent or of another table."""
    embedding = checkpoint.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise ModelError(f"{checkpoint.path}: tensor 'token_embd.weight' is missing or no matrix")
    return embedding.shape[0]


def read_scaling(checkpoint: Checkpoint, architecture: str) -> dict[str, object]:
    """The rope section: scaling, rotated channels, and factors that are stored as tensors."""
    section: dict[str, object] = {
        name: read_scalar(checkpoint, f"{architecture}.{key}") for name, key in SCALING_KEYS.items()
    }
    for name, tensor in ROPE_TENSORS.items():
        if tensor in checkpoint.tensors:
            section[name] = read_factors(checkpoint, tensor)
    if "long_factor" in section or "short_factor" in section:
        # llama.cpp takes the tensors for the sign of LongRoPE, whatever the key says.
        section["rope_type"] = "longrope"
        section["attention_factor"] = section["attention_factor"] or 1.0
    elif section["rope_type"] in (None, "none"):
        section["rope_type"] = "default"
    if section["rope_type"] == "longrope":
        return section
    if section["attention_factor"] not in (None, 1.0):
        raise ModelError(
            f"{checkpoint.path}: metadata '{architecture}.rope.scaling.attn_factor' = "
            f"{section['attention_factor']!r} is supported for longrope only"
        )
    return {**section, "attention_factor": None}


def read_factors(checkpoint: Checkpoint, tensor: str) -> list[float]:
    shape = checkpoint.tensors[tensor].shape
    if len(shape) != 1 or shape[0] > MAX_FACTORS:
        raise ModelError(
            f"{checkpoint.path}: tensor {tensor!r} has shape {shape}: a list of at most "
            f"{MAX_FACTORS} is needed"
        )
    values: list[float] = checkpoint.read(tensor).tolist()
    return values


def gemma3_fields(checkpoint: Checkpoint, config: Mapping[str, object]) -> dict[str, object]:
    """The query scale, and which layers are windowed: a period, a list by layer, or the usual 6."""
    layers, width, heads = (
        config[name] for name in ("num_hidden_layers", "hidden_size", "num_attention_heads")
    )
    fields: dict[str, object] = {"query_pre_attn_scalar": config["head_dim"]}
    scale = read_scalar(checkpoint, "gemma3.attention.scale")
    if isinstance(scale, float) and math.isfinite(scale) and scale > 0:
        fields["query_pre_attn_scalar"] = scale**-2
    elif layers == GEMMA3_27B_LAYERS and isinstance(width, int) and isinstance(heads, int):
        fields["query_pre_attn_scalar"] = width / max(1, heads)
    if config["sliding_window"] is None and isinstance(layers, int) and layers <= MAX_LAYERS:
        return {**fields, "layer_types": ["full_attention"] * layers}
    key = "gemma3.attention.sliding_window_pattern"
    pattern = checkpoint.metadata.get(key)
    if not isinstance(pattern, np.ndarray):
        return {**fields, "sliding_window_pattern": read_scalar(checkpoint, key)}
    if pattern.size != layers:
        raise ModelError(
            f"{checkpoint.path}: metadata {key!r} lists {pattern.size} layers, and there are "
            f"{layers!r}"
        )
    kinds = ["sliding_attention" if windowed else "full_attention" for windowed in pattern]
    return {**fields, "layer_types": kinds}
