"""Llama 1, 2 and 3.x, SmolLM 1 and 2, Mistral, and whatever else calls itself LlamaForCausalLM.

Llama: Touvron et al. 2023. Mistral differs by a window over all layers (Jiang et al. 2023). The
builder of a pre-norm decoder stands here too: Qwen and Phi-3 are this with other arguments.
"""

from __future__ import annotations

from collections.abc import Sequence

from ridgeline.model.architectures.blocks import (
    Stored,
    add,
    attention,
    embed,
    gated_mlp,
    head,
    norm,
)
from ridgeline.model.architectures.decoder import (
    FULL,
    NEUTRAL,
    WINDOWED,
    Defaults,
    Sizes,
    read_activation,
    read_layer_types,
    read_sizes,
    read_window,
    windows,
)
from ridgeline.model.architectures.fields import Fields
from ridgeline.model.architectures.rope_scaling import choose_context, read_rope, rotation
from ridgeline.model.graph.build import Builder, FormatOf
from ridgeline.model.graph.node import Graph
from ridgeline.model.graph.ops import Norm, PlaceImages, Rotation
from ridgeline.model.graph.ops.activation import Activation

MISTRAL = Defaults(kv_heads=8)


def build_llama(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    sizes = read_sizes(config, Defaults())
    config.require_neutral(NEUTRAL | {"sliding_window": ()})
    rope = read_rope(config, sizes.heads.dim, sizes.positions)
    context = choose_context(rope, context_length, config.where)
    return build_pre_norm(
        "llama",
        sizes,
        format_of,
        context=context,
        rotation=rotation(rope, context, interleaved=stored.interleaved_rope),
        windows=(None,) * sizes.layers,
        activation=read_activation(config, "hidden_act", "silu"),
        tied=config.boolean("tie_word_embeddings", False),
        qkv_bias=config.boolean("attention_bias", False),
        output_bias=config.boolean("attention_bias", False),
        mlp_bias=config.boolean("mlp_bias", False),
    )


def build_mistral(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    sizes = read_sizes(config, MISTRAL)
    config.require_neutral(
        NEUTRAL | {"attention_bias": (False,), "mlp_bias": (False,), "use_sliding_window": (True,)}
    )
    rope = read_rope(config, sizes.heads.dim, sizes.positions)
    context = choose_context(rope, context_length, config.where)
    window = read_window(config)
    types = read_layer_types(config, sizes.layers) or (
        (WINDOWED if window else FULL,) * sizes.layers
    )
    return build_pre_norm(
        "mistral",
        sizes,
        format_of,
        context=context,
        rotation=rotation(rope, context, interleaved=stored.interleaved_rope),
        windows=windows(config, types, window),
        activation=read_activation(config, "hidden_act", "silu"),
        tied=config.boolean("tie_word_embeddings", False),
    )


def build_pre_norm(
    name: str,
    sizes: Sizes,
    format_of: FormatOf,
    *,
    context: int,
    rotation: Rotation,
    windows: Sequence[int | None],
    activation: Activation,
    tied: bool,
    qkv_bias: bool = False,
    output_bias: bool = False,
    mlp_bias: bool = False,
    head_norm: bool = False,
    sees_images: bool = False,
) -> Graph:
    """embed, for each of `windows` a layer (norm, attention, norm, gated MLP), norm, head."""
    b = Builder(name, format_of)
    rms = Norm("rms", sizes.eps)
    x, table = embed(b, sizes.vocab, sizes.width)
    if sees_images:
        x = b.one("images", PlaceImages(), x)
    for i, window in enumerate(windows):
        layer = f"layers.{i}"
        y = norm(b, f"{layer}.attn_norm", x, rms)
        y = attention(
            b,
            layer,
            y,
            heads=sizes.heads,
            rotation=rotation,
            scale=sizes.heads.dim**-0.5,
            window=window,
            qkv_bias=qkv_bias,
            output_bias=output_bias,
            head_norm=rms if head_norm else None,
        )
        x = add(b, f"{layer}.attn_add", x, y)
        y = norm(b, f"{layer}.mlp_norm", x, rms)
        y = gated_mlp(b, layer, y, hidden=sizes.mlp, activation=activation, bias=mlp_bias)
        x = add(b, f"{layer}.mlp_add", x, y)
    return b.finish(head(b, x, sizes.vocab, rms, tied=table if tied else None), context)
