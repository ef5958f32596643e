"""Gemma 3n, text (Gemma team 2025): several residual streams of which a layer computes one (AltUp,
Baykal et al. 2023), a low-rank path beside attention (LAuReL, Menghani et al. 2024), embeddings for
every layer, MLPs whose gates keep their largest numbers, and last layers that attend to the keys
and values of earlier ones. Of Gemma3nForConditionalGeneration this is the language part; token ids
that only images and sounds have, from `vocab_size_per_layer_input` on, are refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

from ridgeline.model.architectures.blocks import (
    Heads,
    Stored,
    add,
    embed,
    head,
    linear,
    norm,
    scaled,
    width,
)
from ridgeline.model.architectures.decoder import (
    FULL,
    WINDOWED,
    Defaults,
    neutral,
    read_activation,
    read_layer_types,
    read_sizes,
    read_window,
    windows,
)
from ridgeline.model.architectures.fields import MAX_VOCAB, MAX_WIDTH, Fields
from ridgeline.model.architectures.rope_scaling import choose_context, read_rope, rotation
from ridgeline.model.graph.build import Builder, FormatOf
from ridgeline.model.graph.node import Graph, KvState, Value
from ridgeline.model.graph.ops import (
    Activate,
    Attention,
    Embed,
    GatedActivation,
    KeepLargest,
    KvWrite,
    Linear,
    MatchSize,
    Mix,
    Norm,
    Rope,
    Rotation,
    ScaleBy,
    Split,
)
from ridgeline.model.graph.ops.activation import Activation

DEFAULTS = Defaults(vocab=262400, heads=8, kv_heads=2, head_dim=256, positions=32768)
DEFAULT_WINDOW, DEFAULT_PERIOD, MAX_STREAMS = 512, 5, 8
DEFAULT_MLP, DEFAULT_SHARED, DEFAULT_SPARSE = 16384, 15, 10
HALF = math.sqrt(0.5)


@dataclass(frozen=True, slots=True)
class Streams:
    """count residual streams, of which layers compute `active`."""

    count: int
    active: int
    scale_active: bool


@dataclass(frozen=True, slots=True)
class Layer:
    """What layers differ in. state: whose keys and values it attends to; writes: its own."""

    mlp: int
    sparsity: float
    turn: Rotation
    state: KvState
    writes: bool


def build_gemma3n(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    if config.has("text_config"):
        config = config.section("text_config")
    mlps = config.integers("intermediate_size", 1, MAX_WIDTH) if is_list(config) else ()
    listed = replace(config, values={**config.values, "intermediate_size": max(mlps, default=0)})
    one = config.with_default("intermediate_size", DEFAULT_MLP)
    sizes = read_sizes(listed if mlps else one, DEFAULTS)
    if mlps and len(mlps) != sizes.layers:
        config.refuse("intermediate_size", f"one for each of {sizes.layers} layers is needed")
    config.require_neutral(neutral() | {"attention_bias": (False,)})
    types = read_layer_types(config, sizes.layers) or tuple(
        WINDOWED if (i + 1) % DEFAULT_PERIOD else FULL for i in range(sizes.layers)
    )
    ropes = {
        FULL: read_rope(
            config, sizes.heads.dim, sizes.positions, default_theta=1e6, layer_type=FULL
        ),
        WINDOWED: read_rope(
            config,
            sizes.heads.dim,
            sizes.positions,
            layer_type=WINDOWED,
            theta_name="rope_local_base_freq",
            scaling_name=None,
        ),
    }
    context = choose_context(ropes[FULL], context_length, config.where)
    turns = {kind: rotation(rope, context) for kind, rope in ropes.items()}
    shared = config.integer("num_kv_shared_layers", 0, sizes.layers, DEFAULT_SHARED)
    sources = kv_sources(config, types, sizes.layers - shared)
    layer_windows = windows(config, types, read_window(config, DEFAULT_WINDOW))
    heads, sparsity = sizes.heads, read_sparsity(config, sizes.layers)
    layers = tuple(
        Layer(
            mlps[i] if mlps else sizes.mlp,
            sparsity[i],
            turns[types[i]],
            KvState(f"layers.{source}.kv", heads.kv, heads.dim, heads.dim, layer_windows[source]),
            source == i,
        )
        for i, source in enumerate(sources)
    )
    streams = read_streams(config)
    rank = config.integer("laurel_rank", 1, MAX_WIDTH, 64)
    by_layer = config.integer("hidden_size_per_layer_input", 1, MAX_WIDTH, 256)
    ids = config.integer("vocab_size_per_layer_input", 1, MAX_VOCAB, 262144)
    activation = read_activation(config, "hidden_activation", "gelu_pytorch_tanh")

    b = Builder("gemma3n", format_of)
    rms = Norm("rms", sizes.eps)
    x, table = embed(b, sizes.vocab, sizes.width, scale=math.sqrt(sizes.width))
    given = layer_inputs(b, x, ids, by_layer, sizes.layers, rms)
    others = [linear(b, f"streams.{i}.make", x, sizes.width) for i in range(streams.count - 1)]
    state = [x]
    state += [b.one(f"streams.{i}.made", MatchSize(), y, x) for i, y in enumerate(others)]
    for i, layer in enumerate(layers):
        state = add_layer(
            b, f"layers.{i}", state, given[i], layer, streams, heads, rank, activation, rms
        )
    first, *rest = state
    total = first
    for i, y in enumerate(rest):
        y = linear(b, f"streams.{i}.unmake", y, sizes.width)
        y = b.one(f"streams.{i}.unmade", MatchSize(), y, first)
        total = add(b, f"streams.{i}.sum", total, y)
    x = scaled(b, "streams.mean", total, 1.0 / streams.count)
    tied = table if config.boolean("tie_word_embeddings", True) else None
    softcap = config.number("final_logit_softcapping", 1e-6, 1e6, 30.0)
    return b.finish(head(b, x, sizes.vocab, rms, tied=tied, softcap=softcap), context)


def is_list(config: Fields) -> bool:
    return isinstance(config.values.get("intermediate_size"), list | tuple)


def kv_sources(config: Fields, types: Sequence[str], own: int) -> tuple[int, ...]:
    """Of each layer the one whose keys and values it attends to: from `own` on, the last of its
    kind before.
    """
    found = []
    for i, kind in enumerate(types):
        source = i if i < own else max((j for j in range(own) if types[j] == kind), default=-1)
        if source < 0:
            config.refuse("num_kv_shared_layers", f"leaves no layer with {kind} of its own")
        found.append(source)
    return tuple(found)


def read_sparsity(config: Fields, layers: int) -> tuple[float, ...]:
    """Of each layer the part of its gates that is to be zero."""
    if not config.has("activation_sparsity_pattern"):
        sparse = DEFAULT_SPARSE if layers > DEFAULT_SPARSE else 0
        return (0.95,) * sparse + (0.0,) * (layers - sparse)
    return config.numbers("activation_sparsity_pattern", layers, 0.0, 0.9999)


def read_streams(config: Fields) -> Streams:
    count = config.integer("altup_num_inputs", 2, MAX_STREAMS, 4)
    return Streams(
        count,
        config.integer("altup_active_idx", 0, count - 1, 0),
        config.boolean("altup_correct_scale", True),
    )


def layer_inputs(
    b: Builder, x: Value, ids: int, size: int, layers: int, rms: Norm
) -> tuple[Value, ...]:
    """For each layer `size` numbers of a token: an embedding's, and what the model's own makes."""
    table = b.weight("by_layer.embed.weight", ids, layers * size)
    embedded = b.one("by_layer.embed", Embed(math.sqrt(size)), b.token_ids, weights=(table,))
    y = linear(b, "by_layer.project", x, layers * size)
    y = scaled(b, "by_layer.project_scale", y, width(x) ** -0.5)
    y = norm(b, "by_layer.norm", y, replace(rms, num_groups=layers))
    y = scaled(b, "by_layer.scale", add(b, "by_layer.add", y, embedded), HALF)
    return b.add("by_layer.split", Split((size,) * layers), y)


def add_layer(
    b: Builder,
    name: str,
    state: Sequence[Value],
    given: Value,
    layer: Layer,
    streams: Streams,
    heads: Heads,
    rank: int,
    activation: Activation,
    rms: Norm,
) -> list[Value]:
    """The streams after a layer: predicted from each other, one computed, the others corrected by
    how far the prediction of that one was off.
    """
    count, wide = streams.count, width(state[0])
    numbers = router(b, name, "predict", state[streams.active], count, count * count, rms)
    mixed = b.add(f"{name}.altup.mix", Mix(count, count), *state, numbers)
    predicted = [
        add(b, f"{name}.altup.predicted.{i}", y, x)
        for i, (x, y) in enumerate(zip(state, mixed, strict=True))
    ]
    x = predicted[streams.active]
    y = norm(b, f"{name}.attn_norm", x, rms)
    low = linear(b, f"{name}.laurel.left", y, rank)
    low = norm(b, f"{name}.laurel.norm", linear(b, f"{name}.laurel.right", low, wide), rms)
    low = add(b, f"{name}.laurel.add", y, low)
    y = norm(b, f"{name}.attn_post_norm", attend(b, name, y, layer, heads, rms), rms)
    y = add(b, f"{name}.laurel_add", add(b, f"{name}.attn_add", x, y), low)
    both = scaled(b, f"{name}.laurel_scale", y, HALF)
    y = feed(b, name, norm(b, f"{name}.mlp_norm", both, rms), layer, activation)
    done = add(b, f"{name}.mlp_add", both, norm(b, f"{name}.mlp_post_norm", y, rms))

    numbers = router(b, name, "correct", done, count, count, rms)
    off = add(b, f"{name}.altup.off", done, scaled(b, f"{name}.altup.less", x, -1.0))
    moved = b.add(f"{name}.altup.move", Mix(1, count, offset=1.0), off, numbers)
    after = [
        add(b, f"{name}.altup.corrected.{i}", y, x)
        for i, (x, y) in enumerate(zip(predicted, moved, strict=True))
    ]
    y = after[streams.active]
    if streams.scale_active:
        scale = b.weight(f"{name}.altup.scale.weight", wide)
        y = b.one(f"{name}.altup.scale", ScaleBy(by_channel=True), y, weights=(scale,))
    y = linear(b, f"{name}.by_layer.gate", y, width(given))
    y = b.one(f"{name}.by_layer.act", GatedActivation(activation), y, given)
    y = linear(b, f"{name}.by_layer.project", y, wide)
    y = norm(b, f"{name}.by_layer.norm", y, rms)
    added = [add(b, f"{name}.by_layer.add.{i}", x, y) for i, x in enumerate(after[1:], 1)]
    return [after[0], *added]


def router(
    b: Builder, name: str, part: str, x: Value, count: int, numbers: int, rms: Norm
) -> Value:
    """The numbers that streams are mixed by: predicting and correcting share norm and router."""
    at, wide = f"{name}.altup", width(x)
    weight = b.weight(f"{at}.router_norm.weight", wide)
    y = b.one(f"{at}.{part}_norm", rms, x, weights=(weight,))
    y = scaled(b, f"{at}.{part}_scale", y, 1.0 / wide)
    matrix = b.weight(f"{at}.router.weight", count, wide)
    y = b.one(f"{at}.{part}_router", Linear(), y, weights=(matrix,))
    y = b.one(f"{at}.{part}_tanh", Activate("tanh"), y)
    return linear(b, f"{at}.{part}", y, numbers)


def attend(b: Builder, name: str, x: Value, layer: Layer, heads: Heads, rms: Norm) -> Value:
    """Attention whose keys, values and queries are normed by head, scores not scaled."""
    at = f"{name}.attn"
    q = linear(b, f"{at}.q", x, heads.query * heads.dim, split="heads")
    if layer.writes:
        by_kv_head = replace(rms, num_groups=heads.kv)
        k = linear(b, f"{at}.k", x, heads.kv * heads.dim, split="kv_heads")
        v = linear(b, f"{at}.v", x, heads.kv * heads.dim, split="kv_heads")
        k = norm(b, f"{at}.k_norm", k, by_kv_head)
        k = b.one(f"{at}.k_rope", Rope(heads.kv, heads.dim, layer.turn), k)
        v = norm(b, f"{at}.v_norm", v, by_kv_head, weight=False)
        b.add(f"{at}.kv_write", KvWrite(), k, v, state=layer.state)
    q = norm(b, f"{at}.q_norm", q, replace(rms, num_groups=heads.query))
    q = b.one(f"{at}.q_rope", Rope(heads.query, heads.dim, layer.turn), q)
    op = Attention(heads.query, heads.dim, heads.dim, 1.0)
    y = b.one(f"{at}.attend", op, q, state=layer.state)
    return linear(b, f"{at}.o", y, width(x), split_inputs="heads")


def feed(b: Builder, name: str, x: Value, layer: Layer, activation: Activation) -> Value:
    at = f"{name}.mlp"
    gate = linear(b, f"{at}.gate", x, layer.mlp, split="ffn")
    up = linear(b, f"{at}.up", x, layer.mlp, split="ffn")
    if layer.sparsity:
        z = NormalDist().inv_cdf(layer.sparsity)
        gate = b.one(f"{at}.keep", KeepLargest(z), gate)
    y = b.one(f"{at}.act", GatedActivation(activation), gate, up)
    return linear(b, f"{at}.down", y, width(x), split_inputs="ffn")
