"""gpt-oss 20b and 120b (OpenAI 2025): sinks, a window in every other layer, YaRN, biases
everywhere, experts with a clamped SwiGLU that are stored as MXFP4.
"""

from __future__ import annotations

from dataclasses import replace

from ridgeline.model.architectures.blocks import Stored
from ridgeline.model.architectures.decoder import (
    FULL,
    WINDOWED,
    Defaults,
    neutral,
    read_layer_types,
    read_sizes,
    read_window,
    windows,
)
from ridgeline.model.architectures.fields import Fields
from ridgeline.model.architectures.mixture import mixes, read_mixture
from ridgeline.model.architectures.rope_scaling import choose_context, read_rope, rotation
from ridgeline.model.architectures.stack import Norms, attends, build_decoder
from ridgeline.model.graph.build import FormatOf
from ridgeline.model.graph.node import Graph
from ridgeline.model.graph.ops import Norm

DEFAULTS = Defaults(vocab=201088, heads=64, kv_heads=8, head_dim=64, positions=131072, eps=1e-5)
DEFAULT_WINDOW = 128


def build_gpt_oss(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    sizes = read_sizes(config, DEFAULTS)
    config.require_neutral(
        neutral("num_local_experts")
        | {
            "hidden_act": ("silu",),
            "swiglu_limit": (7.0, 7),
            "swiglu_alpha": (1.702,),
            "use_sliding_window": (True,),
        }
    )
    rope = read_rope(config, sizes.heads.dim, sizes.positions, default_theta=150000.0)
    context = choose_context(rope, context_length, config.where)
    mixture = read_mixture(
        config, experts="num_local_experts", hidden="intermediate_size", num_experts=128, top_k=4
    )
    mixture = replace(mixture, route=replace(mixture.route, bias=True), bias=True)
    types = read_layer_types(config, sizes.layers) or tuple(
        FULL if i % 2 else WINDOWED for i in range(sizes.layers)
    )
    bias = config.boolean("attention_bias", True)
    return build_decoder(
        "gpt_oss",
        sizes,
        format_of,
        context=context,
        norms=Norms(Norm("rms", sizes.eps)),
        attend=attends(
            sizes.heads,
            (rotation(rope, context, interleaved=stored.interleaved_rope),) * sizes.layers,
            windows(config, types, read_window(config, DEFAULT_WINDOW)),
            qkv_bias=bias,
            output_bias=bias,
            sinks=True,
        ),
        feed=mixes((mixture,) * sizes.layers, sizes.mlp, "clamped_swiglu"),
        tied=config.boolean("tie_word_embeddings", False),
    )
