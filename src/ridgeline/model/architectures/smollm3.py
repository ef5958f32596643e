"""SmolLM3 (Hugging Face 2025): Llama in which every fourth layer has no positions."""

from __future__ import annotations

from ridgeline.model.architectures.blocks import Stored
from ridgeline.model.architectures.decoder import (
    FULL,
    WINDOWED,
    Defaults,
    neutral,
    read_activation,
    read_layer_types,
    read_sizes,
    read_window,
    windows,
)
from ridgeline.model.architectures.fields import MAX_LAYERS, Fields
from ridgeline.model.architectures.rope_scaling import choose_context, read_rope, rotation
from ridgeline.model.architectures.stack import Norms, attends, build_decoder, feeds
from ridgeline.model.graph.build import FormatOf
from ridgeline.model.graph.node import Graph
from ridgeline.model.graph.ops import Norm

SMOLLM3 = Defaults(vocab=128256, heads=16, kv_heads=4, positions=32768)
DEFAULT_INTERVAL = 4


def build_smollm3(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    sizes = read_sizes(config, SMOLLM3)
    config.require_neutral(neutral("no_rope_layers", "no_rope_layer_interval"))
    rope = read_rope(config, sizes.heads.dim, sizes.positions, default_theta=2e6)
    context = choose_context(rope, context_length, config.where)
    turn = rotation(rope, context, interleaved=stored.interleaved_rope)
    turned = read_turned(config, sizes.layers)
    window = read_window(config) if config.boolean("use_sliding_window", False) else None
    types = read_layer_types(config, sizes.layers) or tuple(
        WINDOWED if window is not None and not turns else FULL for turns in turned
    )
    bias = config.boolean("attention_bias", False)
    return build_decoder(
        "smollm3",
        sizes,
        format_of,
        context=context,
        norms=Norms(Norm("rms", sizes.eps)),
        attend=attends(
            sizes.heads,
            tuple(turn if turns else None for turns in turned),
            windows(config, types, window),
            qkv_bias=bias,
            output_bias=bias,
        ),
        feed=feeds(
            sizes.mlp,
            read_activation(config, "hidden_act", "silu"),
            bias=config.boolean("mlp_bias", False),
        ),
        tied=config.boolean("tie_word_embeddings", True),
    )


def read_turned(config: Fields, layers: int) -> tuple[bool, ...]:
    """Which layers have positions: `no_rope_layers` has a 1 for each that has."""
    if config.has("no_rope_layers"):
        return tuple(flag == 1 for flag in config.numbers("no_rope_layers", layers, 0, 1))
    interval = config.integer("no_rope_layer_interval", 1, MAX_LAYERS, DEFAULT_INTERVAL)
    return tuple((i + 1) % interval != 0 for i in range(layers))
