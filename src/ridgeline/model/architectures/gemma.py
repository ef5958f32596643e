"""Gemma 1 and 2 (Gemma team 2024): norms with weights 1 + w, scaled embeddings, a gated GELU.

Gemma 2 adds norms after each branch, soft caps of scores and logits, and a window in every other
layer. Gemma 3 (`gemma3.py`) has norms of the heads in place of the scores' cap.
"""

from __future__ import annotations

import math

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

GEMMA = Defaults(vocab=256000, heads=16, kv_heads=16, head_dim=256, positions=8192)
GEMMA2 = Defaults(vocab=256000, heads=8, kv_heads=4, head_dim=256, positions=8192)
DEFAULT_WINDOW = 4096
DEFAULT_QUERY_SCALAR = 256.0
DEFAULT_SCORE_CAP, DEFAULT_LOGIT_CAP = 50.0, 30.0


def build_gemma(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    sizes = read_sizes(config, GEMMA)
    config.require_neutral(neutral() | {"mlp_bias": (False,), "sliding_window": ()})
    rope = read_rope(config, sizes.heads.dim, sizes.positions)
    context = choose_context(rope, context_length, config.where)
    bias = config.boolean("attention_bias", False)
    # Files say "gelu" in hidden_act and mean its tanh form; hidden_activation, if there, is right.
    name = "hidden_activation" if config.has("hidden_activation") else "hidden_act"
    activation = read_activation(config, name, "gelu_pytorch_tanh")
    return build_decoder(
        "gemma",
        sizes,
        format_of,
        context=context,
        norms=Norms(Norm("rms", sizes.eps, offset=0.0 if stored.norm_has_one else 1.0)),
        attend=attends(
            sizes.heads,
            (rotation(rope, context, interleaved=stored.interleaved_rope),) * sizes.layers,
            (None,) * sizes.layers,
            qkv_bias=bias,
            output_bias=bias,
        ),
        feed=feeds(sizes.mlp, "gelu_tanh" if activation == "gelu" else activation),
        tied=config.boolean("tie_word_embeddings", True),
        embed_scale=math.sqrt(sizes.width),
    )


def build_gemma2(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    sizes = read_sizes(config, GEMMA2)
    config.require_neutral(neutral("attn_logit_softcapping") | {"mlp_bias": (False,)})
    rope = read_rope(config, sizes.heads.dim, sizes.positions)
    context = choose_context(rope, context_length, config.where)
    bias = config.boolean("attention_bias", False)
    types = read_layer_types(config, sizes.layers) or tuple(
        FULL if i % 2 else WINDOWED for i in range(sizes.layers)
    )
    scalar = config.number("query_pre_attn_scalar", 1e-6, 1e9, DEFAULT_QUERY_SCALAR)
    return build_decoder(
        "gemma2",
        sizes,
        format_of,
        context=context,
        norms=Norms(Norm("rms", sizes.eps, offset=0.0 if stored.norm_has_one else 1.0), "sandwich"),
        attend=attends(
            sizes.heads,
            (rotation(rope, context, interleaved=stored.interleaved_rope),) * sizes.layers,
            windows(config, types, read_window(config, DEFAULT_WINDOW)),
            scale=scalar**-0.5,
            softcap=read_cap(config, "attn_logit_softcapping", DEFAULT_SCORE_CAP),
            qkv_bias=bias,
            output_bias=bias,
        ),
        feed=feeds(sizes.mlp, read_activation(config, "hidden_activation", "gelu_pytorch_tanh")),
        tied=config.boolean("tie_word_embeddings", True),
        embed_scale=math.sqrt(sizes.width),
        softcap=read_cap(config, "final_logit_softcapping", DEFAULT_LOGIT_CAP),
    )


def read_cap(config: Fields, name: str, default: float) -> float | None:
    """A cap; the default if the field is not there, none if it is null."""
    if name not in config.values:
        return default
    return config.optional_number(name, 1e-6, 1e6)
