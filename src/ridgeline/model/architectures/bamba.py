"""Bamba (IBM et al. 2024): Mamba 2 with attention in some layers, an MLP in each."""

from __future__ import annotations

from ridgeline.model.architectures.blocks import Stored
from ridgeline.model.architectures.decoder import (
    NEUTRAL,
    Defaults,
    read_activation,
    read_sizes,
)
from ridgeline.model.architectures.fields import Fields
from ridgeline.model.architectures.hybrid import (
    ATTENDING,
    RECURRENT,
    by_kind,
    read_hybrid_ssd,
    read_indices,
)
from ridgeline.model.architectures.mamba import read_limits
from ridgeline.model.architectures.recurrent import mamba2
from ridgeline.model.architectures.rope_scaling import choose_context, read_rope, rotation
from ridgeline.model.architectures.stack import Norms, attends, build_decoder, feeds
from ridgeline.model.graph.build import Builder, FormatOf
from ridgeline.model.graph.node import Graph, Value
from ridgeline.model.graph.ops import Norm

ROTATED_SHARE = 0.5  # of a head, whatever the configuration says


def build_bamba(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    sizes = read_sizes(
        config, Defaults(vocab=128000, heads=32, kv_heads=8, positions=262144, eps=1e-5)
    )
    config.require_neutral(NEUTRAL | {"sliding_window": (), "partial_rotary_factor": (0.5,)})
    attending = read_indices(config, "attn_layer_indices", sizes.layers)
    ssd = read_hybrid_ssd(config, sizes.width)
    limits = read_limits(config)
    conv_bias = config.boolean("mamba_conv_bias", True)
    bias = config.boolean("mamba_proj_bias", False)
    rope = read_rope(
        config, sizes.heads.dim, sizes.positions, partial=True, default_partial=ROTATED_SHARE
    )
    context = choose_context(rope, context_length, config.where)
    attention_bias = config.boolean("attention_bias", False)

    def recur(b: Builder, layer: str, i: int, x: Value) -> Value:
        return mamba2(
            b,
            layer,
            x,
            ssd,
            norm_eps=sizes.eps,
            bias=bias,
            conv_bias=conv_bias,
            dt_limits=limits,
        )

    attend = attends(
        sizes.heads,
        (rotation(rope, context, interleaved=stored.interleaved_rope),) * sizes.layers,
        (None,) * sizes.layers,
        qkv_bias=attention_bias,
        output_bias=attention_bias,
    )
    kinds = tuple(ATTENDING if i in attending else RECURRENT for i in range(sizes.layers))
    return build_decoder(
        "bamba",
        sizes,
        format_of,
        context=context,
        norms=Norms(Norm("rms", sizes.eps)),
        attend=by_kind(kinds, {ATTENDING: attend, RECURRENT: recur}),
        feed=feeds(
            sizes.mlp,
            read_activation(config, "hidden_act", "silu"),
            bias=config.boolean("mlp_bias", False),
        ),
        tied=config.boolean("tie_word_embeddings", False),
    )
