"""GLM-4.5, 4.6 and Air (GLM-4.5 team 2025), and dots.llm1 (Huo et al. 2025): attention of Llama's
kind, experts of DeepSeek V3's.
"""

from __future__ import annotations

from ridgeline.model.architectures.blocks import Stored
from ridgeline.model.architectures.decoder import Defaults, neutral, read_activation, read_sizes
from ridgeline.model.architectures.fields import Fields
from ridgeline.model.architectures.mixture import GROUPED, mixes, read_grouped
from ridgeline.model.architectures.rope_scaling import choose_context, read_rope, rotation
from ridgeline.model.architectures.stack import Assemble, Norms, attends, build_decoder
from ridgeline.model.graph.build import FormatOf
from ridgeline.model.graph.node import Graph
from ridgeline.model.graph.ops import Norm

GLM = Defaults(vocab=151552, heads=96, kv_heads=8, positions=131072, eps=1e-5)


def build_glm4_moe(
    config: Fields,
    format_of: FormatOf,
    stored: Stored,
    context_length: int | None,
    assemble: Assemble = build_decoder,
) -> Graph:
    sizes = read_sizes(config, GLM)
    config.require_neutral(neutral(*GROUPED, "use_qk_norm") | {"mlp_bias": (False,)})
    rope = read_rope(config, sizes.heads.dim, sizes.positions, partial=True, default_partial=0.5)
    context = choose_context(rope, context_length, config.where)
    mixtures = read_grouped(
        config, sizes.layers, top_k=8, shared=1, experts=128, hidden=1408, dense=1
    )
    rms = Norm("rms", sizes.eps)
    return assemble(
        "glm4_moe",
        sizes,
        format_of,
        context=context,
        norms=Norms(rms),
        attend=attends(
            sizes.heads,
            (rotation(rope, context, interleaved=stored.interleaved_rope),) * sizes.layers,
            (None,) * sizes.layers,
            qkv_bias=config.boolean("attention_bias", False),
            head_norm=rms if config.boolean("use_qk_norm", False) else None,
        ),
        feed=mixes(mixtures, sizes.mlp, read_activation(config, "hidden_act", "silu")),
        tied=config.boolean("tie_word_embeddings", False),
    )


def build_dots1(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    sizes = read_sizes(config, Defaults(vocab=152064, positions=2048))
    config.require_neutral(neutral(*GROUPED) | {"mlp_bias": (False,), "sliding_window": ()})
    rope = read_rope(config, sizes.heads.dim, sizes.positions)
    context = choose_context(rope, context_length, config.where)
    mixtures = read_grouped(config, sizes.layers, normalize=False)
    bias = config.boolean("attention_bias", False)
    rms = Norm("rms", sizes.eps)
    return build_decoder(
        "dots1",
        sizes,
        format_of,
        context=context,
        norms=Norms(rms),
        attend=attends(
            sizes.heads,
            (rotation(rope, context, interleaved=stored.interleaved_rope),) * sizes.layers,
            (None,) * sizes.layers,
            qkv_bias=bias,
            output_bias=bias,
            head_norm=rms,
        ),
        feed=mixes(mixtures, sizes.mlp, read_activation(config, "hidden_act", "silu")),
        tied=config.boolean("tie_word_embeddings", False),
    )
