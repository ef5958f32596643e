"""Arcee Foundation Models (Arcee 2025): Llama whose MLP squares a ReLU and has no gate."""

from __future__ import annotations

from ridgeline.model.architectures.blocks import Stored
from ridgeline.model.architectures.decoder import Defaults, neutral, read_activation, read_sizes
from ridgeline.model.architectures.fields import Fields
from ridgeline.model.architectures.rope_scaling import choose_context, read_rope, rotation
from ridgeline.model.architectures.stack import Norms, attends, build_decoder, feeds
from ridgeline.model.graph.build import FormatOf
from ridgeline.model.graph.node import Graph
from ridgeline.model.graph.ops import Norm

ARCEE = Defaults(vocab=32000, heads=32, positions=4096, eps=1e-5)


def build_arcee(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    sizes = read_sizes(config, ARCEE)
    config.require_neutral(neutral() | {"sliding_window": ()})
    rope = read_rope(config, sizes.heads.dim, sizes.positions)
    context = choose_context(rope, context_length, config.where)
    bias = config.boolean("attention_bias", False)
    return build_decoder(
        "arcee",
        sizes,
        format_of,
        context=context,
        norms=Norms(Norm("rms", sizes.eps)),
        attend=attends(
            sizes.heads,
            (rotation(rope, context, interleaved=stored.interleaved_rope),) * sizes.layers,
            (None,) * sizes.layers,
            qkv_bias=bias,
            output_bias=bias,
        ),
        feed=feeds(
            sizes.mlp,
            read_activation(config, "hidden_act", "relu2"),
            gated=False,
            bias=config.boolean("mlp_bias", False),
        ),
        tied=config.boolean("tie_word_embeddings", False),
    )
