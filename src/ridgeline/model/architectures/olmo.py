"""OLMo 1, 2 and 3 (Groeneveld et al. 2024; OLMo team 2025).

OLMo's norms have no weights. From OLMo 2 on a norm stands after each branch, and all channels of q,
and of k, are normed together; OLMo 3 has a window in three layers of four, and scales the rotation
of the others only.
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
from ridgeline.model.architectures.fields import Fields
from ridgeline.model.architectures.rope_scaling import choose_context, read_rope, rotation
from ridgeline.model.architectures.stack import Norms, attends, build_decoder, feeds
from ridgeline.model.graph.build import FormatOf
from ridgeline.model.graph.node import Graph
from ridgeline.model.graph.ops import Norm

OLMO_EPS = 1e-5  # a constant of OLMo 1, in no file
OLMO2 = Defaults(vocab=50304, heads=32, positions=2048, eps=1e-5)
DEFAULT_WINDOW = 4096
DEFAULT_PATTERN = 4


def build_olmo(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    sizes = read_sizes(config, OLMO2)
    config.require_neutral(neutral())
    rope = read_rope(config, sizes.heads.dim, sizes.positions)
    context = choose_context(rope, context_length, config.where)
    bias = config.boolean("attention_bias", False)
    return build_decoder(
        "olmo",
        sizes,
        format_of,
        context=context,
        norms=Norms(Norm("layer", OLMO_EPS), weight=False),
        attend=attends(
            sizes.heads,
            (rotation(rope, context, interleaved=stored.interleaved_rope),) * sizes.layers,
            (None,) * sizes.layers,
            qkv_bias=bias,
            output_bias=bias,
        ),
        feed=feeds(sizes.mlp, read_activation(config, "hidden_act", "silu")),
        tied=config.boolean("tie_word_embeddings", False),
    )


def build_olmo2(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    config.require_neutral({"sliding_window": ()})
    layers = config.integer("num_hidden_layers", 1, 1024)
    return build_olmo2_or_3(config, format_of, stored, context_length, (FULL,) * layers, None)


def build_olmo3(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    layers = config.integer("num_hidden_layers", 1, 1024)
    types = read_layer_types(config, layers) or tuple(
        WINDOWED if (i + 1) % DEFAULT_PATTERN else FULL for i in range(layers)
    )
    window = read_window(config, DEFAULT_WINDOW)
    return build_olmo2_or_3(config, format_of, stored, context_length, types, window)


def build_gguf_olmo2(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    """One architecture in GGUF: it is OLMo 3 if it has a window."""
    build = build_olmo3 if config.has("sliding_window") else build_olmo2
    return build(config, format_of, stored, context_length)


def build_olmo2_or_3(
    config: Fields,
    format_of: FormatOf,
    stored: Stored,
    context_length: int | None,
    types: tuple[str, ...],
    window: int | None,
) -> Graph:
    sizes = read_sizes(config, OLMO2)
    config.require_neutral(neutral())
    whole = read_rope(config, sizes.heads.dim, sizes.positions, layer_type=FULL)
    local = read_rope(
        config, sizes.heads.dim, sizes.positions, layer_type=WINDOWED, scaling_name=None
    )
    context = choose_context(whole, context_length, config.where)
    rotations = {
        FULL: rotation(whole, context, interleaved=stored.interleaved_rope),
        WINDOWED: rotation(local, context, interleaved=stored.interleaved_rope),
    }
    rms = Norm("rms", sizes.eps)
    bias = config.boolean("attention_bias", False)
    return build_decoder(
        "olmo2",
        sizes,
        format_of,
        context=context,
        norms=Norms(rms, "post"),
        attend=attends(
            sizes.heads,
            tuple(rotations[kind] for kind in types),
            windows(config, types, window),
            qkv_bias=bias,
            output_bias=bias,
            whole_norm=rms,
        ),
        feed=feeds(sizes.mlp, read_activation(config, "hidden_act", "silu")),
        tied=config.boolean("tie_word_embeddings", False),
    )
