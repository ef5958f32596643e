"""What the metadata of single GGUF architectures says besides what all of them say.

A row has the keys that only this architecture has, and a function for what no key says outright:
which layers have windows or positions, which of a family's sizes scales its queries otherwise.
Facts are those of gguf-py's constants and of what readers of these files assume. Does not know
graphs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from ridgeline.errors import ModelError
from ridgeline.model.weights.checkpoint import Checkpoint

MAX_LAYERS = 1 << 12
WINDOWED, FULL = "sliding_attention", "full_attention"

# Of these families' sizes only one scales queries by width / heads, and files have no key for it.
GEMMA3_27B_LAYERS, GEMMA2_27B_LAYERS = 62, 46

More = Callable[[Checkpoint, Mapping[str, object]], dict[str, object]]


@dataclass(frozen=True, slots=True)
class Family:
    """keys: Hugging Face's field -> GGUF's key, less the architecture; 0 says none. flags: a field
    that is true if a tensor is there. known: keys that are read elsewhere or say nothing new. more:
    fields made of what was read so far. other_values: values may be of another length than keys.
    optional: what files of others must have. lists: fields that `more` reads, since layers differ
    in them.
    """

    keys: Mapping[str, str] = field(default_factory=dict)
    flags: Mapping[str, str] = field(default_factory=dict)
    known: tuple[str, ...] = ()
    more: More | None = None
    other_values: bool = False
    optional: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()


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


def query_scalar(
    checkpoint: Checkpoint, config: Mapping[str, object], large: int
) -> dict[str, object]:
    """What queries are divided by the root of: a key, or width / heads of the model of `large`
    layers, or a head's channels.
    """
    architecture = checkpoint.metadata["general.architecture"]
    scale = read_scalar(checkpoint, f"{architecture}.attention.scale")
    layers, width, heads = (
        config[name] for name in ("num_hidden_layers", "hidden_size", "num_attention_heads")
    )
    if isinstance(scale, float) and math.isfinite(scale) and scale > 0:
        return {"query_pre_attn_scalar": scale**-2}
    if layers == large and isinstance(width, int) and isinstance(heads, int):
        return {"query_pre_attn_scalar": width / max(1, heads)}
    return {"query_pre_attn_scalar": config["head_dim"]}


def layer_types(
    checkpoint: Checkpoint, config: Mapping[str, object], period: int | None
) -> dict[str, object]:
    """Which layers have windows: a list by layer, a period (the last of each has none), the usual
    `period`; all of them full if there is no window.
    """
    layers = config["num_hidden_layers"]
    if not isinstance(layers, int) or not 0 <= layers <= MAX_LAYERS:
        return {}  # refused where the graph is built
    if config["sliding_window"] is None:
        return {"layer_types": [FULL] * layers}
    key = f"{checkpoint.metadata['general.architecture']}.attention.sliding_window_pattern"
    pattern = checkpoint.metadata.get(key)
    if isinstance(pattern, np.ndarray):
        if pattern.size != layers:
            raise ModelError(
                f"{checkpoint.path}: metadata {key!r} lists {pattern.size} layers, and there are "
                f"{layers!r}"
            )
        return {"layer_types": [WINDOWED if windowed else FULL for windowed in pattern]}
    told = read_scalar(checkpoint, key)
    if told is not None or period is None:
        return {"sliding_window_pattern": told}
    return {"layer_types": [WINDOWED if (i + 1) % period else FULL for i in range(layers)]}


def gemma3(checkpoint: Checkpoint, config: Mapping[str, object]) -> dict[str, object]:
    return query_scalar(checkpoint, config, GEMMA3_27B_LAYERS) | layer_types(
        checkpoint, config, None
    )


def gemma2(checkpoint: Checkpoint, config: Mapping[str, object]) -> dict[str, object]:
    return query_scalar(checkpoint, config, GEMMA2_27B_LAYERS) | layer_types(checkpoint, config, 2)


def every_fourth(checkpoint: Checkpoint, config: Mapping[str, object]) -> dict[str, object]:
    return layer_types(checkpoint, config, 4)


def exaone4(checkpoint: Checkpoint, config: Mapping[str, object]) -> dict[str, object]:
    """No window in a file means none, where Hugging Face's default would be one."""
    return {"sliding_window": config["sliding_window"]} | layer_types(checkpoint, config, 4)


