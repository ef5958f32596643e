"""DeepSeek V4, Flash and Pro (DeepSeek-AI 2026): residual streams that are mixed by doubly
stochastic numbers, attention over a window and entries of several tokens' keys, experts that the
token's id chooses in the first layers.

Layers are of three kinds: a window alone; beside it an entry for every 4 tokens, of which an index
selects a few (compressed sparse attention); or an entry for every 128, all of which are seen
(heavily compressed attention).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ridgeline.model.architectures.blocks import Stored, embed, head, linear, norm, width
from ridgeline.model.architectures.decoder import Defaults, neutral, read_sizes, read_window
from ridgeline.model.architectures.fields import (
    MAX_HEAD_DIM,
    MAX_HEADS,
    MAX_POSITIONS,
    MAX_WIDTH,
    Fields,
)
from ridgeline.model.architectures.mixture import Mixture, mixture_mlp, read_mixture
from ridgeline.model.architectures.rope_scaling import choose_context, read_rope, rotation
from ridgeline.model.architectures.stack import Assemble
from ridgeline.model.graph.build import Builder, FormatOf
from ridgeline.model.graph.node import Graph, KvState, RowState, Value, Weight
from ridgeline.model.graph.ops import (
    BlockLinear,
    Compress,
    EntryAttention,
    EntryWrite,
    Mix,
    Norm,
    Rope,
    Rotation,
    SelectEntries,
    StreamWeights,
)
from ridgeline.model.graph.ops.activation import Activation
from ridgeline.model.graph.ops.route import Scores

V4 = Defaults(vocab=129280, heads=64, kv_heads=1, head_dim=512, positions=1 << 20)
ACTIVATION: Activation = "silu_of_capped_10"
BLOCK = 16
MAX_STREAMS = 7  # what one mix takes, less what becomes of them

WINDOW, SPARSE, HEAVY = (
    "sliding_attention",
    "compressed_sparse_attention",
    "heavily_compressed_attention",
)
KINDS = (WINDOW, SPARSE, HEAVY)
BY_RATIO = {0: WINDOW, 4: SPARSE, 128: HEAVY}
RATES = {SPARSE: ("compress_rate_csa", 4), HEAVY: ("compress_rate_hca", 128)}
HASHED, ROUTED = "hash_moe", "moe"
SCORES: dict[str, Scores] = {
    "sqrtsoftplus": "sqrt_softplus",
    "sigmoid": "sigmoid",
    "softmax": "softmax",
}

# What the published files say besides, and nothing else is built.
NEUTRAL = {
    "hidden_act": ("silu",),
    "swiglu_limit": (10.0, 10),
    "topk_method": ("noaux_tc",),
    "norm_topk_prob": (True,),
    "n_shared_experts": (1,),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "router_jitter_noise": (0.0, 0),
}


@dataclass(frozen=True, slots=True)
class Index:
    """What selects top_k entries: heads of dim channels, over entries of as many."""

    heads: int
    dim: int
    top_k: int


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of attention. rope: the last channels of a head, which turn. groups, group_rank: of the
    output's first matrix, each of whose groups sees some heads.
    """

    heads: int
    dim: int
    rope: int
    q_rank: int
    window: int
    groups: int
    group_rank: int
    rms: Norm


@dataclass(frozen=True, slots=True)
class Streams:
    """How many there are, and how what they are mixed by is made (`StreamWeights`)."""

    count: int
    iterations: int
    eps: float
    floor: float


@dataclass(frozen=True, slots=True)
class Parts:
    """What a model and its modules are assembled of.

    kinds, mixtures: of each layer; behind them, of kinds, those of modules. rates: tokens to an
    entry, by kind. plain, turn: rotations of windows, and of what has entries beside them.
    """

    vocab: int
    width: int
    layers: int
    context: int
    shape: Shape
    kinds: tuple[str, ...]
    rates: dict[str, int]
    plain: Rotation
    turn: Rotation
    index: Index | None
    mixtures: tuple[Mixture, ...]
    streams: Streams
    tied: bool


def assemble_model(format_of: FormatOf, parts: Parts) -> Graph:
    b = Builder("deepseek_v4", format_of)
    x, table = embed(b, parts.vocab, parts.width)
    flows = (x,) * parts.streams.count
    for i, mixture in enumerate(parts.mixtures):
        flows = one_layer(b, f"layers.{i}", flows, parts, parts.kinds[i], mixture)
    x = last_of(b, "head", flows, parts.streams)
    tied = table if parts.tied else None
    return b.finish(head(b, x, parts.vocab, parts.shape.rms, tied=tied), parts.context)


