"""Mixtral (Jiang et al. 2024): Mistral with experts in each layer, two of eight a token."""

from __future__ import annotations

from ridgeline.model.architectures.blocks import Stored
from ridgeline.model.architectures.decoder import (
    Defaults,
    neutral,
    read_activation,
    read_sizes,
    read_window,
)
from ridgeline.model.architectures.fields import Fields
from ridgeline.model.architectures.llama import build_llama
from ridgeline.model.architectures.mixture import mixes, read_mixture
from ridgeline.model.architectures.rope_scaling import choose_context, read_rope, rotation
from ridgeline.model.architectures.stack import Norms, attends, build_decoder
from ridgeline.model.graph.build import FormatOf
from ridgeline.model.graph.node import Graph
from ridgeline.model.graph.ops import Norm

DEFAULTS = Defaults(kv_heads=8, eps=1e-5)


def build_mixtral(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    sizes = read_sizes(config, DEFAULTS)
    config.require_neutral(
        neutral("num_local_experts") | {"attention_bias": (False,), "mlp_bias": (False,)}
    )
    rope = read_rope(config, sizes.heads.dim, sizes.positions, default_theta=1e6)
    context = choose_context(rope, context_length, config.where)
    mixture = read_mixture(
        config, experts="num_local_experts", hidden="intermediate_size", num_experts=8, top_k=2
    )
    return build_decoder(
        "mixtral",
        sizes,
        format_of,
        context=context,
        norms=Norms(Norm("rms", sizes.eps)),
        attend=attends(
            sizes.heads,
            (rotation(rope, context, interleaved=stored.interleaved_rope),) * sizes.layers,
            (read_window(config),) * sizes.layers,
        ),
        feed=mixes(
            (mixture,) * sizes.layers, sizes.mlp, read_activation(config, "hidden_act", "silu")
        ),
        tied=config.boolean("tie_word_embeddings", False),
    )


def build_llama_or_mixtral(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    """GGUF calls both "llama"."""
    mixed = config.has("num_local_experts")
    return (build_mixtral if mixed else build_llama)(config, format_of, stored, context_length)
