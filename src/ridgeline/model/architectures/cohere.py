"""Command R, Command R+ and Command R7B (Cohere 2024): both branches read one layer norm without a
bias, neighbouring channels turn together, logits are scaled.

Cohere 2 (R7B, Command A) turns q and k in its windowed layers only: the others have no positions.
"""

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

COHERE = Defaults(vocab=256000, heads=64, positions=8192, eps=1e-5, eps_name="layer_norm_eps")
DEFAULT_LOGIT_SCALE = 0.0625
DEFAULT_WINDOW = 4096
DEFAULT_PATTERN = 4


def build_cohere(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    layers = config.integer("num_hidden_layers", 1, MAX_LAYERS)
    config.require_neutral({"sliding_window": (), "layer_types": ()})
    normed = config.boolean("use_qk_norm", False)
    return build_parallel(
        "cohere", config, format_of, context_length, (FULL,) * layers, None, (FULL,), normed
    )


def build_cohere2(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    layers = config.integer("num_hidden_layers", 1, MAX_LAYERS)
    pattern = config.integer("sliding_window_pattern", 1, MAX_LAYERS, DEFAULT_PATTERN)
    types = read_layer_types(config, layers) or tuple(
        WINDOWED if (i + 1) % pattern else FULL for i in range(layers)
    )
    window = read_window(config, DEFAULT_WINDOW)
    return build_parallel("cohere2", config, format_of, context_length, types, window, (WINDOWED,))


def build_parallel(
    name: str,
    config: Fields,
    format_of: FormatOf,
    context_length: int | None,
    types: tuple[str, ...],
    window: int | None,
    turned: tuple[str, ...],
    normed: bool = False,
) -> Graph:
    """turned: the kinds of layers whose q and k turn. normed: each head of q and k has a norm with
    weights of its own (Command R+).
    """
    sizes = read_sizes(config, COHERE)
    read = ("logit_scale", "use_qk_norm") if normed else ("logit_scale",)
    config.require_neutral(neutral(*read) | {"use_parallel_block": (True,)})
    rope = read_rope(config, sizes.heads.dim, sizes.positions)
    context = choose_context(rope, context_length, config.where)
    turn = rotation(rope, context, interleaved=True)
    bias = config.boolean("attention_bias", False)
    return build_decoder(
        name,
        sizes,
        format_of,
        context=context,
        norms=Norms(Norm("layer", sizes.eps), "parallel"),
        attend=attends(
            sizes.heads,
            tuple(turn if kind in turned else None for kind in types),
            windows(config, types, window),
            qkv_bias=bias,
            output_bias=bias,
            head_norm=Norm("layer", sizes.eps, by_group=True) if normed else None,
        ),
        feed=feeds(sizes.mlp, read_activation(config, "hidden_act", "silu")),
        tied=config.boolean("tie_word_embeddings", True),
        logit_scale=config.number("logit_scale", 1e-9, 1e9, DEFAULT_LOGIT_SCALE),
    )
