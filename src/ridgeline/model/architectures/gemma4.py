"""Gemma 4, text (Gemma team 2026): heads of two sizes, keys that are values, norms without
weights.

Windowed layers have more and smaller heads than global ones, which may have no matrix for v: the
values are what k's matrix gives. q and k are normed by head, v without weights; scores are not
scaled; a number that is a parameter scales each layer's output. What the smaller sizes have besides
(embeddings by layer, layers that share keys and values) is refused.

The mixture (26B-A4B) has its experts beside a whole MLP, each of the two with norms of its own; the
router sees the residual stream, normed, and each expert has a gain.
"""

from __future__ import annotations

import math
from dataclasses import replace

from ridgeline.model.architectures.blocks import (
    Heads,
    Stored,
    add,
    embed,
    gated_mlp,
    head,
    linear,
    norm,
    scaled,
    width,
)
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
from ridgeline.model.architectures.fields import MAX_HEAD_DIM, MAX_HEADS, Fields
from ridgeline.model.architectures.mixture import Mixture, mixture_mlp, read_mixture
from ridgeline.model.architectures.rope_scaling import choose_context, read_rope, rotation
from ridgeline.model.graph.build import Builder, FormatOf
from ridgeline.model.graph.node import Graph, KvState, Value
from ridgeline.model.graph.ops import Attention, KvWrite, Norm, Rope, Rotation, ScaleBy
from ridgeline.model.graph.ops.activation import Activation

DEFAULTS = Defaults(vocab=262144, heads=8, kv_heads=4, head_dim=256, positions=131072)
DEFAULT_WINDOW, DEFAULT_PERIOD, DEFAULT_GLOBAL_DIM = 512, 6, 512
NEUTRAL = {
    "hidden_size_per_layer_input": (0,),
    "num_kv_shared_layers": (0,),
    "use_double_wide_mlp": (False,),
    "attention_bias": (False,),
    # Text is read from left to right all the same.
    "use_bidirectional_attention": ("vision",),
}


