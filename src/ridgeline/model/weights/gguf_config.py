"""GGUF metadata -> a configuration in Hugging Face's words, so that one builder serves both.

One table of keys for all families; what only some files have is simply absent in the others. The
keys are those of ggml's `docs/gguf.md` and of gguf-py's constants.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

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
    "factor": "rope.scaling.factor",
    "original_max_position_embeddings": "rope.scaling.original_context_length",
    "beta_fast": "rope.scaling.yarn_beta_fast",
    "beta_slow": "rope.scaling.yarn_beta_slow",
}

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
    return {name: f"{architecture}.{key}" for name, key in KEYS.items()}


def gguf_config(checkpoint: Checkpoint) -> dict[str, object]:
    """The configuration that a GGUF's metadata and rotary tensors say.

    `architectures` holds general.architecture. ModelError names a key that is missing, of the wrong
    kind, or not supported. Ranges are checked where the graph is built.
    """
    metadata = checkpoint.metadata
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str):
        raise ModelError(f"{checkpoint.path}: metadata 'general.architecture' is missing")
    config: dict[str, object] = {"architectures": [architecture]}
    for name, key in KEYS.items():
        full = f"{architecture}.{key}"
        if full in metadata:
            config[name] = plain_value(checkpoint, full, by_layer=name in BY_LAYER)
        elif name in REQUIRED:
            raise ModelError(f"{checkpoint.path}: metadata {full!r} is missing")
    for key, allowed in NEUTRAL.items():
        full = f"{architecture}.{key}"
        if full in metadata and metadata[full] not in allowed:
            raise ModelError(
                f"{checkpoint.path}: metadata {full!r} = {metadata[full]!r} is not supported"
            )
    check_value_length(checkpoint, architecture)
    config["vocab_size"] = read_vocab_size(checkpoint)
    if not config.get("sliding_window"):
        config["sliding_window"] = None
    if not config.get("final_logit_softcapping"):
        config["final_logit_softcapping"] = None
    config["tie_word_embeddings"] = "output.weight" not in checkpoint.tensors
    for name, tensor in BIASES.items():
        config[name] = tensor in checkpoint.tensors
    config["rope_scaling"] = read_scaling(checkpoint, architecture)
    if architecture == "gemma3":
        config |= gemma3_fields(checkpoint, config)
    return config


def plain_value(checkpoint: Checkpoint, key: str, *, by_layer: bool) -> object:
    """A scalar; a list by layer only if all layers have the same."""
    value = checkpoint.metadata[key]
    if not isinstance(value, np.ndarray):
        return value
    if not by_layer or value.size == 0 or (value != value[0]).any():
        raise ModelError(
            f"{checkpoint.path}: metadata {key!r}: layers that differ in it are not supported"
        )
    return value[0].item()


def check_value_length(checkpoint: Checkpoint, architecture: str) -> None:
    lengths = [
        checkpoint.metadata.get(f"{architecture}.attention.{kind}_length")
        for kind in ("key", "value")
    ]
    if lengths[0] != lengths[1]:
        raise ModelError(
            f"{checkpoint.path}: metadata '{architecture}.attention.value_length' = {lengths[1]!r}"
            f": keys and values of different lengths ({lengths[0]!r}) are not supported"
        )


def read_vocab_size(checkpoint: Checkpoint) -> int:
    """Rows of the embedding: the key for it is often absent or of another table."""
    embedding = checkpoint.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise ModelError(f"{checkpoint.path}: tensor 'token_embd.weight' is missing or no matrix")
    return embedding.shape[0]


def read_scaling(checkpoint: Checkpoint, architecture: str) -> dict[str, object]:
    """The rope section: scaling, rotated channels, and factors that are stored as tensors."""
    metadata = checkpoint.metadata
    kind = metadata.get(f"{architecture}.rope.scaling.type", "none")
    section: dict[str, object] = {"rope_type": "default" if kind == "none" else kind}
    dimension = metadata.get(f"{architecture}.rope.dimension_count")
    if dimension is not None:
        section["rotary_dim"] = dimension
    for name, key in SCALING_KEYS.items():
        full = f"{architecture}.{key}"
        if full in metadata:
            section[name] = plain_value(checkpoint, full, by_layer=False)
    attention = metadata.get(f"{architecture}.rope.scaling.attn_factor")
    if attention is not None and kind == "longrope":
        section["attention_factor"] = attention
    elif attention is not None and attention != 1.0:
        raise ModelError(
            f"{checkpoint.path}: metadata '{architecture}.rope.scaling.attn_factor' = "
            f"{attention!r} is supported for longrope only"
        )
    for name, tensor in ROPE_TENSORS.items():
        if tensor in checkpoint.tensors:
            section[name] = read_factors(checkpoint, tensor)
    if kind != "longrope" and ("long_factor" in section or "short_factor" in section):
        # llama.cpp takes the tensors for the sign of LongRoPE, whatever the key says.
        section["rope_type"] = "longrope"
        section.setdefault("attention_factor", attention or 1.0)
    return section


ROPE_TENSORS: dict[str, str] = {
    "frequency_factors": "rope_freqs.weight",
    "long_factor": "rope_factors_long.weight",
    "short_factor": "rope_factors_short.weight",
}

MAX_FACTORS = 1 << 12


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
    fields: dict[str, object] = {"query_pre_attn_scalar": config.get("head_dim")}
    scale = checkpoint.metadata.get("gemma3.attention.scale")
    if isinstance(scale, float) and math.isfinite(scale) and scale > 0:
        fields["query_pre_attn_scalar"] = scale**-2
    elif layers == GEMMA3_27B_LAYERS and isinstance(width, int) and isinstance(heads, int):
        fields["query_pre_attn_scalar"] = width / max(1, heads)
    pattern = checkpoint.metadata.get("gemma3.attention.sliding_window_pattern")
    if isinstance(pattern, np.ndarray | Sequence) and not isinstance(pattern, str):
        fields["layer_types"] = [
            "sliding_attention" if windowed else "full_attention" for windowed in pattern
        ]
    elif pattern is not None:
        fields["sliding_window_pattern"] = pattern
    return fields
