"""Falcon-H1 (TII 2025): Mamba 2 and attention side by side in each layer, and multipliers of nearly
everything.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ridgeline.model.architectures.blocks import (
    Heads,
    Stored,
    add,
    linear,
    scaled,
    width,
)
from ridgeline.model.architectures.decoder import Defaults, neutral, read_activation, read_sizes
from ridgeline.model.architectures.fields import MAX_WIDTH, Fields
from ridgeline.model.architectures.hybrid import read_hybrid_ssd
from ridgeline.model.architectures.mamba import read_limits
from ridgeline.model.architectures.recurrent import mamba2
from ridgeline.model.architectures.rope_scaling import choose_context, read_rope, rotation
from ridgeline.model.architectures.stack import Branch, Norms, build_decoder
from ridgeline.model.graph.build import Builder, FormatOf
from ridgeline.model.graph.node import Graph, KvState, Value
from ridgeline.model.graph.ops import Attention, GatedActivation, KvWrite, Norm, Rope, Rotation
from ridgeline.model.graph.ops.activation import Activation

LARGEST = 1e9


def build_falcon_h1(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    sizes = read_sizes(
        config, Defaults(vocab=128000, heads=32, kv_heads=8, positions=8192, eps=1e-5)
    )
    config.require_neutral(neutral("embedding_multiplier") | {"sliding_window": ()})
    inner = config.integer("mamba_d_ssm", 1, MAX_WIDTH, 1024)
    ssd = read_hybrid_ssd(config, sizes.width, inner)
    limits = read_limits(config)
    conv_bias = config.boolean("mamba_conv_bias", True)
    mixer_bias = config.boolean("mamba_proj_bias", False)
    bias = config.boolean("attention_bias", False)
    norm_eps = sizes.eps if config.boolean("mamba_rms_norm", False) else None
    gate_first = not config.boolean("mamba_norm_before_gate", True)
    rope = read_rope(config, sizes.heads.dim, sizes.positions)
    context = choose_context(rope, context_length, config.where)
    turn = rotation(rope, context, interleaved=stored.interleaved_rope)
    ssm_in, ssm_out, attention_in, attention_out, key = (
        factor(config, name)
        for name in (
            "ssm_in_multiplier",
            "ssm_out_multiplier",
            "attention_in_multiplier",
            "attention_out_multiplier",
            "key_multiplier",
        )
    )
    of_gate, of_x, of_b, of_c, of_dt = factors(config, "ssm_multipliers", 5)
    gate_scale, down_scale = factors(config, "mlp_multipliers", 2)
    attend = attends_scaled(sizes.heads, turn, key_scale=key, bias=bias)

    def mix(b: Builder, layer: str, i: int, x: Value) -> Value:
        recurred = mamba2(
            b,
            layer,
            scaled(b, f"{layer}.ssm.in_scale", x, ssm_in),
            ssd,
            norm_eps=norm_eps,
            log_a=not stored.plain_decay,
            bias=mixer_bias,
            conv_bias=conv_bias,
            dt_limits=limits,
            gate_first=gate_first,
            part_scales=(of_gate, of_x, of_b, of_c, of_dt),
        )
        recurred = scaled(b, f"{layer}.ssm.out_scale", recurred, ssm_out)
        attended = attend(b, layer, i, scaled(b, f"{layer}.attn.in_scale", x, attention_in))
        attended = scaled(b, f"{layer}.attn.out_scale", attended, attention_out)
        return add(b, f"{layer}.mix", recurred, attended)

    return build_decoder(
        "falcon_h1",
        sizes,
        format_of,
        context=context,
        norms=Norms(Norm("rms", sizes.eps)),
        attend=mix,
        feed=feeds_scaled(
            sizes.mlp,
            read_activation(config, "hidden_act", "silu"),
            gate_scale,
            down_scale,
            bias=config.boolean("mlp_bias", False),
        ),
        tied=config.boolean("tie_word_embeddings", False),
        embed_scale=factor(config, "embedding_multiplier"),
        logit_scale=factor(config, "lm_head_multiplier"),
    )


def attends_scaled(heads: Heads, turn: Rotation, *, key_scale: float, bias: bool) -> Branch:
    """Self-attention with keys times a number."""

    def branch(b: Builder, layer: str, i: int, x: Value) -> Value:
        name, kv_width = f"{layer}.attn", heads.kv * heads.dim
        q = linear(b, f"{name}.q", x, heads.query * heads.dim, bias=bias, split="heads")
        k = linear(b, f"{name}.k", x, kv_width, bias=bias, split="kv_heads")
        v = linear(b, f"{name}.v", x, kv_width, bias=bias, split="kv_heads")
        k = scaled(b, f"{name}.k_scale", k, key_scale)
        q = b.one(f"{name}.q_rope", Rope(heads.query, heads.dim, turn), q)
        k = b.one(f"{name}.k_rope", Rope(heads.kv, heads.dim, turn), k)
        state = KvState(f"{layer}.kv", heads.kv, heads.dim, heads.dim)
        b.add(f"{name}.kv_write", KvWrite(), k, v, state=state)
        op = Attention(heads.query, heads.dim, heads.dim, heads.dim**-0.5)
        y = b.one(f"{name}.attend", op, q, state=state)
        return linear(b, f"{name}.o", y, width(x), bias=bias, split_inputs="heads")

    return branch


def feeds_scaled(
    hidden: int, activation: Activation, gate_scale: float, down_scale: float, *, bias: bool
) -> Branch:
    """A gated MLP with the gate before its activation, and the whole, times a number."""

    def branch(b: Builder, layer: str, i: int, x: Value) -> Value:
        name = f"{layer}.mlp"
        gate = linear(b, f"{name}.gate", x, hidden, bias=bias, split="ffn")
        up = linear(b, f"{name}.up", x, hidden, bias=bias, split="ffn")
        gate = scaled(b, f"{name}.gate_scale", gate, gate_scale)
        y = b.one(f"{name}.act", GatedActivation(activation), gate, up)
        y = linear(b, f"{name}.down", y, width(x), bias=bias, split_inputs="ffn")
        return scaled(b, f"{name}.down_scale", y, down_scale)

    return branch


def factor(config: Fields, name: str) -> float:
    return config.number(name, -LARGEST, LARGEST, 1.0)


def factors(config: Fields, name: str, count: int) -> Sequence[float]:
    if not config.has(name):
        return (1.0,) * count
    values = config.numbers(name, count, -LARGEST, LARGEST)
    assert all(map(math.isfinite, values))
    return values
