"""GGUF metadata -> a configuration in Hugging Face's words, so that one builder serves both.

One table of keys for all families; what only some files have is simply absent in the others. The
keys are those of ggml's `docs/gguf.md` and of gguf-py's constants.
"""

from __future__ import annotations

from ridgeline.errors import ModelError
from ridgeline.model.weights.checkpoint import Checkpoint
from ridgeline.model.weights.gguf_families import FAMILIES, Family, read_scalar
from ridgeline.model.weights.gguf_hybrids import HYBRIDS
from ridgeline.model.weights.gguf_layer_norms import LAYER_NORMED
from ridgeline.model.weights.gguf_mixtures import MIXTURES

ALL: dict[str, Family] = {**FAMILIES, **LAYER_NORMED, **HYBRIDS, **MIXTURES}

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
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
    "shared_expert_intermediate_size": "expert_shared_feed_forward_length",
}
REQUIRED = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "rms_norm_eps",
)
# What a file may have in the place of it.
LAYER_NORM_EPS = "attention.layer_norm_epsilon"
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
MAX_FACTORS = 1 << 12

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
    "use_parallel_residual": (False,),
    "rope.scale_linear": (0.0, 1.0),
    "rope.scaling.yarn_ext_factor": (1.0,),
    "rope.scaling.yarn_attn_factor": (1.0,),
    "rope.scaling.yarn_log_multiplier": (0.0,),
}

# What a file calls the number of experts; GGUF has one key for it.
EXPERT_COUNTS = dict.fromkeys(
    ("llama", "granitemoe", "granitehybrid", "minimax-m2", "gpt-oss", "phimoe"),
    "num_local_experts",
)
# Families whose chosen experts' weights sum to 1; files of them have no key for it.
NORMALIZED = ("qwen3moe",)

# Metadata does not say whether there are biases; the first layer's tensors do.
BIASES = {"attention_bias": "blk.0.attn_output.bias", "mlp_bias": "blk.0.ffn_down.bias"}


def spelled(architecture: str) -> dict[str, str]:
    """What a field is called in the user's file, for messages."""
    family = ALL.get(architecture, Family())
    return {
        **{name: f"{architecture}.{key}" for name, key in (KEYS | dict(family.keys)).items()},
        **{f"rope_scaling.{name}": f"{architecture}.{key}" for name, key in SCALING_KEYS.items()},
        **{f"rope_scaling.{name}": tensor for name, tensor in ROPE_TENSORS.items()},
        "num_experts": f"{architecture}.expert_count",
        "num_local_experts": f"{architecture}.expert_count",
        "n_routed_experts": f"{architecture}.expert_count",
        "qk_nope_head_dim": f"{architecture}.attention.key_length_mla",
        "qk_rope_head_dim": f"{architecture}.rope.dimension_count",
        "v_head_dim": f"{architecture}.attention.value_length_mla",
        "first_k_dense_replace": f"{architecture}.leading_dense_block_count",
        "n_shared_experts": f"{architecture}.expert_shared_count",
        "routed_scaling_factor": f"{architecture}.expert_weights_scale",
        "n_group": f"{architecture}.expert_group_count",
        "topk_group": f"{architecture}.expert_group_used_count",
        "scoring_func": f"{architecture}.expert_gating_func",
        "global_head_dim": f"{architecture}.attention.key_length",
        "num_global_key_value_heads": f"{architecture}.attention.head_count_kv",
        "intermediate_size_mlp": f"{architecture}.feed_forward_length",
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
    family = ALL.get(architecture, Family())
    config: dict[str, object] = {"architectures": [architecture]}
    has_layer_norms = LAYER_NORM_EPS in family.keys.values()
    for name, key in (KEYS | dict(family.keys)).items():
        listed = name in family.lists
        config[name] = (
            None if listed else read_scalar(checkpoint, f"{architecture}.{key}", name in BY_LAYER)
        )
        needed = name in REQUIRED and not (has_layer_norms and name == "rms_norm_eps")
        if config[name] is None and needed and name not in (*family.optional, *family.lists):
            raise ModelError(f"{checkpoint.path}: metadata '{architecture}.{key}' is missing")
    for key, allowed in NEUTRAL.items():
        if key in family.keys.values() or key in family.known:
            continue
        value = read_scalar(checkpoint, f"{architecture}.{key}")
        if value is not None and value not in allowed:
            raise ModelError(
                f"{checkpoint.path}: metadata '{architecture}.{key}' = {value!r} is not supported"
            )
    value_length = read_scalar(checkpoint, f"{architecture}.attention.value_length")
    if value_length != config["head_dim"] and not family.other_values:
        raise ModelError(
            f"{checkpoint.path}: metadata '{architecture}.attention.value_length' = "
            f"{value_length!r}: keys of another length ({config['head_dim']!r}) are not supported"
        )
    # Layers that predict tokens further ahead are counted among them.
    ahead = read_scalar(checkpoint, f"{architecture}.nextn_predict_layers") or 0
    layers = config["num_hidden_layers"]
    if ahead and isinstance(ahead, int) and isinstance(layers, int):
        config |= {"num_hidden_layers": layers - ahead, "num_nextn_predict_layers": ahead}
    # What a file may leave out, and means the same thing in all families.
    heads, width = config["num_attention_heads"], config["hidden_size"]
    config["num_key_value_heads"] = config["num_key_value_heads"] or heads
    if config["head_dim"] is None and isinstance(width, int) and isinstance(heads, int) and heads:
        config["head_dim"] = width // heads
    # 0 says none.
    for name in ("sliding_window", "final_logit_softcapping", *family.keys):
        config[name] = config[name] or None
    config["vocab_size"] = read_vocab_size(checkpoint)
    config["tie_word_embeddings"] = "output.weight" not in checkpoint.tensors
    for name, tensor in (BIASES | dict(family.flags)).items():
        config[name] = tensor in checkpoint.tensors
    count = read_scalar(checkpoint, f"{architecture}.expert_count") or None
    if count is not None and config["num_experts_per_tok"] is None:
        raise ModelError(
            f"{checkpoint.path}: metadata '{architecture}.expert_used_count' is missing"
        )
    config[EXPERT_COUNTS.get(architecture, "num_experts")] = count
    if architecture in NORMALIZED:
        config["norm_topk_prob"] = True
    config["rope_scaling"] = read_scaling(checkpoint, architecture)
    if family.more is not None:
        config |= family.more(checkpoint, config)
    return config


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
