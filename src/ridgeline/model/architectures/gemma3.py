"""Gemma 3, text (Gemma team 2025): sandwich norms with weights 1 + w, norms of q and k heads,
windowed layers with a rotary base of their own between global ones, scaled embeddings.

Of Gemma3ForConditionalGeneration this is the language part (`text_config`); with a `vision_config`
it sees images, each of which is seen whole by its own tokens (siglip.py makes rows of them).
"""

from __future__ import annotations

import math

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
from ridgeline.model.architectures.rope_scaling import choose_context, read_rope, rotation
from ridgeline.model.architectures.stack import Norms, attends, build_decoder, feeds
from ridgeline.model.graph.build import FormatOf
from ridgeline.model.graph.node import Graph
from ridgeline.model.graph.ops import Norm

# Published text_configs leave out what equals transformers' Gemma3TextConfig.
DEFAULTS = Defaults(vocab=262208, heads=8, kv_heads=4, head_dim=256, positions=131072)
DEFAULT_WINDOW = 4096
DEFAULT_PATTERN = 6
DEFAULT_QUERY_SCALAR = 256.0


def build_gemma3(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    sees = config.has("vision_config")
    if config.has("text_config"):
        config = config.section("text_config")
    sizes = read_sizes(config, DEFAULTS)
    config.require_neutral(NEUTRAL | {"mlp_bias": (False,)})
    bias = config.boolean("attention_bias", False)
    softcap = config.optional_number("final_logit_softcapping", 1e-6, 1e6)
    scalar = config.number("query_pre_attn_scalar", 1e-6, 1e9, DEFAULT_QUERY_SCALAR)
    activation = read_activation(config, "hidden_activation", "gelu_pytorch_tanh")

    types = read_types(config, sizes.layers)
    layer_windows = windows(config, types, read_window(config, DEFAULT_WINDOW))
    global_rope = read_rope(
        config, sizes.heads.dim, sizes.positions, default_theta=1e6, layer_type=FULL
    )
    local_rope = read_rope(
        config,
        sizes.heads.dim,
        sizes.positions,
        layer_type=WINDOWED,
        theta_name="rope_local_base_freq",
        scaling_name=None,
    )
    context = choose_context(global_rope, context_length, config.where)
    rotations = {
        FULL: rotation(global_rope, context, interleaved=stored.interleaved_rope),
        WINDOWED: rotation(local_rope, context, interleaved=stored.interleaved_rope),
    }

    rms = Norm("rms", sizes.eps, offset=0.0 if stored.norm_has_one else 1.0)
    return build_decoder(
        "gemma3",
        sizes,
        format_of,
        context=context,
        norms=Norms(rms, "sandwich"),
        attend=attends(
            sizes.heads,
            tuple(rotations[kind] for kind in types),
            layer_windows,
            scale=scalar**-0.5,
            qkv_bias=bias,
            output_bias=bias,
            head_norm=rms,
            whole_images=sees,
        ),
        feed=feeds(sizes.mlp, activation),
        tied=config.boolean("tie_word_embeddings", True),
        embed_scale=math.sqrt(sizes.width),
        softcap=softcap,
        sees_images=sees,
    )


def read_types(config: Fields, layers: int) -> tuple[str, ...]:
    """Which layers are windowed: `layer_types`, or all but each `sliding_window_pattern`-th."""
    listed = read_layer_types(config, layers)
    if listed is not None:
        return listed
    pattern = config.integer("sliding_window_pattern", 1, MAX_LAYERS, DEFAULT_PATTERN)
    return tuple(WINDOWED if (i + 1) % pattern else FULL for i in range(layers))
