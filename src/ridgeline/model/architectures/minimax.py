"""MiniMax-Text-01 (MiniMax 2025): lightning attention, softmax attention in every eighth layer,
experts in each; the residual stream is what the norms give, and both are weighed when added.

Named MiniMaxText01 as published and MiniMax as transformers has it; the fields differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ridgeline.model.architectures.blocks import Stored, add, embed, head, norm, scaled
from ridgeline.model.architectures.decoder import (
    Defaults,
    neutral,
    read_activation,
    read_sizes,
    read_window,
)
from ridgeline.model.architectures.fields import MAX_POSITIONS, Fields
from ridgeline.model.architectures.hybrid import ATTENDING, RECURRENT, by_kind, read_kinds
from ridgeline.model.architectures.mixture import mixes, read_mixture
from ridgeline.model.architectures.recurrent import lightning
from ridgeline.model.architectures.rope_scaling import choose_context, read_rope, rotation
from ridgeline.model.architectures.stack import attends
from ridgeline.model.graph.build import Builder, FormatOf
from ridgeline.model.graph.node import Graph, Value
from ridgeline.model.graph.ops import Norm

DEFAULTS = Defaults(vocab=32000, heads=32, kv_heads=8, positions=4096 * 32, eps=1e-5)
LIGHTNING_EPS = 1e-6  # of the norm behind lightning attention; in no file
# Published names of fields -> transformers'.
RENAMED = {
    f"{ours}_{factor}_factor": f"layernorm_{theirs}_{factor}"
    for ours, theirs in (
        ("full_attn", "full_attention"),
        ("linear_attn", "linear_attention"),
        ("mlp", "mlp"),
    )
    for factor in ("alpha", "beta")
}
NEUTRAL: dict[str, tuple[object, ...]] = {
    "postnorm": (True,),
    "shared_intermediate_size": (0,),
    "attention_bias": (False,),
    "mlp_bias": (False,),
}


@dataclass(frozen=True, slots=True)
class Factors:
    """Of the stream and of what a branch adds to it."""

    stream: float
    branch: float


def build_minimax(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    config = config.renamed(RENAMED)
    sizes = read_sizes(config, DEFAULTS)
    config.require_neutral(neutral("num_local_experts") | NEUTRAL)
    turned = config.integer("rotary_dim", 2, sizes.heads.dim, sizes.heads.dim)
    rope = read_rope(
        config,
        sizes.heads.dim,
        sizes.positions,
        default_theta=1e6,
        partial=True,
        default_partial=turned / sizes.heads.dim,
    )
    context = choose_context(rope, context_length, config.where)
    config.integer("block_size", 1, MAX_POSITIONS, 256)  # of the published kernel: no number of it
    kinds = read_layers(config, sizes.layers)
    activation = read_activation(config, "hidden_act", "silu")

    def recur(b: Builder, layer: str, i: int, x: Value) -> Value:
        return lightning(
            b,
            layer,
            x,
            heads=sizes.heads.query,
            head_dim=sizes.heads.dim,
            rates=decay_rates(sizes.heads.query, i, sizes.layers),
            activation=activation,
            norm_eps=LIGHTNING_EPS,
        )

    attend = attends(
        sizes.heads,
        (rotation(rope, context, interleaved=stored.interleaved_rope),) * sizes.layers,
        (read_window(config),) * sizes.layers,
    )
    mixture = read_mixture(
        config, experts="num_local_experts", hidden="intermediate_size", num_experts=8, top_k=2
    )
    factors = {
        part: Factors(
            *(config.number(f"{part}_{f}_factor", -1e6, 1e6, 1.0) for f in ("alpha", "beta"))
        )
        for part in ("full_attn", "linear_attn", "mlp")
    }
    branches = (
        ("attn", by_kind(kinds, {ATTENDING: attend, RECURRENT: recur})),
        ("mlp", mixes((mixture,) * sizes.layers, sizes.mlp, activation)),
    )
    of_kind: Mapping[str, Factors] = {
        ATTENDING: factors["full_attn"],
        RECURRENT: factors["linear_attn"],
    }
    b, rms = Builder("minimax", format_of), Norm("rms", sizes.eps)
    x, table = embed(b, sizes.vocab, sizes.width)
    for i, kind in enumerate(kinds):
        layer = f"layers.{i}"
        for part, branch in branches:
            x = norm(b, f"{layer}.{part}_norm", x, rms)
            y = branch(b, layer, i, x)
            factor = of_kind[kind] if part == "attn" else factors["mlp"]
            x = scaled(b, f"{layer}.{part}_stream", x, factor.stream)
            y = scaled(b, f"{layer}.{part}_scale", y, factor.branch)
            x = add(b, f"{layer}.{part}_add", x, y)
    tied = config.boolean("tie_word_embeddings", False)
    logits = head(b, x, sizes.vocab, rms, tied=table if tied else None)
    return b.finish(logits, context)


def read_layers(config: Fields, layers: int) -> tuple[str, ...]:
    """Each layer's kind: `layer_types`, or as published a list of 0 (lightning) and 1."""
    kinds = read_kinds(config, "layer_types", layers)
    if config.has("attn_type_list"):
        listed = config.integers("attn_type_list", 0, max(layers, 2) - 1)
        if len(listed) != layers or set(listed) - {0, 1}:
            config.refuse("attn_type_list", f"a list of {layers} of 0 and 1 is needed")
        kinds = tuple((RECURRENT, ATTENDING)[kind] for kind in listed)
    return kinds or tuple((ATTENDING, RECURRENT)[i % 2] for i in range(layers))


def decay_rates(heads: int, layer: int, layers: int) -> tuple[float, ...]:
    """Of each head: ALiBi's slopes (Press et al. 2022), less in later layers."""
    factor = 1 - layer / (layers - 1 + 1e-5) + 1e-5
    return tuple(2.0 ** (-8 * (head + 1) / heads) * factor for head in range(heads))
