"""GLM-4.5, 4.6 and Air (GLM-4.5 team 2025), and dots.llm1 (Huo et al. 2025): attention of Llama's
kind, experts of DeepSeek V3's. GLM-4.7 Flash: DeepSeek V3. GLM-5 (2026): DeepSeek V3.2, whose
layers may share a selection.
"""

from __future__ import annotations

from dataclasses import replace

from ridgeline.model.architectures.blocks import Stored
from ridgeline.model.architectures.decoder import Defaults, neutral, read_activation, read_sizes
from ridgeline.model.architectures.deepseek import build_latent, read_corrected, read_index
from ridgeline.model.architectures.fields import MAX_LAYERS, Fields
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


def build_glm4_moe_lite(
    config: Fields,
    format_of: FormatOf,
    stored: Stored,
    context_length: int | None,
    assemble: Assemble = build_decoder,
) -> Graph:
    mixtures = read_corrected(config, experts=64, hidden=1536, top_k=4, scale=1.8, dense=1)
    return build_latent(
        "glm4_moe_lite",
        latent_fields(config, q_lora_rank=768, qk_nope_head_dim=192, v_head_dim=256),
        format_of,
        context_length,
        mixtures,
        Defaults(vocab=154880, heads=20, head_dim=1, positions=202752, eps=1e-5),
        assemble,
    )


def latent_fields(config: Fields, **defaults: int) -> Fields:
    """Without `head_dim`, which is said of what turns, or of what does not, and means nothing; and
    with the defaults of this family.
    """
    known = {name: value for name, value in config.values.items() if name != "head_dim"}
    return replace(config, values=defaults | known)


def build_glm_moe_dsa(
    config: Fields,
    format_of: FormatOf,
    stored: Stored,
    context_length: int | None,
    assemble: Assemble = build_decoder,
) -> Graph:
    mixtures = read_corrected(config)
    index = replace(
        read_index(config, 32),
        interleaved=config.boolean("indexer_rope_interleave", True),
        shared=read_shared(config, len(mixtures)),
    )
    return build_latent(
        "glm_moe_dsa",
        latent_fields(config, q_lora_rank=2048, qk_nope_head_dim=192, v_head_dim=256),
        format_of,
        context_length,
        mixtures,
        Defaults(vocab=154880, heads=64, head_dim=1, positions=202752, eps=1e-5),
        assemble,
        index,
    )


def read_shared(config: Fields, layers: int) -> frozenset[int]:
    """The layers that look at what an earlier one selected: listed, or all but one in so many."""
    name = "indexer_types"
    if config.has(name):
        kinds = config.texts(name, layers, ("full", "shared"))
        shared = frozenset(i for i, kind in enumerate(kinds) if kind == "shared")
    elif config.has("index_topk_pattern"):
        name = "index_topk_pattern"
        letters = config.text(name)
        if len(letters) != layers or set(letters) - {"F", "S"}:
            config.refuse(name, f"a letter F or S for each of {layers} layers is needed")
        shared = frozenset(i for i, letter in enumerate(letters) if letter == "S")
    else:
        period = config.integer("index_topk_freq", 0, MAX_LAYERS, 1) or 1
        offset = config.integer("index_skip_topk_offset", 0, MAX_LAYERS, 2)
        shared = frozenset(i for i in range(layers) if max(i - offset + 1, 0) % period)
    if 0 in shared:
        config.refuse(name, "the first layer has none before it to share with")
    return shared
