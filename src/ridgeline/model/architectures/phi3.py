"""Phi-3, Phi-3.5 and Phi-4 mini (Abdin et al. 2024): Llama whose files store q, k and v as one
matrix, and gate and up.

Here they are apart, as rows of the stored ones (`weights/names.py`), so that they shard like any
others. Part of a head may turn, LongRoPE stretches it, and a window may stand over all layers.
"""

from __future__ import annotations

from ridgeline.model.architectures.blocks import Stored
from ridgeline.model.architectures.decoder import (
    NEUTRAL,
    Defaults,
    read_activation,
    read_sizes,
    read_window,
)
from ridgeline.model.architectures.fields import Fields
from ridgeline.model.architectures.llama import build_pre_norm
from ridgeline.model.architectures.rope_scaling import choose_context, read_rope, rotation
from ridgeline.model.graph.build import FormatOf
from ridgeline.model.graph.node import Graph


def build_phi3(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    sizes = read_sizes(config, Defaults(eps=1e-5))
    config.require_neutral(NEUTRAL | {"attention_bias": (False,), "mlp_bias": (False,)})
    rope = read_rope(config, sizes.heads.dim, sizes.positions, partial=True)
    context = choose_context(rope, context_length, config.where)
    return build_pre_norm(
        "phi3",
        sizes,
        format_of,
        context=context,
        rotation=rotation(rope, context, interleaved=stored.interleaved_rope),
        windows=(read_window(config),) * sizes.layers,
        activation=read_activation(config, "hidden_act", "silu"),
        tied=config.boolean("tie_word_embeddings", False),
    )
