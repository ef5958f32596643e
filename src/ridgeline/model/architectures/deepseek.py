"""DeepSeek V2, V3, V3.1, R1 (DeepSeek-AI 2024), V3.2 (2025), Kimi K2, K2.5: attention over latents,
in V3.2 of selected tokens only; experts of which some are shared, plain layers first.

V2 routes by softmax, in groups by their best expert; V3 by sigmoids that a learned correction
moves, in groups by their two best.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ridgeline.model.architectures.blocks import Stored, linear, norm, scaled, width
from ridgeline.model.architectures.decoder import Defaults, neutral, read_activation, read_sizes
from ridgeline.model.architectures.fields import (
    MAX_HEAD_DIM,
    MAX_HEADS,
    MAX_LAYERS,
    MAX_POSITIONS,
    MAX_WIDTH,
    Fields,
)
from ridgeline.model.architectures.mixture import GROUPED, Mixture, mixes, read_grouped
from ridgeline.model.architectures.rope_scaling import (
    RopeSettings,
    choose_context,
    read_rope,
    rotation,
)
from ridgeline.model.architectures.stack import Assemble, Branch, Norms, build_decoder
from ridgeline.model.graph.build import Builder, FormatOf
from ridgeline.model.graph.node import Graph, KvState, Value
from ridgeline.model.graph.ops import (
    KvWrite,
    LatentAttention,
    Norm,
    Rope,
    Rotation,
    SelectTokens,
    Split,
    SplitGroups,
    Weigh,
)

LATENT_EPS = 1e-6  # of the norms of latents; in no file


@dataclass(frozen=True, slots=True)
class Latent:
    """Sizes of latent attention. q_rank None: queries are made without a latent of their own.
    latent_scale: of what the cache has (LongCat). head_gate: as `blocks.attention` has it (Ling).
    """

    heads: int
    rank: int
    q_rank: int | None
    nope: int
    rope: int
    value: int
    scale: float
    bias: bool
    latent_scale: float = 1.0
    head_gate: bool = False


@dataclass(frozen=True, slots=True)
class Index:
    """What selects top_k tokens for attention: heads of dim channels, some of which turn, by pairs
    of neighbours if `interleaved`. shared: the layers that look at what the one before selected.
    """

    heads: int
    dim: int
    top_k: int
    interleaved: bool = False
    shared: frozenset[int] = frozenset()
    turn: Rotation | None = None


def build_deepseek_v2(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    config.require_neutral({"topk_method": ("greedy", "group_limited_greedy")})
    layers = config.integer("num_hidden_layers", 1, MAX_LAYERS)
    grouped = config.text("topk_method", "greedy") == "group_limited_greedy"
    mixtures = read_grouped(
        config, layers, scores="softmax", experts=64, shared=2, hidden=1407, normalize=False
    )
    return build_latent(
        "deepseek_v2",
        config,
        format_of,
        context_length,
        tuple(None if m is None else by_softmax(m, grouped) for m in mixtures),
        Defaults(vocab=102400, heads=32, head_dim=1, positions=2048),
    )


def by_softmax(mixture: Mixture, grouped: bool) -> Mixture:
    route = replace(mixture.route, normalize=False, correction=False, group_best=1)
    return replace(mixture, route=route if grouped else replace(route, num_groups=1, top_groups=1))


def read_corrected(
    config: Fields,
    *,
    experts: int = 256,
    hidden: int = 2048,
    top_k: int = 8,
    scale: float = 2.5,
    dense: int = 3,
) -> tuple[Mixture | None, ...]:
    """V3's mixtures, of each layer: sigmoids with a correction, one shared expert, dense layers
    first. The rest are a family's defaults.
    """
    config.require_neutral({"topk_method": ("noaux_tc",)})
    layers = config.integer("num_hidden_layers", 1, MAX_LAYERS)
    return read_grouped(
        config,
        layers,
        experts=experts,
        shared=1,
        hidden=hidden,
        top_k=top_k,
        scale=scale,
        dense=dense,
    )


def build_deepseek_v3(
    config: Fields,
    format_of: FormatOf,
    stored: Stored,
    context_length: int | None,
    assemble: Assemble = build_decoder,
) -> Graph:
    mixtures = read_corrected(config)
    return build_latent(
        "deepseek_v3",
        config,
        format_of,
        context_length,
        mixtures,
        Defaults(vocab=129280, heads=128, head_dim=1, positions=4096),
        assemble,
    )


def build_gguf_deepseek2(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    """GGUF has one name for V2 and V3, and for what is built as they are: the router tells."""
    by_sigmoid = config.text("scoring_func", "softmax") == "sigmoid"
    build = build_deepseek_v3 if by_sigmoid else build_deepseek_v2
    return build(config, format_of, stored, context_length)


def build_kimi_k25(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    """The language part of Kimi K2.5, which also sees: Kimi K2."""
    text = config.section("text_config") if config.has("text_config") else config
    return build_deepseek_v3(text, format_of, stored, context_length)


def build_deepseek_v32(
    config: Fields,
    format_of: FormatOf,
    stored: Stored,
    context_length: int | None,
    assemble: Assemble = build_decoder,
) -> Graph:
    mixtures = read_corrected(config)
    index = read_index(config, 64)
    return build_latent(
        "deepseek_v32",
        config,
        format_of,
        context_length,
        mixtures,
        Defaults(vocab=129280, heads=128, head_dim=1, positions=163840),
        assemble,
        index,
    )


def read_index(config: Fields, heads: int) -> Index:
    return Index(
        config.integer("index_n_heads", 1, MAX_HEADS, heads),
        config.integer("index_head_dim", 2, MAX_HEAD_DIM, 128),
        config.integer("index_topk", 1, MAX_POSITIONS, 2048),
    )


def build_latent(
    name: str,
    config: Fields,
    format_of: FormatOf,
    context_length: int | None,
    mixtures: tuple[Mixture | None, ...],
    defaults: Defaults,
    assemble: Assemble = build_decoder,
    index: Index | None = None,
) -> Graph:
    sizes = read_sizes(config, defaults)
    config.require_neutral(neutral(*GROUPED) | {"mlp_bias": (False,), "head_dim": ()})
    rope_dim = config.integer("qk_rope_head_dim", 2, MAX_HEAD_DIM, 64)
    nope_dim = config.integer("qk_nope_head_dim", 1, MAX_HEAD_DIM, 128)
    if rope_dim % 2:
        config.refuse("qk_rope_head_dim", "channels turn in pairs")
    rope = read_rope(config, rope_dim, sizes.positions)
    context = choose_context(rope, context_length, config.where)
    q_rank = None
    if "q_lora_rank" not in config.values or config.has("q_lora_rank"):
        q_rank = config.integer("q_lora_rank", 1, MAX_WIDTH, 1536)
    latent = Latent(
        heads=sizes.heads.query,
        rank=config.integer("kv_lora_rank", 1, MAX_HEAD_DIM, 512),
        q_rank=q_rank,
        nope=nope_dim,
        rope=rope_dim,
        value=config.integer("v_head_dim", 1, MAX_HEAD_DIM, 128),
        scale=read_scale(rope, nope_dim + rope_dim),
        bias=config.boolean("attention_bias", False),
    )
    interleaved = config.boolean("rope_interleave", True)
    if index is not None:
        if q_rank is None or index.dim <= rope_dim or index.dim % 2:
            config.refuse("index_head_dim", f"{rope_dim} of them turn, of queries with a latent")
        index = replace(index, turn=rotation(rope, context, interleaved=index.interleaved))
    return assemble(
        name,
        sizes,
        format_of,
        context=context,
        norms=Norms(Norm("rms", sizes.eps)),
        attend=attends_to_latents(latent, rotation(rope, context, interleaved=interleaved), index),
        feed=mixes(mixtures, sizes.mlp, read_activation(config, "hidden_act", "silu")),
        tied=config.boolean("tie_word_embeddings", False),
    )


def read_scale(rope: RopeSettings, head_dim: int) -> float:
    """1 / sqrt(head_dim), times the square of YaRN's `mscale_all_dim` if the rotation is scaled."""
    weight = rope.section.number("mscale_all_dim", 0.0, 1e6, 0.0) if rope.section.values else 0.0
    scale = 1.0 / math.sqrt(head_dim)
    if rope.kind == "default" or not weight:
        return scale
    factor = rope.section.number("factor", 1.0, 1e6)
    return scale * (0.1 * weight * math.log(factor) + 1.0) ** 2


