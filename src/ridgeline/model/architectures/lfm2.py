"""LFM2 (Liquid AI 2025): short gated convolutions, attention in some layers."""

from __future__ import annotations

from dataclasses import replace

from ridgeline.model.architectures.blocks import Stored, linear, width
from ridgeline.model.architectures.decoder import NEUTRAL, Defaults, Sizes, neutral, read_sizes
from ridgeline.model.architectures.fields import MAX_LAYERS, MAX_WIDTH, Fields
from ridgeline.model.architectures.hybrid import (
    ATTENDING,
    by_kind,
    read_indices,
    read_kinds,
    read_width,
)
from ridgeline.model.architectures.mixture import mixes, read_mixture
from ridgeline.model.architectures.recurrent import causal_conv
from ridgeline.model.architectures.rope_scaling import choose_context, read_rope, rotation
from ridgeline.model.architectures.stack import Branch, Norms, attends, build_decoder, feeds
from ridgeline.model.graph.build import Builder, FormatOf
from ridgeline.model.graph.node import Graph, Value
from ridgeline.model.graph.ops import GatedActivation, Norm, Split
from ridgeline.model.graph.ops.causal_conv import MAX_TAPS

DEFAULTS = Defaults(
    vocab=65536, heads=32, kv_heads=8, positions=128000, eps=1e-5, eps_name="norm_eps"
)
CONVOLVING = "conv"
KINDS = {CONVOLVING: CONVOLVING, ATTENDING: ATTENDING}


def build_lfm2(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    sizes = read_sizes(config, DEFAULTS)
    sizes = replace(sizes, mlp=read_mlp(config, sizes.mlp))
    config.require_neutral(NEUTRAL | {"sliding_window": ()})
    feed = feeds(sizes.mlp, "silu")
    return build_convolving("lfm2", config, sizes, format_of, stored, context_length, feed)


def build_lfm2_moe(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    """Experts in all layers but the first few."""
    sizes = read_sizes(config, DEFAULTS)
    config.require_neutral(neutral("num_experts") | {"sliding_window": ()})
    mixture = read_mixture(
        config,
        experts="num_experts",
        hidden="moe_intermediate_size",
        num_experts=32,
        default_hidden=1792,
        top_k=4,
        scores="sigmoid",
        normalize=config.boolean("norm_topk_prob", True),
    )
    route = replace(
        mixture.route,
        correction=config.boolean("use_expert_bias", True),
        scale=config.number("routed_scaling_factor", 1e-9, 1e9, 1.0),
    )
    mixture = replace(mixture, route=route)
    dense = config.integer("num_dense_layers", 0, MAX_LAYERS, 2)
    mixtures = tuple(None if i < dense else mixture for i in range(sizes.layers))
    feed = mixes(mixtures, sizes.mlp, "silu")
    return build_convolving("lfm2_moe", config, sizes, format_of, stored, context_length, feed)


def build_convolving(
    name: str,
    config: Fields,
    sizes: Sizes,
    format_of: FormatOf,
    stored: Stored,
    context_length: int | None,
    feed: Branch,
) -> Graph:
    attending = read_indices(config, "full_attn_idxs", sizes.layers)
    kinds = read_kinds(config, "layer_types", sizes.layers, KINDS) or tuple(
        ATTENDING if i in attending or not config.has("full_attn_idxs") else CONVOLVING
        for i in range(sizes.layers)
    )
    rope = read_rope(config, sizes.heads.dim, sizes.positions, default_theta=1e6)
    context = choose_context(rope, context_length, config.where)
    rms = Norm("rms", sizes.eps)
    convolve = convolves(
        config.integer("conv_L_cache", 2, MAX_TAPS, 3), bias=config.boolean("conv_bias", False)
    )
    attend = attends(
        sizes.heads,
        (rotation(rope, context, interleaved=stored.interleaved_rope),) * sizes.layers,
        (None,) * sizes.layers,
        head_norm=rms,
    )
    tied = config.boolean("tie_embedding", config.boolean("tie_word_embeddings", True))
    return build_decoder(
        name,
        sizes,
        format_of,
        context=context,
        norms=Norms(rms),
        attend=by_kind(kinds, {ATTENDING: attend, CONVOLVING: convolve}),
        feed=feed,
        tied=tied,
    )


def convolves(taps: int, *, bias: bool) -> Branch:
    """out(c * conv(b * x)), b, c and x being linears of a token."""

    def branch(b: Builder, layer: str, i: int, x: Value) -> Value:
        name, channels = f"{layer}.conv", width(x)
        parts = linear(b, f"{name}.in", x, 3 * channels, bias=bias)
        before, after, value = b.add(f"{name}.in.split", Split((channels,) * 3), parts)
        value = b.one(f"{name}.before", GatedActivation("identity"), before, value)
        value = causal_conv(b, f"{name}.filter", value, taps, bias=bias)
        value = b.one(f"{name}.after", GatedActivation("identity"), after, value)
        return linear(b, f"{name}.out", value, channels, bias=bias)

    return branch


def read_mlp(config: Fields, hidden: int) -> int:
    """Channels of the MLP: two thirds of what is said, times a factor, rounded up."""
    hidden = config.integer("block_ff_dim", 1, MAX_WIDTH, hidden)
    if not config.boolean("block_auto_adjust_ff_dim", True):
        return hidden
    hidden = int(config.number("block_ffn_dim_multiplier", 1e-3, 1e3, 1.0) * int(2 * hidden / 3))
    multiple = read_width(config, "block_multiple_of", 256)
    return -(-hidden // multiple) * multiple