def build_deepseek_v4(
    config: Fields,
    format_of: FormatOf,
    stored: Stored,
    context_length: int | None,
    assemble: Assemble = assemble_model,
) -> Graph:
    hidden = config.integer("moe_intermediate_size", 1, MAX_WIDTH, 2048)
    sizes = read_sizes(config.with_default("intermediate_size", hidden), V4)
    config.require_neutral(neutral("n_routed_experts") | NEUTRAL)
    if sizes.heads.kv != 1:
        config.refuse("num_key_value_heads", "all heads share one key")
    shape = read_shape(config, sizes.heads.query, sizes.heads.dim, Norm("rms", sizes.eps))
    kinds, rates = read_kinds(config, sizes.layers), read_rates(config)
    share = (shape.rope + 0.5) / shape.dim  # whatever rounding does, so many channels
    config = with_sections(config)
    plain = read_rope(
        config,
        shape.dim,
        sizes.positions,
        layer_type="main",
        scaling_name=None,
        partial=True,
        default_partial=share,
    )
    scaled = read_rope(
        config,
        shape.dim,
        sizes.positions,
        layer_type="compress",
        theta_name="compress_rope_theta",
        default_theta=160000.0,
        partial=True,
        default_partial=share,
    )
    for settings in (plain, scaled):
        if settings.rotary_dim != shape.rope:
            config.refuse("qk_rope_head_dim", f"{settings.rotary_dim} channels turn elsewhere")
    context = choose_context(scaled, context_length, config.where)
    turn = rotation(scaled, context, interleaved=True)
    if not scaled.section.has("attention_factor"):
        turn = replace(turn, magnitude=1.0)
    index = read_index(config, shape) if SPARSE in kinds else None
    mixtures = read_mixtures(config, sizes.layers, sizes.vocab, hidden)
    streams = Streams(
        config.integer("hc_mult", 1, MAX_STREAMS, 4),
        config.integer("hc_sinkhorn_iters", 1, 1000, 20),
        sizes.eps,
        config.number("hc_eps", 0.0, 1.0, 1e-6),
    )

    parts = Parts(
        vocab=sizes.vocab,
        width=sizes.width,
        layers=sizes.layers,
        context=context,
        shape=shape,
        kinds=kinds,
        rates=rates,
        plain=rotation(plain, context, interleaved=True),
        turn=turn,
        index=index,
        mixtures=mixtures,
        streams=streams,
        tied=config.boolean("tie_word_embeddings", False),
    )
    return assemble(format_of, parts)


def one_layer(
    b: Builder,
    layer: str,
    flows: tuple[Value, ...],
    parts: Parts,
    kind: str,
    mixture: Mixture,
) -> tuple[Value, ...]:
    shape, streams = parts.shape, parts.streams
    x, again = collapsed(b, f"{layer}.attn", flows, streams)
    x = norm(b, f"{layer}.attn_norm", x, shape.rms)
    turn = parts.plain if kind == WINDOW else parts.turn
    x = attention(b, layer, x, shape, kind, parts.rates.get(kind, 1), turn, parts.index)
    flows = mixed(b, f"{layer}.attn", flows, x, again)
    x, again = collapsed(b, f"{layer}.mlp", flows, streams)
    x = norm(b, f"{layer}.mlp_norm", x, shape.rms)
    x = mixture_mlp(b, layer, x, mixture, ACTIVATION)
    return mixed(b, f"{layer}.mlp", flows, x, again)


def last_of(b: Builder, name: str, flows: tuple[Value, ...], streams: Streams) -> Value:
    """The one that the streams become behind the last layer."""
    weights = hc(b, f"{name}_hc", flows, last=True)
    (one,) = b.add(f"{name}_hc", weighing(streams, last=True), *flows, weights=weights)
    return b.one(f"{name}_one", Mix(streams.count, 1), *flows, one)


def read_shape(config: Fields, heads: int, dim: int, rms: Norm) -> Shape:
    if config.has("qk_rope_head_dim"):
        rope = config.integer("qk_rope_head_dim", 2, dim)
    else:
        rope = int(dim * config.number("partial_rotary_factor", 0.0, 1.0, 64 / 512))
    if rope < 2 or rope % 2 or dim % 2:
        config.refuse("head_dim", f"{rope} of a head's {dim} channels would turn, in pairs")
    groups = config.integer("o_groups", 1, MAX_HEADS, 8)
    if heads * dim % groups:
        config.refuse("o_groups", f"does not divide {heads} heads of {dim} channels")
    window = read_window(config, 128)
    if window is None:
        config.refuse("sliding_window", "a number of positions is needed")
    return Shape(
        heads=heads,
        dim=dim,
        rope=rope,
        q_rank=config.integer("q_lora_rank", 1, MAX_WIDTH, 1024),
        window=window,
        groups=groups,
        group_rank=config.integer("o_lora_rank", 1, MAX_WIDTH, 1024),
        rms=rms,
    )