def attends_to_latents(latent: Latent, turn: Rotation | None, index: Index | None = None) -> Branch:
    """Attention over a cache of one latent and one turned key a token; turn None: these channels
    are not turned (Kimi Linear). index: it looks at selected tokens only.
    """
    head = latent.nope + latent.rope
    before: list[Value] = []

    def branch(b: Builder, layer: str, i: int, x: Value) -> Value:
        name, rms = f"{layer}.attn", Norm("rms", LATENT_EPS)
        q = x
        if latent.q_rank is not None:
            q = linear(b, f"{name}.q_a", x, latent.q_rank, bias=latent.bias)
            q = norm(b, f"{name}.q_a_norm", q, rms)
        # A module of multi-token prediction has no layer before, and selects for itself.
        if index is not None and not (i in index.shared and before):
            before[:] = [selected(b, name, x, q, latent.rope, index)]
        part = "q" if latent.q_rank is None else "q_b"
        q = linear(b, f"{name}.{part}", q, latent.heads * head, split="heads")
        groups = SplitGroups(latent.heads, (latent.nope, latent.rope))
        q_nope, q_rope = b.add(f"{name}.q_split", groups, q)
        if turn is not None:
            q_rope = b.one(f"{name}.q_rope", Rope(latent.heads, latent.rope, turn), q_rope)
        kv = linear(b, f"{name}.kv_a", x, latent.rank + latent.rope, bias=latent.bias)
        c, k_rope = b.add(f"{name}.kv_split", Split((latent.rank, latent.rope)), kv)
        c = norm(b, f"{name}.kv_a_norm", c, rms)
        c = scaled(b, f"{name}.kv_a_scale", c, latent.latent_scale)
        if turn is not None:
            k_rope = b.one(f"{name}.k_rope", Rope(1, latent.rope, turn), k_rope)
        state = KvState(f"{layer}.kv", 1, latent.rank + latent.rope, latent.rank, latent=True)
        b.add(f"{name}.kv_write", KvWrite(), c, k_rope, state=state)
        rows = latent.heads * (latent.nope + latent.value)
        expand = b.weight(f"{name}.kv_b.weight", rows, latent.rank, axes=("heads", None))
        top_k = None if index is None else index.top_k
        op = LatentAttention(
            latent.heads, latent.nope, latent.rope, latent.value, latent.scale, top_k
        )
        y = b.one(f"{name}.attend", op, q_nope, q_rope, *before, weights=(expand,), state=state)
        if latent.head_gate:
            gate = linear(b, f"{name}.gate", x, latent.heads, split="heads")
            y = b.one(f"{name}.gated", Weigh(latent.heads), y, gate)
        return linear(b, f"{name}.o", y, width(x), bias=latent.bias, split_inputs="heads")

    return branch


