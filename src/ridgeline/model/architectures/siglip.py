"""SigLIP's tower (Zhai et al. 2023): an image's patches, seen whole by layers of a plain encoder;
and Gemma 3's projector (Gemma team 2025): means of squares of patches, a norm, a matrix.

What comes out is a row for each token that stands for the image in a language model.
"""

from __future__ import annotations

import math

from ridgeline.model.architectures.blocks import (
    Heads,
    add,
    attention,
    linear,
    mlp,
    norm,
)
from ridgeline.model.architectures.decoder import Defaults, read_activation, read_sizes
from ridgeline.model.architectures.fields import MAX_WIDTH, Fields
from ridgeline.model.graph.build import Builder, FormatOf
from ridgeline.model.graph.node import Graph, Value
from ridgeline.model.graph.ops import GridPool, Linear, Norm, PositionEmbed

SIGLIP = Defaults(vocab=1, heads=12, positions=1, eps_name="layer_norm_eps")
SIZES = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12}
MAX_SIDE, MAX_PATCH, MAX_CHANNELS = 1 << 14, 1 << 10, 16
NEUTRAL: dict[str, tuple[object, ...]] = {"model_type": ("siglip_vision_model",)}


def build_gemma3_images(config: Fields, format_of: FormatOf) -> Graph:
    """From a Gemma3Config with a `vision_config`: patches [TOKENS, channels * lines * columns], as
    many as an image has, line by line -> [SAMPLED, the language model's width].
    """
    vision, text = config.section("vision_config"), config.section("text_config")
    width = text.integer("hidden_size", 1, MAX_WIDTH)
    tokens = config.integer("mm_tokens_per_image", 1, 1 << 16, 256)
    for name, value in SIZES.items():
        vision = vision.with_default(name, value)
    sizes = read_sizes(vision, SIGLIP)
    vision.require_neutral(NEUTRAL)
    side = read_side(vision)
    cells = math.isqrt(tokens)
    if cells * cells != tokens or side % cells:
        config.refuse("mm_tokens_per_image", f"is no square that parts {side} x {side} patches")

    b = Builder("images", format_of)
    x = tower(b, vision, sizes.width, sizes.layers, sizes.heads, sizes.mlp, sizes.eps, side)
    x = b.one("pool", GridPool(side, side // cells), x)
    x = norm(b, "soft_norm", x, Norm("rms", sizes.eps, offset=1.0))
    matrix = b.weight("project.weight", width, sizes.width)
    return b.finish(b.one("project", Linear(), x, weights=(matrix,)), side * side)


def read_side(vision: Fields) -> int:
    """Patches along an image's side."""
    image = vision.integer("image_size", 1, MAX_SIDE, 224)
    patch = vision.integer("patch_size", 1, MAX_PATCH, 16)
    if image < patch:
        vision.refuse("image_size", f"holds no patch of {patch}")
    return image // patch


def read_patch(vision: Fields) -> tuple[int, int]:
    """Channels, and pixels along a patch's side."""
    channels = vision.integer("num_channels", 1, MAX_CHANNELS, 3)
    return channels, vision.integer("patch_size", 1, MAX_PATCH, 16)


def tower(
    b: Builder,
    vision: Fields,
    width: int,
    layers: int,
    heads: Heads,
    hidden: int,
    eps: float,
    side: int,
) -> Value:
    """The last norm's rows [TOKENS, width]."""
    activation = read_activation(vision, "hidden_act", "gelu_pytorch_tanh")
    channels, patch = read_patch(vision)
    layer_norm = Norm("layer", eps)
    x = linear(b, "patch", b.hidden(channels * patch * patch), width, bias=True)
    table = b.weight("position_embed.weight", side * side, width)
    rows = b.one("position_embed", PositionEmbed(), b.token_ids, weights=(table,))
    x = add(b, "position_add", x, rows)
    for i in range(layers):
        layer = f"layers.{i}"
        y = norm(b, f"{layer}.attn_norm", x, layer_norm, bias=True)
        y = attention(
            b,
            layer,
            y,
            heads=heads,
            rotation=None,
            scale=heads.dim**-0.5,
            qkv_bias=True,
            output_bias=True,
            causal=False,
        )
        x = add(b, f"{layer}.attn_add", x, y)
        y = norm(b, f"{layer}.mlp_norm", x, layer_norm, bias=True)
        y = mlp(b, layer, y, hidden=hidden, activation=activation, bias=True)
        x = add(b, f"{layer}.mlp_add", x, y)
    return norm(b, "final_norm", x, layer_norm, bias=True)
