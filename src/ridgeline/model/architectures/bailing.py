"""Ling 3.0 (inclusionAI 2025, "bailing hybrid"): Kimi's delta rule with a floor under its decays,
latent attention with a gate for each head in every sixth layer, DeepSeek V3's experts.
"""

from __future__ import annotations

from ridgeline.model.architectures.blocks import Stored
from ridgeline.model.architectures.decoder import Defaults, neutral, read_activation, read_sizes
from ridgeline.model.architectures.deepseek import Latent, attends_to_latents
from ridgeline.model.architectures.fields import (
    MAX_HEAD_DIM,
    MAX_HEADS,
    MAX_LAYERS,
    MAX_WIDTH,
    Fields,
)
from ridgeline.model.architectures.hybrid import ATTENDING, RECURRENT, by_kind, read_kinds
from ridgeline.model.architectures.kimi_linear import RENAMED
from ridgeline.model.architectures.mixture import GROUPED, mixes, read_grouped
from ridgeline.model.architectures.recurrent import DeltaSizes, kimi_delta
from ridgeline.model.architectures.rope_scaling import choose_context, read_rope, rotation
from ridgeline.model.architectures.stack import Norms, build_decoder
from ridgeline.model.graph.build import Builder, FormatOf
from ridgeline.model.graph.node import Graph, Value
from ridgeline.model.graph.ops import Norm
from ridgeline.model.graph.ops.causal_conv import MAX_TAPS

LING = Defaults(vocab=157184, heads=32, head_dim=128, positions=262144)


def build_bailing_hybrid(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    config = config.renamed(RENAMED)
    sizes = read_sizes(config, LING)
    config.require_neutral(
        neutral(*GROUPED, "num_experts", "num_local_experts") | {"mlp_bias": (False,)}
    )
    mixtures = read_grouped(
        config, sizes.layers, experts=512, shared=1, top_k=8, hidden=768, scale=2.5, dense=2
    )
    nope = config.integer("qk_nope_head_dim", 1, MAX_HEAD_DIM, 128)
    rope_dim = config.integer("qk_rope_head_dim", 2, MAX_HEAD_DIM, 64)
    if rope_dim % 2:
        config.refuse("qk_rope_head_dim", "channels turn in pairs")
    rope = read_rope(config, rope_dim, sizes.positions, default_theta=6e6)
    context = choose_context(rope, context_length, config.where)
    latent = Latent(
        heads=sizes.heads.query,
        rank=config.integer("kv_lora_rank", 1, MAX_HEAD_DIM, 512),
        q_rank=config.optional_integer("q_lora_rank", 1, MAX_WIDTH),
        nope=nope,
        rope=rope_dim,
        value=config.integer("v_head_dim", 1, MAX_HEAD_DIM, 128),
        scale=(nope + rope_dim) ** -0.5,
        bias=config.boolean("attention_bias", False),
        head_gate=True,
    )
    # transformers' own files say a rotated head's width where published ones say a linear head's.
    head_dim = config.integer("linear_head_dim", 1, MAX_HEAD_DIM, sizes.heads.dim)
    heads = config.integer("linear_num_heads", 1, MAX_HEADS, sizes.heads.query)
    taps = config.integer("short_conv_kernel_size", 2, MAX_TAPS, 4)
    delta = DeltaSizes(heads, heads, head_dim, head_dim, taps)
    floor = None
    if config.boolean("kda_safe_gate", True):
        floor = config.number("kda_lower_bound", -1e4, -1e-6, -5.0)

    def recur(b: Builder, layer: str, i: int, x: Value) -> Value:
        return kimi_delta(
            b,
            layer,
            x,
            delta,
            norm_eps=sizes.eps,
            log_a=not stored.plain_decay,
            whole_rank=True,
            floor=floor,
        )

    attend = attends_to_latents(latent, rotation(rope, context, interleaved=True))
    return build_decoder(
        "bailing_hybrid",
        sizes,
        format_of,
        context=context,
        norms=Norms(Norm("rms", sizes.eps)),
        attend=by_kind(read_groups(config, sizes.layers), {ATTENDING: attend, RECURRENT: recur}),
        feed=mixes(mixtures, sizes.mlp, read_activation(config, "hidden_act", "silu")),
        tied=config.boolean("tie_word_embeddings", False),
    )


def read_groups(config: Fields, layers: int) -> tuple[str, ...]:
    """Each layer's kind: `layer_types`, or attention in the last of each group."""
    size = config.integer("layer_group_size", 1, MAX_LAYERS, 6)
    kinds = read_kinds(config, "layer_types", layers)
    return kinds or tuple(ATTENDING if (i + 1) % size == 0 else RECURRENT for i in range(layers))
