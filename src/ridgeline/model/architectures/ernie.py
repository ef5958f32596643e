"""ERNIE 4.5, dense (Baidu 2025): Llama whose neighbouring channels turn together."""

from __future__ import annotations

from ridgeline.model.architectures.blocks import Stored
from ridgeline.model.architectures.decoder import Defaults, neutral, read_activation, read_sizes
from ridgeline.model.architectures.fields import Fields
from ridgeline.model.architectures.llama import build_pre_norm
from ridgeline.model.architectures.rope_scaling import choose_context, read_rope, rotation
from ridgeline.model.graph.build import FormatOf
from ridgeline.model.graph.node import Graph

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
