"""Nemotron-H and Nemotron 3 (NVIDIA 2025): each layer is one of Mamba 2, attention without
rotation, an MLP with squared ReLU, and a mixture of such.
"""

from __future__ import annotations

import math
from dataclasses import replace

from ridgeline.model.architectures.blocks import (
    Heads,
    Stored,
    add,
    attention,
    embed,
    head,
    mlp,
    norm,
)
from ridgeline.model.architectures.decoder import NEUTRAL, read_activation
from ridgeline.model.architectures.fields import (
    MAX_HEAD_DIM,
    MAX_HEADS,
    MAX_LAYERS,
    MAX_POSITIONS,
    MAX_VOCAB,
    MAX_WIDTH,
    Fields,
    quote,
)
from ridgeline.model.architectures.hybrid import ATTENDING, KINDS, RECURRENT, context_of
from ridgeline.model.architectures.mixture import Mixture, mixture_mlp, read_grouped
from ridgeline.model.architectures.recurrent import SsdSizes, mamba2
from ridgeline.model.graph.build import Builder, FormatOf
from ridgeline.model.graph.node import Graph, Value
from ridgeline.model.graph.ops import Norm
from ridgeline.model.graph.ops.causal_conv import MAX_TAPS

FEEDING, MIXING = "mlp", "moe"
LETTERS = {"M": RECURRENT, "*": ATTENDING, "-": FEEDING, "E": MIXING}


def build_nemotron_h(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    config.require_neutral(
        {name: values for name, values in NEUTRAL.items() if name != "n_routed_experts"}
        | {"mamba_hidden_act": ("silu", "swish"), "sliding_window": ()}
    )
    kinds = read_pattern(config)
    layers = config.integer("num_hidden_layers", 1, MAX_LAYERS, len(kinds))
    if layers != len(kinds):
        config.refuse("num_hidden_layers", f"the pattern of layers has {len(kinds)}")
    width = config.integer("hidden_size", 1, MAX_WIDTH)
    vocab = config.integer("vocab_size", 1, MAX_VOCAB, 131072)
    eps = config.number("layer_norm_epsilon", 0.0, 1.0, 1e-5)
    ssd = read_sizes_of_mixer(config)
    heads = read_heads(config)
    hidden = config.integer("intermediate_size", 1, MAX_WIDTH, 21504)
    activation = read_activation(config, "mlp_hidden_act", "relu2")
    bias = config.boolean("use_bias", False)
    conv_bias = config.boolean("use_conv_bias", True)
    mlp_bias = config.boolean("mlp_bias", False)
    least = config.number("time_step_min", 0.0, 1e30, 0.001)
    positions = config.integer("max_position_embeddings", 1, MAX_POSITIONS, 4096)
    context = context_of(config, positions, context_length)
    mixture = read_latent_mixture(config, len(kinds)) if MIXING in kinds else None

    b = Builder("nemotron_h", format_of)
    rms = Norm("rms", eps)
    x, table = embed(b, vocab, width)
    for i, kind in enumerate(kinds):
        layer = f"layers.{i}"
        y: Value = norm(b, f"{layer}.mixer_norm", x, rms)
        if kind == RECURRENT:
            y = mamba2(
                b,
                layer,
                y,
                ssd,
                norm_eps=eps,
                log_a=not stored.plain_decay,
                bias=bias,
                conv_bias=conv_bias,
                dt_limits=(least, math.inf),
            )
        elif kind == ATTENDING:
            y = attention(b, layer, y, heads=heads, rotation=None, scale=heads.dim**-0.5)
        elif kind == MIXING:
            assert mixture is not None
            y = mixture_mlp(b, layer, y, mixture, activation)
        else:
            y = mlp(b, layer, y, hidden=hidden, activation=activation, bias=mlp_bias)
        x = add(b, f"{layer}.mixer_add", x, y)
    tied = table if config.boolean("tie_word_embeddings", False) else None
    return b.finish(head(b, x, vocab, rms, tied=tied), context)


def read_latent_mixture(config: Fields, layers: int) -> Mixture:
    """DeepSeek's routing, of experts without gates that may see fewer channels than there are."""
    (mixture, *_) = read_grouped(config, layers, shared=1, experts=8, hidden=7688, top_k=2)
    assert mixture is not None
    return replace(
        mixture,
        shared=config.integer("moe_shared_expert_intermediate_size", 1, MAX_WIDTH, 7688),
        gated=False,
        latent=config.integer("moe_latent_size", 0, MAX_WIDTH, 0),
    )


def read_pattern(config: Fields) -> tuple[str, ...]:
    """What each layer is, by a letter or by a word."""
    if config.has("layers_block_type"):
        words = KINDS | {FEEDING: FEEDING, MIXING: MIXING}
        listed = config.values["layers_block_type"]
        count = len(listed) if isinstance(listed, list | tuple) else 0
        if not 1 <= count <= MAX_LAYERS:
            config.refuse("layers_block_type", f"a list of 1 to {MAX_LAYERS} layers is needed")
        return tuple(words[t] for t in config.texts("layers_block_type", count, tuple(words)))
    pattern = config.text("hybrid_override_pattern")
    if not 1 <= len(pattern) <= MAX_LAYERS:
        config.refuse("hybrid_override_pattern", f"1 to {MAX_LAYERS} layers are possible")
    for letter in pattern:
        if letter not in LETTERS:
            config.refuse(
                "hybrid_override_pattern",
                f"{quote(letter)} is not supported; supported: {', '.join(LETTERS)}",
            )
    return tuple(LETTERS[letter] for letter in pattern)


def read_sizes_of_mixer(config: Fields) -> SsdSizes:
    heads = config.integer("mamba_num_heads", 1, MAX_HEADS, 128)
    groups = config.integer("n_groups", 1, MAX_HEADS, 8)
    if heads % groups:
        config.refuse("n_groups", f"does not divide mamba_num_heads = {heads}")
    return SsdSizes(
        heads=heads,
        head_dim=config.integer("mamba_head_dim", 1, MAX_HEAD_DIM, 64),
        groups=groups,
        state=config.integer("ssm_state_size", 1, MAX_HEAD_DIM, 128),
        taps=config.integer("conv_kernel", 2, MAX_TAPS, 4),
    )


def read_heads(config: Fields) -> Heads:
    query = config.integer("num_attention_heads", 1, MAX_HEADS, 32)
    kv = config.integer("num_key_value_heads", 1, MAX_HEADS, 8)
    if query % kv:
        config.refuse("num_key_value_heads", f"does not divide num_attention_heads = {query}")
    name = "head_dim" if config.has("head_dim") else "attention_head_dim"
    return Heads(query, kv, config.integer(name, 1, MAX_HEAD_DIM, 128))
