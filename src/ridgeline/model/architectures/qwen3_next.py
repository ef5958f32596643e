"""Qwen3-Next and Qwen3.5, text (Qwen team 2025, 2026): Gated DeltaNet with gated attention in every
fourth layer, an MLP or a mixture with a shared expert, and norms with weights 1 + w.

Of Qwen3_5ForConditionalGeneration this is the language part (`text_config`); text has the same
position in each of mrope's sections, which is plain rotation.
"""

from __future__ import annotations

from dataclasses import replace

from ridgeline.model.architectures.blocks import Heads, Stored, linear, norm, width
from ridgeline.model.architectures.decoder import (
    NEUTRAL,
    Defaults,
    Sizes,
    neutral,
    read_activation,
    read_sizes,
)
from ridgeline.model.architectures.fields import (
    MAX_HEAD_DIM,
    MAX_HEADS,
    MAX_LAYERS,
    MAX_WIDTH,
    Fields,
)
from ridgeline.model.architectures.hybrid import ATTENDING, RECURRENT, by_kind, read_kinds
from ridgeline.model.architectures.mixture import Mixture, mixes, read_mixture
from ridgeline.model.architectures.qwen_moe import read_layers
from ridgeline.model.architectures.recurrent import DeltaSizes, delta_net
from ridgeline.model.architectures.rope_scaling import choose_context, read_rope, rotation
from ridgeline.model.architectures.stack import (
    Assemble,
    Branch,
    Norms,
    build_decoder,
    feeds,
)
from ridgeline.model.graph.build import Builder, FormatOf
from ridgeline.model.graph.node import Graph, KvState, Value
from ridgeline.model.graph.ops import (
    Attention,
    GatedActivation,
    KvWrite,
    Norm,
    Rope,
    Rotation,
    SplitGroups,
)
from ridgeline.model.graph.ops.causal_conv import MAX_TAPS

QWEN3_NEXT = Defaults(vocab=151936, heads=16, kv_heads=2, head_dim=256, positions=32768)
QWEN3_5 = Defaults(vocab=248320, heads=16, kv_heads=4, head_dim=256, positions=32768)
QWEN3_5_MOE = replace(QWEN3_5, kv_heads=2)
ROTATED_SHARE = 0.25


def build_qwen3_next(
    config: Fields,
    format_of: FormatOf,
    stored: Stored,
    context_length: int | None,
    assemble: Assemble = build_decoder,
    joint: bool = True,
) -> Graph:
    """joint: as Hugging Face has it; in GGUF only the gates are one weight."""
    sizes = read_sizes(config, QWEN3_NEXT)
    config.require_neutral(neutral("num_experts") | {"use_sliding_window": (False,)})
    mixture = read_shared_mixture(
        config,
        num_experts=512,
        top_k=10,
        normalize=config.boolean("norm_topk_prob", True),
    )
    feed = mixes(
        read_layers(config, sizes.layers, mixture),
        sizes.mlp,
        read_activation(config, "hidden_act", "silu"),
    )
    tied = config.boolean("tie_word_embeddings", False)
    return build_delta(
        "qwen3_next",
        config,
        sizes,
        format_of,
        stored,
        context_length,
        feed,
        tied,
        assemble,
        joint=joint,
        joint_gates=True,
    )


