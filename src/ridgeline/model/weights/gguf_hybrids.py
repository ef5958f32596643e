"""What the metadata of GGUF architectures says whose layers are of several kinds: see
`gguf_families`.

Which layers are which follows from lists by layer: those without heads of keys and values do not
attend.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import NormalDist

import numpy as np

from ridgeline.errors import ModelError
from ridgeline.model.weights.checkpoint import Checkpoint
from ridgeline.model.weights.gguf_families import (
    GRANITE,
    LAYER_NORM,
    MAX_LAYERS,
    Family,
    by_sigmoid,
    latent_lengths,
    layer_types,
    read_groups,
    read_scalar,
)


def read_list(checkpoint: Checkpoint, key: str, layers: object) -> list[int]:
    """A number for each layer; layers behind the model's do not count."""
    key = f"{checkpoint.metadata['general.architecture']}.{key}"
    value = checkpoint.metadata.get(key)
    if not isinstance(layers, int) or not 1 <= layers <= 1 << 12:
        return []  # refused where the graph is built
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return [int(value)] * layers
    if (
        not isinstance(value, np.ndarray)
        or value.ndim != 1
        or value.size < layers
        or value.dtype.kind not in "iub"
    ):
        raise ModelError(
            f"{checkpoint.path}: metadata {key!r}: a whole number for each of {layers} layers is "
            "needed"
        )
    return [int(each) for each in value[:layers]]


def only(checkpoint: Checkpoint, key: str, values: list[int]) -> int | None:
    """The one number that is not 0."""
    found = {value for value in values if value}
    if len(found) > 1:
        architecture = checkpoint.metadata["general.architecture"]
        raise ModelError(
            f"{checkpoint.path}: metadata '{architecture}.{key}': layers that differ in it are not "
            "supported"
        )
    return found.pop() if found else None


