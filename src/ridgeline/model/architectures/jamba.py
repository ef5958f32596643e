"""Jamba (AI21 2024): Mamba with attention without rotation in some layers, experts in others."""

from __future__ import annotations

from ridgeline.model.architectures.blocks import Stored
from ridgeline.model.architectures.decoder import Defaults, neutral, read_activation, read_sizes
from ridgeline.model.architectures.fields import MAX_HEAD_DIM, MAX_LAYERS, Fields
from ridgeline.model.architectures.hybrid import (
    ATTENDING,
    RECURRENT,
    by_kind,
    context_of,
    read_kinds,
)
from ridgeline.model.architectures.mamba import read_rank
from ridgeline.model.architectures.mixture import (
    MAX_EXPERTS,
    Mixture,
    mixes,
    read_mixture,
)
from ridgeline.model.architectures.recurrent import MambaSizes, mamba
from ridgeline.model.architectures.stack import Norms, attends, build_decoder
from ridgeline.model.graph.build import Builder, FormatOf
from ridgeline.model.graph.node import Graph, Value
from ridgeline.model.graph.ops import Norm
from ridgeline.model.graph.ops.causal_conv import MAX_TAPS


def build_jamba(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    sizes = read_sizes(config, Defaults(vocab=65536, heads=32, kv_heads=8, positions=262144))
    config.require_neutral(neutral("num_experts") | {"sliding_window": ()})
    period = config.integer("attn_layer_period", 1, MAX_LAYERS, 8)
    offset = config.integer("attn_layer_offset", 0, MAX_LAYERS, 4)
    kinds = read_kinds(config, "layers_block_type", sizes.layers) or tuple(
        ATTENDING if i % period == offset else RECURRENT for i in range(sizes.layers)
    )
    ssm = MambaSizes(
        inner=config.integer("mamba_expand", 1, 64, 2) * sizes.width,
        state=config.integer("mamba_d_state", 1, MAX_HEAD_DIM, 16),
        rank=read_rank(config, "mamba_dt_rank", sizes.width),
        taps=config.integer("mamba_d_conv", 2, MAX_TAPS, 4),
    )
    conv_bias = config.boolean("mamba_conv_bias", True)
    bias = config.boolean("mamba_proj_bias", False)
    rms = Norm("rms", sizes.eps)

    def recur(b: Builder, layer: str, i: int, x: Value) -> Value:
        return mamba(
            b,
            layer,
            x,
            ssm,
            log_a=not stored.plain_decay,
            bias=bias,
            conv_bias=conv_bias,
            inner_norm=rms,
        )

    activation = read_activation(config, "hidden_act", "silu")
    attend = attends(sizes.heads, (None,) * sizes.layers, (None,) * sizes.layers)
    return build_decoder(
        "jamba",
        sizes,
        format_of,
        context=context_of(config, sizes.positions, context_length),
        norms=Norms(rms),
        attend=by_kind(kinds, {ATTENDING: attend, RECURRENT: recur}),
        feed=mixes(read_mixtures(config, sizes.layers), sizes.mlp, activation),
        tied=config.boolean("tie_word_embeddings", False),
    )


def read_mixtures(config: Fields, layers: int) -> tuple[Mixture | None, ...]:
    """Experts in every `expert_layer_period`-th layer, if there is more than one; or in those that
    `mlp_layer_types` calls sparse (GGUF).
    """
    period = config.integer("expert_layer_period", 1, MAX_LAYERS, 2)
    offset = config.integer("expert_layer_offset", 0, MAX_LAYERS, 1)
    if config.has("num_experts") and config.integer("num_experts", 0, MAX_EXPERTS) <= 1:
        return (None,) * layers
    mixture = read_mixture(
        config,
        experts="num_experts",
        hidden="intermediate_size",
        num_experts=16,
        top_k=2,
        normalize=False,
    )
    if config.has("mlp_layer_types"):
        listed = config.texts("mlp_layer_types", layers, ("dense", "sparse"))
        return tuple(mixture if kind == "sparse" else None for kind in listed)
    return tuple(mixture if i % period == offset else None for i in range(layers))
