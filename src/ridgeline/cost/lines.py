"""A rank's graph as a short table: like nodes are a line, whose work is linear in a step's sums.

`compile_lines` asks the operators' own cost rules at a few steps and solves for the coefficients,
so that a step is then priced in microseconds and nothing is described twice. Two rules are read
from the operator instead: of experts, whose weights are read as far as tokens touch them, and of
attention, whose pairs are told apart by prompts and answers. Knows no machine.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ridgeline.cost.count import LAYER
from ridgeline.errors import RidgelineError
from ridgeline.model.graph.node import Graph, KvState, Node, Weight
from ridgeline.model.graph.ops import (
    AllGather,
    AllReduce,
    Attention,
    Combine,
    Dispatch,
    Embed,
    EntryAttention,
    Experts,
    GatedLinear,
    LatentAttention,
    Linear,
    Operator,
    SelectBlocks,
    SelectEntries,
)
from ridgeline.model.graph.work import Precision
from ridgeline.step import StepShape
from ridgeline.units import FLOPS_PER_MULTIPLY_ADD

Kind = Literal["linear", "experts", "attention", "elementwise", "collective"]
KINDS: tuple[Kind, ...] = ("linear", "experts", "attention", "elementwise", "collective")

# Rows with at most so many new tokens verify drafts: they are decoded, not prefilled.
MOST_DECODED = 8

Linear4 = tuple[float, float, float, float]
ATTENDING = (Attention, LatentAttention, EntryAttention, SelectBlocks, SelectEntries)
_NONE: Linear4 = (0.0, 0.0, 0.0, 0.0)
_SAMPLES = (
    StepShape((1,), (0,), 1),
    StepShape((7,), (0,), 0),
    StepShape((40, 3), (0, 0), 1),
    StepShape((300, 20, 1), (0, 0, 0), 3),
    StepShape((9, 9, 9, 9, 9), (0,) * 5, 2),
)


_COLLECTIVES: dict[type[Operator], str] = {
    AllReduce: "all_reduce",
    AllGather: "all_gather",
    Dispatch: "all_to_all",
    Combine: "all_to_all",
}


@dataclass(frozen=True, slots=True)
class Line:
    """`count` like nodes of a rank; all numbers are of them together.

    flops, moved_bytes, link_bytes: coefficients of (1, T, S, R): operations in the format's
    arithmetic, values read and written, bytes that a rank sends. weight_bytes: read in every step
    (of experts: if all were touched). ways: ranks of a collective. window: of the cache that it
    reads; decode_pair_flops, prefill_pair_flops: of a pair that attends; token_bytes: of a token
    read; expand_flops: of a token that was cached before a prompt's new ones. experts, top_k: of a
    mixture, and of what takes tokens to it; T of experts are the tokens of all ranks. sampled_only:
    not run in a step that samples nothing. collective: of COLLECTIVES. latent: of attention,
    whether it is of latents (MLA).
    """

    name: str
    kind: Kind
    format: str
    count: int
    flops: Linear4 = _NONE
    weight_bytes: float = 0.0
    moved_bytes: Linear4 = _NONE
    link_bytes: Linear4 = _NONE
    ways: int = 1
    window: int | None = None
    decode_pair_flops: float = 0.0
    prefill_pair_flops: float = 0.0
    token_bytes: float = 0.0
    expand_flops: float = 0.0
    experts: int = 0
    top_k: int = 0
    sampled_only: bool = False
    collective: str = "none"
    latent: bool = False


@dataclass(frozen=True, slots=True)
class Indexer:
    """Sparse attention (DeepSeek V3.2, GLM-5): a light scorer picks `top_k` tokens that a query
    attends to. heads, dim: of the scorer, which keeps a key of `dim` FP8 numbers a token and layer.
    width, q_rank: of what it makes keys and queries from.
    """

    top_k: int
    heads: int
    dim: int
    width: int
    q_rank: int

    @property
    def token_bytes(self) -> float:
        return self.dim + 4.0


def compile_lines(graph: Graph, indexer: Indexer | None = None) -> tuple[Line, ...]:
    """The lines of a fused graph (one rank's). Experts are whole: who prices them shares them."""
    groups: dict[object, list[Node]] = {}
    for node in graph.nodes:
        if node.outputs:
            groups.setdefault(_key(node), []).append(node)
    lines = []
    for nodes in groups.values():
        if isinstance(nodes[0].op, EntryAttention | SelectBlocks | SelectEntries):
            lines += _entry_lines(nodes[0], len(nodes))
            continue
        line = _line(nodes[0], len(nodes), indexer)
        if line.kind != "elementwise" or any(line.moved_bytes):
            lines.append(line)
        if indexer is not None and isinstance(nodes[0].op, LatentAttention):
            lines += _index_lines(nodes[0], len(nodes), indexer)
    return tuple(lines)


def _line(node: Node, count: int, indexer: Indexer | None) -> Line:
    name = LAYER.sub("layers.*.", node.name)
    op = node.op
    if isinstance(op, Experts):
        return _experts(name, node, op, count)
    matrices: tuple[Weight, ...] = node.weights
    if isinstance(op, Linear | GatedLinear):
        matrices = op.parts(node.weights)
    fmt = max(matrices, key=lambda w: w.num_elements).format.name if matrices else "bf16"
    flops, moved, link, weight_bytes, sampled_only = _solve(node)
    line = Line(
        name,
        "elementwise",
        fmt,
        count,
        _times(flops, count),
        count * weight_bytes,
        _times(moved, count),
        _times(link, count),
        sampled_only=sampled_only,
    )
    if isinstance(op, Linear | GatedLinear):
        return _as(line, kind="linear")
    if isinstance(op, AllReduce | AllGather | Dispatch | Combine):
        alone = _as(line, moved_bytes=_NONE, flops=_NONE)
        to = _as(alone, kind="collective", ways=op.ways, collective=_COLLECTIVES[type(op)])
        return _as(to, top_k=op.top_k) if isinstance(op, Dispatch | Combine) else to
    if isinstance(op, Embed):
        return _as(line, weight_bytes=0.0)
    if isinstance(op, Attention | LatentAttention):
        return _attention(line, node, count, indexer)
    return line


def _attention(line: Line, node: Node, count: int, indexer: Indexer | None) -> Line:
    op, state = node.op, node.state
    assert isinstance(op, Attention | LatentAttention)
    assert isinstance(state, KvState)
    per_pair = FLOPS_PER_MULTIPLY_ADD * op.num_heads * count
    window = state.window
    if isinstance(op, Attention):
        decode = prefill = per_pair * (op.head_dim + op.value_dim)
        if op.blocks is not None:
            window = op.blocks.top * op.blocks.tokens
    else:
        # An answer attends to latents; a prompt makes heads of them first, which costs less there,
        # of those that it finds in the cache as well.
        rank = state.value_dim
        decode = per_pair * (2 * rank + op.rope_dim)
        prefill = per_pair * (op.nope_dim + op.rope_dim + op.value_dim)
        if indexer is not None:  # each query has tokens of its own: kernels score their latents
            window, prefill = indexer.top_k, decode
    elements = sum(w.num_elements for w in node.weights) if isinstance(op, LatentAttention) else 0
    expand = float(FLOPS_PER_MULTIPLY_ADD * elements * count)
    return _as(
        line,
        kind="attention",
        window=window,
        flops=(0.0, expand, 0.0, 0.0),
        decode_pair_flops=decode,
        prefill_pair_flops=prefill,
        token_bytes=count * state.bytes_per_token,
        expand_flops=expand if indexer is None else 0.0,
        latent=isinstance(op, LatentAttention),
    )


def _entry_lines(node: Node, count: int) -> list[Line]:
    """Of attention over a window and entries: a line each. A pair of a query and a token costs that
    share of one with an entry which the token has; so it is with what selects entries. What selects
    blocks looks at every token.
    """
    op, state = node.op, node.state
    assert isinstance(op, EntryAttention | SelectBlocks | SelectEntries)
    assert isinstance(state, KvState)
    name = LAYER.sub("layers.*.", node.name)
    _, moved, *_ = _solve(node)

    def line(part: str, cache: KvState, window: int | None, channels: int) -> Line:
        pair = FLOPS_PER_MULTIPLY_ADD * op.num_heads * channels * count / cache.every
        return Line(
            f"{name}{part}",
            "attention",
            "bf16",
            count,
            window=window,
            decode_pair_flops=pair,
            prefill_pair_flops=pair,
            token_bytes=float(count * cache.bytes_per_token),
            latent=True,
        )

    if isinstance(op, SelectBlocks | SelectEntries):
        channels = state.key_dim + isinstance(op, SelectEntries)
        return [_as(line("", state, None, channels), moved_bytes=_times(moved, count))]
    lines = [_as(line("", state, state.window, 2 * op.dim), moved_bytes=_times(moved, count))]
    if node.entries is not None:
        reach = None if op.top_k is None else op.top_k * node.entries.every
        lines.append(line(".entries", node.entries, reach, 2 * op.dim))
    return lines


def _index_lines(node: Node, count: int, indexer: Indexer) -> list[Line]:
    """What scores tokens: three linears, and three passes with attention's floor each: queries and
    keys are rotated and kept in FP8, all pairs are scored, and the best are chosen.
    """
    name = LAYER.sub("layers.*.", node.name) + ".index"
    pair = FLOPS_PER_MULTIPLY_ADD * indexer.heads * indexer.dim * count
    scores = Line(
        name,
        "attention",
        "fp8",
        3 * count,
        decode_pair_flops=pair,
        prefill_pair_flops=pair,
        token_bytes=count * indexer.token_bytes,
    )
    elements = (indexer.width + indexer.q_rank * indexer.heads) * indexer.dim
    linears = Line(
        f"{name}.linears",
        "linear",
        "fp8",
        3 * count,
        flops=(0.0, FLOPS_PER_MULTIPLY_ADD * elements * count, 0.0, 0.0),
        weight_bytes=float(elements * count),
    )
    return [linears, scores]


def _experts(name: str, node: Node, op: Experts, count: int) -> Line:
    matrices = op.matrices(node.weights)
    here, whole = node.weights[0].shape[0], op.num_experts - op.num_zero
    top_k = round(op.top_k * whole / op.num_experts)  # of experts that compute
    elements = sum(w.num_elements for w in matrices) / here
    stored = sum(w.num_bytes for w in node.weights) / here
    width = node.inputs[0].shape[-1]
    assert isinstance(width, int)
    return Line(
        name,
        "experts",
        matrices[0].format.name,
        count,
        flops=(0.0, FLOPS_PER_MULTIPLY_ADD * elements * top_k * count, 0.0, 0.0),
        weight_bytes=count * whole * stored,
        # A token's copies in, hidden values out and in again, its part of the sum out: BF16.
        moved_bytes=(
            0.0,
            count * 2.0 * top_k * (2 * width + 2 * node.weights[0].shape[1]),
            0.0,
            0.0,
        ),
        experts=whole,
        top_k=top_k,
    )


def _solve(node: Node) -> tuple[Linear4, Linear4, Linear4, float, bool]:
    """FLOPs, values moved and link bytes as coefficients of (1, T, S, R); bytes of weights; whether
    nothing is to do where nothing is sampled.
    """
    precision = Precision()
    works = [node.op.cost(node, shape, precision) for shape in _SAMPLES]
    sums = np.array(
        [(1.0, s.num_tokens, s.num_sampled, s.num_sequences) for s in _SAMPLES], np.float64
    )

    def solved(values: list[float]) -> Linear4:
        found = np.linalg.lstsq(sums, np.array(values), rcond=None)[0]
        if np.abs(sums @ found - values).max() > 1e-6 * (1.0 + max(values)):
            if isinstance(node.op, ATTENDING):
                return _NONE
            raise RidgelineError(f"{node.name}: its work is not linear in a step's rows")
        found[np.abs(found) < 1e-9 * (1.0 + max(values))] = 0.0
        a, b, c, d = map(float, found)
        return a, b, c, d

    weight_bytes = max(work.weight_bytes for work in works)
    idle = not (works[1].total_flops or works[1].activation_bytes or works[1].link_bytes)
    kv = [w.kv_read_bytes + w.kv_write_bytes + w.activation_bytes for w in works]
    if isinstance(node.op, ATTENDING):
        kv = [w.activation_bytes for w in works]
    return (
        solved([w.total_flops for w in works]),
        solved(kv),
        solved([w.link_bytes for w in works]),
        weight_bytes,
        idle,
    )


def _key(node: Node) -> object:
    state = None
    if isinstance(node.state, KvState):
        every = None if node.entries is None else node.entries.every
        state = (node.state.kv_heads, node.state.key_dim, node.state.window, every)
    return (
        LAYER.sub("layers.*.", node.name),
        node.op,
        tuple((v.shape, v.integer) for v in (*node.inputs, *node.outputs)),
        tuple((w.shape, w.format.name) for w in node.weights),
        state,
    )


def norm_sums(count: int, ways: int) -> Line:
    """What `ways` ranks exchange for norms over all of q and k: a sum of squares of each, in FP32
    (vLLM: MiniMaxText01RMSNormTP.forward_qk, one all-reduce a layer; read 2026-12-01).
    """
    link = count * 2.0 * (ways - 1) / ways * 8.0
    return Line(
        "layers.*.attn.norms.all_reduce",
        "collective",
        "bf16",
        count,
        link_bytes=(0.0, link, 0.0, 0.0),
        ways=ways,
        collective="all_reduce",
    )


def _times(coefficients: Linear4, count: int) -> Linear4:
    a, b, c, d = coefficients
    return a * count, b * count, c * count, d * count


def _as(line: Line, **changes: object) -> Line:
    return replace(line, **changes)  # type: ignore[arg-type]
