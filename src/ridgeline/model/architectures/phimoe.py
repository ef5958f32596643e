"""Phi-3.5-MoE (Abdin et al. 2024): layer norms and biases as in Phi-2, two of 16 experts a token,
chosen one after the other (SparseMixer), LongRoPE whose magnitudes are given.
"""

from __future__ import annotations

from dataclasses import replace

from ridgeline.model.architectures.blocks import Stored
from ridgeline.model.architectures.decoder import (
    Defaults,
    neutral,
    read_activation,
    read_sizes,
    read_window,
)
from ridgeline.model.architectures.fields import Fields
from ridgeline.model.architectures.mixture import mixes, read_mixture
from ridgeline.model.architectures.rope_scaling import choose_context, read_rope, rotation
from ridgeline.model.architectures.stack import Norms, attends, build_decoder
from ridgeline.model.graph.build import FormatOf
from ridgeline.model.graph.node import Graph
from ridgeline.model.graph.ops import Norm, Route

PHIMOE = Defaults(vocab=32064, heads=32, kv_heads=8, positions=4096 * 32, eps=1e-5)
DEFAULT_JITTER = 0.01


def build_phimoe(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    sizes = read_sizes(config, PHIMOE)
    config.require_neutral(neutral("num_local_experts") | {"mlp_bias": (False,)})
    rope = read_rope(config, sizes.heads.dim, sizes.positions, default_theta=1e6)
    context = choose_context(rope, context_length, config.where)
    mixture = read_mixture(
        config, experts="num_local_experts", hidden="intermediate_size", num_experts=16, top_k=2
    )
    jitter = config.number("router_jitter_noise", 0.0, 1.0, DEFAULT_JITTER)
    mixture = replace(
        mixture, route=Route(mixture.route.top_k, "sparsemixer", False, jitter=jitter)
    )
    bias = config.boolean("attention_bias", False)
    return build_decoder(
        "phimoe",
        sizes,
        format_of,
        context=context,
        norms=Norms(Norm("layer", sizes.eps), bias=True),
        attend=attends(
            sizes.heads,
            (rotation(rope, context, interleaved=stored.interleaved_rope),) * sizes.layers,
            (read_window(config),) * sizes.layers,
            qkv_bias=bias,
            output_bias=bias,
        ),
        feed=mixes(
            (mixture,) * sizes.layers, sizes.mlp, read_activation(config, "hidden_act", "silu")
        ),
        tied=config.boolean("tie_word_embeddings", False),
        head_bias=config.boolean("lm_head_bias", False),
    )
