"""What the metadata of GGUF architectures says that are mixtures of their own kind: see
`gguf_families`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ridgeline.errors import ModelError
from ridgeline.model.weights.checkpoint import Checkpoint
from ridgeline.model.weights.gguf_families import (
    FULL,
    MAX_LAYERS,
    QKV_BIASES,
    WINDOWED,
    Family,
    by_sigmoid,
    deepseek2,
    read_groups,
    read_scalar,
)
from ridgeline.model.weights.gguf_hybrids import only, read_list


def mimo2(checkpoint: Checkpoint, config: Mapping[str, object]) -> dict[str, object]:
    """Heads of keys and windows are listed by layer; which layers are mixtures, tensors tell."""
    layers = config["num_hidden_layers"]
    if not isinstance(layers, int) or not 1 <= layers <= MAX_LAYERS:
        return {}  # refused where the graph is built
    heads = read_list(checkpoint, "attention.head_count_kv", layers)
    windowed = read_list(checkpoint, "attention.sliding_window_pattern", layers)
    if set(windowed) - {0, 1}:
        raise ModelError(
            f"{checkpoint.path}: metadata 'mimo2.attention.sliding_window_pattern': 0 or 1 for "
            "each layer is needed"
        )
    of = {
        kind: only(
            checkpoint,
            "attention.head_count_kv",
            [n for n, each in zip(heads, windowed, strict=True) if each == kind],
        )
        for kind in (0, 1)
    }
    mixed = [f"blk.{i}.ffn_gate_inp.weight" in checkpoint.tensors for i in range(layers)]
    fields: dict[str, object] = {
        **read_groups(checkpoint, config),
        "norm_topk_prob": True,
        "first_k_dense_replace": None,
        "mlp_layer_types": ["sparse" if each else "dense" for each in mixed],
        "layer_types": [WINDOWED if each else FULL for each in windowed],
        "num_key_value_heads": of[0] or of[1],
        "swa_num_key_value_heads": of[1] or of[0],
        "v_head_dim": read_scalar(checkpoint, "mimo2.attention.value_length"),
        "swa_rope_theta": config["rope_local_base_freq"],
        # As published: the token itself is not counted.
        "sliding_window_size": config["sliding_window"],
        "attention_bias": "blk.0.attn_q.bias" in checkpoint.tensors,
    }
    scale = read_scalar(checkpoint, "mimo2.attention.value_scale")
    if scale is not None:  # older files have no key, and are of the model whose it is by default
        fields["attention_value_scale"] = scale
    section = config["rope_scaling"]
    assert isinstance(section, dict)
    turned, dim = section["rotary_dim"], config["head_dim"]
    if isinstance(turned, int) and isinstance(dim, int) and dim > 0:
        fields["partial_rotary_factor"] = (turned + 0.5) / dim  # whatever rounding does
    return fields | {"rope_scaling": None}


# The share of a head that turns where there is no window: files have no key for it.
STEP_TURNED = 0.5


def step35(checkpoint: Checkpoint, config: Mapping[str, object]) -> dict[str, object]:
    """Heads, windows and caps are listed by layer; layers with windows turn whole heads, by a rate
    of their own, and the others half of one, by factors that are as long as for a whole.
    """
    layers = config["num_hidden_layers"]
    if not isinstance(layers, int) or not 1 <= layers <= MAX_LAYERS:
        return {}  # refused where the graph is built
    windowed = read_list(checkpoint, "attention.sliding_window_pattern", layers)
    of: dict[tuple[str, int], int | None] = {}
    for key in ("attention.head_count", "attention.head_count_kv"):
        listed = read_list(checkpoint, key, layers)
        for kind in (0, 1):
            own = [n for n, each in zip(listed, windowed, strict=True) if bool(each) == bool(kind)]
            of[key, kind] = only(checkpoint, key, own)
    heads, kv = "attention.head_count", "attention.head_count_kv"
    mixed = [f"blk.{i}.ffn_gate_inp.weight" in checkpoint.tensors for i in range(layers)]
    own_rate = config["rope_local_base_freq"] or config["rope_theta"]
    scale = read_scalar(checkpoint, "step35.expert_weights_scale")
    section = config["rope_scaling"]
    assert isinstance(section, dict)
    factors, dim = section.get("frequency_factors"), config["head_dim"]
    if isinstance(factors, list) and isinstance(dim, int):
        section = {**section, "frequency_factors": factors[: int(dim * STEP_TURNED) // 2]}
    return {
        "layer_types": [WINDOWED if each else FULL for each in windowed],
        "num_attention_heads": of[heads, 0] or of[heads, 1],
        "num_key_value_heads": of[kv, 0] or of[kv, 1],
        "attention_other_setting": {
            "num_attention_heads": of[heads, 1] or of[heads, 0],
            "num_attention_groups": of[kv, 1] or of[kv, 0],
        },
        "rope_theta": [own_rate if each else config["rope_theta"] for each in windowed],
        "partial_rotary_factors": [1.0 if each else STEP_TURNED for each in windowed],
        "rope_scaling": {**section, "rotary_dim": None},
        "mlp_layer_types": ["sparse" if each else "dense" for each in mixed],
        "share_expert_dim": config["shared_expert_intermediate_size"],
        "moe_router_scaling_factor": 1.0 if scale is None else scale,
        "norm_expert_weight": read_scalar(checkpoint, "step35.expert_weights_norm"),
        "swiglu_limits": read_limits(checkpoint, "step35.swiglu_clamp_exp", layers),
        "swiglu_limits_shared": read_limits(checkpoint, "step35.swiglu_clamp_shexp", layers),
    }


def read_limits(checkpoint: Checkpoint, key: str, layers: int) -> list[float] | None:
    """A number for each layer, if there are any; those of layers behind the last do not count."""
    value = checkpoint.metadata.get(key)
    if value is None:
        return None
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f" or value.size < layers:
        raise ModelError(
            f"{checkpoint.path}: metadata {key!r}: a number for each of {layers} layers is needed"
        )
    return [float(each) for each in value[:layers]]


# Of GLM-5.2, whose first files list no layers: those that select for themselves.
GLM_5_2_CONTEXT, GLM_5_2_FIRST, GLM_5_2_PERIOD = 1 << 20, 2, 4


def glm_dsa(checkpoint: Checkpoint, config: Mapping[str, object]) -> dict[str, object]:
    """DeepSeek V3.2's, and which layers look at what an earlier one selected."""
    chosen = {"scoring_func": "sigmoid", "topk_method": "noaux_tc"}
    fields = deepseek2(checkpoint, config) | by_sigmoid(checkpoint, config) | chosen
    layers, context = config["num_hidden_layers"], config["max_position_embeddings"]
    key = "glm-dsa.attention.indexer.types"
    listed = checkpoint.metadata.get(key)
    if not isinstance(layers, int) or not 1 <= layers <= MAX_LAYERS:
        return fields  # refused where the graph is built
    if listed is None:
        first, period = GLM_5_2_FIRST, GLM_5_2_PERIOD
        sharing = isinstance(context, int) and context >= GLM_5_2_CONTEXT
        full = [not sharing or i < first or (i - first) % period == 0 for i in range(layers)]
    elif isinstance(listed, np.ndarray) and listed.size >= layers and listed.dtype.kind in "iub":
        full = [bool(each) for each in listed[:layers]]
    else:
        raise ModelError(
            f"{checkpoint.path}: metadata {key!r}: whether it selects for itself is needed of each "
            f"of {layers} layers"
        )
    return fields | {"indexer_types": ["full" if each else "shared" for each in full]}


MIXTURES: dict[str, Family] = {
    "phimoe": Family(flags={"lm_head_bias": "output.bias"}),
    "mimo2": Family(
        {"sliding_window": "attention.sliding_window"},
        flags=QKV_BIASES,
        more=mimo2,
        other_values=True,
        lists=("num_key_value_heads",),
    ),
    "step35": Family(
        more=step35,
        lists=("num_attention_heads", "num_key_value_heads"),
    ),
    "glm-dsa": Family(
        {
            "q_lora_rank": "attention.q_lora_rank",
            "kv_lora_rank": "attention.kv_lora_rank",
            "index_n_heads": "attention.indexer.head_count",
            "index_head_dim": "attention.indexer.key_length",
            "index_topk": "attention.indexer.top_k",
        },
        known=("rope.scaling.yarn_log_multiplier",),
        more=glm_dsa,
        other_values=True,
    ),
}