def read_kinds(config: Fields, layers: int) -> tuple[str, ...]:
    """Each layer's: by name, or by how many tokens an entry is made of. Those of modules of
    multi-token prediction may be listed behind.
    """
    if config.has("layer_types"):
        return config.texts("layer_types", layers, KINDS)
    if not config.has("compress_ratios"):
        return tuple(SPARSE if i > 1 and i % 2 else HEAVY for i in range(layers))
    ratios = config.values["compress_ratios"]
    count = len(ratios) if isinstance(ratios, list) and len(ratios) >= layers else layers
    numbers = config.numbers("compress_ratios", count, 0, MAX_POSITIONS)
    for number in numbers:
        if number not in BY_RATIO:
            config.refuse("compress_ratios", f"{number:g} is not one of {list(BY_RATIO)}")
    return tuple(BY_RATIO[int(number)] for number in numbers)


def read_rates(config: Fields) -> dict[str, int]:
    """Tokens to an entry, by kind of layer."""
    section = config.section("compress_rates")
    found = {}
    for kind, (name, default) in RATES.items():
        of, key = (config, name) if config.has(name) else (section, kind)
        found[kind] = of.integer(key, 2, MAX_POSITIONS, default)
        if BLOCK % found[kind] and found[kind] % BLOCK:
            of.refuse(
                key, f"it must divide {BLOCK}, tokens of a block of the cache, or part in such"
            )
    return found


def with_sections(config: Fields) -> Fields:
    """`rope_parameters` of both rotations is as it is; of one, it is how the second is scaled."""
    given = config.values.get("rope_parameters")
    if not isinstance(given, dict) or any(isinstance(part, dict) for part in given.values()):
        return config
    own = {name: value for name, value in given.items() if name != "rope_theta"}
    values = {**config.values, "rope_parameters": None}
    if own and not config.has("rope_scaling"):
        values["rope_scaling"] = own
    return replace(config, values=values)


def read_index(config: Fields, shape: Shape) -> Index:
    dim = config.integer("index_head_dim", 2, MAX_HEAD_DIM, 128)
    if dim < shape.rope or dim % 2:
        config.refuse("index_head_dim", f"an even number is needed, of which {shape.rope} turn")
    return Index(
        config.integer("index_n_heads", 1, MAX_HEADS, 64),
        dim,
        config.integer("index_topk", 1, MAX_POSITIONS, 512),
    )


def read_mixtures(config: Fields, layers: int, vocab: int, hidden: int) -> tuple[Mixture, ...]:
    scores = config.text("scoring_func", "sqrtsoftplus")
    if scores not in SCORES:
        config.refuse("scoring_func", f"is not supported; supported: {', '.join(SCORES)}")
    mixture = read_mixture(
        config,
        experts="n_routed_experts",
        hidden="moe_intermediate_size",
        num_experts=256,
        top_k=6,
        default_hidden=hidden,
        scores=SCORES[scores],
    )
    scale = config.number("routed_scaling_factor", 1e-9, 1e9, 1.5)
    route = replace(mixture.route, scale=scale)
    routed = replace(mixture, route=replace(route, correction=True), shared=hidden)
    hashed = replace(mixture, route=replace(route, by_token=True), shared=hidden, vocab=vocab)
    if config.has("mlp_layer_types"):
        kinds = config.texts("mlp_layer_types", layers, (HASHED, ROUTED))
    else:
        first = config.integer("num_hash_layers", 0, 1 << 16, 3)
        kinds = tuple(HASHED if i < first else ROUTED for i in range(layers))
    return tuple(hashed if kind == HASHED else routed for kind in kinds)


def weighing(streams: Streams, *, last: bool = False) -> StreamWeights:
    return StreamWeights(streams.count, streams.iterations, streams.eps, streams.floor, last)


def hc(
    b: Builder, name: str, flows: tuple[Value, ...], *, last: bool = False
) -> tuple[Weight, ...]:
    n = len(flows)
    rows = n if last else n * (n + 2)
    return (
        b.weight(f"{name}.fn.weight", rows, n * width(flows[0])),
        b.weight(f"{name}.base.weight", rows),
        b.weight(f"{name}.scale.weight", 1 if last else 3),
    )


def collapsed(
    b: Builder, name: str, flows: tuple[Value, ...], streams: Streams
) -> tuple[Value, Value]:
    """One of the streams, and the numbers by which `mixed` makes the next of them."""
    weights = hc(b, f"{name}_hc", flows)
    one, again = b.add(f"{name}_hc", weighing(streams), *flows, weights=weights)
    return b.one(f"{name}_one", Mix(len(flows), 1), *flows, one), again