def selected(b: Builder, name: str, x: Value, q: Value, rope: int, index: Index) -> Value:
    """Positions that attention looks at, by small heads that share one key: their queries are made
    of attention's latent `q`, the first `rope` channels of queries and keys turn.
    """
    assert index.turn is not None
    at, rest = f"{name}.index", index.dim - rope
    q = linear(b, f"{at}.q", q, index.heads * index.dim)
    turned, q = b.add(f"{at}.q_split", SplitGroups(index.heads, (rope, rest)), q)
    turned = b.one(f"{at}.q_rope", Rope(index.heads, rope, index.turn), turned)
    k = linear(b, f"{at}.k", x, index.dim)
    k = norm(b, f"{at}.k_norm", k, Norm("layer", LATENT_EPS), bias=True)
    k_turned, k = b.add(f"{at}.k_split", Split((rope, rest)), k)
    k_turned = b.one(f"{at}.k_rope", Rope(1, rope, index.turn), k_turned)
    layer = name.rpartition(".")[0]
    state = KvState(f"{layer}.index_kv", 1, index.dim, rope, latent=True)
    b.add(f"{at}.kv_write", KvWrite(), k_turned, k, state=state)
    weights = linear(b, f"{at}.weigh", x, index.heads)
    op = SelectTokens(index.heads, index.top_k)
    return b.one(f"{at}.select", op, turned, q, weights, state=state)
