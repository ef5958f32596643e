"""Mistral 3 and Ministral 3 (Mistral AI 2025), text: Mistral without a window, under YaRN, whose
queries grow with their position beyond the trained context, as Llama 4's do.

Mistral Small 3.1 and 3.2 have Mistral's own text model within; its file says which.
"""

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
from ridgeline.model.architectures.llama import build_mistral
from ridgeline.model.architectures.rope_scaling import (
    RopeSettings,
    choose_context,
    read_rope,
    rotation,
)
from ridgeline.model.architectures.stack import Norms, attends, build_decoder, feeds
from ridgeline.model.graph.build import FormatOf
from ridgeline.model.graph.node import Graph
from ridgeline.model.graph.ops import Norm, ScaleByPosition

MINISTRAL3 = Defaults(vocab=131072, heads=32, kv_heads=8, head_dim=128, positions=262144, eps=1e-5)


def build_mistral3(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    """The language part of a model that also sees, or a file of that part alone."""
    text = config.section("text_config") if config.has("text_config") else config
    for name in ("tie_word_embeddings",):
        if config.has(name) and not text.has(name):
            text = text.with_default(name, config.values[name])
    build = (
        build_ministral3 if text.text("model_type", "mistral") == "ministral3" else build_mistral
    )
    return build(text, format_of, stored, context_length)


def build_ministral3(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    sizes = read_sizes(config, MINISTRAL3)
    config.require_neutral(neutral() | {"attention_bias": (False,), "mlp_bias": (False,)})
    rope = read_rope(config, sizes.heads.dim, sizes.positions, default_theta=1e6)
    context = choose_context(rope, context_length, config.where)
    return build_decoder(
        "ministral3",
        sizes,
        format_of,
        context=context,
        norms=Norms(Norm("rms", sizes.eps)),
        attend=attends(
            sizes.heads,
            (rotation(rope, context, interleaved=stored.interleaved_rope),) * sizes.layers,
            (read_window(config),) * sizes.layers,
            temperature=read_temperature(rope),
        ),
        feed=feeds(sizes.mlp, read_activation(config, "hidden_act", "silu")),
        tied=config.boolean("tie_word_embeddings", False),
    )


def read_temperature(rope: RopeSettings) -> ScaleByPosition | None:
    """What queries are scaled by beyond the trained context; None if the section does not say."""
    beta = rope.section.number("llama_4_scaling_beta", 0.0, 1e3, 0.0)
    return ScaleByPosition(float(rope.original), beta) if beta else None