def mixer(
    checkpoint: Checkpoint, config: Mapping[str, object], names: Mapping[str, str]
) -> dict[str, object]:
    """Mamba 2's sizes under the names that a family gives them."""
    inner, heads = config["ssm_inner"], config[names["heads"]]
    if not isinstance(inner, int) or not isinstance(heads, int) or heads < 1 or inner % heads:
        architecture = checkpoint.metadata["general.architecture"]
        raise ModelError(
            f"{checkpoint.path}: metadata '{architecture}.ssm.inner_size' = {inner!r} does not "
            f"part into ssm.time_step_rank = {heads!r} heads"
        )
    return {names["head_dim"]: inner // heads}


def has(checkpoint: Checkpoint, ending: str) -> bool:
    return any(name.endswith(ending) for name in checkpoint.tensors)


def nemotron_h(checkpoint: Checkpoint, config: Mapping[str, object]) -> dict[str, object]:
    layers = config["num_hidden_layers"]
    heads = read_list(checkpoint, "attention.head_count_kv", layers)
    widths = read_list(checkpoint, "feed_forward_length", layers)
    kinds = []
    for i, (kv, hidden) in enumerate(zip(heads, widths, strict=True)):
        feeds = "moe" if f"blk.{i}.ffn_gate_inp.weight" in checkpoint.tensors else "mlp"
        kinds.append("attention" if kv else feeds if hidden else "mamba")
    plain = [width for width, kind in zip(widths, kinds, strict=True) if kind == "mlp"]
    fields = mixer(checkpoint, config, {"heads": "mamba_num_heads", "head_dim": "mamba_head_dim"})
    if "moe" in kinds:
        fields |= read_groups(checkpoint, config) | by_sigmoid(checkpoint, config)
        fields |= {
            "first_k_dense_replace": 0,
            "moe_shared_expert_intermediate_size": config["shared_expert_intermediate_size"],
        }
    return fields | {
        "layers_block_type": kinds,
        "num_key_value_heads": only(checkpoint, "attention.head_count_kv", heads),
        "intermediate_size": only(checkpoint, "feed_forward_length", plain),
        "layer_norm_epsilon": config["layer_norm_epsilon"] or config["rms_norm_eps"],
        "use_bias": has(checkpoint, ".ssm_in.bias"),
        "use_conv_bias": has(checkpoint, ".ssm_conv1d.bias"),
        "mlp_bias": has(checkpoint, ".ffn_up.bias"),
    }


def granite_hybrid(checkpoint: Checkpoint, config: Mapping[str, object]) -> dict[str, object]:
    """Positions are turned unless the key for fine-tuned ones says otherwise."""
    heads = read_list(checkpoint, "attention.head_count_kv", config["num_hidden_layers"])
    inner, width = config["ssm_inner"], config["hidden_size"]
    turned = read_scalar(checkpoint, "granitehybrid.rope.scaling.finetuned")
    hidden = config["shared_expert_intermediate_size"]
    if not config.get("num_local_experts"):
        hidden = config["intermediate_size"]
    fields = mixer(checkpoint, config, {"heads": "mamba_n_heads", "head_dim": "mamba_d_head"})
    if isinstance(inner, int) and isinstance(width, int) and width > 0:
        if inner % width:
            raise ModelError(
                f"{checkpoint.path}: metadata 'granitehybrid.ssm.inner_size' = {inner} is no "
                f"multiple of embedding_length = {width}"
            )
        fields["mamba_expand"] = inner // width
    return fields | {
        "layer_types": ["attention" if kv else "mamba" for kv in heads],
        "num_key_value_heads": only(checkpoint, "attention.head_count_kv", heads),
        "num_local_experts": config.get("num_local_experts") or 0,
        "shared_intermediate_size": hidden,
        "position_embedding_type": "rope" if turned in (None, True) else "nope",
        "mamba_conv_bias": has(checkpoint, ".ssm_conv1d.bias"),
        "mamba_proj_bias": has(checkpoint, ".ssm_in.bias"),
        "attention_bias": has(checkpoint, ".attn_q.bias"),
    }


def lfm2(checkpoint: Checkpoint, config: Mapping[str, object]) -> dict[str, object]:
    heads = read_list(checkpoint, "attention.head_count_kv", config["num_hidden_layers"])
    return {
        "layer_types": ["full_attention" if kv else "conv" for kv in heads],
        "num_key_value_heads": only(checkpoint, "attention.head_count_kv", heads),
        "block_auto_adjust_ff_dim": False,
        "norm_eps": config["rms_norm_eps"],
        "conv_bias": has(checkpoint, ".shortconv.conv.bias"),
    }


def lfm2_moe(checkpoint: Checkpoint, config: Mapping[str, object]) -> dict[str, object]:
    found = read_scalar(checkpoint, "lfm2moe.leading_dense_block_count")
    return {
        **by_sigmoid(checkpoint, config),
        **lfm2(checkpoint, config),
        "num_dense_layers": found or 0,
        "routed_scaling_factor": read_scalar(checkpoint, "lfm2moe.expert_weights_scale"),
        "use_expert_bias": has(checkpoint, ".exp_probs_b.bias"),
    }


def kimi_linear(checkpoint: Checkpoint, config: Mapping[str, object]) -> dict[str, object]:
    """Heads of the layers with a state are in no key: as many as there are rates of change."""
    heads = read_list(checkpoint, "attention.head_count_kv", config["num_hidden_layers"])
    rates = next((t for n, t in checkpoint.tensors.items() if n.endswith(".ssm_beta.weight")), None)
    groups = read_groups(checkpoint, config)
    del groups["n_routed_experts"], groups["num_experts"]
    return {
        **by_sigmoid(checkpoint, config),
        **groups,
        **latent_lengths(checkpoint),
        "norm_topk_prob": True,
        "rope_scaling": None,
        "linear_attn_config": {
            "kda_layers": [i + 1 for i, kv in enumerate(heads) if not kv],
            "full_attn_layers": [i + 1 for i, kv in enumerate(heads) if kv],
            "num_heads": None if rates is None else rates.shape[0],
            "head_dim": config["kda_head_dim"],
            "short_conv_kernel_size": config["kda_taps"],
        },
    }


def falcon_h1(checkpoint: Checkpoint, config: Mapping[str, object]) -> dict[str, object]:
    """Files have the multipliers in the weights; a norm of the mixer is behind its gate."""
    return mixer(checkpoint, config, {"heads": "mamba_n_heads", "head_dim": "mamba_d_head"}) | {
        "mamba_rms_norm": has(checkpoint, ".ssm_norm.weight"),
        "mamba_norm_before_gate": False,
        "mamba_conv_bias": has(checkpoint, ".ssm_conv1d.bias"),
        "mamba_proj_bias": has(checkpoint, ".ssm_in.bias"),
    }


def jamba(checkpoint: Checkpoint, config: Mapping[str, object]) -> dict[str, object]:
    """Layers without heads of keys and values are Mamba's; a router says which have experts."""
    layers, inner, width = (
        config[name] for name in ("num_hidden_layers", "ssm_inner", "hidden_size")
    )
    heads = read_list(checkpoint, "attention.head_count_kv", layers)
    if not isinstance(inner, int) or not isinstance(width, int) or width < 1 or inner % width:
        raise ModelError(
            f"{checkpoint.path}: metadata 'jamba.ssm.inner_size' = {inner!r} is no multiple of "
            f"embedding_length = {width!r}"
        )
    routers = (f"blk.{i}.ffn_gate_inp.weight" for i in range(len(heads)))
    return {
        "layers_block_type": ["attention" if kv else "mamba" for kv in heads],
        "mlp_layer_types": [
            "sparse" if name in checkpoint.tensors else "dense" for name in routers
        ],
        "num_key_value_heads": only(checkpoint, "attention.head_count_kv", heads),
        "mamba_expand": inner // width,
        "mamba_conv_bias": has(checkpoint, ".ssm_conv1d.bias"),
        "mamba_proj_bias": has(checkpoint, ".ssm_in.bias"),
    }


NEMOTRON_H = Family(
    {
        "layer_norm_epsilon": LAYER_NORM,
        "mamba_num_heads": "ssm.time_step_rank",
        "n_groups": "ssm.group_count",
        "ssm_state_size": "ssm.state_size",
        "conv_kernel": "ssm.conv_kernel",
        "ssm_inner": "ssm.inner_size",
        "moe_latent_size": "moe_latent_size",
    },
    more=nemotron_h,
    lists=("num_key_value_heads", "intermediate_size"),
)

GEMMA3N_OWN = 20  # layers with keys of their own, where a file has no key for it


def gemma3n(checkpoint: Checkpoint, config: Mapping[str, object]) -> dict[str, object]:
    """MLPs and their sparsity by layer; the latter as how many deviations above the mean a gate
    must be. What no key says, shapes of tensors do.
    """
    layers = config["num_hidden_layers"]
    if not isinstance(layers, int) or not 1 <= layers <= MAX_LAYERS:
        return {}  # refused where the graph is built
    shared = read_scalar(checkpoint, "gemma3n.attention.shared_kv_layers")
    key = "gemma3n.activation_sparsity_scale"
    scales = checkpoint.metadata.get(key)
    if scales is None:
        scales = np.full(layers, -np.inf)
    if not isinstance(scales, np.ndarray) or scales.ndim != 1 or scales.dtype.kind not in "fiu":
        raise ModelError(f"{checkpoint.path}: metadata {key!r}: a list of numbers is needed")
    if np.isnan(scales).any() or scales.size != layers:
        raise ModelError(
            f"{checkpoint.path}: metadata {key!r}: a number for each of {layers} layers is needed"
        )
    sizes = {
        "laurel_rank": "blk.0.laurel_l.weight",
        "vocab_size_per_layer_input": "per_layer_token_embd.weight",
    }
    for tensor in sizes.values():
        if tensor not in checkpoint.tensors or not checkpoint.tensors[tensor].shape:
            raise ModelError(f"{checkpoint.path}: tensor {tensor!r} is missing or no matrix")
    return {
        **layer_types(checkpoint, config, 5),
        **{name: checkpoint.tensors[tensor].shape[0] for name, tensor in sizes.items()},
        "intermediate_size": read_list(checkpoint, "feed_forward_length", layers),
        "num_kv_shared_layers": max(0, layers - GEMMA3N_OWN) if shared is None else shared,
        "activation_sparsity_pattern": [NormalDist().cdf(float(each)) for each in scales],
        "altup_correct_scale": "blk.0.altup_correct_scale.weight" in checkpoint.tensors,
    }


HYBRIDS: dict[str, Family] = {
    "gemma3n": Family(
        {
            "altup_num_inputs": "altup.num_inputs",
            "altup_active_idx": "altup.active_idx",
            "hidden_size_per_layer_input": "embedding_length_per_layer_input",
        },
        more=gemma3n,
        lists=("intermediate_size",),
    ),
    "falcon-h1": Family(
        {
            "mamba_n_heads": "ssm.time_step_rank",
            "mamba_n_groups": "ssm.group_count",
            "mamba_d_state": "ssm.state_size",
            "mamba_d_conv": "ssm.conv_kernel",
            "mamba_d_ssm": "ssm.inner_size",
            "ssm_inner": "ssm.inner_size",
        },
        more=falcon_h1,
    ),
    "jamba": Family(
        {
            "mamba_d_state": "ssm.state_size",
            "mamba_d_conv": "ssm.conv_kernel",
            "mamba_dt_rank": "ssm.time_step_rank",
            "ssm_inner": "ssm.inner_size",
        },
        more=jamba,
        lists=("num_key_value_heads",),
    ),
    "nemotron_h": NEMOTRON_H,
    "nemotron_h_moe": NEMOTRON_H,
    "granitehybrid": Family(
        GRANITE
        | {
            "mamba_n_heads": "ssm.time_step_rank",
            "mamba_n_groups": "ssm.group_count",
            "mamba_d_state": "ssm.state_size",
            "mamba_d_conv": "ssm.conv_kernel",
            "ssm_inner": "ssm.inner_size",
        },
        more=granite_hybrid,
        lists=("num_key_value_heads",),
    ),
    "lfm2": Family(
        {"conv_L_cache": "shortconv.l_cache"}, more=lfm2, lists=("num_key_value_heads",)
    ),
    "kimi-linear": Family(
        {
            "q_lora_rank": "attention.q_lora_rank",
            "kv_lora_rank": "attention.kv_lora_rank",
            "kda_head_dim": "kda.head_dim",
            "kda_taps": "ssm.conv_kernel",
        },
        more=kimi_linear,
        other_values=True,
        lists=("num_key_value_heads",),
    ),
    "lfm2moe": Family(
        {"conv_L_cache": "shortconv.l_cache"}, more=lfm2_moe, lists=("num_key_value_heads",)
    ),
}