def build_gemma4(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    if config.has("text_config"):
        config = config.section("text_config")
    sizes = read_sizes(config, DEFAULTS)
    config.require_neutral(neutral("use_bidirectional_attention", "num_experts") | NEUTRAL)
    if not config.has("hidden_size_per_layer_input"):
        config.refuse("hidden_size_per_layer_input", "0 is needed: absent, it would be 256")
    types = read_layer_types(config, sizes.layers) or tuple(
        WINDOWED if (i + 1) % DEFAULT_PERIOD else FULL for i in range(sizes.layers)
    )
    layer_windows = windows(config, types, read_window(config, DEFAULT_WINDOW))
    shares = config.boolean("attention_k_eq_v", False)
    heads = {WINDOWED: sizes.heads, FULL: read_global_heads(config, sizes.heads, shares)}
    ropes = {
        kind: read_rope(
            config,
            heads[kind].dim,
            sizes.positions,
            default_theta=1e6 if kind == FULL else 1e4,
            layer_type=kind,
            partial=True,
        )
        for kind in (FULL, WINDOWED)
    }
    context = choose_context(ropes[FULL], context_length, config.where)
    rotations = {kind: rotation(rope, context) for kind, rope in ropes.items()}
    activation = read_activation(config, "hidden_activation", "gelu_pytorch_tanh")
    mixture = read_experts(config) if config.boolean("enable_moe_block", False) else None
    softcap = config.optional_number("final_logit_softcapping", 1e-6, 1e6)

    b = Builder("gemma4", format_of)
    rms = Norm("rms", sizes.eps)
    x, table = embed(b, sizes.vocab, sizes.width, scale=math.sqrt(sizes.width))
    for i, (kind, window) in enumerate(zip(types, layer_windows, strict=True)):
        layer = f"layers.{i}"
        y = norm(b, f"{layer}.attn_norm", x, rms)
        y = attend(b, layer, y, heads[kind], rotations[kind], window, rms, shares and kind == FULL)
        x = add(b, f"{layer}.attn_add", x, norm(b, f"{layer}.attn_post_norm", y, rms))
        y = norm(b, f"{layer}.mlp_norm", x, rms)
        y = gated_mlp(b, layer, y, hidden=sizes.mlp, activation=activation)
        if mixture is not None:
            y = norm(b, f"{layer}.mlp_alone_norm", y, rms)
            y = add(b, f"{layer}.moe_add", y, mix(b, layer, x, mixture, activation, rms))
        x = add(b, f"{layer}.mlp_add", x, norm(b, f"{layer}.mlp_post_norm", y, rms))
        scalar = b.weight(f"{layer}.scale.weight", 1)
        x = b.one(f"{layer}.scale", ScaleBy(), x, weights=(scalar,))
    tied = table if config.boolean("tie_word_embeddings", True) else None
    return b.finish(head(b, x, sizes.vocab, rms, tied=tied, softcap=softcap), context)


def read_experts(config: Fields) -> Mixture:
    mixture = read_mixture(
        config.renamed({"num_experts_per_tok": "top_k_experts"}),
        experts="num_experts",
        hidden="moe_intermediate_size",
    )
    return replace(mixture, route=replace(mixture.route, gain=True))


def mix(
    b: Builder, layer: str, x: Value, mixture: Mixture, activation: Activation, rms: Norm
) -> Value:
    """The experts' part, between its own norms."""
    seen = norm(b, f"{layer}.moe.router_norm", x, rms)
    seen = scaled(b, f"{layer}.moe.router_scale", seen, width(x) ** -0.5)
    y = norm(b, f"{layer}.moe_norm", x, rms)
    y = mixture_mlp(b, layer, y, mixture, activation, routed_by=seen)
    return norm(b, f"{layer}.moe_post_norm", y, rms)


def read_global_heads(config: Fields, local: Heads, shares: bool) -> Heads:
    """Heads of the layers without a window."""
    dim = config.integer("global_head_dim", 1, MAX_HEAD_DIM, DEFAULT_GLOBAL_DIM)
    kv = config.integer("num_global_key_value_heads", 1, MAX_HEADS, local.kv)
    if not shares:
        kv = local.kv
    if local.query % kv:
        config.refuse("num_global_key_value_heads", f"does not divide {local.query} heads")
    return Heads(local.query, kv, dim)


def attend(
    b: Builder,
    layer: str,
    x: Value,
    heads: Heads,
    turn: Rotation,
    window: int | None,
    rms: Norm,
    shares: bool,
) -> Value:
    """Attention; shares: values are what k's matrix gives."""
    name = f"{layer}.attn"
    by_head, by_kv_head = (replace(rms, num_groups=n) for n in (heads.query, heads.kv))
    q = linear(b, f"{name}.q", x, heads.query * heads.dim, split="heads")
    k = linear(b, f"{name}.k", x, heads.kv * heads.dim, split="kv_heads")
    v = k if shares else linear(b, f"{name}.v", x, heads.kv * heads.dim, split="kv_heads")
    q = norm(b, f"{name}.q_norm", q, by_head)
    v = norm(b, f"{name}.v_norm", v, by_kv_head, weight=False)
    k = norm(b, f"{name}.k_norm", k, by_kv_head)
    q = b.one(f"{name}.q_rope", Rope(heads.query, heads.dim, turn), q)
    k = b.one(f"{name}.k_rope", Rope(heads.kv, heads.dim, turn), k)
    state = KvState(f"{layer}.kv", heads.kv, heads.dim, heads.dim, window)
    b.add(f"{name}.kv_write", KvWrite(), k, v, state=state)
    y = b.one(f"{name}.attend", Attention(heads.query, heads.dim, heads.dim, 1.0), q, state=state)
    return linear(b, f"{name}.o", y, width(x), split_inputs="heads")
