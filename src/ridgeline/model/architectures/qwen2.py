"""Qwen2 and Qwen2.5, dense (Yang et al. 2024): Llama with biases on q, k and v."""

from __future__ import annotations

from ridgeline.model.architectures.blocks import Stored
from ridgeline.model.architectures.decoder import (
    FULL,
    NEUTRAL,
    WINDOWED,
    Defaults,
    read_activation,
    read_layer_types,
    read_sizes,
    read_window,
    windows,
)
from ridgeline.model.architectures.fields import MAX_LAYERS, Fields
from ridgeline.model.architectures.llama import build_pre_norm
from ridgeline.model.architectures.rope_scaling import choose_context, read_rope, rotation
from ridgeline.model.graph.build import FormatOf
from ridgeline.model.graph.node import Graph

DEFAULT_WINDOW = 4096


def build_qwen2(
    config: Fields,
    format_of: FormatOf,
    stored: Stored,
    context_length: int | None,
    *,
    name: str = "qwen2",
    sees: bool = False,
) -> Graph:
    """sees: images, which are at positions of three axes (Qwen2-VL)."""
    sizes = read_sizes(config, Defaults())
    config.require_neutral(NEUTRAL | {"mlp_bias": (False,)})
    rope = read_rope(config, sizes.heads.dim, sizes.positions)
    context = choose_context(rope, context_length, config.where)
    return build_pre_norm(
        name,
        sizes,
        format_of,
        context=context,
        rotation=rotation(rope, context, interleaved=stored.interleaved_rope, by_axes=sees),
        windows=read_windows(config, sizes.layers),
        activation=read_activation(config, "hidden_act", "silu"),
        tied=config.boolean("tie_word_embeddings", False),
        qkv_bias=True,
        sees_images=sees,
    )


def read_windows(config: Fields, layers: int) -> tuple[int | None, ...]:
    """Windows in the layers from `max_window_layers` on, if `use_sliding_window`; else none."""
    if not config.boolean("use_sliding_window", False):
        types = read_layer_types(config, layers) or (FULL,) * layers
        return windows(config, types, None)
    window = read_window(config, DEFAULT_WINDOW)
    first = config.integer("max_window_layers", 0, MAX_LAYERS, 28)
    types = read_layer_types(config, layers) or tuple(
        WINDOWED if window is not None and i >= first else FULL for i in range(layers)
    )
    return windows(config, types, window)
