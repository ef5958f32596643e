"""The four rules of every operator, on cases small enough to count by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from ridgeline.backends.reference.table import COLLECTIVES, REFERENCE
from ridgeline.errors import ModelError
from ridgeline.model.formats import FORMATS
from ridgeline.model.graph.dims import SAMPLED, TOKENS, Shape
from ridgeline.model.graph.kv_format import KvFormat
from ridgeline.model.graph.node import CrossState, KvState, Node, RowState, State, Value, Weight
from ridgeline.model.graph.ops import (
    OPERATORS,
    Activate,
    Add,
    AddNorm,
    AllGather,
    AllReduce,
    Attention,
    BlockLinear,
    Blocks,
    CausalConv,
    Combine,
    Compress,
    Conv1d,
    CrossAttention,
    CrossWrite,
    DecayAttention,
    DeltaRule,
    Dispatch,
    Embed,
    EntryAttention,
    EntryWrite,
    Experts,
    GatedActivation,
    GatedLinear,
    GridPool,
    Join,
    JoinTokens,
    KeepLargest,
    KvWrite,
    LatentAttention,
    Linear,
    MatchSize,
    Mix,
    Norm,
    Operator,
    PlaceImages,
    Pool,
    PositionEmbed,
    RgLru,
    Rope,
    RopeKvWrite,
    Rotation,
    Route,
    Scale,
    ScaleBy,
    ScaleByPosition,
    SelectBlocks,
    SelectEntries,
    SelectiveScan,
    SelectRows,
    SelectTokens,
    Softcap,
    Split,
    SplitGroups,
    SsdScan,
    StreamWeights,
    TokenShift,
    TypeEmbed,
    Weigh,
    Wkv7,
    Xielu,
    ZeroExperts,
)
from ridgeline.model.graph.ops.entries import entries_seen
from ridgeline.model.graph.ops.linear import merged
from ridgeline.model.graph.ops.operator import PARTIAL, REPLICATED, Placement, Sharded
from ridgeline.model.graph.work import Precision, Work
from ridgeline.step import StepShape

# 4 new tokens in two rows: 3 from nothing, 1 after 7; pairs 14, cached tokens 11; 2 want logits.
STEP = StepShape(new_tokens=(3, 1), context_lens=(0, 7), num_sampled=2)
PRECISION = Precision(activation_bytes=2, default_compute="bf16", compute={"Q8_0": "int8"})
CUT = Placement(split=-1)
ROWS, COLUMNS = Placement(split=0), Placement(split=1)

ROTATION = Rotation((1.0, 0.1))
BYTES = KvFormat("bytes", element_bytes=1)
HEARD = CrossState("cross", positions=6, kv_heads=2, key_dim=8, value_dim=4, format=BYTES)
CROSS = CrossAttention(4, 8, 4, scale=0.5)
STATE = KvState("kv", kv_heads=2, key_dim=8, value_dim=8, format=BYTES)


def weight(name: str, *shape: int, format_name: str = "F32") -> Weight:
    return Weight(name, shape, FORMATS[format_name], (None,) * len(shape))


def value(id: int, *shape: object, integer: bool = False) -> Value:  # noqa: A002
    return Value(id, tuple(shape), integer)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Case:
    """An application, what its rules must say, and changes that its check must refuse.

    shards: (input placements, weight placements, ways) -> outputs' placements, None if it cannot.
    """

    op: Operator
    inputs: tuple[Value, ...]
    outputs: tuple[Shape, ...]
    work: Work
    weights: tuple[Weight, ...] = ()
    state: State | None = None
    shards: tuple[
        tuple[tuple[Placement, ...], tuple[Placement, ...], int, tuple[Operator, object] | None],
        ...,
    ] = ()
    refused: dict[str, Callable[[Case], Case]] = field(default_factory=dict)


def x(*shape: object) -> tuple[Value, ...]:
    return (value(0, *shape),)


def pair(*shape: object) -> tuple[Value, ...]:
    return (value(0, *shape), value(1, *shape))


def with_weights(*weights: Weight) -> Callable[[Case], Case]:
    return lambda case: replace(case, weights=weights)


def with_inputs(*inputs: Value) -> Callable[[Case], Case]:
    return lambda case: replace(case, inputs=inputs)


def with_op(op: Operator) -> Callable[[Case], Case]:
    return lambda case: replace(case, op=op)


def with_state(state: State | None) -> Callable[[Case], Case]:
    return lambda case: replace(case, state=state)


LATENTS = KvState("latents", kv_heads=1, key_dim=18, value_dim=16, format=BYTES, latent=True)
INDEX = KvState("index", kv_heads=1, key_dim=10, value_dim=4, format=BYTES, latent=True)
NEAR = KvState("near", kv_heads=1, key_dim=8, value_dim=8, window=4, format=BYTES, latent=True)
FAR = KvState("far", kv_heads=1, key_dim=8, value_dim=8, format=BYTES, latent=True, every=2)
BESIDE = EntryAttention(4, 8, scale=0.5)
STREAMS = StreamWeights(2, 3, 1e-6, 1e-6)
LATENT = LatentAttention(4, 8, 2, 6, scale=0.5)
QKV = RopeKvWrite(4, 2, 8, ROTATION)
QKV_NORM = RopeKvWrite(4, 2, 8, ROTATION, Norm())
ATTENTION = Attention(4, 8, 8, scale=0.5)

CASES: dict[str, Case] = {
    "embed": Case(
        Embed(scale=2.0),
        (value(0, TOKENS, integer=True),),
        ((TOKENS, 8),),
        # 4 of 16 rows of 8 floats; 4 ids of 4 bytes, 32 activations of 2.
        Work({"f32": 32.0}, weight_bytes=4 * 32, activation_bytes=16 + 64),
        (weight("table", 16, 8),),
        shards=(
            ((REPLICATED,), (REPLICATED,), 2, (Embed(2.0), (REPLICATED,))),
            ((REPLICATED,), (ROWS,), 2, (Embed(2.0), (PARTIAL,))),
            ((REPLICATED,), (COLUMNS,), 2, (Embed(2.0), (CUT,))),
            ((PARTIAL,), (ROWS,), 2, None),
        ),
        refused={
            "not real numbers": with_inputs(value(0, TOKENS)),
            "not a table": with_weights(weight("table", 16)),
            "takes 1 weights, not 0": with_weights(),
        },
    ),
    "position_embed": Case(
        PositionEmbed(first=2),
        (value(0, TOKENS, integer=True),),
        ((TOKENS, 8),),
        Work(weight_bytes=4 * 32, activation_bytes=16 + 64),
        (weight("table", 16, 8),),
        shards=(
            ((REPLICATED,), (REPLICATED,), 2, (PositionEmbed(2), (REPLICATED,))),
            ((REPLICATED,), (ROWS,), 2, None),
        ),
        refused={
            "not real numbers": with_inputs(value(0, TOKENS)),
            "not a table": with_weights(weight("table", 16)),
            "first 16 is not in the table": with_op(PositionEmbed(16)),
        },
    ),
    "type_embed": Case(
        TypeEmbed(5),
        (value(0, TOKENS, integer=True),),
        ((TOKENS, 8),),
        # Two types for four tokens.
        Work(weight_bytes=2 * 32, activation_bytes=16 + 64),
        (weight("table", 2, 8),),
        shards=(
            ((REPLICATED,), (REPLICATED,), 2, (TypeEmbed(5), (REPLICATED,))),
            ((PARTIAL,), (REPLICATED,), 2, None),
        ),
        refused={"not real numbers": with_inputs(value(0, TOKENS))},
    ),
    "pool": Case(
        Pool("mean"),
        x(TOKENS, 8),
        ((SAMPLED, 8),),
        Work({"f32": 32.0}, activation_bytes=2 * (32 + 16)),
        shards=(((CUT,), (), 2, (Pool("mean"), (CUT,))),),
        refused={"pools the step's tokens": with_inputs(value(0, SAMPLED, 8))},
    ),
    "grid_pool": Case(
        GridPool(4, 2),
        x(TOKENS, 8),
        ((SAMPLED, 8),),
        Work({"f32": 32.0}, activation_bytes=2 * (32 + 16)),
        shards=(((CUT,), (), 2, (GridPool(4, 2), (CUT,))),),
        refused={
            "pools the step's tokens": with_inputs(value(0, SAMPLED, 8)),
            "a side of 4 tokens": with_op(GridPool(4, 3)),
        },
    ),
    "join_tokens": Case(
        JoinTokens(2),
        x(TOKENS, 8),
        ((SAMPLED, 16),),
        Work(activation_bytes=2 * (32 + 32)),
        shards=(
            ((REPLICATED,), (), 2, (JoinTokens(2), (REPLICATED,))),
            ((CUT,), (), 2, None),
        ),
        refused={
            "joins the step's tokens": with_inputs(value(0, SAMPLED, 8)),
            "joins 0 tokens": with_op(JoinTokens(0)),
        },
    ),
    "place_images": Case(
        PlaceImages(),
        x(TOKENS, 8),
        ((TOKENS, 8),),
        Work(activation_bytes=2 * (32 + 32)),
        shards=(((REPLICATED,), (), 2, (PlaceImages(), (REPLICATED,))),),
        refused={"the step's tokens only": with_inputs(value(0, SAMPLED, 8))},
    ),
    "linear": Case(
        Linear(num_parts=2, bias=True),
        x(TOKENS, 32),
        ((TOKENS, 12),),
        # 2 * 4 tokens * (8 + 4) * 32; Q8_0 is 34 bytes for 32.
        Work(
            {"int8": 2.0 * 4 * 8 * 32, "bf16": 2.0 * 4 * 4 * 32},
            weight_bytes=8 * 34 + 4 * 128 + 12 * 4,
            activation_bytes=2.0 * 4 * (32 + 12),
        ),
        (
            weight("a", 8, 32, format_name="Q8_0"),
            weight("b", 4, 32),
            weight("bias_a", 8),
            weight("bias_b", 4),
        ),
        shards=(
            ((REPLICATED,), (REPLICATED,) * 4, 2, (Linear(2, True), (REPLICATED,))),
            ((REPLICATED,), (ROWS,) * 4, 2, (Linear(2, True), (CUT,))),
            # A bias would be added by every rank.
            ((CUT,), (COLUMNS, COLUMNS, REPLICATED, REPLICATED), 2, None),
            ((REPLICATED,), (ROWS, COLUMNS, ROWS, ROWS), 2, None),
            ((PARTIAL,), (ROWS,) * 4, 2, None),
        ),
        refused={
            "a has shape": with_inputs(value(0, TOKENS, 33)),
            "takes 4 weights, not 2": with_weights(weight("a", 8, 32), weight("b", 4, 32)),
            "bias_b has shape": with_weights(
                weight("a", 8, 32), weight("b", 4, 32), weight("bias_a", 8), weight("bias_b", 8)
            ),
        },
    ),
    "norm": Case(
        Norm(num_groups=4),
        x(TOKENS, 32),
        ((TOKENS, 32),),
        Work({"f32": 4.0 * 128}, weight_bytes=32, activation_bytes=2 * 2 * 128),
        (weight("w", 8),),
        shards=(
            ((REPLICATED,), (REPLICATED,), 2, (Norm(num_groups=4), (REPLICATED,))),
            ((CUT,), (REPLICATED,), 2, (Norm(num_groups=2), (CUT,))),
            ((CUT,), (REPLICATED,), 3, None),
            ((PARTIAL,), (REPLICATED,), 2, None),
        ),
        refused={
            "do not part into 5 groups": with_op(Norm(num_groups=5)),
            "w has shape": with_op(Norm(num_groups=2)),
            r"takes w \(and b\)": with_weights(weight("w", 8), weight("b", 8)),
            "is negative": with_op(Norm(eps=-1e-6, num_groups=4)),
            "takes 1 input, not 2": with_inputs(*pair(TOKENS, 32)),
        },
    ),
    "add_norm": Case(
        AddNorm(Norm(kind="layer")),
        pair(TOKENS, 32),
        ((TOKENS, 32), (TOKENS, 32)),
        Work({"f32": 5.0 * 128}, weight_bytes=2 * 128, activation_bytes=2 * 4 * 128),
        (weight("w", 32), weight("b", 32)),
        shards=(
            (
                (REPLICATED, REPLICATED),
                (REPLICATED, REPLICATED),
                2,
                (AddNorm(Norm(kind="layer")), (REPLICATED, REPLICATED)),
            ),
            ((REPLICATED, PARTIAL), (REPLICATED, REPLICATED), 2, None),
        ),
        refused={
            "different shapes": with_inputs(value(0, TOKENS, 32), value(1, TOKENS, 16)),
            "takes 2 inputs, not 1": with_inputs(value(0, TOKENS, 32)),
            "w has shape": with_weights(weight("w", 16)),
        },
    ),
    "rope": Case(
        Rope(4, 8, ROTATION),
        x(TOKENS, 32),
        ((TOKENS, 32),),
        # Half of each head turns.
        Work({"f32": 3.0 * 0.5 * 128}, activation_bytes=2 * 2 * 128),
        shards=(
            ((REPLICATED,), (), 2, (Rope(4, 8, ROTATION), (REPLICATED,))),
            ((CUT,), (), 2, (Rope(2, 8, ROTATION), (CUT,))),
            ((CUT,), (), 3, None),
            ((PARTIAL,), (), 2, None),
        ),
        refused={
            "3 heads of 8 are not 32 channels": with_op(Rope(3, 8, ROTATION)),
            "do not fit a head": with_op(Rope(4, 8, Rotation((1.0,) * 5))),
            "1 axes for 2 pairs": with_op(Rope(4, 8, Rotation((1.0, 0.1), axes=(0,)))),
        },
    ),
    "kv_write": Case(
        KvWrite(),
        pair(TOKENS, 16),
        (),
        Work(kv_write_bytes=4 * 32, activation_bytes=2 * 2 * 64),
        state=STATE,
        shards=(
            ((REPLICATED, REPLICATED), (), 2, (KvWrite(), ())),
            ((CUT, CUT), (), 2, (KvWrite(), ())),
            ((CUT, REPLICATED), (), 2, None),
            ((PARTIAL, PARTIAL), (), 2, None),
        ),
        refused={
            "writes to no cache": with_state(None),
            r"the cache holds \(16, 8\)": with_state(replace(STATE, value_dim=4)),
        },
    ),
    "rope_kv_write": Case(
        QKV_NORM,
        x(TOKENS, 64),
        ((TOKENS, 32),),
        # 6 heads of 8 channels are normed, half of them turned; 2 + 2 heads are written.
        Work(
            {"f32": 4 * 6 * 8 * (3.0 * 0.5 + 4)},
            weight_bytes=64,
            kv_write_bytes=4 * 32,
            activation_bytes=2 * 4 * (64 + 32),
        ),
        (weight("q_norm", 8), weight("k_norm", 8)),
        STATE,
        shards=(
            ((REPLICATED,), (REPLICATED,) * 2, 2, (QKV_NORM, (REPLICATED,))),
            (
                (CUT,),
                (REPLICATED,) * 2,
                2,
                (RopeKvWrite(2, 1, 8, ROTATION, Norm()), (CUT,)),
            ),
            ((CUT,), (REPLICATED,) * 2, 4, None),
            ((PARTIAL,), (REPLICATED,) * 2, 2, None),
        ),
        refused={
            "takes 0 weights, not 2": with_op(QKV),
            "need 64 channels, not 63": with_inputs(value(0, TOKENS, 63)),
            "q_norm has shape": with_weights(weight("q_norm", 4), weight("k_norm", 8)),
            "do not fit a head": with_op(replace(QKV_NORM, rotation=Rotation((1.0,) * 5))),
            "the cache's heads": with_state(replace(STATE, kv_heads=4)),
        },
    ),
    "attention": Case(
        ATTENTION,
        x(TOKENS, 32),
        ((TOKENS, 32),),
        # 14 pairs * 4 heads * (8 + 8) multiply-adds; 11 tokens of 32 cached numbers.
        Work({"bf16": 14 * 2.0 * 4 * 16}, kv_read_bytes=11 * 32, activation_bytes=2 * 2 * 128),
        state=STATE,
        shards=(
            ((REPLICATED,), (), 2, (ATTENTION, (REPLICATED,))),
            ((CUT,), (), 2, (replace(ATTENTION, num_heads=2), (CUT,))),
            ((CUT,), (), 3, None),
            ((PARTIAL,), (), 2, None),
        ),
        refused={
            "3 heads of 8": with_op(replace(ATTENTION, num_heads=3)),
            "has no cache": with_state(None),
            "do not part over 3 KV heads": with_state(replace(STATE, kv_heads=3)),
            "head sizes": with_state(replace(STATE, value_dim=4)),
            "window 0 is empty": with_state(replace(STATE, window=0)),
            "which says how long they are": with_op(replace(ATTENTION, chunked=True)),
            "a head of 8 channels is too wide for a cache in narrow, which holds 7": with_state(
                replace(STATE, format=KvFormat("narrow", 1, max_channels=7))
            ),
        },
    ),
    "gated_activation": Case(
        GatedActivation("silu", joint=True),
        x(TOKENS, 32),
        ((TOKENS, 16),),
        Work({"f32": 6.0 * 64}, activation_bytes=2 * (128 + 64)),
        shards=(
            ((CUT,), (), 2, (GatedActivation("silu", joint=True), (CUT,))),
            ((PARTIAL,), (), 2, None),
        ),
        refused={
            "takes not 1 inputs": with_op(GatedActivation("silu")),
            "33 channels are odd": with_inputs(value(0, TOKENS, 33)),
            "takes no weights": with_weights(weight("w", 16)),
        },
    ),
    "gated_linear": Case(
        GatedLinear("silu", Linear(2, True)),
        x(TOKENS, 32),
        ((TOKENS, 8),),
        # As the linear of 16 channels, and 4 tokens * 8 gated ones.
        Work(
            {"bf16": 2.0 * 4 * 16 * 32, "f32": 6.0 * 32},
            weight_bytes=16 * 128 + 16 * 4,
            activation_bytes=2.0 * 4 * (32 + 8),
        ),
        (weight("g", 8, 32), weight("u", 8, 32), weight("bias_g", 8), weight("bias_u", 8)),
        shards=(
            ((REPLICATED,), (ROWS,) * 4, 2, (GatedLinear("silu", Linear(2, True)), (CUT,))),
            # Half of gate and up is known when all ranks' terms are summed, and not before.
            ((CUT,), (COLUMNS, COLUMNS, REPLICATED, REPLICATED), 2, None),
            ((PARTIAL,), (ROWS,) * 4, 2, None),
        ),
        refused={
            "g has shape": with_inputs(value(0, TOKENS, 33)),
            "takes 2 weights, not 4": with_op(GatedLinear("silu")),
            "1 or 2 parts, not 4": with_op(GatedLinear("silu", Linear(4))),
            "gate and up differ": with_weights(
                weight("g", 8, 32), weight("u", 4, 32), weight("bias_g", 8), weight("bias_u", 4)
            ),
        },
    ),
    "add": Case(
        Add(),
        pair(TOKENS, 8),
        ((TOKENS, 8),),
        Work({"f32": 32.0}, activation_bytes=2 * 3 * 32),
        shards=(
            ((CUT, CUT), (), 2, (Add(), (CUT,))),
            ((PARTIAL, PARTIAL), (), 2, (Add(), (PARTIAL,))),
            ((REPLICATED, PARTIAL), (), 2, None),
        ),
        refused={"adds": with_inputs(value(0, TOKENS, 8), value(1, TOKENS, 4))},
    ),
    "latent_attention": Case(
        LATENT,
        (value(0, TOKENS, 4 * 8), value(1, TOKENS, 4 * 2)),
        ((TOKENS, 4 * 6),),
        # 14 pairs, 11 cached tokens of 16 + 2 numbers; 4 tokens times a matrix of 56 x 16.
        Work(
            {"bf16": 14 * 2.0 * 4 * (2 * 16 + 2) + 2.0 * 4 * 56 * 16},
            weight_bytes=56 * 16 * 4,
            kv_read_bytes=11 * 18,
            activation_bytes=2 * 4 * (32 + 8 + 24),
        ),
        (weight("expand", 56, 16),),
        LATENTS,
        shards=(
            ((REPLICATED, REPLICATED), (REPLICATED,), 2, (LATENT, (REPLICATED,))),
            ((CUT, CUT), (ROWS,), 2, (replace(LATENT, num_heads=2), (CUT,))),
            ((CUT, CUT), (REPLICATED,), 2, None),
        ),
        refused={
            "takes 2 inputs, not 1": with_inputs(value(0, TOKENS, 32)),
            r"q has \(32, 7\) channels": with_inputs(value(0, TOKENS, 32), value(1, TOKENS, 7)),
            "has no cache of latents": with_state(STATE),
            "expand has shape": with_weights(weight("expand", 56, 15)),
            "the cache keeps 19 numbers": with_state(replace(LATENTS, key_dim=19)),
        },
    ),
    "route": Case(
        Route(2),
        x(TOKENS, 8),
        ((TOKENS, 4),),
        Work({"f32": 2.0 * 4 * 32 + 8 * 4 * 4}, weight_bytes=128, activation_bytes=2 * (32 + 16)),
        (weight("router", 4, 8),),
        shards=(
            ((REPLICATED,), (REPLICATED,), 2, (Route(2), (REPLICATED,))),
            ((CUT,), (REPLICATED,), 2, None),
            ((REPLICATED,), (ROWS,), 2, None),
        ),
        refused={
            "takes 1 weights, not 2": with_weights(weight("router", 4, 8), weight("b", 4)),
            "has shape": with_weights(weight("router", 4, 9)),
            "5 experts a token, of 4": with_op(Route(5)),
            "4 experts do not part into 3 groups": with_op(Route(2, num_groups=3)),
            "the best 3 of 2 groups": with_op(Route(2, num_groups=2, top_groups=3)),
            "by the best 3 of 2 experts": with_op(Route(2, num_groups=2, group_best=3)),
            "3 experts a token, of 2": with_op(Route(3, num_groups=2)),
        },
    ),
    "experts": Case(
        Experts(4, 2, "silu"),
        (value(0, TOKENS, 32), value(1, TOKENS, 4)),
        ((TOKENS, 32),),
        # 8 passes; 4 tokens that choose 2 of 4 miss an expert with a chance of 1 / 16.
        Work(
            {"f32": 6.0 * 8 * 32, "int8": 2.0 * 8 * 3 * 32 * 32},
            weight_bytes=0.9375 * 3 * 4 * 32 * 34,
            activation_bytes=2 * (128 + 16 + 128),
        ),
        tuple(weight(name, 4, 32, 32, format_name="Q8_0") for name in ("gate", "up", "down")),
        shards=(
            (
                (REPLICATED, REPLICATED),
                (ROWS, ROWS, ROWS),
                2,
                (Experts(4, 2, "silu"), (PARTIAL,)),
            ),
            (
                (REPLICATED, REPLICATED),
                (COLUMNS, COLUMNS, Placement(split=2)),
                2,
                (Experts(4, 2, "silu"), (PARTIAL,)),
            ),
            ((REPLICATED, REPLICATED), (ROWS, ROWS, COLUMNS), 2, None),
            ((CUT, REPLICATED), (REPLICATED,) * 3, 2, None),
        ),
        refused={
            "takes 3 weights, not 2": with_weights(weight("gate", 4, 32, 32), weight("u", 4, 1, 1)),
            r"down has shape \(4, 32, 16\)": with_weights(
                weight("gate", 4, 32, 32), weight("up", 4, 32, 32), weight("down", 4, 32, 16)
            ),
            r"gate has shape \(4, 32, 16\)": with_weights(*(weight("gate", 4, 32, 16),) * 3),
            "slots have shape": with_inputs(value(0, TOKENS, 32), value(1, TOKENS, 3)),
            "experts 1 to 4 are not among 4": with_op(Experts(4, 2, "silu", first_expert=1)),
            "experts 0 to 3 are not among 3": with_op(Experts(4, 2, "silu", num_zero=1)),
        },
    ),
    "zero_experts": Case(
        ZeroExperts(4, 2),
        (value(0, TOKENS, 32), value(1, TOKENS, 4)),
        ((TOKENS, 32),),
        Work({"f32": 128.0}, activation_bytes=2 * (128 + 16 + 128)),
        shards=(
            ((REPLICATED, REPLICATED), (), 2, (ZeroExperts(4, 2), (REPLICATED,))),
            ((REPLICATED, CUT), (), 2, None),
        ),
        refused={
            "slots have shape": with_inputs(value(0, TOKENS, 32), value(1, TOKENS, 3)),
            "no expert has the number -1": with_op(ZeroExperts(-1, 2)),
        },
    ),
    "weigh": Case(
        Weigh(),
        (value(0, TOKENS, 8), value(1, TOKENS, 1)),
        ((TOKENS, 8),),
        Work({"f32": 32.0}, activation_bytes=2 * (32 + 4 + 32)),
        shards=(
            ((CUT, REPLICATED), (), 2, (Weigh(), (CUT,))),
            ((PARTIAL, REPLICATED), (), 2, (Weigh(), (PARTIAL,))),
            ((CUT, CUT), (), 2, None),
        ),
        refused={"each of 1 equal groups": with_inputs(*pair(TOKENS, 8))},
    ),
    "scale": Case(
        Scale(0.5),
        x(TOKENS, 8),
        ((TOKENS, 8),),
        Work({"f32": 32.0}, activation_bytes=2 * 2 * 32),
        shards=(((PARTIAL,), (), 2, (Scale(0.5), (PARTIAL,))),),
        refused={"takes 1 inputs, not 2": with_inputs(*pair(TOKENS, 8))},
    ),
    "activate": Case(
        Activate("gelu_tanh"),
        x(TOKENS, 8),
        ((TOKENS, 8),),
        Work({"f32": 5.0 * 32}, activation_bytes=2 * 2 * 32),
        shards=(
            ((CUT,), (), 2, (Activate("gelu_tanh"), (CUT,))),
            ((PARTIAL,), (), 2, None),
        ),
        refused={"takes 1 inputs, not 2": with_inputs(*pair(TOKENS, 8))},
    ),
    "xielu": Case(
        Xielu(),
        x(TOKENS, 8),
        ((TOKENS, 8),),
        Work({"f32": 6.0 * 32}, weight_bytes=8, activation_bytes=2 * 2 * 32),
        (weight("p", 1), weight("n", 1)),
        shards=(
            ((CUT,), (REPLICATED,) * 2, 2, (Xielu(), (CUT,))),
            ((PARTIAL,), (REPLICATED,) * 2, 2, None),
        ),
        refused={
            "takes 2 weights, not 1": with_weights(weight("p", 1)),
            r"n has shape \(8,\)": with_weights(weight("p", 1), weight("n", 8)),
        },
    ),
    "scale_by_position": Case(
        ScaleByPosition(8, 0.1),
        x(TOKENS, 8),
        ((TOKENS, 8),),
        Work({"f32": 32.0}, activation_bytes=2 * 2 * 32),
        shards=(((CUT,), (), 2, (ScaleByPosition(8, 0.1), (CUT,))),),
        refused={
            "takes 1 inputs, not 2": with_inputs(*pair(TOKENS, 8)),
            "rows that are not the step's tokens": with_inputs(value(0, SAMPLED, 8)),
            "period 0 is not above 0": with_op(ScaleByPosition(0, 0.1)),
        },
    ),
    "scale_by": Case(
        ScaleBy(),
        x(TOKENS, 8),
        ((TOKENS, 8),),
        Work({"f32": 32.0}, weight_bytes=4, activation_bytes=2 * 2 * 32),
        (weight("w", 1),),
        shards=(((PARTIAL,), (REPLICATED,), 2, (ScaleBy(), (PARTIAL,))),),
        refused={
            "has shape .8,.": with_weights(weight("w", 8)),
            "takes 1 weights, not 0": with_weights(),
        },
    ),
    "softcap": Case(
        Softcap(30.0),
        x(SAMPLED, 8),
        ((SAMPLED, 8),),
        Work({"f32": 4.0 * 16}, activation_bytes=2 * 2 * 16),
        shards=(((CUT,), (), 2, (Softcap(30.0), (CUT,))), ((PARTIAL,), (), 2, None)),
        refused={"cap 0.0 is not positive": with_op(Softcap(0.0))},
    ),
    "split": Case(
        Split((2, 6)),
        x(TOKENS, 8),
        ((TOKENS, 2), (TOKENS, 6)),
        Work(launches=0),
        shards=(
            ((CUT,), (), 2, (Split((1, 3)), (CUT, CUT))),
            ((REPLICATED,), (), 2, (Split((2, 6)), (REPLICATED, REPLICATED))),
            ((CUT,), (), 4, None),
            ((PARTIAL,), (), 2, None),
        ),
        refused={
            "8 channels do not part": with_op(Split((2, 5))),
            "do not part into": with_op(Split((0, 8))),
        },
    ),
    "select_rows": Case(
        SelectRows(),
        x(TOKENS, 8),
        ((SAMPLED, 8),),
        # Only what is wanted is read and written.
        Work(activation_bytes=2 * 2 * 16),
        shards=(((CUT,), (), 2, (SelectRows(), (CUT,))),),
        refused={"among the step's tokens": with_inputs(value(0, SAMPLED, 8))},
    ),
    "all_reduce": Case(
        AllReduce(4),
        x(TOKENS, 8),
        ((TOKENS, 8),),
        # Three quarters of 64 bytes, twice.
        Work({"f32": 24.0}, activation_bytes=2 * 2 * 32, link_bytes=2 * 0.75 * 64),
        shards=(((PARTIAL,), (), 2, (AllReduce(4), (PARTIAL,))),),
        refused={"over 1 ranks": with_op(AllReduce(1))},
    ),
    "all_gather": Case(
        AllGather(4),
        x(TOKENS, 8),
        ((TOKENS, 32),),
        Work(activation_bytes=2 * (32 + 128), link_bytes=0.75 * 256),
        shards=(
            ((REPLICATED,), (), 2, (AllGather(4), (REPLICATED,))),
            ((CUT,), (), 2, None),
        ),
        refused={"over 0 ranks": with_op(AllGather(0))},
    ),
    "dispatch": Case(
        Dispatch(4, 2, 1.25),
        (value(0, TOKENS, 8), value(1, TOKENS, 4)),
        ((4, TOKENS, 8), (4, TOKENS, 4)),
        # Each of 3 others has one of 2 experts with a chance of 7 / 16: 32 numbers, 16 of slots.
        Work(activation_bytes=2 * 5 * 48, link_bytes=3 * 7 / 16 * (40 + 64)),
        shards=(
            (
                (REPLICATED, REPLICATED),
                (),
                2,
                (Dispatch(4, 2, 1.25), (REPLICATED, REPLICATED)),
            ),
            ((CUT, REPLICATED), (), 2, None),
        ),
        refused={
            "over 1 ranks": with_op(Dispatch(1, 2, 1.25)),
            "have some bytes": with_op(Dispatch(4, 2, 0.0)),
            "3 experts a token are needed": with_op(Dispatch(4, 3, 1.25)),
        },
    ),
    "combine": Case(
        Combine(4, 2, 2.0),
        x(4, TOKENS, 8),
        ((TOKENS, 8),),
        Work({"f32": 3 * 7 / 16 * 32}, activation_bytes=2 * 5 * 32, link_bytes=3 * 7 / 16 * 2 * 32),
        shards=(((PARTIAL,), (), 2, (Combine(4, 2, 2.0), (PARTIAL,))),),
        refused={
            "over 1 ranks": with_op(Combine(1, 2, 2.0)),
            "have some bytes": with_op(Combine(4, 2, -1.0)),
            "tokens of 4 ranks are needed": with_inputs(value(0, 2, TOKENS, 8)),
        },
    ),
    "split_groups": Case(
        SplitGroups(2, (3, 1)),
        x(TOKENS, 8),
        ((TOKENS, 6), (TOKENS, 2)),
        Work(activation_bytes=2.0 * 4 * 16),
        shards=(
            ((REPLICATED,), (), 4, (SplitGroups(2, (3, 1)), (REPLICATED, REPLICATED))),
            ((CUT,), (), 2, (SplitGroups(1, (3, 1)), (CUT, CUT))),
            ((CUT,), (), 4, None),
        ),
        refused={"8 channels do not part into 3 groups": with_op(SplitGroups(3, (3, 1)))},
    ),
    "join": Case(
        Join(),
        (value(0, TOKENS, 8), value(1, TOKENS, 4)),
        ((TOKENS, 12),),
        Work(activation_bytes=2.0 * 4 * 24),
        shards=(
            ((REPLICATED, REPLICATED), (), 4, (Join(), (REPLICATED,))),
            ((CUT, CUT), (), 2, None),
        ),
        refused={
            "as many rows are needed": with_inputs(value(0, TOKENS, 8), value(1, SAMPLED, 4)),
            "takes 2 inputs": with_inputs(value(0, TOKENS, 8)),
        },
    ),
    "conv1d": Case(
        Conv1d(3, frames=2, stride=2),
        x(TOKENS, 2 * 5),
        ((TOKENS, 8),),
        # 4 frames of 8 channels come out, each of 3 frames of 5.
        Work(
            {"bf16": 4 * 8 * 2.0 * 3 * 5},
            weight_bytes=4 * (8 * 5 * 3 + 8),
            activation_bytes=2 * 4 * (10 + 8),
        ),
        (weight("w", 8, 5, 3), weight("b", 8)),
        shards=(
            (
                (REPLICATED,),
                (REPLICATED, REPLICATED),
                2,
                (Conv1d(3, frames=2, stride=2), (REPLICATED,)),
            ),
            ((REPLICATED,), (ROWS, ROWS), 2, None),
        ),
        refused={
            "4 taps; an odd number": with_op(Conv1d(4, 2, 2)),
            "2 frames do not part into steps of 3": with_op(Conv1d(3, 2, 3)),
            "goes over the step's tokens": with_inputs(value(0, SAMPLED, 10)),
            r"w has shape \(8, 15\)": with_weights(weight("w", 8, 15), weight("b", 8)),
            "x has 11 channels; 2 frames of 5": with_inputs(value(0, TOKENS, 11)),
            r"b has shape \(5,\)": with_weights(weight("w", 8, 5, 3), weight("b", 5)),
        },
    ),
    "cross_write": Case(
        CrossWrite(),
        (value(0, TOKENS, 16), value(1, TOKENS, 8)),
        (),
        Work(kv_write_bytes=4 * 24, activation_bytes=2 * 4 * 24),
        state=HEARD,
        shards=(
            ((REPLICATED, REPLICATED), (), 2, (CrossWrite(), ())),
            ((CUT, CUT), (), 2, None),
        ),
        refused={
            "k and v have": with_inputs(value(0, TOKENS, 16), value(1, TOKENS, 16)),
            "to no state of cross attention": with_state(STATE),
        },
    ),
    "cross_attention": Case(
        CROSS,
        x(TOKENS, 32),
        ((TOKENS, 16),),
        # 4 tokens see 6 positions each; two rows' 6 positions of 2 x (8 + 4) numbers are read.
        Work(
            {"bf16": 24 * 2.0 * 4 * 12},
            kv_read_bytes=2 * 6 * 24,
            activation_bytes=2 * 4 * (32 + 16),
        ),
        state=HEARD,
        shards=(
            ((REPLICATED,), (), 2, (CROSS, (REPLICATED,))),
            ((CUT,), (), 2, None),
        ),
        refused={
            "has no state of an encoder": with_state(STATE),
            "3 heads of 8": with_op(replace(CROSS, num_heads=3)),
            "do not part over 3 KV heads": with_state(replace(HEARD, kv_heads=3)),
            "head sizes are not the state's": with_state(replace(HEARD, value_dim=8)),
            "0 positions": with_state(replace(HEARD, positions=0)),
            "a head of 8 channels is too wide for narrow, which holds 7": with_state(
                replace(HEARD, format=KvFormat("narrow", 1, max_channels=7))
            ),
        },
    ),
    "select_tokens": Case(
        SelectTokens(3, 5),
        (value(0, TOKENS, 12), value(1, TOKENS, 18), value(2, TOKENS, 3)),
        ((TOKENS, 5),),
        # 14 pairs, 3 heads of 10 channels and a weight; 11 keys of 10 numbers are read.
        Work(
            {"bf16": 14 * 2.0 * 3 * 11},
            kv_read_bytes=11 * 10,
            activation_bytes=2.0 * 4 * (33 + 5),
        ),
        state=INDEX,
        shards=(
            ((REPLICATED,) * 3, (), 2, (SelectTokens(3, 5), (REPLICATED,))),
            ((CUT,) * 3, (), 2, None),
        ),
        refused={
            "selects 0 tokens": with_op(SelectTokens(3, 0)),
            "q and w have": with_op(SelectTokens(2, 5)),
            "has no state of keys": with_state(STATE),
            "not one even key": with_state(replace(INDEX, window=4)),
        },
    ),
    "select_blocks": Case(
        SelectBlocks(3, Blocks(2, 16)),
        (value(0, TOKENS, 30),),
        ((TOKENS, 6),),
        # 14 pairs, 3 heads of 10 channels; 11 keys of 10 numbers are read.
        Work(
            {"bf16": 14 * 2.0 * 3 * 10},
            kv_read_bytes=11 * 10,
            activation_bytes=2.0 * 4 * (30 + 6),
        ),
        state=INDEX,
        shards=(
            ((REPLICATED,), (), 2, (SelectBlocks(3, Blocks(2, 16)), (REPLICATED,))),
            ((CUT,), (), 2, None),
        ),
        refused={
            "selects 0 blocks": with_op(SelectBlocks(3, Blocks(0, 16))),
            "2 blocks of 16 tokens, 3 local": with_op(SelectBlocks(3, Blocks(2, 16), 3)),
            "q has 30 channels": with_op(SelectBlocks(2, Blocks(2, 16))),
            "has no state of keys": with_state(STATE),
            "not one even key": with_state(replace(INDEX, window=4)),
        },
    ),
    "compress": Case(
        Compress(2),
        pair(TOKENS, 8),
        ((TOKENS, 8),),
        # 10 operations for each of 32 outputs; two rows' sums of 3 numbers, read and written.
        Work(
            {"f32": 10.0 * 32},
            weight_bytes=4 * 16,
            kv_read_bytes=2 * 8 * 3 * 4.0,
            kv_write_bytes=2 * 8 * 3 * 4.0,
            activation_bytes=2.0 * 4 * 24,
        ),
        (weight("b", 2, 8),),
        RowState("s", 8, 3),
        shards=(
            ((REPLICATED,) * 2, (REPLICATED,), 2, (Compress(2), (REPLICATED,))),
            ((CUT,) * 2, (REPLICATED,), 2, None),
        ),
        refused={
            "differ in shape": with_inputs(value(0, TOKENS, 8), value(1, TOKENS, 4)),
            "b has shape": with_weights(weight("b", 4, 8)),
            "4 x 9 are needed": with_op(Compress(2, overlaps=True)),
            "an entry of 0 tokens": with_op(Compress(0)),
        },
    ),
    "entry_write": Case(
        EntryWrite(),
        x(TOKENS, 8),
        (),
        # An entry of 8 bytes for every second token.
        Work(kv_write_bytes=4 * 4, activation_bytes=2.0 * 32),
        state=FAR,
        shards=(
            ((REPLICATED,), (), 2, (EntryWrite(), ())),
            ((CUT,), (), 2, None),
        ),
        refused={
            "keeps 8 channels, not 6": with_inputs(value(0, TOKENS, 6)),
            "has no cache of keys": with_state(STATE),
            "keys of 10 and values of 4": with_state(INDEX),
            "3 tokens do not fill": with_state(replace(FAR, every=3)),
            "and window 4": with_state(replace(FAR, window=4)),
        },
    ),
    "select_entries": Case(
        SelectEntries(3, 2),
        (value(0, TOKENS, 24), value(1, TOKENS, 3)),
        ((TOKENS, 2),),
        # Pairs: 0 + 1 + 1 of the first row, 4 of the second's; 1 + 4 entries of 8 bytes are read.
        Work(
            {"bf16": 6 * 2.0 * 3 * 9},
            kv_read_bytes=5 * 8,
            activation_bytes=2.0 * 4 * (24 + 3 + 2),
        ),
        state=FAR,
        shards=(
            ((REPLICATED,) * 2, (), 2, (SelectEntries(3, 2), (REPLICATED,))),
            ((CUT, REPLICATED), (), 2, None),
        ),
        refused={
            "selects 0 entries": with_op(SelectEntries(3, 0)),
            "q and w have": with_op(SelectEntries(2, 2)),
            "has a window": with_state(NEAR),
        },
    ),
    "entry_attention": Case(
        BESIDE,
        x(TOKENS, 32),
        ((TOKENS, 32),),
        # Of a window of 4: 6 and 4 pairs, 3 and 4 keys.
        Work({"bf16": 10 * 4.0 * 32}, kv_read_bytes=7 * 8, activation_bytes=2.0 * 4 * 64),
        (weight("sinks", 4),),
        NEAR,
        shards=(
            ((REPLICATED,), (REPLICATED,), 2, (BESIDE, (REPLICATED,))),
            ((CUT,), (ROWS,), 2, (replace(BESIDE, num_heads=2), (CUT,))),
            ((CUT,), (ROWS,), 3, None),
        ),
        refused={
            "4 heads of 8 need 32": with_inputs(value(0, TOKENS, 24)),
            "sinks has shape": with_weights(weight("sinks", 8)),
            "is no window": with_state(replace(NEAR, window=None)),
            "takes 2 inputs": with_op(replace(BESIDE, top_k=2)),
        },
    ),
    "stream_weights": Case(
        STREAMS,
        pair(TOKENS, 8),
        ((TOKENS, 2), (TOKENS, 6)),
        # 8 x 16 products and 16 squares a token; 2 x 2 numbers divided twice three times over.
        Work(
            {"f32": 2.0 * 4 * (128 + 16) + 4.0 * 4 * 4 * 3},
            weight_bytes=4 * (128 + 8 + 3),
            activation_bytes=2.0 * 4 * (16 + 8),
        ),
        (weight("w", 8, 16), weight("b", 8), weight("s", 3)),
        shards=(
            ((REPLICATED,) * 2, (REPLICATED,) * 3, 2, (STREAMS, (REPLICATED,) * 2)),
            ((CUT,) * 2, (REPLICATED,) * 3, 2, None),
        ),
        refused={
            "w has shape": with_weights(weight("w", 2, 16), weight("b", 8), weight("s", 3)),
            "s has shape": with_weights(weight("w", 8, 16), weight("b", 8), weight("s", 1)),
            "streams differ": with_inputs(value(0, TOKENS, 8), value(1, TOKENS, 4)),
            "no streams to mix": with_op(replace(STREAMS, iterations=0)),
        },
    ),
    "rg_lru": Case(
        RgLru(),
        (value(0, TOKENS, 8), value(1, TOKENS, 8), value(2, TOKENS, 8)),
        ((TOKENS, 8),),
        # 20 operations for each of 32 outputs; two rows' states, read and written.
        Work(
            {"f32": 20.0 * 32},
            weight_bytes=4 * 8,
            kv_read_bytes=2 * 8 * 4.0,
            kv_write_bytes=2 * 8 * 4.0,
            activation_bytes=2.0 * 4 * 32,
        ),
        (weight("a", 8),),
        RowState("s", 8, 1),
        shards=(
            ((REPLICATED,) * 3, (REPLICATED,), 2, (RgLru(), (REPLICATED,))),
            ((CUT,) * 3, (ROWS,), 2, None),
        ),
        refused={
            "differ in shape": with_inputs(
                value(0, TOKENS, 8), value(1, TOKENS, 8), value(2, TOKENS, 4)
            ),
            "a has shape": with_weights(weight("a", 4)),
            "8 x 1 are needed": with_state(RowState("s", 4, 2)),
        },
    ),
    "token_shift": Case(
        TokenShift(2),
        x(TOKENS, 8),
        ((TOKENS, 8), (TOKENS, 8)),
        Work(
            {"f32": 3.0 * 64},
            weight_bytes=4 * 16,
            kv_read_bytes=2 * 8 * 2.0,
            kv_write_bytes=2 * 8 * 2.0,
            activation_bytes=2.0 * 4 * 24,
        ),
        (weight("a", 8), weight("b", 8)),
        RowState("s", 8, 1, is_rolling=True),
        shards=(
            ((REPLICATED,), (REPLICATED,) * 2, 2, (TokenShift(2), (REPLICATED, REPLICATED))),
            ((CUT,), (ROWS,) * 2, 2, None),
        ),
        refused={
            "takes 3 weights, not 2": with_op(TokenShift(3)),
            "takes 0 weights": with_op(TokenShift(0)),
            "b has shape": with_weights(weight("a", 8), weight("b", 4)),
            "8 x 1 are needed": with_state(RowState("s", 8, 1)),
        },
    ),
    "wkv7": Case(
        Wkv7(2),
        tuple(value(i, TOKENS, 8) for i in range(5)),
        ((TOKENS, 8), (TOKENS, 8)),
        # Two heads of 4 x 4 numbers for 4 tokens.
        Work(
            {"f32": 9.0 * 4 * 32},
            weight_bytes=4 * 24,
            kv_read_bytes=2 * 32 * 4.0,
            kv_write_bytes=2 * 32 * 4.0,
            activation_bytes=2.0 * 4 * 56,
        ),
        (weight("kk", 8), weight("ka", 8), weight("rk", 8)),
        RowState("s", 2, 16),
        shards=(
            ((REPLICATED,) * 5, (REPLICATED,) * 3, 2, (Wkv7(2), (REPLICATED, REPLICATED))),
            ((CUT,) * 5, (ROWS,) * 3, 2, None),
        ),
        refused={
            "8 channels do not part into 3 heads": with_op(Wkv7(3)),
            "rk has shape": with_weights(weight("kk", 8), weight("ka", 8), weight("rk", 2, 4)),
            "2 x 16 are needed": with_state(RowState("s", 2, 8)),
            "differ in shape": with_inputs(
                *(value(i, TOKENS, 8) for i in range(4)), value(4, TOKENS, 2)
            ),
        },
    ),
    "block_linear": Case(
        BlockLinear(),
        x(TOKENS, 8),
        ((TOKENS, 6),),
        # Two groups of 4 x 3, for 4 tokens.
        Work({"f32": 2.0 * 24 * 4}, weight_bytes=4 * (24 + 6), activation_bytes=2.0 * 4 * 14),
        (weight("w", 2, 4, 3), weight("b", 2, 3)),
        shards=(
            ((REPLICATED,), (REPLICATED,) * 2, 2, (BlockLinear(), (REPLICATED,))),
            ((CUT,), (ROWS, ROWS), 2, None),
        ),
        refused={
            "8 channels do not part into 3 groups of 4": with_weights(
                weight("w", 3, 4, 3), weight("b", 3, 3)
            ),
            "b has shape": with_weights(weight("w", 2, 4, 3), weight("b", 6)),
            "not a matrix for each group": with_weights(weight("w", 8, 3), weight("b", 2, 3)),
        },
    ),
    "mix": Case(
        Mix(2, 3),
        (value(0, TOKENS, 8), value(1, TOKENS, 8), value(2, TOKENS, 6)),
        ((TOKENS, 8),) * 3,
        Work({"f32": 4.0 * 96}, activation_bytes=2.0 * 4 * (22 + 24)),
        shards=(
            ((REPLICATED,) * 3, (), 2, (Mix(2, 3), (REPLICATED,) * 3)),
            ((CUT,) * 3, (), 2, None),
        ),
        refused={
            "mixes by": with_op(Mix(2, 2)),
            "takes 2 inputs": with_op(Mix(1, 3)),
            "into nothing": with_op(Mix(2, 0)),
            "streams differ": with_inputs(
                value(0, TOKENS, 8), value(1, TOKENS, 4), value(2, TOKENS, 6)
            ),
        },
    ),
    "match_size": Case(
        MatchSize(),
        pair(TOKENS, 8),
        ((TOKENS, 8),),
        Work({"f32": 5.0 * 32}, activation_bytes=2.0 * 4 * 24),
        shards=(
            ((REPLICATED,) * 2, (), 2, (MatchSize(), (REPLICATED,))),
            ((CUT,) * 2, (), 2, None),
        ),
        refused={
            "differ in shape": with_inputs(value(0, TOKENS, 8), value(1, TOKENS, 4)),
            "is not positive": with_op(MatchSize(0.0)),
        },
    ),
    "keep_largest": Case(
        KeepLargest(1.5),
        x(TOKENS, 8),
        ((TOKENS, 8),),
        Work({"f32": 6.0 * 32}, activation_bytes=2.0 * 4 * 16),
        shards=(
            ((REPLICATED,), (), 2, (KeepLargest(1.5), (REPLICATED,))),
            ((CUT,), (), 2, None),
        ),
        refused={"takes 1 inputs": with_inputs(*pair(TOKENS, 8))},
    ),
    "causal_conv": Case(
        CausalConv(4, bias=True, silu=True),
        x(TOKENS, 8),
        ((TOKENS, 8),),
        # 4 multiply-adds and a silu for 4 x 8 outputs; two rows' 3 last inputs, read and written.
        Work(
            {"f32": (8.0 + 4) * 32},
            weight_bytes=4 * (32 + 8),
            kv_read_bytes=2 * 24 * 2.0,
            kv_write_bytes=2 * 24 * 2.0,
            activation_bytes=2.0 * 64,
        ),
        (weight("w", 8, 4), weight("b", 8)),
        RowState("inputs", 8, 3, is_rolling=True),
        shards=(
            (
                (REPLICATED,),
                (REPLICATED, REPLICATED),
                2,
                (CausalConv(4, bias=True, silu=True), (REPLICATED,)),
            ),
            ((CUT,), (ROWS, ROWS), 2, None),
        ),
        refused={
            "33 taps": with_op(CausalConv(33, bias=True)),
            "takes 2 weights, not 1": with_weights(weight("w", 8, 4)),
            r"w has shape \(4, 8\)": with_weights(weight("w", 4, 8), weight("b", 8)),
            "has no recurrent state": with_state(STATE),
            "8 x 3 are needed": with_state(RowState("inputs", 8, 3)),
        },
    ),
    "selective_scan": Case(
        SelectiveScan(),
        (value(0, TOKENS, 8), value(1, TOKENS, 8), value(2, TOKENS, 3), value(3, TOKENS, 3)),
        ((TOKENS, 8),),
        # An exponential and three multiply-adds for 4 x 24; two rows of 24 floats.
        Work(
            {"f32": 16.0 * 4 * 24},
            weight_bytes=4 * (24 + 8),
            kv_read_bytes=2 * 24 * 4.0,
            kv_write_bytes=2 * 24 * 4.0,
            activation_bytes=2.0 * 4 * (3 * 8 + 2 * 3),
        ),
        (weight("a", 8, 3), weight("d", 8)),
        RowState("h", 8, 3),
        shards=(
            ((REPLICATED,) * 4, (REPLICATED,) * 2, 2, (SelectiveScan(), (REPLICATED,))),
            ((CUT,) * 4, (REPLICATED,) * 2, 2, None),
        ),
        refused={
            "its inputs have": with_inputs(*(value(i, TOKENS, 8 - i) for i in range(4))),
            "d has shape": with_weights(weight("a", 8, 3), weight("d", 3)),
            "8 x 3 are needed": with_state(RowState("h", 3, 8)),
        },
    ),
    "ssd_scan": Case(
        SsdScan(4, 2, 2, 3),
        (value(0, TOKENS, 8), value(1, TOKENS, 6), value(2, TOKENS, 6), value(3, TOKENS, 4)),
        ((TOKENS, 8),),
        Work(
            {"f32": 6.0 * 4 * 24},
            weight_bytes=4 * 12,
            kv_read_bytes=2 * 24 * 4.0,
            kv_write_bytes=2 * 24 * 4.0,
            activation_bytes=2.0 * 4 * (8 + 6 + 6 + 4 + 8),
        ),
        (weight("a", 4), weight("d", 4), weight("dt_bias", 4)),
        RowState("h", 4, 6),
        shards=(
            ((REPLICATED,) * 4, (REPLICATED,) * 3, 2, (SsdScan(4, 2, 2, 3), (REPLICATED,))),
            ((CUT,) * 4, (ROWS,) * 3, 2, None),
        ),
        refused={
            "4 heads do not part into 3 groups": with_op(SsdScan(4, 2, 3, 3)),
            "its inputs have": with_op(SsdScan(4, 4, 2, 3)),
            "a has shape": with_weights(*(weight(name, 2) for name in "abc")),
            "which is empty": with_op(SsdScan(4, 2, 2, 3, dt_limits=(2.0, 1.0))),
            "4 x 6 are needed": with_state(RowState("h", 4, 2)),
        },
    ),
    "decay_attention": Case(
        DecayAttention((0.5, 0.25)),
        (value(0, TOKENS, 6), value(1, TOKENS, 6), value(2, TOKENS, 8)),
        ((TOKENS, 8),),
        Work(
            {"f32": 5.0 * 4 * 24},
            kv_read_bytes=2 * 24 * 4.0,
            kv_write_bytes=2 * 24 * 4.0,
            activation_bytes=2.0 * 4 * (6 + 6 + 8 + 8),
        ),
        (),
        RowState("s", 2, 12),
        shards=(
            ((REPLICATED,) * 3, (), 2, (DecayAttention((0.5, 0.25)), (REPLICATED,))),
            ((CUT,) * 3, (), 2, None),
        ),
        refused={
            "heads whose state grows": with_op(DecayAttention((0.5, -0.25))),
            "do not part into 4 heads": with_op(DecayAttention((0.5,) * 4)),
            "2 x 12 are needed": with_state(RowState("s", 2, 6)),
        },
    ),
    "delta_rule": Case(
        DeltaRule(1, 2, 3, 4),
        (
            value(0, TOKENS, 3),
            value(1, TOKENS, 3),
            value(2, TOKENS, 8),
            value(3, TOKENS, 2),
            value(4, TOKENS, 2),
        ),
        ((TOKENS, 8),),
        Work(
            {"f32": 7.0 * 4 * 24},
            weight_bytes=4 * 4,
            kv_read_bytes=2 * 24 * 4.0,
            kv_write_bytes=2 * 24 * 4.0,
            activation_bytes=2.0 * 4 * (3 + 3 + 8 + 2 + 2 + 8),
        ),
        (weight("a", 2), weight("dt_bias", 2)),
        RowState("s", 2, 12),
        shards=(
            ((REPLICATED,) * 5, (REPLICATED,) * 2, 2, (DeltaRule(1, 2, 3, 4), (REPLICATED,))),
            ((CUT,) * 5, (ROWS,) * 2, 2, None),
        ),
        refused={
            "a decay is no less than": with_op(DeltaRule(1, 2, 3, 4, floor=5.0)),
            "2 value heads do not part over 3": with_op(DeltaRule(3, 2, 3, 4)),
            "and a decay by channel": with_op(DeltaRule(1, 2, 3, 4, by_channel=True)),
            "its inputs have": with_op(DeltaRule(1, 2, 6, 4)),
            "dt_bias has shape": with_weights(weight("a", 2), weight("dt_bias", 6)),
            "has no recurrent state": with_state(None),
        },
    ),
}

# The same operator with other attributes.
VARIANTS: dict[str, Case] = {
    "layer norm": replace(
        CASES["norm"], op=Norm(kind="layer", num_groups=4), refused={}, shards=()
    ),
    "norm by group": replace(
        CASES["norm"],
        op=Norm(num_groups=4, by_group=True),
        work=Work({"f32": 4.0 * 128}, weight_bytes=128, activation_bytes=2 * 2 * 128),
        weights=(weight("w", 32),),
        refused={"has shape": with_weights(weight("w", 8))},
        shards=(((CUT,), (REPLICATED,), 2, None),),
    ),
    "experts without gates": Case(
        Experts(4, 2, "relu2", gated=False),
        (value(0, TOKENS, 32), value(1, TOKENS, 4)),
        ((TOKENS, 32),),
        Work(
            {"f32": 6.0 * 8 * 32, "int8": 2.0 * 8 * 2 * 32 * 32},
            weight_bytes=0.9375 * 2 * 4 * 32 * 34,
            activation_bytes=2 * (128 + 16 + 128),
        ),
        tuple(weight(name, 4, 32, 32, format_name="Q8_0") for name in ("up", "down")),
        shards=(
            (
                (REPLICATED, REPLICATED),
                (COLUMNS, Placement(split=2)),
                2,
                (Experts(4, 2, "relu2", gated=False), (PARTIAL,)),
            ),
        ),
        refused={"takes 2 weights, not 3": with_weights(*(weight("w", 4, 32, 32),) * 3)},
    ),
    "norm without weights": Case(
        Norm("layer"),
        x(TOKENS, 8),
        ((TOKENS, 8),),
        Work({"f32": 4.0 * 32}, activation_bytes=2 * 2 * 32),
    ),
    "gate and up apart": Case(
        GatedActivation("gelu_tanh"),
        pair(TOKENS, 16),
        ((TOKENS, 16),),
        Work({"f32": 6.0 * 64}, activation_bytes=2 * 3 * 64),
        shards=(
            ((CUT, CUT), (), 2, (GatedActivation("gelu_tanh"), (CUT,))),
            ((CUT, REPLICATED), (), 2, None),
        ),
        refused={"differ in shape": with_inputs(value(0, TOKENS, 16), value(1, TOKENS, 8))},
    ),
    "pool of first tokens": Case(
        Pool("first"), x(TOKENS, 8), ((SAMPLED, 8),), Work(activation_bytes=2 * 2 * 16)
    ),
    "attention to both sides": replace(
        CASES["attention"],
        op=Attention(4, 8, 8, scale=0.5, causal=False, ahead=1),
        state=replace(STATE, window=2),
        # Of three tokens 2, 3 and 2; the last of eight sees 2.
        work=Work({"bf16": 9 * 2.0 * 4 * 16}, kv_read_bytes=5 * 32, activation_bytes=2 * 2 * 128),
        refused={
            "ahead 1": with_op(Attention(4, 8, 8, scale=0.5, ahead=1)),
            "ahead -1": with_op(Attention(4, 8, 8, scale=0.5, causal=False, ahead=-1)),
        },
        shards=(),
    ),
    "attention within parts": replace(
        CASES["attention"],
        op=Attention(4, 8, 8, scale=0.5, causal=False, parts=2),
        # Three tokens see two each, one itself.
        work=Work({"bf16": 7 * 2.0 * 4 * 16}, kv_read_bytes=11 * 32, activation_bytes=2 * 2 * 128),
        refused={
            "parts of 2": with_op(Attention(4, 8, 8, scale=0.5, parts=2)),
            "parts of 0": with_op(Attention(4, 8, 8, scale=0.5, causal=False, parts=0)),
        },
        shards=(),
    ),
    "attention with sinks": replace(
        CASES["attention"],
        op=replace(ATTENTION, sinks=True),
        weights=(weight("sinks", 4),),
        shards=(
            ((CUT,), (ROWS,), 2, (replace(ATTENTION, num_heads=2, sinks=True), (CUT,))),
            ((CUT,), (REPLICATED,), 2, None),
        ),
        refused={
            "takes 1 weights, not 0": with_weights(),
            r"sinks has shape \(5,\)": with_weights(weight("sinks", 5)),
            "the cache keeps latents": with_state(
                KvState("kv", kv_heads=1, key_dim=8, value_dim=8, latent=True)
            ),
        },
    ),
    "latents written": Case(
        KvWrite(),
        (value(0, TOKENS, 16), value(1, TOKENS, 2)),
        (),
        Work(kv_write_bytes=4 * 18, activation_bytes=2 * 4 * 18),
        state=LATENTS,
        refused={"k and v have": with_inputs(value(0, TOKENS, 18), value(1, TOKENS, 16))},
    ),
    "no rope": Case(
        RopeKvWrite(4, 2, 8, None),
        x(TOKENS, 64),
        ((TOKENS, 32),),
        Work({"f32": 0.0}, kv_write_bytes=4 * 32, activation_bytes=2 * 4 * (64 + 32)),
        state=STATE,
    ),
    "linear over columns": Case(
        Linear(),
        x(TOKENS, 32),
        ((TOKENS, 8),),
        Work({"bf16": 2.0 * 4 * 8 * 32}, weight_bytes=1024, activation_bytes=2.0 * 4 * 40),
        (weight("w", 8, 32),),
        shards=(((CUT,), (COLUMNS,), 2, (Linear(), (PARTIAL,))),),
    ),
    "attention through a window": replace(
        CASES["attention"],
        state=replace(STATE, window=2),
        # Pairs 1 + 2 + 2 and 2; tokens 3 and 2.
        work=Work({"bf16": 7 * 2.0 * 4 * 16}, kv_read_bytes=5 * 32, activation_bytes=2 * 2 * 128),
        refused={},
        shards=(),
    ),
    "embedding as it is": replace(
        CASES["embed"],
        op=Embed(),
        work=Work(weight_bytes=4 * 32, activation_bytes=16 + 64),
        refused={},
        shards=(),
    ),
    "attention to blocks": Case(
        replace(ATTENTION, blocks=Blocks(1, 2)),
        (value(0, TOKENS, 32), value(1, TOKENS, 2)),
        ((TOKENS, 32),),
        # 1, 2, 2 and 2 pairs, and no more cached tokens of 32 numbers.
        Work(
            {"bf16": 7 * 2.0 * 4 * 16},
            kv_read_bytes=7 * 32,
            activation_bytes=2 * 4 * (32 + 2 + 32),
        ),
        state=STATE,
        shards=(
            (
                (CUT, REPLICATED),
                (),
                2,
                (replace(ATTENTION, num_heads=2, blocks=Blocks(1, 2)), (CUT,)),
            ),
            ((CUT, CUT), (), 2, None),
        ),
        refused={
            "looks at 0 blocks": with_op(replace(ATTENTION, blocks=Blocks(0, 2))),
            "1 are needed for each of 2 KV heads": with_op(
                replace(ATTENTION, blocks=Blocks(1, 2, first=1))
            ),
            "plain causal attention": with_state(replace(STATE, window=4)),
        },
    ),
    "weigh, by head": Case(
        Weigh(4),
        (value(0, TOKENS, 8), value(1, TOKENS, 4)),
        ((TOKENS, 8),),
        Work({"f32": 32.0}, activation_bytes=2 * (32 + 16 + 32)),
        shards=(
            ((CUT, CUT), (), 2, (Weigh(2), (CUT,))),
            ((REPLICATED, REPLICATED), (), 2, (Weigh(4), (REPLICATED,))),
            ((CUT, REPLICATED), (), 2, None),
            ((PARTIAL, PARTIAL), (), 2, None),
        ),
        refused={"each of 3 equal groups": with_op(Weigh(3))},
    ),
}
ALL = CASES | VARIANTS


def node(case: Case) -> Node:
    outputs = tuple(value(10 + i, *shape) for i, shape in enumerate(case.outputs))
    return Node("node", case.op, case.inputs, outputs, case.weights, case.state)


def test_every_operator_is_here_and_has_a_meaning() -> None:
    assert {name: type(case.op) for name, case in CASES.items()} == OPERATORS
    assert set(REFERENCE) == set(OPERATORS.values())
    assert set(OPERATORS.values()) > COLLECTIVES


@pytest.mark.parametrize("name", ALL)
def test_check_and_shape(name: str) -> None:
    case = ALL[name]
    case.op.check(case.inputs, case.weights, case.state)
    assert case.op.shape(tuple(v.shape for v in case.inputs), case.weights) == case.outputs


@pytest.mark.parametrize("name", ALL)
def test_cost_by_hand(name: str) -> None:
    case = ALL[name]
    assert case.op.cost(node(case), STEP, PRECISION) == case.work


@pytest.mark.parametrize(
    ("name", "index"), [(name, i) for name, case in ALL.items() for i in range(len(case.shards))]
)
def test_shard(name: str, index: int) -> None:
    case = ALL[name]
    inputs, weights, ways, expected = case.shards[index]
    sharded = case.op.shard(inputs, weights, ways)
    found = None if sharded is None else (sharded.op, sharded.outputs)
    assert found == expected


@pytest.mark.parametrize(
    ("name", "message"), [(name, message) for name, case in ALL.items() for message in case.refused]
)
def test_check_refuses(name: str, message: str) -> None:
    case = ALL[name].refused[message](ALL[name])
    with pytest.raises(ModelError, match=message) as error:
        case.op.check(case.inputs, case.weights, case.state)
    assert str(error.value).split(":")[0] in type(case.op).__name__, "names the operator"


def test_an_embedding_reads_no_row_twice() -> None:
    """64 tokens of a vocabulary of 16 read the table once."""
    case = CASES["embed"]
    work = case.op.cost(node(case), StepShape.prefill(64), PRECISION)
    assert work.weight_bytes == 16 * 32


def test_merged_linears_keep_their_order() -> None:
    assert merged((Linear(bias=True), Linear(2, bias=True))) == Linear(3, bias=True)


def test_scale_by_channel() -> None:
    op, (w,) = ScaleBy(by_channel=True), (weight("w", 8),)
    op.check(x(TOKENS, 8), (w,), None)
    with pytest.raises(ModelError, match=r"has shape \(1,\); \(8,\) is needed"):
        op.check(x(TOKENS, 8), (weight("w", 1),), None)
    assert op.shard((REPLICATED,), (REPLICATED,), 2) is not None
    assert op.shard((CUT,), (REPLICATED,), 2) is None


def test_latent_attention_to_selected_tokens() -> None:
    op, expand = replace(LATENT, top_k=5), weight("expand", 56, 16)
    inputs = (value(0, TOKENS, 32), value(1, TOKENS, 8), value(2, TOKENS, 5))
    op.check(inputs, (expand,), LATENTS)
    with pytest.raises(ModelError, match="takes 3 inputs, not 2"):
        op.check(inputs[:2], (expand,), LATENTS)
    with pytest.raises(ModelError, match="looks at 4 positions; 5 are needed"):
        op.check((*inputs[:2], value(2, TOKENS, 4)), (expand,), LATENTS)
    # Pairs: 1 + 2 + 3 of the first row, 5 of the second's 8; as many tokens are read at most.
    node = Node("n", op, inputs, (value(3, TOKENS, 24),), (expand,), LATENTS)
    whole = Node("n", LATENT, inputs[:2], (value(3, TOKENS, 24),), (expand,), LATENTS)
    sparse, dense = (each.op.cost(each, STEP, PRECISION) for each in (node, whole))
    per_pair = 2.0 * 4 * (2 * 16 + 2)
    assert dense.total_flops - sparse.total_flops == pytest.approx((14 - 11) * per_pair)
    assert op.shard((CUT, CUT, REPLICATED), (ROWS,), 2) is not None
    assert op.shard((CUT, CUT, CUT), (ROWS,), 2) is None


def test_attention_beside_entries() -> None:
    """Pairs of the window, 10, and 6 with entries: 2 of the first row's tokens, 4 of the last."""
    inputs, outputs = x(TOKENS, 32), (value(1, TOKENS, 32),)
    sinks = (weight("sinks", 4),)
    whole = Node("n", BESIDE, inputs, outputs, sinks, NEAR, FAR)
    assert whole.op.cost(whole, STEP, PRECISION).total_flops == (10 + 6) * 4.0 * 32
    assert whole.op.cost(whole, STEP, PRECISION).kv_read_bytes == 7 * 8 + 5 * 8
    few = replace(BESIDE, top_k=3)
    some = replace(whole, op=few, inputs=(*inputs, value(2, TOKENS, 3)))
    assert few.cost(some, STEP, PRECISION).total_flops == (10 + 5) * 4.0 * 32
    few.check(some.inputs, sinks, NEAR)
    few.check_entries(FAR)
    with pytest.raises(ModelError, match="entries that are not there"):
        few.check_entries(None)
    with pytest.raises(ModelError, match="looks at 2 entries; 3 are needed"):
        few.check((*inputs, value(2, TOKENS, 2)), sinks, NEAR)
    with pytest.raises(ModelError, match="has no second cache"):
        ATTENTION.check_entries(FAR)
    assert few.shard((CUT, REPLICATED), (ROWS,), 2) == Sharded(replace(few, num_heads=2), (CUT,))
    assert few.shard((CUT, CUT), (ROWS,), 2) is None


