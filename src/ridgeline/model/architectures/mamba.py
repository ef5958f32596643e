"""Mamba (Gu and Dao 2023), Falcon Mamba and Mamba 2 (Dao and Gu 2024): nothing but mixers with a
norm before each.

No configuration of these says how far positions reach, since nothing depends on them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ridgeline.errors import ModelError
from ridgeline.model.architectures.blocks import Stored, add, embed, head, norm
from ridgeline.model.architectures.decoder import NEUTRAL
from ridgeline.model.architectures.fields import (
    MAX_HEAD_DIM,
    MAX_HEADS,
    MAX_LAYERS,
    MAX_POSITIONS,
    MAX_VOCAB,
    MAX_WIDTH,
    Fields,
)
from ridgeline.model.architectures.recurrent import MambaSizes, SsdSizes, mamba, mamba2
from ridgeline.model.graph.build import Builder, FormatOf
from ridgeline.model.graph.node import Graph, Value
from ridgeline.model.graph.ops import Norm
from ridgeline.model.graph.ops.causal_conv import MAX_TAPS

DEFAULT_CONTEXT = 32768
ONLY_SILU = {"hidden_act": ("silu", "swish")}


def build_mamba(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    config.require_neutral(NEUTRAL | ONLY_SILU)
    width = config.integer("hidden_size", 1, MAX_WIDTH)
    sizes = read_mamba_sizes(config, width)
    bias = config.boolean("use_bias", False)
    conv_bias = config.boolean("use_conv_bias", True)

    def mixer(b: Builder, layer: str, x: Value) -> Value:
        return mamba(
            b, layer, x, sizes, log_a=not stored.plain_decay, bias=bias, conv_bias=conv_bias
        )

    return build_pre_normed("mamba", config, format_of, width, context_length, mixer, tied=True)


def build_falcon_mamba(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    """Falcon Mamba (TII 2024): dt, b and c are normalised, without weights."""
    config.require_neutral(NEUTRAL | ONLY_SILU)
    width = config.integer("hidden_size", 1, MAX_WIDTH)
    sizes = read_mamba_sizes(config, width)
    bias = config.boolean("use_bias", False)
    conv_bias = config.boolean("use_conv_bias", True)
    inner_norm = Norm("rms", config.number("mixer_rms_eps", 0.0, 1.0, 1e-6))

    def mixer(b: Builder, layer: str, x: Value) -> Value:
        return mamba(
            b,
            layer,
            x,
            sizes,
            log_a=not stored.plain_decay,
            bias=bias,
            conv_bias=conv_bias,
            inner_norm=inner_norm,
            inner_norm_weight=False,
        )

    return build_pre_normed(
        "falcon_mamba", config, format_of, width, context_length, mixer, tied=True
    )


def build_gguf_mamba(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    """Mamba or Falcon Mamba, which GGUF tells apart by a key."""
    build = build_falcon_mamba if config.boolean("dt_b_c_rms", False) else build_mamba
    return build(config, format_of, stored, context_length)


def build_mamba2(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    config.require_neutral(NEUTRAL | ONLY_SILU)
    width = config.integer("hidden_size", 1, MAX_WIDTH)
    sizes = read_ssd_sizes(config, width)
    eps = config.number("layer_norm_epsilon", 0.0, 1.0, 1e-5)
    bias = config.boolean("use_bias", False)
    conv_bias = config.boolean("use_conv_bias", True)
    limits = read_limits(config)

    def mixer(b: Builder, layer: str, x: Value) -> Value:
        return mamba2(
            b,
            layer,
            x,
            sizes,
            norm_eps=eps,
            log_a=not stored.plain_decay,
            bias=bias,
            conv_bias=conv_bias,
            dt_limits=limits,
        )

    return build_pre_normed("mamba2", config, format_of, width, context_length, mixer, tied=False)


def build_pre_normed(
    name: str,
    config: Fields,
    format_of: FormatOf,
    width: int,
    context_length: int | None,
    mixer: Callable[[Builder, str, Value], Value],
    *,
    tied: bool,
) -> Graph:
    """embed, layers of a norm and a mixer, norm, head; tied: what the configuration leaves out."""
    layers = config.integer("num_hidden_layers", 1, MAX_LAYERS)
    vocab = config.integer("vocab_size", 1, MAX_VOCAB)
    rms = Norm("rms", config.number("layer_norm_epsilon", 0.0, 1.0, 1e-5))
    is_tied = config.boolean("tie_word_embeddings", tied)
    context = context_without_positions(config, context_length)
    b = Builder(name, format_of)
    x, table = embed(b, vocab, width)
    for i in range(layers):
        layer = f"layers.{i}"
        y = mixer(b, layer, norm(b, f"{layer}.mixer_norm", x, rms))
        x = add(b, f"{layer}.mixer_add", x, y)
    return b.finish(head(b, x, vocab, rms, tied=table if is_tied else None), context)


def context_without_positions(config: Fields, context_length: int | None) -> int:
    """What is asked for, else what the file says, but no more than `DEFAULT_CONTEXT`."""
    if context_length is None:
        said = config.integer("max_position_embeddings", 1, MAX_POSITIONS, DEFAULT_CONTEXT)
        return min(said, DEFAULT_CONTEXT)
    if not 1 <= context_length <= MAX_POSITIONS:
        raise ModelError(
            f"{config.where}: a context of {context_length} tokens is not possible: 1 to "
            f"{MAX_POSITIONS} are"
        )
    return context_length


def read_mamba_sizes(config: Fields, width: int) -> MambaSizes:
    if config.has("intermediate_size"):
        inner = config.integer("intermediate_size", 1, MAX_WIDTH)
    else:
        inner = int(config.number("expand", 1e-3, 64, 2) * width)
    return MambaSizes(
        inner=inner,
        state=config.integer("state_size", 1, MAX_HEAD_DIM, 16),
        rank=read_rank(config, "time_step_rank", width),
        taps=config.integer("conv_kernel", 2, MAX_TAPS, 4),
    )


def read_rank(config: Fields, name: str, width: int) -> int:
    if not config.has(name) or config.values.get(name) == "auto":
        return math.ceil(width / 16)
    return config.integer(name, 1, MAX_WIDTH)


def read_ssd_sizes(config: Fields, width: int) -> SsdSizes:
    heads = config.integer("num_heads", 1, MAX_HEADS, 128)
    sizes = SsdSizes(
        heads=heads,
        head_dim=config.integer("head_dim", 1, MAX_HEAD_DIM, 64),
        groups=config.integer("n_groups", 1, MAX_HEADS, 8),
        state=config.integer("state_size", 1, MAX_HEAD_DIM, 128),
        taps=config.integer("conv_kernel", 2, MAX_TAPS, 4),
    )
    if heads % sizes.groups:
        config.refuse("n_groups", f"does not divide num_heads = {heads}")
    if int(config.number("expand", 1e-3, 64, 2) * width) != sizes.inner:
        config.refuse(
            "expand",
            f"x hidden_size = {width} is not num_heads x head_dim = {heads} x {sizes.head_dim}",
        )
    return sizes


def read_limits(config: Fields, name: str = "time_step_limit") -> tuple[float, float]:
    """What dt is clipped to; a missing bound, or one that no float32 reaches, is none."""
    value = config.values.get(name)
    if value is None:
        return (0.0, math.inf)
    if not isinstance(value, list | tuple) or len(value) != 2:
        config.refuse(name, "a list of two numbers is needed")
    low, high = (math.inf if end is None and i else end for i, end in enumerate(value))
    low = 0.0 if low is None else low
    for end in (low, high):
        if isinstance(end, bool) or not isinstance(end, int | float) or not end >= 0:
            config.refuse(name, "two numbers from 0 on are needed, or null for none")
    if low > high:
        config.refuse(name, "the first is above the second")
    return (float(low), float(high) if high < 1e38 else math.inf)
