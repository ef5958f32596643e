"""MiMo-V2-Flash (Xiaomi 2026): windows in five layers of six, whose heads have sinks and more keys
and values; values of fewer channels than keys; DeepSeek V3's experts, none of them shared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ridgeline.model.architectures.blocks import Heads, Stored, linear, scaled, width
from ridgeline.model.architectures.decoder import (
    FULL,
    WINDOWED,
    Defaults,
    neutral,
    read_activation,
    read_layer_types,
    read_sizes,
)
from ridgeline.model.architectures.fields import (
    MAX_HEAD_DIM,
    MAX_HEADS,
    MAX_POSITIONS,
    Fields,
)
from ridgeline.model.architectures.mixture import GROUPED, mixes, read_grouped
from ridgeline.model.architectures.rope_scaling import choose_context, read_rope, rotation
from ridgeline.model.architectures.stack import Branch, Norms, build_decoder
from ridgeline.model.graph.build import Builder, FormatOf
from ridgeline.model.graph.node import Graph, KvState, Value
from ridgeline.model.graph.ops import Attention, KvWrite, Norm, Rope, Rotation

MIMO = Defaults(vocab=152576, heads=64, kv_heads=4, head_dim=192, positions=131072, eps=1e-5)
DEFAULT_PARTIAL, DEFAULT_WINDOW, PERIOD = 0.334, 129, 6
THETA = {FULL: 5e6, WINDOWED: 1e4}


@dataclass(frozen=True, slots=True)
class Kind:
    """How one kind of layer attends."""

    heads: Heads
    turn: Rotation
    window: int | None


def build_mimo_v2(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    config = config.renamed({"rms_norm_eps": "layernorm_epsilon"})
    sizes = read_sizes(config, MIMO)
    query, dim = sizes.heads.query, sizes.heads.dim
    value_dim = config.integer("v_head_dim", 1, MAX_HEAD_DIM, 128)
    config.require_neutral(
        neutral(*GROUPED)
        | {
            # Published as the window's size once more; nothing is attended to in chunks.
            "attention_chunk_size": tuple(
                config.values[name]
                for name in ("sliding_window_size", "sliding_window")
                if name in config.values
            ),
            "mlp_bias": (False,),
            "n_shared_experts": (0,),
            "topk_method": ("noaux_tc",),
            "swa_num_attention_heads": (query,),
            "swa_head_dim": (dim,),
            "swa_v_head_dim": (value_dim,),
            "add_swa_attention_sink_bias": (True,),
            "add_full_attention_sink_bias": (False,),
        }
    )
    kv = config.integer("swa_num_key_value_heads", 1, MAX_HEADS, 2 * sizes.heads.kv)
    if query % kv:
        config.refuse("swa_num_key_value_heads", f"does not divide num_attention_heads = {query}")
    ropes = {
        kind: read_rope(
            config,
            dim,
            sizes.positions,
            default_theta=THETA[kind],
            layer_type=kind,
            theta_name="rope_theta" if kind == FULL else "swa_rope_theta",
            partial=True,
            default_partial=DEFAULT_PARTIAL,
        )
        for kind in (FULL, WINDOWED)
    }
    context = choose_context(ropes[FULL], context_length, config.where)
    turns = {kind: rotation(rope, context) for kind, rope in ropes.items()}
    full = Kind(sizes.heads, turns[FULL], None)
    windowed = Kind(Heads(query, kv, dim), turns[WINDOWED], read_reach(config))
    types = read_types(config, sizes.layers)
    return build_decoder(
        "mimo_v2_flash",
        sizes,
        format_of,
        context=context,
        norms=Norms(Norm("rms", sizes.eps)),
        attend=attends_in_kinds(
            [windowed if kind == WINDOWED else full for kind in types],
            value_dim,
            config.number("attention_value_scale", 1e-6, 1e6, 1.0)
            if "attention_value_scale" in config.values
            else 0.707,
            config.boolean("attention_bias", False),
        ),
        feed=mixes(
            read_grouped(
                mlp_types(config, sizes.layers),
                sizes.layers,
                top_k=8,
                experts=256,
                hidden=2048,
                shared=0,
                dense=1,
            ),
            sizes.mlp,
            read_activation(config, "hidden_act", "silu"),
        ),
        tied=config.boolean("tie_word_embeddings", False),
    )


def read_reach(config: Fields) -> int:
    """Positions that a window reaches back, itself included."""
    if config.has("sliding_window_size"):  # itself not included
        return config.integer("sliding_window_size", 1, MAX_POSITIONS) + 1
    return config.integer("sliding_window", 1, MAX_POSITIONS, DEFAULT_WINDOW)


def read_types(config: Fields, layers: int) -> tuple[str, ...]:
    """Which layers have windows: `layer_types`, or as published `hybrid_layer_pattern`."""
    listed = read_layer_types(config, layers)
    if listed is None and config.has("hybrid_layer_pattern"):
        flags = read_flags(config, "hybrid_layer_pattern", layers)
        return tuple(WINDOWED if flag else FULL for flag in flags)
    return listed or tuple(
        FULL if i == 0 or (i + 1) % PERIOD == 0 else WINDOWED for i in range(layers)
    )


def mlp_types(config: Fields, layers: int) -> Fields:
    """The same with `mlp_layer_types`, published as a list `moe_layer_freq`."""
    values = {key: value for key, value in config.values.items() if key != "moe_layer_freq"}
    if config.has("moe_layer_freq") and not config.has("mlp_layer_types"):
        flags = read_flags(config, "moe_layer_freq", layers)
        values["mlp_layer_types"] = ["sparse" if flag else "dense" for flag in flags]
    return replace(config, values=values)


def read_flags(config: Fields, name: str, layers: int) -> tuple[float, ...]:
    flags = config.numbers(name, layers, 0, 1)
    if set(flags) - {0, 1}:
        config.refuse(name, "0 or 1 for each layer is needed")
    return flags


def attends_in_kinds(
    kinds: Sequence[Kind], value_dim: int, value_scale: float, bias: bool
) -> Branch:
    """Attention, each layer of its kind; values count value_scale times as much. Layers with a
    window have sinks.
    """

    def branch(b: Builder, layer: str, i: int, x: Value) -> Value:
        name, kind = f"{layer}.attn", kinds[i]
        heads, sinks = kind.heads, kind.window is not None
        q = linear(b, f"{name}.q", x, heads.query * heads.dim, bias=bias, split="heads")
        k = linear(b, f"{name}.k", x, heads.kv * heads.dim, bias=bias, split="kv_heads")
        v = linear(b, f"{name}.v", x, heads.kv * value_dim, bias=bias, split="kv_heads")
        q = b.one(f"{name}.q_rope", Rope(heads.query, heads.dim, kind.turn), q)
        k = b.one(f"{name}.k_rope", Rope(heads.kv, heads.dim, kind.turn), k)
        state = KvState(f"{layer}.kv", heads.kv, heads.dim, value_dim, kind.window)
        b.add(f"{name}.kv_write", KvWrite(), k, v, state=state)
        op = Attention(heads.query, heads.dim, value_dim, heads.dim**-0.5, sinks=sinks)
        scores = (b.weight(f"{name}.sinks.weight", heads.query, axes=("heads",)),) if sinks else ()
        y = b.one(f"{name}.attend", op, q, weights=scores, state=state)
        y = scaled(b, f"{name}.value_scale", y, value_scale)
        return linear(b, f"{name}.o", y, width(x), split_inputs="heads")

    return branch
