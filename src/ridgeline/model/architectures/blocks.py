"""The blocks that decoders are built of, as functions with explicit arguments.

A node is named as its weight is, less the `.weight`. Does not know any architecture, configuration
or file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ridgeline.model.graph.build import Builder
from ridgeline.model.graph.node import KvState, Value, Weight
from ridgeline.model.graph.ops import (
    Activate,
    Add,
    Attention,
    Embed,
    GatedActivation,
    KvWrite,
    Linear,
    Norm,
    PositionEmbed,
    Rope,
    Rotation,
    Scale,
    ScaleByPosition,
    SelectRows,
    Softcap,
    SplitGroups,
    Weigh,
)
from ridgeline.model.graph.ops.activation import Activation


@dataclass(frozen=True, slots=True)
class Heads:
    """How a layer's width parts into heads: `query` heads share `kv` heads of `dim` channels."""

    query: int
    kv: int
    dim: int


@dataclass(frozen=True, slots=True)
class Stored:
    """Conventions of a kind of file for weights that mean the same.

    interleaved_rope: rows of q and k are ordered for rotary pairs (2i, 2i + 1). norm_has_one: norm
    weights hold the 1 of Gemma's 1 + w. plain_decay: the decay rates of recurrences are stored as
    they are, -exp of what is published. key_bias: keys have a bias where the model has none (it
    is zero). qkv_by_head: one matrix has q, k and v, of each head after
    those of the one before it (GPT-NeoX). tiled_values: of a delta rule, see
    `DeltaRule.tiled`.
    """

    interleaved_rope: bool = False
    norm_has_one: bool = False
    plain_decay: bool = False
    key_bias: bool = False
    qkv_by_head: bool = False
    tiled_values: bool = False


AS_PUBLISHED = Stored()


def embed(b: Builder, vocab: int, width: int, scale: float = 1.0) -> tuple[Value, Weight]:
    """The hidden states of the step's tokens, and the table, for a head that is tied to it."""
    table = b.weight("embed.weight", vocab, width, axes=("vocab", None))
    return b.one("embed", Embed(scale), b.token_ids, weights=(table,)), table


def position_embed(b: Builder, positions: int, width: int) -> Value:
    """A learned row for each position."""
    table = b.weight("position_embed.weight", positions, width)
    return b.one("position_embed", PositionEmbed(), b.token_ids, weights=(table,))


def linear(
    b: Builder,
    name: str,
    x: Value,
    channels: int,
    *,
    bias: bool = False,
    split: str | None = None,
    split_inputs: str | None = None,
) -> Value:
    """x W^T (+ b) [*, channels]; split, split_inputs: the axes that out and in are cut along."""
    weights = [b.weight(f"{name}.weight", channels, width(x), axes=(split, split_inputs))]
    if bias:
        weights.append(b.weight(f"{name}.bias", channels, axes=(split,)))
    return b.one(name, Linear(bias=bias), x, weights=tuple(weights))


