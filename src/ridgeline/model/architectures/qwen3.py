"""Qwen3, dense (Qwen team 2025): Llama with a norm of each q and k head. Of Qwen3-VL the language
part: a text has one position a token, whichever axis of its rotation is asked.
"""

from __future__ import annotations

from ridgeline.model.architectures.blocks import Stored
from ridgeline.model.architectures.decoder import (
    NEUTRAL,
    Defaults,
    read_activation,
    read_sizes,
)
from ridgeline.model.architectures.fields import Fields
from ridgeline.model.architectures.llama import build_pre_norm
from ridgeline.model.architectures.qwen2 import read_windows
from ridgeline.model.architectures.rope_scaling import choose_context, read_rope, rotation
from ridgeline.model.graph.build import FormatOf
from ridgeline.model.graph.node import Graph


def build_qwen3(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    sizes = read_sizes(config, Defaults(head_dim=128))
    config.require_neutral(NEUTRAL | {"mlp_bias": (False,)})
    rope = read_rope(config, sizes.heads.dim, sizes.positions)
    context = choose_context(rope, context_length, config.where)
    return build_pre_norm(
        "qwen3",
        sizes,
        format_of,
        context=context,
        rotation=rotation(rope, context, interleaved=stored.interleaved_rope),
        windows=read_windows(config, sizes.layers),
        activation=read_activation(config, "hidden_act", "silu"),
        tied=config.boolean("tie_word_embeddings", False),
        qkv_bias=config.boolean("attention_bias", False),
        output_bias=config.boolean("attention_bias", False),
        head_norm=True,
    )


def build_qwen3_vl(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    text = config
    if config.has("text_config"):
        tied = config.boolean("tie_word_embeddings", False)
        text = config.section("text_config").with_default("tie_word_embeddings", tied)
    for name, value in {"vocab_size": 151936, "rope_theta": 500000.0}.items():
        text = text.with_default(name, value)
    return build_qwen3(text, format_of, stored, context_length)
