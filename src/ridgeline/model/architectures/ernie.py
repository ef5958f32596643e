"""ERNIE 4.5 (Baidu 2025): Llama whose neighbouring channels turn together; and its mixtures, routed
by softmax and a correction.
"""

from __future__ import annotations

from dataclasses import replace

from ridgeline.model.architectures.blocks import Stored
from ridgeline.model.architectures.decoder import Defaults, neutral, read_activation, read_sizes
from ridgeline.model.architectures.fields import MAX_LAYERS, Fields
from ridgeline.model.architectures.llama import build_pre_norm
from ridgeline.model.architectures.mixture import MAX_EXPERTS, Mixture, mixes, read_mixture
from ridgeline.model.architectures.rope_scaling import choose_context, read_rope, rotation
from ridgeline.model.architectures.stack import Norms, attends, build_decoder
from ridgeline.model.graph.build import FormatOf
from ridgeline.model.graph.node import Graph
from ridgeline.model.graph.ops import Norm

ERNIE = Defaults(vocab=103424, heads=16, kv_heads=2, head_dim=128, positions=131072, eps=1e-5)


def build_ernie(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    sizes = read_sizes(config, ERNIE)
    config.require_neutral(neutral() | {"sliding_window": ()})
    rope = read_rope(config, sizes.heads.dim, sizes.positions, default_theta=5e5)
    context = choose_context(rope, context_length, config.where)
    bias = config.boolean("use_bias", False)
    return build_pre_norm(
        "ernie4_5",
        sizes,
        format_of,
        context=context,
        rotation=rotation(rope, context, interleaved=True),
        windows=(None,) * sizes.layers,
        activation=read_activation(config, "hidden_act", "silu"),
        tied=config.boolean("tie_word_embeddings", True),
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=bias,
    )


MOE = Defaults(vocab=103424, heads=20, kv_heads=4, positions=131072, eps=1e-5)


def build_ernie_moe(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    sizes = read_sizes(config, MOE)
    config.require_neutral(
        neutral("num_experts", "num_local_experts")
        | {"sliding_window": (), "use_bias": (False,), "moe_use_aux_free": (True,)}
    )
    rope = read_rope(config, sizes.heads.dim, sizes.positions, default_theta=5e5)
    context = choose_context(rope, context_length, config.where)
    return build_decoder(
        "ernie4_5_moe",
        sizes,
        format_of,
        context=context,
        norms=Norms(Norm("rms", sizes.eps)),
        attend=attends(
            sizes.heads,
            (rotation(rope, context, interleaved=True),) * sizes.layers,
            (None,) * sizes.layers,
        ),
        feed=mixes(
            read_mixtures(config, sizes.layers),
            sizes.mlp,
            read_activation(config, "hidden_act", "silu"),
        ),
        tied=config.boolean("tie_word_embeddings", True),
    )


def read_mixtures(config: Fields, layers: int) -> tuple[Mixture | None, ...]:
    """A mixture in every so-manieth layer from one to another."""
    mixture = read_mixture(
        config.renamed({"num_experts_per_tok": "moe_k"}),
        experts="moe_num_experts",
        hidden="moe_intermediate_size",
        num_experts=64,
        top_k=6,
        default_hidden=1536,
    )
    shared = config.integer("moe_num_shared_experts", 0, MAX_EXPERTS, 2) * mixture.hidden
    route = replace(mixture.route, correction=True)
    mixture = replace(mixture, route=route, shared=shared)
    first = config.integer("moe_layer_start_index", 0, MAX_LAYERS, 1)
    last = config.integer("moe_layer_end_index", -1, MAX_LAYERS, -1)
    every = config.integer("moe_layer_interval", 1, MAX_LAYERS, 1)
    last = layers - 1 if last == -1 else last
    return tuple(
        mixture if first <= i <= last and (i + 1) % every == 0 else None for i in range(layers)
    )
