"""RWKV-7 "Goose" (Peng et al. 2025), as its Hugging Face conversions write it: no attention, but a
matrix of state a head, which a delta rule with vectors of decays and rates changes.

There is no model of it in transformers: what it computes is held to the authors' own package.
"""

from __future__ import annotations

from dataclasses import dataclass

from ridgeline.model.architectures.blocks import (
    Stored,
    add,
    embed,
    head,
    linear,
    norm,
    scaled,
    width,
)
from ridgeline.model.architectures.decoder import neutral
from ridgeline.model.architectures.fields import (
    MAX_HEAD_DIM,
    MAX_LAYERS,
    MAX_POSITIONS,
    MAX_VOCAB,
    MAX_WIDTH,
    Fields,
)
from ridgeline.model.architectures.hybrid import context_of
from ridgeline.model.graph.build import Builder, FormatOf
from ridgeline.model.graph.node import Graph, RowState, Value
from ridgeline.model.graph.ops import Activate, GatedActivation, Norm, TokenShift, Wkv7
from ridgeline.model.graph.ops.activation import Activation

MIXED = ("r", "w", "k", "v", "a", "g")


@dataclass(frozen=True, slots=True)
class Ranks:
    """Channels that decays, rates, shares of the first layer's values, and gates go through."""

    decay: int
    rate: int
    value: int
    gate: int


def build_rwkv7(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    wide = config.integer("hidden_size", 1, MAX_WIDTH)
    layers = config.integer("num_hidden_layers", 1, MAX_LAYERS)
    head_dim = config.integer("head_dim", 1, MAX_HEAD_DIM, 64)
    if wide % head_dim:
        config.refuse("head_dim", f"does not divide hidden_size = {wide}")
    config.require_neutral(
        neutral()
        | {
            "attn": (),
            "norm_first": (True,),
            "hidden_act": ("sqrelu", "relu2"),
            "num_heads": (wide // head_dim,),
            "value_dim": (wide, [wide] * layers),
        }
    )
    bias = config.boolean("norm_bias", True)
    eps = config.number("norm_eps", 0.0, 1.0, 1e-5)
    hidden = config.optional_integer("intermediate_size", 1, MAX_WIDTH)
    if hidden is None:
        hidden = -(-int(wide * config.number("hidden_ratio", 0.01, 64.0, 4.0)) // 32) * 32
    ranks = Ranks(
        *(
            config.integer(f"{name}_low_rank_dim", 1, MAX_WIDTH)
            for name in ("decay", "a", "v", "gate")
        )
    )
    vocab = config.integer("vocab_size", 1, MAX_VOCAB)
    positions = config.integer("max_position_embeddings", 1, MAX_POSITIONS, 2048)
    op = Norm("layer", eps)

    b = Builder("rwkv7", format_of)
    x, table = embed(b, vocab, wide)
    x = norm(b, "layers.0.first_norm", x, op, bias=bias)
    first: Value | None = None
    for i in range(layers):
        layer = f"layers.{i}"
        y = norm(b, f"{layer}.attn_norm", x, op, bias=bias)
        y, first = mix_times(b, layer, y, first, wide // head_dim, ranks, eps)
        x = add(b, f"{layer}.attn_add", x, y)
        y = norm(b, f"{layer}.mlp_norm", x, op, bias=bias)
        x = add(b, f"{layer}.mlp_add", x, mix_channels(b, layer, y, hidden))
    tied = table if config.boolean("tie_word_embeddings", False) else None
    logits = head(b, x, vocab, op, tied=tied, norm_bias=bias)
    return b.finish(logits, context_of(config, positions, context_length))


def mix_times(
    b: Builder,
    layer: str,
    x: Value,
    first: Value | None,
    heads: int,
    ranks: Ranks,
    eps: float,
) -> tuple[Value, Value]:
    """Time mixing, and the first layer's values; first None: this is the first layer."""
    name, wide = f"{layer}.time", width(x)
    shifted = shift(b, name, x, MIXED)
    r, k, v = (linear(b, f"{name}.{part}", shifted[part], wide) for part in "rkv")
    w = through(b, f"{name}.decay", shifted["w"], ranks.decay, wide, "tanh")
    a = through(b, f"{name}.rate", shifted["a"], ranks.rate, wide)
    gate = through(b, f"{name}.gate", shifted["g"], ranks.gate, wide, "sigmoid", bias=False)
    if first is None:
        first = v
    else:
        share = through(b, f"{name}.value", shifted["v"], ranks.value, wide)
        off = add(b, f"{name}.value_off", first, scaled(b, f"{name}.value_less", v, -1.0))
        off = b.one(f"{name}.value_share", GatedActivation("sigmoid"), share, off)
        v = add(b, f"{name}.value_add", v, off)
    y, own = b.add(
        f"{name}.rule",
        Wkv7(heads),
        *(r, w, k, v, a),
        weights=tuple(b.weight(f"{name}.{part}", wide) for part in ("k_k", "k_a", "r_k")),
        state=RowState(f"{name}.state", heads, (wide // heads) ** 2),
    )
    # As large as a head's numbers are: published for heads of 64, with 64e-5.
    by_head = Norm("layer", wide // heads * eps, num_groups=heads, by_group=True)
    norms = tuple(b.weight(f"{name}.norm.{leaf}", wide) for leaf in ("weight", "bias"))
    y = b.one(f"{name}.norm", by_head, y, weights=norms)
    y = add(b, f"{name}.own", y, own)
    y = b.one(f"{name}.gated", GatedActivation("identity"), gate, y)
    return linear(b, f"{name}.out", y, wide), first


def mix_channels(b: Builder, layer: str, x: Value, hidden: int) -> Value:
    name = f"{layer}.mlp"
    y = linear(b, f"{name}.up", shift(b, name, x, ("k",))["k"], hidden)
    y = b.one(f"{name}.act", Activate("relu2"), y)
    return linear(b, f"{name}.down", y, width(x))


def shift(b: Builder, name: str, x: Value, parts: tuple[str, ...]) -> dict[str, Value]:
    """For each part the token, mixed with the one before."""
    weights = tuple(b.weight(f"{name}.x_{part}", width(x)) for part in parts)
    state = RowState(f"{name}.shift_state", width(x), 1, is_rolling=True)
    found = b.add(f"{name}.shift", TokenShift(len(parts)), x, weights=weights, state=state)
    return dict(zip(parts, found, strict=True))


def through(
    b: Builder,
    name: str,
    x: Value,
    rank: int,
    channels: int,
    activation: Activation | None = None,
    *,
    bias: bool = True,
) -> Value:
    """Two linears with `rank` channels between them."""
    y = linear(b, f"{name}.down", x, rank)
    if activation is not None:
        y = b.one(f"{name}.act", Activate(activation), y)
    return linear(b, f"{name}.up", y, channels, bias=bias)
