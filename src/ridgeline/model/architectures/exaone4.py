"""EXAONE 4 (LG AI Research 2025): a norm after each branch and of each head; where there are
windows, only windowed layers have positions. K-EXAONE (2026): the same attention with norms before
the branches, and DeepSeek V3's experts.
"""

from __future__ import annotations

from ridgeline.model.architectures.blocks import Stored
from ridgeline.model.architectures.decoder import (
    FULL,
    WINDOWED,
    Defaults,
    Sizes,
    neutral,
    read_activation,
    read_layer_types,
    read_sizes,
    read_window,
    windows,
)
from ridgeline.model.architectures.fields import MAX_LAYERS, Fields
from ridgeline.model.architectures.mixture import GROUPED, mixes, read_grouped
from ridgeline.model.architectures.rope_scaling import choose_context, read_rope, rotation
from ridgeline.model.architectures.stack import Branch, Norms, attends, build_decoder, feeds
from ridgeline.model.graph.build import FormatOf
from ridgeline.model.graph.node import Graph
from ridgeline.model.graph.ops import Norm

EXAONE4 = Defaults(vocab=102400, heads=32, kv_heads=32, positions=2048, eps=1e-5)
DEFAULT_WINDOW = 4096
DEFAULT_PATTERN = 4


def build_exaone4(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    sizes = read_sizes(config, EXAONE4)
    config.require_neutral(neutral() | {"attention_bias": (False,), "mlp_bias": (False,)})
    attend, context = read_attention(config, sizes, stored, context_length)
    return build_decoder(
        "exaone4",
        sizes,
        format_of,
        context=context,
        norms=Norms(Norm("rms", sizes.eps), "post"),
        attend=attend,
        feed=feeds(sizes.mlp, read_activation(config, "hidden_act", "silu")),
        tied=config.boolean("tie_word_embeddings", False),
    )


def build_exaone_moe(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    sizes = read_sizes(config, EXAONE4)
    config.require_neutral(
        neutral(*GROUPED, "num_experts") | {"attention_bias": (False,), "mlp_bias": (False,)}
    )
    attend, context = read_attention(config, sizes, stored, context_length)
    mixtures = read_grouped(
        config.renamed(
            {"n_routed_experts": "num_experts", "n_shared_experts": "num_shared_experts"}
        ),
        sizes.layers,
        experts=64,
        shared=1,
        hidden=1024,
        top_k=8,
        scale=2.5,
        dense=1,
    )
    return build_decoder(
        "exaone_moe",
        sizes,
        format_of,
        context=context,
        norms=Norms(Norm("rms", sizes.eps)),
        attend=attend,
        feed=mixes(mixtures, sizes.mlp, read_activation(config, "hidden_act", "silu")),
        tied=config.boolean("tie_word_embeddings", False),
    )


def read_attention(
    config: Fields, sizes: Sizes, stored: Stored, context_length: int | None
) -> tuple[Branch, int]:
    """Attention with head norms, and the context; where there are windows, only layers that have
    one turn.
    """
    rope = read_rope(config, sizes.heads.dim, sizes.positions)
    context = choose_context(rope, context_length, config.where)
    turn = rotation(rope, context, interleaved=stored.interleaved_rope)
    window = read_window(config, DEFAULT_WINDOW)
    types = read_types(config, sizes.layers, window)
    attend = attends(
        sizes.heads,
        tuple(turn if window is None or kind == WINDOWED else None for kind in types),
        windows(config, types, window),
        head_norm=Norm("rms", sizes.eps),
    )
    return attend, context


def read_types(config: Fields, layers: int, window: int | None) -> tuple[str, ...]:
    """`layer_types`, or a pattern: its length, or letters (L: windowed, G: not) that repeat."""
    listed = read_layer_types(config, layers)
    if listed is not None:
        return listed
    if window is None:
        return (FULL,) * layers
    pattern = config.values.get("sliding_window_pattern")
    if isinstance(pattern, str):
        if not 1 <= len(pattern) <= MAX_LAYERS or set(pattern) - set("LG"):
            config.refuse("sliding_window_pattern", "a text of L and G is needed")
        kinds = {"L": WINDOWED, "G": FULL}
        return (
            *(kinds[pattern[i % len(pattern)]] for i in range(layers - 1)),
            FULL,
        )
    period = config.integer("sliding_window_pattern", 1, MAX_LAYERS, DEFAULT_PATTERN)
    return tuple(WINDOWED if (i + 1) % period else FULL for i in range(layers))
