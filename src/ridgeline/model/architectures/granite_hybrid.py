"""Granite 4 hybrid (IBM 2025): Mamba 2 with attention in some layers, Granite's multipliers, and an
MLP that all tokens share, with experts beside it or alone.
"""

from __future__ import annotations

from dataclasses import replace

from ridgeline.model.architectures.blocks import Stored
from ridgeline.model.architectures.decoder import (
    Defaults,
    Sizes,
    neutral,
    read_activation,
    read_sizes,
)
from ridgeline.model.architectures.fields import Fields
from ridgeline.model.architectures.granite import MULTIPLIERS
from ridgeline.model.architectures.hybrid import (
    ATTENDING,
    RECURRENT,
    by_kind,
    context_of,
    read_hybrid_ssd,
    read_kinds,
    read_width,
)
from ridgeline.model.architectures.mamba import read_limits
from ridgeline.model.architectures.mixture import MAX_EXPERTS, mixes, read_mixture
from ridgeline.model.architectures.recurrent import mamba2
from ridgeline.model.architectures.rope_scaling import choose_context, read_rope, rotation
from ridgeline.model.architectures.stack import Branch, Norms, attends, build_decoder, feeds
from ridgeline.model.graph.build import Builder, FormatOf
from ridgeline.model.graph.node import Graph, Value
from ridgeline.model.graph.ops import Norm, Rotation
from ridgeline.model.graph.ops.activation import Activation


def build_granite_hybrid(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    sizes = read_sizes(config, Defaults(vocab=32000, heads=32, positions=2048))
    activation = read_activation(config, "hidden_act", "silu")
    feed = feeds_shared(config, sizes, activation)
    config.require_neutral(neutral(*MULTIPLIERS, "num_local_experts") | {"sliding_window": ()})
    kinds = read_kinds(config, "layer_types", sizes.layers) or (RECURRENT,) * sizes.layers
    ssd = read_hybrid_ssd(config, sizes.width)
    limits = read_limits(config)
    conv_bias = config.boolean("mamba_conv_bias", True)
    mixer_bias = config.boolean("mamba_proj_bias", False)
    bias = config.boolean("attention_bias", False)
    embedding, branch, score, logit = (config.number(name, 1e-9, 1e9, 1.0) for name in MULTIPLIERS)
    turns: Rotation | None = None
    if config.text("position_embedding_type", "nope") == "rope":
        rope = read_rope(config, sizes.heads.dim, sizes.positions)
        context = choose_context(rope, context_length, config.where)
        turns = rotation(rope, context, interleaved=stored.interleaved_rope)
    else:
        context = context_of(config, sizes.positions, context_length)

    def recur(b: Builder, layer: str, i: int, x: Value) -> Value:
        return mamba2(
            b,
            layer,
            x,
            ssd,
            norm_eps=sizes.eps,
            log_a=not stored.plain_decay,
            bias=mixer_bias,
            conv_bias=conv_bias,
            dt_limits=limits,
        )

    attend = attends(
        sizes.heads,
        (turns,) * sizes.layers,
        (None,) * sizes.layers,
        scale=score,
        qkv_bias=bias,
        output_bias=bias,
    )
    return build_decoder(
        "granite_hybrid",
        sizes,
        format_of,
        context=context,
        norms=Norms(Norm("rms", sizes.eps)),
        attend=by_kind(kinds, {ATTENDING: attend, RECURRENT: recur}),
        feed=feed,
        tied=config.boolean("tie_word_embeddings", False),
        embed_scale=embedding,
        branch_scale=branch,
        logit_scale=1.0 / logit,
    )


def feeds_shared(config: Fields, sizes: Sizes, activation: Activation) -> Branch:
    """The MLP that all tokens share, and experts, if there are some."""
    shared = read_width(config, "shared_intermediate_size", 1024)
    if config.has("num_local_experts") and not config.integer("num_local_experts", 0, MAX_EXPERTS):
        return feeds(shared, activation)
    mixture = read_mixture(
        config, experts="num_local_experts", hidden="intermediate_size", num_experts=8, top_k=2
    )
    return mixes((replace(mixture, shared=shared),) * sizes.layers, sizes.mlp, activation)
