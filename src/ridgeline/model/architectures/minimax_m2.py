"""MiniMax-M2 (MiniMax 2025): norms of all of q and of k, a part of each head turns, experts that
are chosen by corrected sigmoids.
"""

from __future__ import annotations

from dataclasses import replace

from ridgeline.model.architectures.blocks import Stored
from ridgeline.model.architectures.decoder import Defaults, neutral, read_activation, read_sizes
from ridgeline.model.architectures.fields import Fields
from ridgeline.model.architectures.mixture import mixes, read_mixture
from ridgeline.model.architectures.rope_scaling import choose_context, read_rope, rotation
from ridgeline.model.architectures.stack import Norms, attends, build_decoder
from ridgeline.model.graph.build import FormatOf
from ridgeline.model.graph.node import Graph
from ridgeline.model.graph.ops import Norm

DEFAULTS = Defaults(vocab=200064, heads=48, kv_heads=8, head_dim=128, positions=196608)

# What the published files say besides, and nothing else is built.
NEUTRAL = {
    "scoring_func": ("sigmoid",),
    "use_routing_bias": (True,),
    "use_qk_norm": (True,),
    "qk_norm_type": ("per_layer",),
    "shared_intermediate_size": (0,),
    "sliding_window": (),
}


def build_minimax_m2(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    sizes = read_sizes(config, DEFAULTS)
    config.require_neutral(neutral("num_local_experts") | NEUTRAL)
    turned = config.integer("rotary_dim", 2, sizes.heads.dim, sizes.heads.dim)
    rope = read_rope(
        config,
        sizes.heads.dim,
        sizes.positions,
        default_theta=5e6,
        partial=True,
        default_partial=turned / sizes.heads.dim,
    )
    context = choose_context(rope, context_length, config.where)
    mixture = read_mixture(
        config,
        experts="num_local_experts",
        hidden="intermediate_size",
        num_experts=256,
        top_k=8,
        scores="sigmoid",
    )
    mixture = replace(mixture, route=replace(mixture.route, correction=True))
    rms = Norm("rms", sizes.eps)
    return build_decoder(
        "minimax_m2",
        sizes,
        format_of,
        context=context,
        norms=Norms(rms),
        attend=attends(
            sizes.heads,
            (rotation(rope, context, interleaved=stored.interleaved_rope),) * sizes.layers,
            (None,) * sizes.layers,
            whole_norm=rms,
        ),
        feed=mixes(
            (mixture,) * sizes.layers, sizes.mlp, read_activation(config, "hidden_act", "silu")
        ),
        tied=config.boolean("tie_word_embeddings", False),
    )
