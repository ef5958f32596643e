"""ModernBERT (Warner et al. 2024): an encoder with rotary positions, a gated MLP, norms before each
branch; two of three layers see a window on both sides, with a rotary base of their own.
"""

from __future__ import annotations

from ridgeline.model.architectures.blocks import (
    Stored,
    add,
    attention,
    embed,
    gated_mlp,
    linear,
    norm,
)
from ridgeline.model.architectures.decoder import (
    FULL,
    WINDOWED,
    Defaults,
    neutral,
    read_activation,
    read_layer_types,
    read_sizes,
)
from ridgeline.model.architectures.fields import MAX_LAYERS, MAX_POSITIONS, Fields
from ridgeline.model.architectures.heads import POOLINGS, pooled, read_num_classes
from ridgeline.model.architectures.rope_scaling import choose_context, read_rope, rotation
from ridgeline.model.graph.build import Builder, FormatOf
from ridgeline.model.graph.node import Graph, Value
from ridgeline.model.graph.ops import Activate, Norm

MODERNBERT = Defaults(vocab=50368, heads=12, positions=8192, eps=1e-5, eps_name="norm_eps")
DEFAULT_WINDOW, DEFAULT_PERIOD = 128, 3
THETA = {FULL: 160000.0, WINDOWED: 10000.0}


def build_modernbert(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    b, x, context = encode(config, format_of, context_length)
    return b.finish(pooled(b, x, config), context)


def build_modernbert_classifier(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    b, x, context = encode(config, format_of, context_length)
    mode = config.text("classifier_pooling", "cls")
    if mode not in POOLINGS:
        config.refuse("classifier_pooling", f"supported: {', '.join(POOLINGS)}")
    x = pooled(b, x, config, POOLINGS[mode])
    width = x.shape[-1]
    assert isinstance(width, int)
    x = linear(b, "pooler", x, width, bias=config.boolean("classifier_bias", False))
    x = b.one("pooler.act", Activate(read_activation(config, "classifier_activation", "gelu")), x)
    eps = config.number("norm_eps", 0.0, 1.0, 1e-5)
    x = norm(b, "pooler_norm", x, Norm("layer", eps), bias=config.boolean("norm_bias", False))
    return b.finish(linear(b, "head", x, read_num_classes(config), bias=True), context)


def encode(
    config: Fields, format_of: FormatOf, context_length: int | None
) -> tuple[Builder, Value, int]:
    """The last layer's output, normed, [TOKENS, width]; and the longest text."""
    sizes = read_sizes(config, MODERNBERT)
    config.require_neutral(neutral())
    activation = read_activation(config, "hidden_activation", "gelu")
    period = config.integer("global_attn_every_n_layers", 1, MAX_LAYERS, DEFAULT_PERIOD)
    types = read_layer_types(config, sizes.layers) or tuple(
        WINDOWED if i % period else FULL for i in range(sizes.layers)
    )
    side = config.integer("local_attention", 1, MAX_POSITIONS, DEFAULT_WINDOW) // 2
    ropes = {
        kind: read_rope(
            config,
            sizes.heads.dim,
            sizes.positions,
            default_theta=THETA[kind],
            layer_type=kind,
            theta_name="global_rope_theta" if kind == FULL else "local_rope_theta",
        )
        for kind in (FULL, WINDOWED)
    }
    context = choose_context(ropes[FULL], context_length, config.where)
    rotations = {kind: rotation(rope, context) for kind, rope in ropes.items()}
    layer_norm, norm_bias = Norm("layer", sizes.eps), config.boolean("norm_bias", False)
    bias, mlp_bias = config.boolean("attention_bias", False), config.boolean("mlp_bias", False)

    b = Builder("modernbert", format_of)
    x, _ = embed(b, sizes.vocab, sizes.width)
    x = norm(b, "embed_norm", x, layer_norm, bias=norm_bias)
    for i, kind in enumerate(types):
        layer, local = f"layers.{i}", kind == WINDOWED
        # The first layer's input is normed already.
        y = x if i == 0 else norm(b, f"{layer}.attn_norm", x, layer_norm, bias=norm_bias)
        y = attention(
            b,
            layer,
            y,
            heads=sizes.heads,
            rotation=rotations[kind],
            scale=sizes.heads.dim**-0.5,
            window=side + 1 if local else None,
            qkv_bias=bias,
            output_bias=bias,
            causal=False,
            ahead=side if local else None,
        )
        x = add(b, f"{layer}.attn_add", x, y)
        y = norm(b, f"{layer}.mlp_norm", x, layer_norm, bias=norm_bias)
        y = gated_mlp(b, layer, y, hidden=sizes.mlp, activation=activation, bias=mlp_bias)
        x = add(b, f"{layer}.mlp_add", x, y)
    return b, norm(b, "final_norm", x, layer_norm, bias=norm_bias), context
