"""Kimi Linear (Kimi team 2025): a delta rule with a decay by channel, latent attention without any
rotation in every fourth layer, DeepSeek V3's experts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ridgeline.model.architectures.blocks import Stored
from ridgeline.model.architectures.decoder import Defaults, neutral, read_activation, read_sizes
from ridgeline.model.architectures.deepseek import Latent, attends_to_latents
from ridgeline.model.architectures.fields import MAX_HEAD_DIM, MAX_HEADS, MAX_WIDTH, Fields
from ridgeline.model.architectures.hybrid import (
    ATTENDING,
    RECURRENT,
    by_kind,
    context_of,
    read_indices,
    read_kinds,
)
from ridgeline.model.architectures.mixture import GROUPED, mixes, read_grouped
from ridgeline.model.architectures.recurrent import DeltaSizes, kimi_delta
from ridgeline.model.architectures.stack import Norms, build_decoder
from ridgeline.model.graph.build import Builder, FormatOf
from ridgeline.model.graph.node import Graph, Value
from ridgeline.model.graph.ops import Norm
from ridgeline.model.graph.ops.causal_conv import MAX_TAPS

KIMI_LINEAR = Defaults(vocab=163840, heads=32, head_dim=1, positions=1 << 20, eps=1e-5)

# DeepSeek's names of fields -> this family's.
RENAMED = {
    "n_routed_experts": "num_experts",
    "n_shared_experts": "num_shared_experts",
    "num_experts_per_tok": "num_experts_per_token",
    "norm_topk_prob": "moe_renormalize",
    "n_group": "num_expert_group",
    "scoring_func": "moe_router_activation_func",
    "max_position_embeddings": "model_max_length",
}

# What Kimi K3 adds, and what is not built here.
UNBUILT: dict[str, tuple[object, ...]] = {
    "mla_use_nope": (True,),
    "mla_use_output_gate": (False,),
    "attn_res_block_size": (),
    "routed_expert_hidden_size": (),
    "latent_moe_use_norm": (False,),
    "mlp_layer_types": (),
    "rope_scaling": (),
}


def build_kimi_linear(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    config = renamed(config, RENAMED)
    sizes = read_sizes(config, KIMI_LINEAR)
    config.require_neutral(neutral(*GROUPED) | UNBUILT)
    mixtures = read_grouped(
        config, sizes.layers, experts=256, shared=1, top_k=8, hidden=1024, scale=2.446, dense=1
    )
    nope = config.integer("qk_nope_head_dim", 1, MAX_HEAD_DIM, 128)
    beside = config.integer("qk_rope_head_dim", 1, MAX_HEAD_DIM, 64)
    latent = Latent(
        heads=sizes.heads.query,
        rank=config.integer("kv_lora_rank", 1, MAX_HEAD_DIM, 512),
        q_rank=config.optional_integer("q_lora_rank", 1, MAX_WIDTH),
        nope=nope,
        rope=beside,
        value=config.integer("v_head_dim", 1, MAX_HEAD_DIM, 128),
        scale=(nope + beside) ** -0.5,
        bias=config.boolean("attention_bias", False),
    )
    kinds, delta = read_linear(config, sizes.layers)

    def recur(b: Builder, layer: str, i: int, x: Value) -> Value:
        return kimi_delta(b, layer, x, delta, norm_eps=sizes.eps, log_a=not stored.plain_decay)

    attend = by_kind(kinds, {ATTENDING: attends_to_latents(latent, None), RECURRENT: recur})
    return build_decoder(
        "kimi_linear",
        sizes,
        format_of,
        context=context_of(config, sizes.positions, context_length),
        norms=Norms(Norm("rms", sizes.eps)),
        attend=attend,
        feed=mixes(mixtures, sizes.mlp, read_activation(config, "hidden_act", "silu")),
        tied=config.boolean("tie_word_embeddings", False),
    )


def renamed(config: Fields, names: Mapping[str, str]) -> Fields:
    """`config` under the names that the readers here know; messages say the file's."""
    values, spelled = dict(config.values), dict(config.spelled)
    for ours, theirs in names.items():
        if theirs not in values:
            continue
        if ours in values and values[ours] != values[theirs]:
            config.refuse(theirs, f"contradicts {ours}")
        values[ours] = values.pop(theirs)
        spelled[ours] = theirs
    return replace(config, values=values, spelled=spelled)


def read_linear(config: Fields, layers: int) -> tuple[tuple[str, ...], DeltaSizes]:
    """Each layer's kind, and the sizes of those with a state: `linear_attn_config`, whose layers
    count from 1, or the fields that transformers writes.
    """
    linear = config.section("linear_attn_config")
    linear.require_neutral({"gate_lower_bound": (), "use_full_rank_gate": (False,)})
    kinds = read_kinds(config, "layer_types", layers)
    listed = {
        kind: read_indices(linear, name, layers + 1)
        for kind, name in ((RECURRENT, "kda_layers"), (ATTENDING, "full_attn_layers"))
    }
    if any(listed.values()):
        found = sorted((*listed[RECURRENT], *listed[ATTENDING]))
        if found != list(range(1, layers + 1)):
            linear.refuse(
                "kda_layers", f"and full_attn_layers: 1 to {layers} are needed, each once"
            )
        kinds = tuple(ATTENDING if i + 1 in listed[ATTENDING] else RECURRENT for i in range(layers))
    if kinds is None:
        kinds = tuple(ATTENDING if i and i % 4 == 0 else RECURRENT for i in range(layers))

    def integer(name: str, flat: str, low: int, high: int, default: int) -> int:
        return linear.integer(name, low, high, config.integer(flat, low, high, default))

    heads = integer("num_heads", "linear_num_heads", 1, MAX_HEADS, 32)
    head_dim = integer("head_dim", "linear_head_dim", 1, MAX_HEAD_DIM, 128)
    taps = integer("short_conv_kernel_size", "linear_conv_kernel_dim", 2, MAX_TAPS, 4)
    return kinds, DeltaSizes(heads, heads, head_dim, head_dim, taps)