def test_entries_are_counted_as_tokens_see_them() -> None:
    for every, top in ((1, None), (4, None), (4, 2), (3, 1), (128, 5)):
        for new, context in ((1, 0), (1, 700), (900, 0), (37, 11)):
            each = [(i + 1) // every for i in range(context, context + new)]
            seen = sum(min(n, top or n) for n in each)
            assert entries_seen(StepShape((new,), (context,), 1), every, top) == seen


def test_experts_by_token_id() -> None:
    op = Route(2, "sqrt_softplus", by_token=True)
    inputs = (value(0, TOKENS, 8), value(1, TOKENS, integer=True))
    router, table = weight("router", 6, 8), weight("table", 100, 2)
    op.check(inputs, (router, table), None)
    made = Node("n", op, inputs, (value(2, TOKENS, 4),), (router, table))
    # Four rows of the table are read.
    assert op.cost(made, STEP, PRECISION).weight_bytes == 4 * (48 + 4 * 2)
    for wrong, message in (
        ((router, weight("table", 100, 3)), "table has shape"),
        ((router,), "takes 2 weights"),
    ):
        with pytest.raises(ModelError, match=message):
            op.check(inputs, wrong, None)
    with pytest.raises(ModelError, match="not token ids"):
        op.check((inputs[0], value(1, TOKENS)), (router, table), None)
    with pytest.raises(ModelError, match="nothing to choose"):
        replace(op, correction=True).check(inputs, (router, weight("c", 6), table), None)


def test_groups_of_a_stored_matrix() -> None:
    op = BlockLinear(2)
    op.check(x(TOKENS, 8), (weight("w", 6, 4),), None)
    assert op.shape(((TOKENS, 8),), (weight("w", 6, 4),)) == ((TOKENS, 6),)
    with pytest.raises(ModelError, match="8 channels in 2 groups"):
        op.check(x(TOKENS, 8), (weight("w", 6, 8),), None)
    assert op.shard((CUT,), (ROWS,), 2) == Sharded(BlockLinear(1), (CUT,))
    assert op.shard((CUT,), (ROWS,), 4) is None


def test_the_last_channels_of_a_head_turn() -> None:
    op = Rope(4, 8, ROTATION, first=4, every=4)
    op.check(x(TOKENS, 32), (), None)
    with pytest.raises(ModelError, match="4 rotated channels do not fit a head of 3"):
        replace(op, first=5).check(x(TOKENS, 32), (), None)
    with pytest.raises(ModelError, match="0 a run"):
        replace(op, every=0).check(x(TOKENS, 32), (), None)
