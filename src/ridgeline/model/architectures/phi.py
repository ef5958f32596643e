"""Phi-1, Phi-1.5 and Phi-2 (Gunasekar et al. 2023): both branches read one layer norm, an MLP
without a gate, biases everywhere, half of each head turns. Phi-3 is `phi3.py`.
"""

from __future__ import annotations

from ridgeline.model.architectures.blocks import Stored
from ridgeline.model.architectures.decoder import Defaults, neutral, read_activation, read_sizes
from ridgeline.model.architectures.fields import Fields
from ridgeline.model.architectures.rope_scaling import choose_context, read_rope, rotation
from ridgeline.model.architectures.stack import Norms, attends, build_decoder, feeds
from ridgeline.model.graph.build import FormatOf
from ridgeline.model.graph.node import Graph
from ridgeline.model.graph.ops import Norm

PHI = Defaults(vocab=51200, heads=32, positions=2048, eps=1e-5, eps_name="layer_norm_eps")


def build_phi(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    sizes = read_sizes(config, PHI)
    config.require_neutral(neutral() | {"qk_layernorm": (False,), "sliding_window": ()})
    rope = read_rope(config, sizes.heads.dim, sizes.positions, partial=True, default_partial=0.5)
    context = choose_context(rope, context_length, config.where)
    return build_decoder(
        "phi",
        sizes,
        format_of,
        context=context,
        norms=Norms(Norm("layer", sizes.eps), "parallel", bias=True),
        attend=attends(
            sizes.heads,
            (rotation(rope, context, interleaved=stored.interleaved_rope),) * sizes.layers,
            (None,) * sizes.layers,
            qkv_bias=True,
            output_bias=True,
        ),
        feed=feeds(
            sizes.mlp, read_activation(config, "hidden_act", "gelu_new"), gated=False, bias=True
        ),
        tied=config.boolean("tie_word_embeddings", False),
        head_bias=True,
    )