def norm(
    b: Builder, name: str, x: Value, op: Norm, *, weight: bool = True, bias: bool = False
) -> Value:
    """`op` over x's channels, or over each of its groups of them; weight False: w = 1."""
    leaves = ["weight"] * weight + ["bias"] * bias
    weights = tuple(b.weight(f"{name}.{leaf}", width(x) // op.num_groups) for leaf in leaves)
    return b.one(name, op, x, weights=weights)


def head_norms(
    b: Builder, name: str, q: Value, k: Value, op: Norm, heads: Heads
) -> tuple[Value, Value]:
    """`op` of each head of q and of k: with the same weights, or each with its own (`by_group`)."""
    normed = []
    for leaf, x, count, axis in (("q", q, heads.query, "heads"), ("k", k, heads.kv, "kv_heads")):
        of_head = replace(op, num_groups=count)
        if op.by_group:
            weight = b.weight(f"{name}.{leaf}_norm.weight", width(x), axes=(axis,))
            normed.append(b.one(f"{name}.{leaf}_norm", of_head, x, weights=(weight,)))
        else:
            normed.append(norm(b, f"{name}.{leaf}_norm", x, of_head))
    return normed[0], normed[1]


def scaled(b: Builder, name: str, x: Value, factor: float) -> Value:
    """factor * x; x itself if the factor is 1."""
    return x if factor == 1 else b.one(name, Scale(factor), x)


def add(b: Builder, name: str, x: Value, y: Value) -> Value:
    return b.one(name, Add(), x, y)


def attention(
    b: Builder,
    layer: str,
    x: Value,
    *,
    heads: Heads,
    rotation: Rotation | None,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    qkv_bias: bool = False,
    output_bias: bool = False,
    head_norm: Norm | None = None,
    norm_turned: bool = False,
    whole_norm: Norm | None = None,
    causal: bool = True,
    ahead: int | None = None,
    sinks: bool = False,
    by_head: bool = False,
    turned_norm: Norm | None = None,
    temperature: ScaleByPosition | None = None,
    chunked: bool = False,
    whole_images: bool = False,
    head_gate: bool = False,
    parts: int | None = None,
) -> Value:
    """Self-attention of grouped heads over the layer's cache.

    turned_norm: of each q and k head once it has turned, without weights. temperature: of queries,
    by their positions. chunked: see `Attention`.
    by_head: see `Stored.qkv_by_head`; as many heads of k and v as of q.
    head_norm: of each q and k head; norm_turned: once it has turned (Hunyuan). whole_norm: of all
    q's channels together, and of k's (OLMo 2).
    Not causal: keys and values are of this step only, so all layers of a window share one cache;
    ahead: how far such attention sees ahead.
    sinks, whole_images, parts: see `Attention`. head_gate: each head's output is weighed by the
    sigmoid of a number that a linear makes of x (Step 3.7).
    """
    name, q_width, kv_width = f"{layer}.attn", heads.query * heads.dim, heads.kv * heads.dim
    if by_head:
        assert heads.query == heads.kv
        joint = linear(b, f"{name}.qkv", x, 3 * q_width, bias=qkv_bias, split="heads")
        groups = SplitGroups(heads.query, (heads.dim,) * 3)
        q, k, v = b.add(f"{name}.qkv_split", groups, joint)
    else:
        q = linear(b, f"{name}.q", x, q_width, bias=qkv_bias, split="heads")
        k = linear(b, f"{name}.k", x, kv_width, bias=qkv_bias, split="kv_heads")
        v = linear(b, f"{name}.v", x, kv_width, bias=qkv_bias, split="kv_heads")
    if head_norm is not None and not norm_turned:
        q, k = head_norms(b, name, q, k, head_norm, heads)
    if whole_norm is not None:
        q = norm(b, f"{name}.q_norm", q, whole_norm)
        k = norm(b, f"{name}.k_norm", k, whole_norm)
    if rotation is not None:
        q = b.one(f"{name}.q_rope", Rope(heads.query, heads.dim, rotation), q)
        k = b.one(f"{name}.k_rope", Rope(heads.kv, heads.dim, rotation), k)
    if head_norm is not None and norm_turned:
        q, k = head_norms(b, name, q, k, head_norm, heads)
    if turned_norm is not None:
        q_norm, k_norm = (replace(turned_norm, num_groups=n) for n in (heads.query, heads.kv))
        q = norm(b, f"{name}.q_turned_norm", q, q_norm, weight=False)
        k = norm(b, f"{name}.k_turned_norm", k, k_norm, weight=False)
    if temperature is not None:
        q = b.one(f"{name}.q_temperature", temperature, q)
    cache = f"{layer}.kv" if causal else "kv" if window is None else "local_kv"
    state = KvState(cache, heads.kv, heads.dim, heads.dim, window)
    b.add(f"{name}.kv_write", KvWrite(), k, v, state=state)
    op = Attention(
        heads.query,
        heads.dim,
        heads.dim,
        scale,
        softcap,
        causal,
        ahead=ahead,
        sinks=sinks,
        chunked=chunked,
        whole_images=whole_images,
        parts=parts,
    )
    scores = (b.weight(f"{name}.sinks.weight", heads.query, axes=("heads",)),) if sinks else ()
    y = b.one(f"{name}.attend", op, q, weights=scores, state=state)
    if head_gate:
        gate = linear(b, f"{name}.gate", x, heads.query, split="heads")
        y = b.one(f"{name}.gated", Weigh(heads.query), y, gate)
    return linear(b, f"{name}.o", y, width(x), bias=output_bias, split_inputs="heads")


def gated_mlp(
    b: Builder, layer: str, x: Value, *, hidden: int, activation: Activation, bias: bool = False
) -> Value:
    """down(act(gate(x)) * up(x)) (Shazeer 2020)."""
    name = f"{layer}.mlp"
    gate = linear(b, f"{name}.gate", x, hidden, bias=bias, split="ffn")
    up = linear(b, f"{name}.up", x, hidden, bias=bias, split="ffn")
    y = b.one(f"{name}.act", GatedActivation(activation), gate, up)
    return linear(b, f"{name}.down", y, width(x), bias=bias, split_inputs="ffn")


def mlp(
    b: Builder, layer: str, x: Value, *, hidden: int, activation: Activation, bias: bool = False
) -> Value:
    """down(act(up(x)))."""
    name = f"{layer}.mlp"
    y = linear(b, f"{name}.up", x, hidden, bias=bias, split="ffn")
    y = b.one(f"{name}.act", Activate(activation), y)
    return linear(b, f"{name}.down", y, width(x), bias=bias, split_inputs="ffn")


def head(
    b: Builder,
    x: Value,
    vocab: int,
    op: Norm,
    *,
    tied: Weight | None,
    softcap: float | None = None,
    norm_weight: bool = True,
    norm_bias: bool = False,
    bias: bool = False,
    scale: float = 1.0,
) -> Value:
    """Logits of the tokens that want them; tied: the embedding's table, if it is the output too.

    Rows are selected first, so that norm and output matrix see only those. scale: of the logits,
    before the soft cap.
    """
    x = b.one("select", SelectRows(), x)
    x = norm(b, "final_norm", x, op, weight=norm_weight, bias=norm_bias)
    weights = [tied or b.weight("head.weight", vocab, width(x), axes=("vocab", None))]
    if bias:
        weights.append(b.weight("head.bias", vocab, axes=("vocab",)))
    logits = b.one("head", Linear(bias=bias), x, weights=tuple(weights))
    logits = scaled(b, "head_scale", logits, scale)
    return logits if softcap is None else b.one("softcap", Softcap(softcap), logits)


def logits_of(b: Builder, x: Value, vocab: int, *, tied: Weight | None) -> Value:
    """Logits of hidden states that have had their norm, of the tokens that want them."""
    x = b.one("select", SelectRows(), x)
    table = tied or b.weight("head.weight", vocab, width(x), axes=("vocab", None))
    return b.one("head", Linear(), x, weights=(table,))


def width(x: Value) -> int:
    channels = x.shape[-1]
    assert isinstance(channels, int)
    return channels
