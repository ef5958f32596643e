"""Seed-OSS (ByteDance 2025): Llama with biases on q, k and v, and on o if it is told."""

from __future__ import annotations

from ridgeline.model.architectures.blocks import Stored
from ridgeline.model.architectures.decoder import Defaults, neutral, read_activation, read_sizes
from ridgeline.model.architectures.fields import Fields
from ridgeline.model.architectures.llama import build_pre_norm
from ridgeline.model.architectures.rope_scaling import choose_context, read_rope, rotation
from ridgeline.model.graph.build import FormatOf
from ridgeline.model.graph.node import Graph

SEED_OSS = Defaults(vocab=155136, heads=80, kv_heads=8, head_dim=128, positions=524288)


def build_seed_oss(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    sizes = read_sizes(config, SEED_OSS)
    config.require_neutral(neutral() | {"sliding_window": ()})
    rope = read_rope(config, sizes.heads.dim, sizes.positions)
    context = choose_context(rope, context_length, config.where)
    return build_pre_norm(
        "seed_oss",
        sizes,
        format_of,
        context=context,
        rotation=rotation(rope, context, interleaved=stored.interleaved_rope),
        windows=(None,) * sizes.layers,
        activation=read_activation(config, "hidden_act", "silu"),
        tied=config.boolean("tie_word_embeddings", False),
        qkv_bias=config.boolean("attention_bias", True),
        output_bias=config.boolean("attention_out_bias", False),
        mlp_bias=config.boolean("mlp_bias", False),
    )
