"""StableLM 2 and Nemotron 3 and 4, dense: layer norms with a bias, a part of each head turns.

StableLM (Stability AI 2024) has a gated MLP, and one norm for both branches if it is told; Nemotron
(NVIDIA 2024) norms with 1 + w, and its MLP squares a ReLU.
"""

from __future__ import annotations

from ridgeline.model.architectures.blocks import Stored
from ridgeline.model.architectures.decoder import Defaults, neutral, read_activation, read_sizes
from ridgeline.model.architectures.fields import Fields
from ridgeline.model.architectures.rope_scaling import choose_context, read_rope, rotation
from ridgeline.model.architectures.stack import Norms, Order, attends, build_decoder, feeds
from ridgeline.model.graph.build import FormatOf
from ridgeline.model.graph.node import Graph
from ridgeline.model.graph.ops import Norm

STABLELM = Defaults(
    vocab=50304, heads=32, kv_heads=32, positions=4096, eps=1e-5, eps_name="layer_norm_eps"
)
NEMOTRON = Defaults(vocab=256000, heads=48, positions=4096, eps=1e-5, eps_name="norm_eps")


def build_stablelm(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    sizes = read_sizes(config, STABLELM)
    config.require_neutral(neutral() | {"qk_layernorm": (False,), "sliding_window": ()})
    rope = read_rope(config, sizes.heads.dim, sizes.positions, partial=True, default_partial=0.25)
    context = choose_context(rope, context_length, config.where)
    order: Order = "parallel" if config.boolean("use_parallel_residual", False) else "pre"
    return build_decoder(
        "stablelm",
        sizes,
        format_of,
        context=context,
        norms=Norms(Norm("layer", sizes.eps), order, bias=True),
        attend=attends(
            sizes.heads,
            (rotation(rope, context, interleaved=stored.interleaved_rope),) * sizes.layers,
            (None,) * sizes.layers,
            qkv_bias=config.boolean("use_qkv_bias", False),
        ),
        feed=feeds(sizes.mlp, read_activation(config, "hidden_act", "silu")),
        tied=config.boolean("tie_word_embeddings", False),
    )


def build_nemotron(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    sizes = read_sizes(config, NEMOTRON)
    config.require_neutral(neutral() | {"sliding_window": ()})
    rope = read_rope(config, sizes.heads.dim, sizes.positions, partial=True, default_partial=0.5)
    context = choose_context(rope, context_length, config.where)
    bias = config.boolean("attention_bias", False)
    offset = 0.0 if stored.norm_has_one else 1.0
    return build_decoder(
        "nemotron",
        sizes,
        format_of,
        context=context,
        norms=Norms(Norm("layer", sizes.eps, offset=offset), bias=True),
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