def build_gguf_qwen3_next(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    return build_qwen3_next(config, format_of, stored, context_length, joint=False)


def build_qwen3_5(
    config: Fields,
    format_of: FormatOf,
    stored: Stored,
    context_length: int | None,
    assemble: Assemble = build_decoder,
) -> Graph:
    config, tied = text_of(config)
    sizes = read_sizes(config, QWEN3_5)
    config.require_neutral(NEUTRAL | {"attn_output_gate": (True,)})
    feed = feeds(sizes.mlp, read_activation(config, "hidden_act", "silu"))
    return build_delta(
        "qwen3_5", config, sizes, format_of, stored, context_length, feed, tied, assemble
    )


def build_qwen3_5_moe(
    config: Fields,
    format_of: FormatOf,
    stored: Stored,
    context_length: int | None,
    assemble: Assemble = build_decoder,
) -> Graph:
    config, tied = text_of(config)
    # No layer is without experts: the field may be left out.
    sizes = read_sizes(config.with_default("intermediate_size", 1), QWEN3_5_MOE)
    config.require_neutral(
        neutral("num_experts") | {"attn_output_gate": (True,), "mlp_only_layers": ([],)}
    )
    mixture = read_shared_mixture(config, num_experts=256, top_k=8, normalize=True)
    activation = read_activation(config, "hidden_act", "silu")
    feed = mixes((mixture,) * sizes.layers, sizes.mlp, activation)
    return build_delta(
        "qwen3_5_moe", config, sizes, format_of, stored, context_length, feed, tied, assemble
    )


def build_delta(
    name: str,
    config: Fields,
    sizes: Sizes,
    format_of: FormatOf,
    stored: Stored,
    context_length: int | None,
    feed: Branch,
    tied: bool,
    assemble: Assemble,
    *,
    joint: bool = False,
    joint_gates: bool = False,
) -> Graph:
    """joint, joint_gates: see `recurrent.delta_net`."""
    rope = read_rope(
        config,
        sizes.heads.dim,
        sizes.positions,
        partial=True,
        default_partial=ROTATED_SHARE,
    )
    context = choose_context(rope, context_length, config.where)
    rms = Norm("rms", sizes.eps, offset=0.0 if stored.norm_has_one else 1.0)
    delta = read_delta_sizes(config)

    def recur(b: Builder, layer: str, i: int, x: Value) -> Value:
        return delta_net(
            *(b, layer, x, delta),
            norm_eps=sizes.eps,
            log_a=not stored.plain_decay,
            joint=joint,
            joint_gates=joint_gates,
            tiled=stored.tiled_values,
        )

    attend = attends_gated(
        sizes.heads,
        rotation(rope, context, interleaved=stored.interleaved_rope),
        head_norm=rms,
        bias=config.boolean("attention_bias", False),
    )
    kinds = read_period(config, sizes.layers)
    return assemble(
        name,
        sizes,
        format_of,
        context=context,
        norms=Norms(rms),
        attend=by_kind(kinds, {ATTENDING: attend, RECURRENT: recur}),
        feed=feed,
        tied=tied,
    )


def text_of(config: Fields) -> tuple[Fields, bool]:
    """The language part's fields, and whether the embedding is the output matrix."""
    tied = config.boolean("tie_word_embeddings", False)
    if config.has("text_config"):
        config = config.section("text_config")
        tied = config.boolean("tie_word_embeddings", tied)
    return config, tied


def read_shared_mixture(
    config: Fields, *, num_experts: int, top_k: int, normalize: bool
) -> Mixture:
    """Experts, and one that all tokens share, weighed by a gate."""
    mixture = read_mixture(
        config,
        experts="num_experts",
        hidden="moe_intermediate_size",
        num_experts=num_experts,
        default_hidden=512,
        top_k=top_k,
        normalize=normalize,
    )
    shared = config.integer("shared_expert_intermediate_size", 1, MAX_WIDTH, 512)
    return replace(mixture, shared=shared, shared_gate=True)


def attends_gated(heads: Heads, turn: Rotation, *, head_norm: Norm, bias: bool) -> Branch:
    """Self-attention whose output is multiplied by the sigmoid of a gate, which is stored with each
    query head.
    """

    def branch(b: Builder, layer: str, i: int, x: Value) -> Value:
        name, kv_width = f"{layer}.attn", heads.kv * heads.dim
        both = linear(b, f"{name}.q", x, 2 * heads.query * heads.dim, bias=bias, split="heads")
        parted = SplitGroups(heads.query, (heads.dim, heads.dim))
        q, gate = b.add(f"{name}.q.split", parted, both)
        k = linear(b, f"{name}.k", x, kv_width, bias=bias, split="kv_heads")
        v = linear(b, f"{name}.v", x, kv_width, bias=bias, split="kv_heads")
        q = norm(b, f"{name}.q_norm", q, replace(head_norm, num_groups=heads.query))
        k = norm(b, f"{name}.k_norm", k, replace(head_norm, num_groups=heads.kv))
        q = b.one(f"{name}.q_rope", Rope(heads.query, heads.dim, turn), q)
        k = b.one(f"{name}.k_rope", Rope(heads.kv, heads.dim, turn), k)
        state = KvState(f"{layer}.kv", heads.kv, heads.dim, heads.dim)
        b.add(f"{name}.kv_write", KvWrite(), k, v, state=state)
        op = Attention(heads.query, heads.dim, heads.dim, heads.dim**-0.5)
        y = b.one(f"{name}.attend", op, q, state=state)
        y = b.one(f"{name}.gate", GatedActivation("sigmoid"), gate, y)
        return linear(b, f"{name}.o", y, width(x), bias=bias, split_inputs="heads")

    return branch


def read_period(config: Fields, layers: int) -> tuple[str, ...]:
    """Each layer's kind: listed, or attention once in every so many."""
    period = config.integer("full_attention_interval", 1, MAX_LAYERS, 4)
    return read_kinds(config, "layer_types", layers) or tuple(
        RECURRENT if (i + 1) % period else ATTENDING for i in range(layers)
    )


def read_delta_sizes(config: Fields) -> DeltaSizes:
    sizes = DeltaSizes(
        key_heads=config.integer("linear_num_key_heads", 1, MAX_HEADS, 16),
        value_heads=config.integer("linear_num_value_heads", 1, MAX_HEADS, 32),
        key_dim=config.integer("linear_key_head_dim", 1, MAX_HEAD_DIM, 128),
        value_dim=config.integer("linear_value_head_dim", 1, MAX_HEAD_DIM, 128),
        taps=config.integer("linear_conv_kernel_dim", 2, MAX_TAPS, 4),
    )
    if sizes.value_heads % sizes.key_heads:
        config.refuse(
            "linear_num_key_heads", f"does not divide linear_num_value_heads = {sizes.value_heads}"
        )
    return sizes
