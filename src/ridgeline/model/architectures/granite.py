"""Granite 3 and later, dense and with experts (IBM 2024): Llama with four multipliers, of the
embeddings, of what a branch adds, of the scores (in the place of 1 / sqrt(head_dim)), and a
divisor of the logits.
"""

from __future__ import annotations

from ridgeline.model.architectures.blocks import Stored
from ridgeline.model.architectures.decoder import (
    Defaults,
    Sizes,
    neutral,
    read_activation,
    read_sizes,
)
from ridgeline.model.architectures.fields import Fields
from ridgeline.model.architectures.mixture import mixes, read_mixture
from ridgeline.model.architectures.rope_scaling import choose_context, read_rope, rotation
from ridgeline.model.architectures.stack import Branch, Norms, attends, build_decoder, feeds
from ridgeline.model.graph.build import FormatOf
from ridgeline.model.graph.node import Graph
from ridgeline.model.graph.ops import Norm

DEFAULTS = Defaults(vocab=32000, heads=32, positions=2048)

MULTIPLIERS = (
    "embedding_multiplier",
    "residual_multiplier",
    "attention_multiplier",
    "logits_scaling",
)


def build_granite(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    sizes = read_sizes(config, DEFAULTS)
    config.require_neutral(neutral(*MULTIPLIERS) | {"sliding_window": ()})
    feed = feeds(
        sizes.mlp,
        read_activation(config, "hidden_act", "silu"),
        bias=config.boolean("mlp_bias", False),
    )
    return build_multiplied("granite", config, sizes, format_of, stored, context_length, feed)


def build_granite_moe(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    sizes = read_sizes(config, DEFAULTS)
    config.require_neutral(
        neutral(*MULTIPLIERS, "num_local_experts") | {"sliding_window": (), "mlp_bias": (False,)}
    )
    mixture = read_mixture(
        config, experts="num_local_experts", hidden="intermediate_size", num_experts=8, top_k=2
    )
    activation = read_activation(config, "hidden_act", "silu")
    feed = mixes((mixture,) * sizes.layers, sizes.mlp, activation)
    return build_multiplied("granitemoe", config, sizes, format_of, stored, context_length, feed)


def build_multiplied(
    name: str,
    config: Fields,
    sizes: Sizes,
    format_of: FormatOf,
    stored: Stored,
    context_length: int | None,
    feed: Branch,
) -> Graph:
    rope = read_rope(config, sizes.heads.dim, sizes.positions)
    context = choose_context(rope, context_length, config.where)
    bias = config.boolean("attention_bias", False)
    embedding, branch, score, logit = (config.number(name, 1e-9, 1e9, 1.0) for name in MULTIPLIERS)
    return build_decoder(
        name,
        sizes,
        format_of,
        context=context,
        norms=Norms(Norm("rms", sizes.eps)),
        attend=attends(
            sizes.heads,
            (rotation(rope, context, interleaved=stored.interleaved_rope),) * sizes.layers,
            (None,) * sizes.layers,
            scale=score,
            qkv_bias=bias,
            output_bias=bias,
        ),
        feed=feed,
        tied=config.boolean("tie_word_embeddings", False),
        embed_scale=embedding,
        branch_scale=branch,
        logit_scale=1.0 / logit,
    )
