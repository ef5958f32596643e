"""Llama 4 (Meta 2025), text: chunks of attention, layers without positions, experts that weigh what
they are given.

Layers that turn q and k see the chunk of 8192 tokens that a token is in, and norm the heads that
have turned (Scout); every fourth layer has no positions, sees all, and scales its queries by how
far they see. Of a mixture's experts a token gets one by its sigmoid, and a shared one; Maverick has
experts in every second layer.
"""

from __future__ import annotations

from dataclasses import replace

from ridgeline.model.architectures.blocks import Heads, Stored, attention
from ridgeline.model.architectures.decoder import (
    FULL,
    Defaults,
    neutral,
    read_activation,
    read_sizes,
)
from ridgeline.model.architectures.fields import MAX_LAYERS, MAX_POSITIONS, MAX_WIDTH, Fields
from ridgeline.model.architectures.mixture import Mixture, mixes, read_mixture
from ridgeline.model.architectures.rope_scaling import choose_context, read_rope, rotation
from ridgeline.model.architectures.stack import Branch, Norms, build_decoder
from ridgeline.model.graph.build import Builder, FormatOf
from ridgeline.model.graph.node import Graph, Value
from ridgeline.model.graph.ops import Norm, Rotation, ScaleByPosition

LLAMA4 = Defaults(vocab=202048, heads=40, kv_heads=8, head_dim=128, positions=4096 * 32, eps=1e-5)
CHUNKED = "chunked_attention"
DEFAULT_CHUNK, DEFAULT_INTERVAL, DEFAULT_PERIOD, DEFAULT_BETA = 8192, 4, 8192, 0.1


def build_llama4(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    if config.has("text_config"):
        config = config.section("text_config")
    plain = config.integer("intermediate_size_mlp", 1, MAX_WIDTH, 16384)
    config = config.with_default("intermediate_size", 8192)
    sizes = replace(read_sizes(config, LLAMA4), mlp=plain)
    read = ("num_local_experts", "use_qk_norm", "no_rope_layers", "no_rope_layer_interval")
    config.require_neutral(neutral(*read, "attention_chunk_size") | {"mlp_bias": (False,)})
    rope = read_rope(config, sizes.heads.dim, sizes.positions, default_theta=500000.0)
    context = choose_context(rope, context_length, config.where)
    rms = Norm("rms", sizes.eps)
    turned = read_turned(config, sizes.layers)
    attend = attends_in_chunks(
        sizes.heads,
        tuple(rotation(rope, context, interleaved=True) if turns else None for turns in turned),
        read_chunks(config, turned),
        rms if config.boolean("use_qk_norm", True) else None,
        read_temperature(config),
        config.boolean("attention_bias", False),
    )
    return build_decoder(
        "llama4",
        sizes,
        format_of,
        context=context,
        norms=Norms(rms),
        attend=attend,
        feed=mixes(
            read_mixtures(config, sizes.layers),
            sizes.mlp,
            read_activation(config, "hidden_act", "silu"),
        ),
        tied=config.boolean("tie_word_embeddings", False),
    )


def attends_in_chunks(
    heads: Heads,
    rotations: tuple[Rotation | None, ...],
    chunks: tuple[int | None, ...],
    turned_norm: Norm | None,
    temperature: ScaleByPosition | None,
    bias: bool,
) -> Branch:
    """Attention of each layer within its chunks; None: over all."""

    def branch(b: Builder, layer: str, i: int, x: Value) -> Value:
        turn = rotations[i]
        return attention(
            b,
            layer,
            x,
            heads=heads,
            rotation=turn,
            scale=heads.dim**-0.5,
            window=chunks[i],
            chunked=chunks[i] is not None,
            qkv_bias=bias,
            output_bias=bias,
            turned_norm=None if turn is None else turned_norm,
            temperature=temperature if turn is None else None,
        )

    return branch


def read_turned(config: Fields, layers: int) -> tuple[bool, ...]:
    """Which layers turn q and k: `no_rope_layers` has a 1 for those that do."""
    if config.values.get("no_rope_layers"):  # an empty list says nothing
        return tuple(flag == 1 for flag in config.numbers("no_rope_layers", layers, 0, 1))
    interval = config.integer("no_rope_layer_interval", 1, MAX_LAYERS, DEFAULT_INTERVAL)
    return tuple((i + 1) % interval != 0 for i in range(layers))


def read_chunks(config: Fields, turned: tuple[bool, ...]) -> tuple[int | None, ...]:
    """Each layer's chunk."""
    chunk: int | None = DEFAULT_CHUNK
    if "attention_chunk_size" in config.values:
        chunk = config.optional_integer("attention_chunk_size", 1, MAX_POSITIONS)
    if not config.has("layer_types"):
        return tuple(chunk if turns else None for turns in turned)
    types = config.texts("layer_types", len(turned), (CHUNKED, FULL))
    if chunk is None and CHUNKED in types:
        config.refuse("layer_types", "attention_chunk_size is missing")
    return tuple(chunk if kind == CHUNKED else None for kind in types)


def read_temperature(config: Fields) -> ScaleByPosition | None:
    if not config.boolean("attn_temperature_tuning", True):
        return None
    period = config.integer("floor_scale", 1, MAX_POSITIONS, DEFAULT_PERIOD)
    return ScaleByPosition(
        float(period), config.number("attn_scale", 0.0, 1e3, DEFAULT_BETA), first=1
    )


def read_mixtures(config: Fields, layers: int) -> tuple[Mixture | None, ...]:
    """Each layer's mixture, None for a plain MLP."""
    mixture = read_mixture(
        config,
        experts="num_local_experts",
        hidden="intermediate_size",
        num_experts=16,
        top_k=1,
        scores="sigmoid",
        normalize=False,
    )
    mixture = replace(mixture, weigh_input=True, shared=mixture.hidden)
    if config.has("moe_layers"):
        mixed = config.integers("moe_layers", 0, layers - 1)
    else:
        step = config.integer("interleave_moe_layer_step", 1, MAX_LAYERS, 1)
        mixed = tuple(range(step - 1, layers, step))
    return tuple(mixture if i in mixed else None for i in range(layers))