def exaone_moe(checkpoint: Checkpoint, config: Mapping[str, object]) -> dict[str, object]:
    """Rotations are not scaled, which the file says."""
    groups = read_groups(checkpoint, config)
    del groups["n_routed_experts"], groups["num_experts"]
    return {
        **exaone4(checkpoint, config),
        **by_sigmoid(checkpoint, config),
        **groups,
        "rope_scaling": None,
    }


def mamba2(checkpoint: Checkpoint, config: Mapping[str, object]) -> dict[str, object]:
    """Channels of a head, and what the mixer's width is of the model's."""
    inner, heads, width = (
        config[name] for name in ("intermediate_size", "num_heads", "hidden_size")
    )
    if not all(isinstance(size, int) and size > 0 for size in (inner, heads, width)):
        return {}  # refused where the graph is built
    assert isinstance(inner, int)
    assert isinstance(heads, int)
    assert isinstance(width, int)
    return {"head_dim": inner // heads, "expand": inner / width}


SOFTMAX, SIGMOID = 1, 2  # of gguf-py's ExpertGatingFuncType


def by_sigmoid(checkpoint: Checkpoint, config: Mapping[str, object]) -> dict[str, object]:
    """Files may leave the function out: these families have no other."""
    key = f"{checkpoint.metadata['general.architecture']}.expert_gating_func"
    if read_scalar(checkpoint, key) not in (None, SIGMOID):
        raise ModelError(
            f"{checkpoint.path}: metadata {key!r} = {read_scalar(checkpoint, key)!r}: {SIGMOID} is "
            "needed (sigmoid)"
        )
    return {}


def grouped(checkpoint: Checkpoint, config: Mapping[str, object]) -> dict[str, object]:
    return by_sigmoid(checkpoint, config) | read_groups(checkpoint, config)


def read_groups(checkpoint: Checkpoint, config: Mapping[str, object]) -> dict[str, object]:
    """DeepSeek's mixture, where a key that is not there says nothing special."""
    architecture = checkpoint.metadata["general.architecture"]

    def read(key: str, default: object) -> object:
        found = read_scalar(checkpoint, f"{architecture}.{key}")
        return default if found is None else found

    return {
        "n_routed_experts": config.get("num_experts"),
        "num_experts": None,
        "first_k_dense_replace": read("leading_dense_block_count", 0),
        "n_shared_experts": read("expert_shared_count", 0),
        "routed_scaling_factor": read("expert_weights_scale", 1.0),
        "norm_topk_prob": read("expert_weights_norm", False),
        "n_group": read("expert_group_count", 1),
        "topk_group": read("expert_group_used_count", 1),
    }


def deepseek2(checkpoint: Checkpoint, config: Mapping[str, object]) -> dict[str, object]:
    """Lengths of heads: in newer files those of attention over latents have keys of their own. What
    routes: a key, or in older files whether there are corrections.
    """
    prefix = f"{checkpoint.metadata['general.architecture']}."
    function = read_scalar(checkpoint, f"{prefix}expert_gating_func") or None
    if function not in (None, SOFTMAX, SIGMOID):
        raise ModelError(
            f"{checkpoint.path}: metadata '{prefix}expert_gating_func' = {function!r}: {SOFTMAX} "
            f"(softmax) or {SIGMOID} (sigmoid) is needed"
        )
    corrected = any(name.endswith(".exp_probs_b.bias") for name in checkpoint.tensors)
    sigmoid = function == SIGMOID or (function is None and corrected)
    mixture = read_groups(checkpoint, config)
    method = "group_limited_greedy" if mixture["n_group"] != 1 else "greedy"
    section = config["rope_scaling"]
    weight = read_scalar(checkpoint, f"{prefix}rope.scaling.yarn_log_multiplier")
    if isinstance(section, dict) and isinstance(weight, int | float) and weight:
        # Files have a tenth of it, and nothing of the other, which is the same in all that is out.
        section = {**section, "mscale": 10 * weight, "mscale_all_dim": 10 * weight}
    return {
        **mixture,
        "rope_scaling": section,
        "scoring_func": "sigmoid" if sigmoid else "softmax",
        "topk_method": "noaux_tc" if sigmoid else method,
        **latent_lengths(checkpoint),
    }


def latent_lengths(checkpoint: Checkpoint) -> dict[str, object]:
    """Of the heads of attention over latents, of which the file says that they are one."""
    prefix = f"{checkpoint.metadata['general.architecture']}."
    lengths: dict[str, int] = {}
    for name, keys in {
        "key": ("attention.key_length_mla", "attention.key_length"),
        "value": ("attention.value_length_mla", "attention.value_length"),
        "rope": ("rope.dimension_count",),
    }.items():
        told = [value for key in keys if (value := read_scalar(checkpoint, prefix + key))]
        if not told or not isinstance(told[0], int):
            raise ModelError(
                f"{checkpoint.path}: metadata '{prefix}{keys[0]}': a whole number is needed"
            )
        lengths[name] = told[0]
    return {
        "head_dim": None,
        "num_key_value_heads": None,
        "qk_rope_head_dim": lengths["rope"],
        "qk_nope_head_dim": lengths["key"] - lengths["rope"],
        "v_head_dim": lengths["value"],
    }


def mistral3(checkpoint: Checkpoint, config: Mapping[str, object]) -> dict[str, object]:
    """Mistral Small 3 has no scaling; Ministral 3's is YaRN with a temperature of queries."""
    section = config["rope_scaling"]
    assert isinstance(section, dict)
    weight = read_scalar(checkpoint, "mistral3.rope.scaling.yarn_log_multiplier")
    beta = read_scalar(checkpoint, "mistral3.attention.temperature_scale")
    more = {"mscale": 1.0, "mscale_all_dim": weight} if weight else {}
    return {"rope_scaling": {**section, **more, "llama_4_scaling_beta": beta}}


def qwen3_next(checkpoint: Checkpoint, config: Mapping[str, object]) -> dict[str, object]:
    """Channels of a value's head, and the layers that attend, if they are listed."""
    inner, heads, layers = (
        config[name]
        for name in ("linear_inner_size", "linear_num_value_heads", "num_hidden_layers")
    )
    fields: dict[str, object] = {}
    if isinstance(inner, int) and isinstance(heads, int) and heads > 0 and inner % heads == 0:
        fields["linear_value_head_dim"] = inner // heads
    elif inner is not None:
        key = f"{checkpoint.metadata['general.architecture']}.ssm.inner_size"
        raise ModelError(
            f"{checkpoint.path}: metadata {key!r} = {inner!r} does not part into {heads!r} heads"
        )
    key = f"{checkpoint.metadata['general.architecture']}.attention.recurrent_layers"
    listed = checkpoint.metadata.get(key)
    if isinstance(listed, np.ndarray) and isinstance(layers, int):
        # Those that predict tokens further ahead may be among them.
        fields["layer_types"] = [
            "linear_attention" if recurrent else FULL for recurrent in listed[: max(layers, 0)]
        ]
    return fields


STILL = 1e20  # pairs whose frequency is divided by this do not turn


def gemma4(checkpoint: Checkpoint, config: Mapping[str, object]) -> dict[str, object]:
    """Heads of two sizes, two bases, and of the larger heads the pairs that turn, which files tell
    by divisors of frequencies: 1, or so large that the pair stands still.
    """
    where, prefix = checkpoint.path, "gemma4."
    types = layer_types(checkpoint, config, 6)
    kinds = types.get("layer_types")
    heads = checkpoint.metadata.get(f"{prefix}attention.head_count_kv")
    local = wide = heads.item() if isinstance(heads, np.generic) else heads
    if isinstance(heads, np.ndarray) and isinstance(kinds, list):
        if heads.size != len(kinds):
            raise ModelError(
                f"{where}: metadata '{prefix}attention.head_count_kv' lists {heads.size} layers, "
                f"and there are {len(kinds)}"
            )
        of = {
            kind: {int(n) for n, each in zip(heads, kinds, strict=True) if each == kind}
            for kind in (WINDOWED, FULL)
        }
        if any(len(numbers) > 1 for numbers in of.values()):
            raise ModelError(
                f"{where}: metadata '{prefix}attention.head_count_kv': layers of one kind differ "
                "in it, which is not supported"
            )
        local, wide = (next(iter(of[kind]), None) for kind in (WINDOWED, FULL))
    section = config["rope_scaling"]
    assert isinstance(section, dict)
    divisors = section.get("frequency_factors") or []
    turned = sum(1 for divisor in divisors if divisor == 1)
    if not all(divisor == 1 or divisor >= STILL for divisor in divisors) or (
        divisors != sorted(divisors)
    ):
        raise ModelError(
            f"{where}: tensor 'rope_freqs.weight': the first pairs turn (1), the others stand "
            f"still ({STILL:g} or more): others are not supported"
        )
    ropes: dict[str, object] = {
        WINDOWED: {"rope_type": "default", "rope_theta": config["rope_local_base_freq"]},
        FULL: {
            "rope_type": "proportional" if divisors else "default",
            "rope_theta": config["rope_theta"],
            "partial_rotary_factor": turned / len(divisors) if divisors else 1.0,
        },
    }
    global_values = {name for name in checkpoint.tensors if name.endswith(".attn_v.weight")}
    shares = isinstance(kinds, list) and any(
        kind == FULL and f"blk.{i}.attn_v.weight" not in global_values
        for i, kind in enumerate(kinds)
    )
    return {
        **types,
        "head_dim": read_scalar(checkpoint, f"{prefix}attention.key_length_swa"),
        "global_head_dim": config["head_dim"],
        "num_key_value_heads": local,
        "num_global_key_value_heads": wide,
        "attention_k_eq_v": shares,
        "rope_parameters": ropes,
        "rope_scaling": None,
        "hidden_size_per_layer_input": config["hidden_size_per_layer_input"] or 0,
        "enable_moe_block": bool(config.get("num_experts")),
        "top_k_experts": config["num_experts_per_tok"],
    }


def ernie_moe(checkpoint: Checkpoint, config: Mapping[str, object]) -> dict[str, object]:
    def read(key: str, default: int) -> object:
        found = read_scalar(checkpoint, f"ernie4_5-moe.{key}")
        return default if found is None else found

    return {
        "moe_num_experts": config.get("num_experts"),
        "num_experts": None,
        "moe_num_shared_experts": read("expert_shared_count", 0),
        "moe_layer_start_index": read("leading_dense_block_count", 0),
        "moe_layer_interval": read("interleave_moe_layer_step", 1),
    }


LLAMA4_128_EXPERTS = 128  # Maverick, the one without norms of heads; files have no key for it


def llama4(checkpoint: Checkpoint, config: Mapping[str, object]) -> dict[str, object]:
    """Its chunks and temperatures are in no key; a window of 0 says that there are none."""
    fields: dict[str, object] = {
        "intermediate_size": config["moe_intermediate_size"],
        "intermediate_size_mlp": config["intermediate_size"],
        "num_local_experts": config.get("num_experts"),
        "num_experts": None,
        "use_qk_norm": config.get("num_experts") != LLAMA4_128_EXPERTS,
        "sliding_window": None,
    }
    layers = config["num_hidden_layers"]
    if read_scalar(checkpoint, "llama4.attention.sliding_window") != 0:
        return fields
    if not isinstance(layers, int) or not 0 <= layers <= MAX_LAYERS:
        return fields  # refused where the graph is built
    return fields | {"attention_chunk_size": None, "no_rope_layers": [1] * layers}


def gpt_oss(checkpoint: Checkpoint, config: Mapping[str, object]) -> dict[str, object]:
    """Its YaRN rounds no pairs, for which there is no key."""
    section = config.get("rope_scaling")
    return {"rope_scaling": {**section, "truncate": False}} if isinstance(section, dict) else {}


# Of its paper, and in all that is published (in BF16).
XIELU = {"xielu.beta": 0.5, "xielu.eps": -1e-6}


def apertus(checkpoint: Checkpoint, config: Mapping[str, object]) -> dict[str, object]:
    """What its activation does not learn is listed by layer (for what it does: `gguf_listed`)."""
    for key, usual in XIELU.items():
        listed = checkpoint.metadata.get(key)
        values = np.atleast_1d(np.asarray(usual if listed is None else listed))
        if values.dtype.kind not in "fiu" or not np.allclose(values, usual, rtol=2**-8, atol=0):
            raise ModelError(f"{checkpoint.path}: metadata {key!r}: {usual:g} alone is supported")
    return {}


LAYER_NORM = "attention.layer_norm_epsilon"
MAMBA = {
    "layer_norm_epsilon": "attention.layer_norm_rms_epsilon",
    "intermediate_size": "ssm.inner_size",
    "state_size": "ssm.state_size",
    "conv_kernel": "ssm.conv_kernel",
}
MAMBA_BIASES = {"use_bias": "blk.0.ssm_in.bias", "use_conv_bias": "blk.0.ssm_conv1d.bias"}
QKV_BIASES = {"attention_bias": "blk.0.attn_q.bias"}

GRANITE = {
    "embedding_multiplier": "embedding_scale",
    "residual_multiplier": "residual_scale",
    "attention_multiplier": "attention.scale",
    "logits_scaling": "logit_scale",
}

QWEN3_NEXT = {
    "linear_conv_kernel_dim": "ssm.conv_kernel",
    "linear_key_head_dim": "ssm.state_size",
    "linear_num_key_heads": "ssm.group_count",
    "linear_num_value_heads": "ssm.time_step_rank",
    "linear_inner_size": "ssm.inner_size",
    "full_attention_interval": "full_attention_interval",
}

FAMILIES: dict[str, Family] = {
    "deepseek2": Family(
        {"q_lora_rank": "attention.q_lora_rank", "kv_lora_rank": "attention.kv_lora_rank"},
        known=("rope.scaling.yarn_log_multiplier",),
        more=deepseek2,
        other_values=True,
    ),
    "qwen3next": Family(QWEN3_NEXT, more=qwen3_next),
    "qwen35": Family(QWEN3_NEXT, more=qwen3_next),
    "qwen35moe": Family(QWEN3_NEXT, more=qwen3_next, optional=("intermediate_size",)),
    "gemma4": Family(
        {
            "hidden_size_per_layer_input": "embedding_length_per_layer_input",
            "num_kv_shared_layers": "attention.shared_kv_layers",
        },
        more=gemma4,
        lists=("num_key_value_heads",),
    ),
    "hunyuan-dense": Family(flags=QKV_BIASES),
    "hunyuan-moe": Family(flags=QKV_BIASES),
    "ernie4_5-moe": Family(flags={"use_bias": "blk.0.attn_output.bias"}, more=ernie_moe),
    "mistral3": Family(known=("rope.scaling.yarn_log_multiplier",), more=mistral3),
    "llama4": Family({"interleave_moe_layer_step": "interleave_moe_layer_step"}, more=llama4),
    "gemma2": Family({"attn_logit_softcapping": "attn_logit_softcapping"}, more=gemma2),
    "gemma3": Family(more=gemma3),
    "olmo2": Family(more=every_fourth),
    "granite": Family(GRANITE),
    "granitemoe": Family(GRANITE),
    "glm4moe": Family(flags=QKV_BIASES | {"use_qk_norm": "blk.0.attn_q_norm.weight"}, more=grouped),
    "dots1": Family(flags=QKV_BIASES, more=grouped),
    "minimax-m2": Family(more=by_sigmoid),
    "gpt-oss": Family(more=gpt_oss),
    "command-r": Family({"layer_norm_eps": LAYER_NORM, "logit_scale": "logit_scale"}),
    "cohere2": Family(
        {"layer_norm_eps": LAYER_NORM, "logit_scale": "logit_scale"}, more=every_fourth
    ),
    "mamba": Family(
        MAMBA | {"time_step_rank": "ssm.time_step_rank", "dt_b_c_rms": "ssm.dt_b_c_rms"},
        MAMBA_BIASES,
    ),
    "mamba2": Family(
        MAMBA | {"num_heads": "ssm.time_step_rank", "n_groups": "ssm.group_count"},
        MAMBA_BIASES,
        more=mamba2,
    ),
    "apertus": Family(more=apertus),
    "glm4": Family(flags=QKV_BIASES),
    "exaone4": Family(more=exaone4),
    "exaone-moe": Family(more=exaone_moe),
    "ernie4_5": Family(flags={"use_bias": "blk.0.attn_output.bias"}),
    "seed_oss": Family(flags=QKV_BIASES | {"attention_out_bias": "blk.0.attn_output.bias"}),
}