def mixed(
    b: Builder, name: str, flows: tuple[Value, ...], x: Value, again: Value
) -> tuple[Value, ...]:
    n = len(flows)
    return b.add(f"{name}_mix", Mix(n + 1, n), *flows, x, again)


def attention(
    b: Builder,
    layer: str,
    x: Value,
    shape: Shape,
    kind: str,
    every: int,
    turn: Rotation,
    index: Index | None,
) -> Value:
    name, dim, rms = f"{layer}.attn", shape.dim, shape.rms
    # All linears of x stand together, so that they become one.
    q = linear(b, f"{name}.q_a", x, shape.q_rank)
    kv = linear(b, f"{name}.kv", x, dim)
    selects, sparse = kind == SPARSE, kind == SPARSE
    parts = dim * (2 if sparse else 1)
    pairs: list[tuple[str, Value, Value, int]] = []
    if kind != WINDOW:
        at = f"{name}.compress"
        pairs.append((at, linear(b, f"{at}.kv", x, parts), linear(b, f"{at}.gate", x, parts), dim))
    if selects:
        assert index is not None
        at, wide = f"{name}.index", 2 * index.dim
        keys, scores = linear(b, f"{at}.kv", x, wide), linear(b, f"{at}.gate", x, wide)
        pairs.append((at, keys, scores, index.dim))
        weights = linear(b, f"{at}.weigh", x, index.heads)

    latent = norm(b, f"{name}.q_a_norm", q, rms)
    q = linear(b, f"{name}.q_b", latent, shape.heads * dim, split="heads")
    q = norm(b, f"{name}.q_norm", q, replace(rms, num_groups=shape.heads), weight=False)
    first = dim - shape.rope
    q = b.one(f"{name}.q_rope", Rope(shape.heads, dim, turn, first), q)
    kv = norm(b, f"{name}.kv_norm", kv, rms)
    kv = b.one(f"{name}.kv_rope", Rope(1, dim, turn, first), kv)
    state = KvState(f"{layer}.kv", 1, dim, dim, shape.window, latent=True)
    b.add(f"{name}.kv_write", EntryWrite(), kv, state=state)

    caches = [
        compressed(b, at, keys, scores, Compress(every, sparse), wide, shape, turn)
        for at, keys, scores, wide in pairs
    ]
    chosen: tuple[Value, ...] = ()
    if selects:
        assert index is not None
        at = f"{name}.index"
        few = linear(b, f"{at}.q", latent, index.heads * index.dim)
        few = b.one(f"{at}.q_rope", Rope(index.heads, index.dim, turn, index.dim - shape.rope), few)
        select = SelectEntries(index.heads, index.top_k)
        chosen = (b.one(f"{at}.select", select, few, weights, state=caches[1]),)
    sinks = b.weight(f"{name}.sinks.weight", shape.heads, axes=("heads",))
    op = EntryAttention(shape.heads, dim, dim**-0.5, index.top_k if index and selects else None)
    y = b.one(
        f"{name}.attend",
        op,
        q,
        *chosen,
        weights=(sinks,),
        state=state,
        entries=caches[0] if caches else None,
    )
    # Values are keys, turned; what is found of them is turned back.
    back = replace(turn, frequencies=tuple(-f for f in turn.frequencies))
    y = b.one(f"{name}.back", Rope(shape.heads, dim, back, first), y)
    rows = shape.groups * shape.group_rank
    o_a = b.weight(f"{name}.o_a.weight", rows, width(y) // shape.groups, axes=("heads", None))
    y = b.one(f"{name}.o_a", BlockLinear(shape.groups), y, weights=(o_a,))
    return linear(b, f"{name}.o_b", y, width(x), split_inputs="heads")


def compressed(
    b: Builder,
    name: str,
    keys: Value,
    scores: Value,
    op: Compress,
    channels: int,
    shape: Shape,
    turn: Rotation,
) -> KvState:
    """The cache of entries that keys of so many tokens become."""
    positions = b.weight(f"{name}.position.weight", op.every, width(keys))
    sums = RowState(f"{name}.sums", channels, op.numbers)
    y = b.one(f"{name}.entries", op, keys, scores, weights=(positions,), state=sums)
    y = norm(b, f"{name}.norm", y, shape.rms)
    y = b.one(f"{name}.rope", Rope(1, channels, turn, channels - shape.rope, op.every), y)
    state = KvState(f"{name}.cache", 1, channels, channels, latent=True, every=op.every)
    b.add(f"{name}.write", EntryWrite(), y, state=state)
    return state
