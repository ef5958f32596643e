"""Qwen's mixtures: Qwen1.5-MoE and Qwen2-MoE (Yang et al. 2024) with an expert that all tokens
share, Qwen3-MoE (Qwen team 2025) without.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ridgeline.model.architectures.blocks import Stored
from ridgeline.model.architectures.decoder import (
    Defaults,
    Sizes,
    neutral,
    read_activation,
    read_sizes,
)
from ridgeline.model.architectures.fields import MAX_LAYERS, MAX_WIDTH, Fields
from ridgeline.model.architectures.mixture import Mixture, mixes, read_mixture
from ridgeline.model.architectures.qwen2 import read_windows
from ridgeline.model.architectures.rope_scaling import choose_context, read_rope, rotation
from ridgeline.model.architectures.stack import Norms, attends, build_decoder
from ridgeline.model.graph.build import FormatOf
from ridgeline.model.graph.node import Graph
from ridgeline.model.graph.ops import Norm

NEUTRAL = neutral("num_experts") | {"mlp_bias": (False,), "n_shared_experts": (0,)}
QWEN3 = {"use_sliding_window": (False,), "use_qk_norm": (True,)}


def build_qwen2_moe(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    sizes = read_sizes(config, Defaults())
    config.require_neutral(NEUTRAL)
    mixture = read_mixture(
        config,
        experts="num_experts",
        hidden="moe_intermediate_size",
        normalize=config.boolean("norm_topk_prob", False),
    )
    mixture = replace(
        mixture,
        shared=config.integer("shared_expert_intermediate_size", 1, MAX_WIDTH),
        shared_gate=True,
    )
    return build_qwen_moe(
        "qwen2_moe",
        config,
        sizes,
        format_of,
        stored,
        context_length,
        mixture,
        windows=read_windows(config, sizes.layers),
        qkv_bias=config.boolean("qkv_bias", True),
        output_bias=False,
        head_norm=False,
    )


def build_qwen3_moe(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    sizes = read_sizes(config, Defaults())
    config.require_neutral(NEUTRAL | QWEN3)
    mixture = read_mixture(
        config,
        experts="num_experts",
        hidden="moe_intermediate_size",
        normalize=config.boolean("norm_topk_prob", False),
    )
    bias = config.boolean("attention_bias", False)
    return build_qwen_moe(
        "qwen3_moe",
        config,
        sizes,
        format_of,
        stored,
        context_length,
        mixture,
        windows=(None,) * sizes.layers,
        qkv_bias=bias,
        output_bias=bias,
        head_norm=True,
    )


def build_qwen_moe(
    name: str,
    config: Fields,
    sizes: Sizes,
    format_of: FormatOf,
    stored: Stored,
    context_length: int | None,
    mixture: Mixture,
    *,
    windows: Sequence[int | None],
    qkv_bias: bool,
    output_bias: bool,
    head_norm: bool,
) -> Graph:
    rope = read_rope(config, sizes.heads.dim, sizes.positions)
    context = choose_context(rope, context_length, config.where)
    rms = Norm("rms", sizes.eps)
    activation = read_activation(config, "hidden_act", "silu")
    return build_decoder(
        name,
        sizes,
        format_of,
        context=context,
        norms=Norms(rms),
        attend=attends(
            sizes.heads,
            (rotation(rope, context, interleaved=stored.interleaved_rope),) * sizes.layers,
            windows,
            qkv_bias=qkv_bias,
            output_bias=output_bias,
            head_norm=rms if head_norm else None,
        ),
        feed=mixes(read_layers(config, sizes.layers, mixture), sizes.mlp, activation),
        tied=config.boolean("tie_word_embeddings", False),
    )


def read_layers(config: Fields, layers: int, mixture: Mixture) -> tuple[Mixture | None, ...]:
    """Which layers have experts: each `decoder_sparse_step`-th, but those of `mlp_only_layers`."""
    step = config.integer("decoder_sparse_step", 1, MAX_LAYERS, 1)
    plain = config.integers("mlp_only_layers", 0, layers - 1)
    return tuple(mixture if (i + 1) % step == 0 and i not in plain else None for i in range(layers))
