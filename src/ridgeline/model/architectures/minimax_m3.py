"""MiniMax-M3, text (MiniMax 2026): attention whose KV heads each look at a few blocks of tokens,
which small heads select; experts and shared expert with gpt-oss's clamped unit; norms as Gemma's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ridgeline.model.architectures.blocks import (
    Heads,
    Stored,
    attention,
    gated_mlp,
    head_norms,
    linear,
    norm,
    width,
)
from ridgeline.model.architectures.decoder import Defaults, neutral, read_sizes
from ridgeline.model.architectures.fields import (
    MAX_HEAD_DIM,
    MAX_HEADS,
    MAX_LAYERS,
    MAX_POSITIONS,
    MAX_WIDTH,
    Fields,
)
from ridgeline.model.architectures.mixture import Mixture, mixture_mlp, read_mixture
from ridgeline.model.architectures.rope_scaling import choose_context, read_rope, rotation
from ridgeline.model.architectures.stack import Branch, Norms, build_decoder
from ridgeline.model.graph.build import Builder, FormatOf
from ridgeline.model.graph.node import Graph, KvState, Value
from ridgeline.model.graph.ops import (
    Attention,
    Blocks,
    KvWrite,
    Norm,
    Rope,
    Rotation,
    SelectBlocks,
    Split,
)
from ridgeline.model.graph.ops.activation import Activation

M3 = Defaults(vocab=200064, heads=64, kv_heads=4, head_dim=128, positions=524288)
ACTIVATION: Activation = "clamped_swiglu"
SPARSE, FULL = "minimax_m3_sparse", "full_attention"
CACHE_BLOCK = 16  # tokens of a block of the cache, of which selected blocks are made

# What the published files say besides, and nothing else is built.
NEUTRAL = {
    "hidden_act": ("swigluoai", "silu"),
    "swiglu_alpha": (1.702,),
    "swiglu_limit": (7.0, 7),
    "scoring_func": ("sigmoid",),
    "use_routing_bias": (True,),
    "use_qk_norm": (True,),
    "qk_norm_type": ("per_head",),
    "use_gemma_norm": (True,),
    "attention_output_gate": (False,),
    "n_shared_experts": (1,),
    "sliding_window": (),
}
NEUTRAL_SPARSE = {
    "use_sparse_attention": (True,),
    "sparse_init_block": (0,),
    "sparse_score_type": ("max",),
}
THEIRS = {
    "index_n_heads": "sparse_num_index_heads",
    "index_head_dim": "sparse_index_dim",
    "index_block_size": "sparse_block_size",
    "index_topk_blocks": "sparse_topk_blocks",
    "index_local_blocks": "sparse_local_block",
}


@dataclass(frozen=True, slots=True)
class Index:
    """What selects blocks: a small head a KV head, over one key of `dim` channels a token."""

    heads: int
    dim: int
    blocks: Blocks
    local: int


def build_minimax_m3(
    config: Fields, format_of: FormatOf, stored: Stored, context_length: int | None
) -> Graph:
    if config.has("text_config"):
        config = config.section("text_config")
    config = config.with_default("intermediate_size", 3072)
    sizes = read_sizes(config, M3)
    config.require_neutral(neutral("num_local_experts", "use_qk_norm") | NEUTRAL)
    turned = config.integer("rotary_dim", 2, sizes.heads.dim, min(64, sizes.heads.dim))
    share = turned / sizes.heads.dim
    rope = read_rope(
        config,
        sizes.heads.dim,
        sizes.positions,
        default_theta=5e6,
        partial=True,
        default_partial=share,
    )
    context = choose_context(rope, context_length, config.where)
    rms = Norm("rms", sizes.eps, 1.0)
    sparse = read_sparse(config, sizes.layers)
    dense = config.integer("dense_intermediate_size", 1, MAX_WIDTH, 12288)
    return build_decoder(
        "minimax_m3",
        sizes,
        format_of,
        context=context,
        norms=Norms(rms),
        attend=attends_to_blocks(
            sizes.heads,
            rotation(rope, context),
            rms,
            read_index(config, sizes.heads, rope.rotary_dim) if any(sparse) else None,
            sparse,
        ),
        feed=mixes_clamped(read_mixtures(config, sizes.layers), dense),
        tied=config.boolean("tie_word_embeddings", False),
    )


def read_index(config: Fields, heads: Heads, turned: int) -> Index:
    sparse = config.section("sparse_attention_config")
    sparse.require_neutral(NEUTRAL_SPARSE)
    fields = sparse.renamed(THEIRS)
    for name in THEIRS:
        if config.has(name):
            fields = replace(fields, values={**fields.values, name: config.values[name]})
    count = fields.integer("index_n_heads", 1, MAX_HEADS, 4)
    if count != heads.kv:
        fields.refuse("index_n_heads", f"one for each of {heads.kv} KV heads is needed")
    dim = fields.integer("index_head_dim", 4, MAX_HEAD_DIM, 128)
    if dim < turned or dim % 4:
        fields.refuse("index_head_dim", f"a multiple of 4, of which {turned} channels turn")
    tokens = fields.integer("index_block_size", CACHE_BLOCK, MAX_POSITIONS, 128)
    if tokens % CACHE_BLOCK:
        fields.refuse("index_block_size", f"a multiple of {CACHE_BLOCK} tokens is needed")
    top = fields.integer("index_topk_blocks", 1, 1 << 16, 16)
    return Index(count, dim, Blocks(top, tokens), fields.integer("index_local_blocks", 1, top, 1))


def read_sparse(config: Fields, layers: int) -> tuple[bool, ...]:
    """Which layers look at selected blocks only."""
    if config.has("layer_types"):
        return tuple(kind == SPARSE for kind in config.texts("layer_types", layers, (SPARSE, FULL)))
    return read_flags(config.section("sparse_attention_config"), "sparse_attention_freq", layers, 0)


def read_flags(config: Fields, name: str, layers: int, default: int) -> tuple[bool, ...]:
    if not config.has(name):
        return (bool(default),) * layers
    flags = config.numbers(name, layers, 0, 1)
    if set(flags) - {0, 1}:
        config.refuse(name, "0 or 1 for each layer is needed")
    return tuple(map(bool, flags))


def read_mixtures(config: Fields, layers: int) -> tuple[Mixture | None, ...]:
    mixture = read_mixture(
        config,
        experts="num_local_experts",
        hidden="intermediate_size",
        num_experts=128,
        top_k=4,
        scores="sigmoid",
    )
    config.require_neutral({"moe_intermediate_size": (mixture.hidden,)})
    scale = config.number("routed_scaling_factor", 1e-9, 1e9, 2.0)
    mixture = replace(
        mixture,
        route=replace(mixture.route, scale=scale, correction=True),
        shared=config.integer("shared_intermediate_size", 1, MAX_WIDTH, 3072),
    )
    if config.has("mlp_layer_types"):
        kinds = config.texts("mlp_layer_types", layers, ("dense", "sparse"))
        sparse = tuple(kind == "sparse" for kind in kinds)
    else:
        sparse = read_flags(config, "moe_layer_freq", layers, 1)
    first = config.integer("first_k_dense_replace", 0, MAX_LAYERS, 0)
    if any(sparse[:first]):
        config.refuse("first_k_dense_replace", "contradicts the layers that have experts")
    return tuple(mixture if flag else None for flag in sparse)


def attends_to_blocks(
    heads: Heads, turn: Rotation, head_norm: Norm, index: Index | None, sparse: Sequence[bool]
) -> Branch:
    scale = heads.dim**-0.5

    def branch(b: Builder, layer: str, i: int, x: Value) -> Value:
        if index is None or not sparse[i]:
            return attention(
                b, layer, x, heads=heads, rotation=turn, scale=scale, head_norm=head_norm
            )
        name = f"{layer}.attn"
        chosen = selected(b, layer, x, turn, head_norm, index)
        q = linear(b, f"{name}.q", x, heads.query * heads.dim, split="heads")
        k = linear(b, f"{name}.k", x, heads.kv * heads.dim, split="kv_heads")
        v = linear(b, f"{name}.v", x, heads.kv * heads.dim, split="kv_heads")
        q, k = head_norms(b, name, q, k, head_norm, heads)
        q = b.one(f"{name}.q_rope", Rope(heads.query, heads.dim, turn), q)
        k = b.one(f"{name}.k_rope", Rope(heads.kv, heads.dim, turn), k)
        state = KvState(f"{layer}.kv", heads.kv, heads.dim, heads.dim)
        b.add(f"{name}.kv_write", KvWrite(), k, v, state=state)
        op = Attention(heads.query, heads.dim, heads.dim, scale, blocks=index.blocks)
        y = b.one(f"{name}.attend", op, q, chosen, state=state)
        return linear(b, f"{name}.o", y, width(x), split_inputs="heads")

    return branch


def selected(
    b: Builder, layer: str, x: Value, turn: Rotation, head_norm: Norm, index: Index
) -> Value:
    """The blocks that each KV head looks at."""
    at, half = f"{layer}.attn.index", index.dim // 2
    q = linear(b, f"{at}.q", x, index.heads * index.dim)
    q = norm(b, f"{at}.q_norm", q, replace(head_norm, num_groups=index.heads))
    q = b.one(f"{at}.q_rope", Rope(index.heads, index.dim, turn), q)
    k = norm(b, f"{at}.k_norm", linear(b, f"{at}.k", x, index.dim), head_norm)
    k = b.one(f"{at}.k_rope", Rope(1, index.dim, turn), k)
    # A state of keys is written in two parts, wherever they meet.
    first, rest = b.add(f"{at}.k_split", Split((half, index.dim - half)), k)
    state = KvState(f"{layer}.index_kv", 1, index.dim, half, latent=True)
    b.add(f"{at}.kv_write", KvWrite(), first, rest, state=state)
    op = SelectBlocks(index.heads, index.blocks, index.local)
    return b.one(f"{at}.select", op, q, state=state)


def mixes_clamped(mixtures: Sequence[Mixture | None], hidden: int) -> Branch:
    def branch(b: Builder, layer: str, i: int, x: Value) -> Value:
        mixture = mixtures[i]
        if mixture is None:
            return gated_mlp(b, layer, x, hidden=hidden, activation=ACTIVATION)
        return mixture_mlp(b, layer, x, mixture, ACTIVATION)

    return branch
