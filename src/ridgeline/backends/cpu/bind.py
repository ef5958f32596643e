"""A graph becomes a native program: each node one operator, each value a place in the arena.

Fused and unfused graphs are bound alike. A weight of a format that has no packed layout is
dequantized and packed as float32, so that every format is right and those with a layout are fast.
Does not know steps, rows or requests.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ridgeline.backends.cpu import _native
from ridgeline.backends.cpu.activations import takes_fine_activations
from ridgeline.backends.cpu.bind_blocks import bind_block_attention, bind_select_blocks
from ridgeline.backends.cpu.bind_cross import CROSS_BINDERS
from ridgeline.backends.cpu.bind_entries import ENTRY_BINDERS
from ridgeline.backends.cpu.bind_experts import bind_experts, bind_route, bind_zero_experts
from ridgeline.backends.cpu.bind_head import LEARNED_ROWS, bind_head
from ridgeline.backends.cpu.bind_images import IMAGE_BINDERS
from ridgeline.backends.cpu.bind_latent import bind_latent_attention, bind_select_tokens
from ridgeline.backends.cpu.bind_recurrent import (
    bind_causal_conv,
    bind_decay_attention,
    bind_delta_rule,
    bind_join,
    bind_rg_lru,
    bind_selective_scan,
    bind_split_groups,
    bind_ssd_scan,
    bind_token_shift,
    bind_wkv7,
)
from ridgeline.backends.cpu.bind_streams import (
    bind_block_linear,
    bind_keep_largest,
    bind_match_size,
    bind_mix,
    bind_stream_weights,
    bind_xielu,
)
from ridgeline.backends.cpu.bind_tables import (
    bind_embed,
    bind_position_embed,
    bind_scale_by_position,
    bind_type_embed,
)
from ridgeline.backends.cpu.weights import Weights
from ridgeline.errors import ModelError
from ridgeline.model.formats import FORMATS, quantize
from ridgeline.model.graph.dims import SAMPLED, TOKENS
from ridgeline.model.graph.node import Graph, KvState, Node, State, Value, Weight
from ridgeline.model.graph.ops.activation import Activate, GatedActivation, Xielu
from ridgeline.model.graph.ops.attention import Attention, KvWrite
from ridgeline.model.graph.ops.block_linear import BlockLinear
from ridgeline.model.graph.ops.causal_conv import CausalConv
from ridgeline.model.graph.ops.decay_attention import DecayAttention
from ridgeline.model.graph.ops.delta_rule import DeltaRule
from ridgeline.model.graph.ops.elementwise import (
    Add,
    Join,
    Scale,
    Softcap,
    Split,
    SplitGroups,
    Weigh,
)
from ridgeline.model.graph.ops.embed import Embed, PositionEmbed, TypeEmbed
from ridgeline.model.graph.ops.experts import Experts, ZeroExperts
from ridgeline.model.graph.ops.gated_linear import GatedLinear
from ridgeline.model.graph.ops.latent import LatentAttention
from ridgeline.model.graph.ops.linear import Linear
from ridgeline.model.graph.ops.norm import AddNorm, Norm
from ridgeline.model.graph.ops.operator import Operator
from ridgeline.model.graph.ops.pool import Pool
from ridgeline.model.graph.ops.rg_lru import RgLru
from ridgeline.model.graph.ops.rope import Rope, RopeKvWrite, Rotation
from ridgeline.model.graph.ops.route import Route
from ridgeline.model.graph.ops.rows import SelectRows
from ridgeline.model.graph.ops.scale_by import ScaleBy, ScaleByPosition
from ridgeline.model.graph.ops.select_blocks import SelectBlocks
from ridgeline.model.graph.ops.select_tokens import SelectTokens
from ridgeline.model.graph.ops.state_space import SelectiveScan, SsdScan
from ridgeline.model.graph.ops.stream_weights import StreamWeights
from ridgeline.model.graph.ops.streams import KeepLargest, MatchSize, Mix
from ridgeline.model.graph.ops.token_shift import TokenShift
from ridgeline.model.graph.ops.wkv7 import Wkv7
from ridgeline.model.passes.memory import MemoryPlan
from ridgeline.model.passes.state_groups import StateGroups, state_groups


@dataclass(frozen=True, slots=True)
class Binding:
    """What binders share: the program that grows, the plan, the weights.

    kinds: values that lie as activations. fine: linears with activations in two terms. layout:
    which column of the block tables is a state's. learned_rows: of a head's screen. matrices,
    caches: what was made already, by weight and by state name.
    """

    program: _native.Program
    graph: Graph
    plan: MemoryPlan
    weights: Weights
    kinds: Mapping[int, str]
    fine: Container[str]
    layout: StateGroups
    learned_rows: int
    matrices: dict[str, _native.Matrix] = field(default_factory=dict)
    caches: dict[str, int] = field(default_factory=dict)

    def view(self, value: Value) -> _native.View:
        return view_of(self.plan, value, self.kinds.get(value.id, ""))

    def columns(self, value: Value, first: int, width: int) -> _native.View:
        rows, _ = value.shape
        return _native.View(
            offset=self.plan.offsets[value.id] // 4 + first,
            ld=self.plan.row_strides[value.id],
            width=width,
            sampled=rows is SAMPLED,
        )

    def matrix(self, weight: Weight) -> _native.Matrix:
        """The packed weight; packed once, however many nodes use it."""
        if weight.name not in self.matrices:
            self.matrices[weight.name] = self._packed(weight)
        return self.matrices[weight.name]

    def entries(self, weight: Weight) -> list[_native.Matrix]:
        """Each entry of a weight's first axis, packed: an expert's matrix."""
        count, n, k = weight.shape
        if weight.format.name not in _native.packed_formats():
            values = self.weights.float32(weight).reshape(count, -1)
            return [
                self.program.pack("F32", each.view(np.uint8), n, k, 4 * k, lambda: None)
                for each in values
            ]
        size = weight.num_bytes // (count * n)
        return [
            self.program.pack(
                weight.format.name,
                self.weights.entry(weight, index),
                n,
                k,
                size,
                partial(self.weights.release, weight, index),
            )
            for index in range(count)
        ]

    def pack(self, format_name: str, values: npt.NDArray[np.float32]) -> _native.Matrix:
        """A matrix of numbers, packed as BF16 or F32."""
        n, k = values.shape
        if self.program.counts_only:
            size = FORMATS[format_name].num_bytes((n, k))
            return self.program.pack(format_name, np.zeros(size, np.uint8), n, k, size // n, _keep)
        raw = quantize(np.ascontiguousarray(values), format_name)
        return self.program.pack(format_name, raw, n, k, len(raw) // n, lambda: None)

    def float_matrix(self, weight: Weight) -> _native.Matrix:
        """The weight packed as float32, whatever it is stored as."""
        values = self.floats(weight).view(np.uint8)
        n, k = weight.shape
        return self.program.pack("F32", values, n, k, 4 * k, lambda: None)

    def _packed(self, weight: Weight) -> _native.Matrix:
        n, k = weight.shape
        if weight.format.name in _native.packed_formats():
            return self.program.pack(
                weight.format.name,
                self.weights.raw(weight),
                n,
                k,
                row_bytes(weight),
                lambda: self.weights.release(weight),
            )
        values = self.weights.float32(weight).view(np.uint8).reshape(-1)
        return self.program.pack("F32", values, n, k, 4 * k, lambda: None)

    def matrices_and_biases(
        self, op: Linear | GatedLinear, weights: tuple[Weight, ...]
    ) -> tuple[list[_native.Matrix], list[npt.NDArray[np.float32] | None]]:
        parts, biases = op.parts(weights), op.biases(weights)
        return (
            [self.matrix(weight) for weight in parts],
            [self.floats(bias) for bias in biases] if biases else [None] * len(parts),
        )

    def floats(self, weight: Weight) -> npt.NDArray[np.float32]:
        return np.ascontiguousarray(self.weights.float32(weight).reshape(-1))

    def norm(self, op: Norm, weights: tuple[Weight, ...], x: Value) -> _native.Norm:
        """The norm of x, or of a head of it; without weights they are ones."""
        width = x.shape[-1]
        assert isinstance(width, int)
        values = [self.floats(weight) for weight in weights]
        return self.program.norm(
            op.kind,
            op.eps,
            op.offset if weights else 0.0,
            op.num_groups,
            values[0] if weights else np.ones(width // op.num_groups, np.float32),
            values[1] if len(values) > 1 else None,
            op.by_group,
        )

    def cache(self, of: Node | State | None) -> int:
        """A node's, or a state's."""
        state = of.state if isinstance(of, Node) else of
        assert isinstance(state, KvState)
        if state.name not in self.caches:
            self.caches[state.name] = self._add_cache(state)
        return self.caches[state.name]

    def _add_cache(self, state: KvState) -> int:
        return self.program.add_cache(
            state.kv_heads,
            state.key_dim,
            state.value_dim,
            self.layout.places[state.name].column,
            state.format.name,
            state.latent,
            *_balance(state),
            state.every,
        )


def view_of(plan: MemoryPlan, value: Value, kind: str = "") -> _native.View:
    """Where a value of `plan` lies."""
    rows, width = value.shape
    assert rows in (TOKENS, SAMPLED)
    assert isinstance(width, int)
    return _native.View(
        offset=plan.offsets[value.id] // 4,
        ld=plan.row_strides[value.id],
        width=width,
        sampled=rows is SAMPLED,
        kind=kind,
    )


def _balance(
    state: KvState,
) -> tuple[npt.NDArray[np.float32] | None, npt.NDArray[np.float32] | None]:
    """Centres of the keys' channels and what the rest is divided by; nothing where they stay."""
    if state.balance is None:
        return None, None
    powers = np.ldexp(np.float32(1), np.array(state.balance.exponents, np.int32))
    return np.array(state.balance.centres, np.float32), powers


def _keep() -> None:
    """Nothing to release."""


def row_bytes(weight: Weight) -> int:
    """Bytes of one row as stored."""
    return weight.num_bytes // weight.shape[0]


def bind(
    program: _native.Program,
    graph: Graph,
    plan: MemoryPlan,
    weights: Weights,
    kinds: Mapping[int, str],
    learned_rows: int = LEARNED_ROWS,
) -> None:
    """Adds every node of `graph` to `program` and finishes it.

    kinds: of `activation_kinds`; `plan` must have their rows' bytes. learned_rows: that a screen
    learns from. Raises ModelError for an
    operator without a row in `BINDERS`, or a cache in a format that has no kernels.
    """
    for state in graph.states:
        if state.format.name not in _native.cache_formats():
            raise ModelError(
                f"{graph.name}: {state.name}: the cpu backend keeps no cache in "
                f"{state.format.name}; it has {', '.join(_native.cache_formats())}"
            )
    for node in graph.nodes:
        if type(node.op) not in BINDERS:
            known = ", ".join(op.__name__ for op in BINDERS)
            raise ModelError(
                f"{graph.name}: {node.name}: the cpu backend has no operator "
                f"{type(node.op).__name__}; it has {known}"
            )
    fine = takes_fine_activations(graph)
    groups = state_groups(graph)
    binding = Binding(program, graph, plan, weights, kinds, fine, groups, learned_rows)
    for node in graph.nodes:
        BINDERS[type(node.op)](binding, node, node.op)
    program.finish(binding.view(graph.outputs[0]))


def _linear(b: Binding, node: Node, op: Linear) -> None:
    if op.screen is not None:
        bind_head(b, node, op)
        return
    b.program.add_linear(
        node.name,
        b.view(node.inputs[0]),
        b.view(node.outputs[0]),
        *b.matrices_and_biases(op, node.weights),
        fine_activations=node.name in b.fine,
    )


def _gated_linear(b: Binding, node: Node, op: GatedLinear) -> None:
    b.program.add_gated_linear(
        node.name,
        b.view(node.inputs[0]),
        b.view(node.outputs[0]),
        *b.matrices_and_biases(op, node.weights),
        op.activation,
    )


def _norm(b: Binding, node: Node, op: Norm) -> None:
    x, y = b.view(node.inputs[0]), b.view(node.outputs[0])
    b.program.add_norm(node.name, x, y, b.norm(op, node.weights, node.inputs[0]))


def _add_norm(b: Binding, node: Node, op: AddNorm) -> None:
    first, second, total, y = (b.view(value) for value in (*node.inputs, *node.outputs))
    b.program.add_add_norm(
        node.name, first, second, total, y, b.norm(op.norm, node.weights, node.outputs[0])
    )


def _rotation(rotation: Rotation) -> _native.Rotation:
    return _native.Rotation(
        list(rotation.frequencies), rotation.magnitude, rotation.interleaved, list(rotation.axes)
    )


def _rope(b: Binding, node: Node, op: Rope) -> None:
    x, y = b.view(node.inputs[0]), b.view(node.outputs[0])
    turn = _rotation(op.rotation)
    b.program.add_rope(node.name, x, y, op.num_heads, op.head_dim, turn, op.first, op.every)


def _kv_write(b: Binding, node: Node, op: KvWrite) -> None:
    k, v = (b.view(value) for value in node.inputs)
    assert isinstance(node.state, KvState)
    add = b.program.add_latent_write if node.state.latent else b.program.add_kv_write
    add(node.name, k, v, b.cache(node))


def _rope_kv_write(b: Binding, node: Node, op: RopeKvWrite) -> None:
    norms: list[_native.Norm | None] = [None, None]
    if op.head_norm is not None:
        norms = [b.norm(op.head_norm, (weight,), node.inputs[0]) for weight in node.weights]
    b.program.add_rope_kv_write(
        node.name,
        b.view(node.inputs[0]),
        b.view(node.outputs[0]),
        b.cache(node),
        op.num_heads,
        None if op.rotation is None else _rotation(op.rotation),
        *norms,
    )


def _attention(b: Binding, node: Node, op: Attention) -> None:
    if op.blocks is not None:
        bind_block_attention(b, node, op)
        return
    b.program.add_attention(
        node.name,
        b.view(node.inputs[0]),
        b.view(node.outputs[0]),
        b.cache(node),
        op.num_heads,
        op.scale,
        op.softcap or 0.0,
        op.causal,
        -1 if op.ahead is None else op.ahead,
        b.floats(node.weights[0]) if op.sinks else None,
        op.chunked,
        op.whole_images,
        op.parts is not None,
    )


def _gated_activation(b: Binding, node: Node, op: GatedActivation) -> None:
    y = b.view(node.outputs[0])
    if op.joint:
        value, width = node.inputs[0], node.outputs[0].shape[-1]
        assert isinstance(width, int)
        gate, up = b.columns(value, 0, width), b.columns(value, width, width)
    else:
        gate, up = (b.view(value) for value in node.inputs)
    b.program.add_elementwise(node.name, "gated_activation", gate, up, y, activation=op.activation)


def _activate(b: Binding, node: Node, op: Activate) -> None:
    x, y = b.view(node.inputs[0]), b.view(node.outputs[0])
    b.program.add_elementwise(node.name, "activate", x, x, y, activation=op.activation)


def _add(b: Binding, node: Node, op: Add) -> None:
    first, second, y = (b.view(value) for value in (*node.inputs, *node.outputs))
    b.program.add_elementwise(node.name, "add", first, second, y)


def _scale(b: Binding, node: Node, op: Scale) -> None:
    x, y = b.view(node.inputs[0]), b.view(node.outputs[0])
    b.program.add_elementwise(node.name, "scale", x, x, y, number=op.factor)


def _scale_by(b: Binding, node: Node, op: ScaleBy) -> None:
    x, y = b.view(node.inputs[0]), b.view(node.outputs[0])
    factors = b.floats(node.weights[0])
    if op.by_channel:
        b.program.add_scale_columns(node.name, x, y, factors)
    else:
        b.program.add_elementwise(node.name, "scale", x, x, y, number=float(factors[0]))


def _softcap(b: Binding, node: Node, op: Softcap) -> None:
    x, y = b.view(node.inputs[0]), b.view(node.outputs[0])
    b.program.add_elementwise(node.name, "softcap", x, x, y, number=op.cap)


def _weigh(b: Binding, node: Node, op: Weigh) -> None:
    x, g, y = (b.view(value) for value in (*node.inputs, *node.outputs))
    b.program.add_weigh(node.name, x, g, y)


def _split(b: Binding, node: Node, op: Split) -> None:
    """Its outputs are columns of its input: nothing to run."""


def _select_rows(b: Binding, node: Node, op: SelectRows) -> None:
    b.program.add_select_rows(node.name, b.view(node.inputs[0]), b.view(node.outputs[0]))


def _pool(b: Binding, node: Node, op: Pool) -> None:
    b.program.add_pool(node.name, b.view(node.inputs[0]), b.view(node.outputs[0]), op.kind)


# Each function takes its own operator class, hence Any.
BINDERS: dict[type[Operator], Callable[[Binding, Node, Any], None]] = {
    Embed: bind_embed,
    PositionEmbed: bind_position_embed,
    TypeEmbed: bind_type_embed,
    Linear: _linear,
    GatedLinear: _gated_linear,
    Norm: _norm,
    AddNorm: _add_norm,
    Rope: _rope,
    KvWrite: _kv_write,
    RopeKvWrite: _rope_kv_write,
    Attention: _attention,
    LatentAttention: bind_latent_attention,
    SelectTokens: bind_select_tokens,
    SelectBlocks: bind_select_blocks,
    **ENTRY_BINDERS,
    **CROSS_BINDERS,
    **IMAGE_BINDERS,
    GatedActivation: _gated_activation,
    Activate: _activate,
    Xielu: bind_xielu,
    Add: _add,
    Scale: _scale,
    ScaleBy: _scale_by,
    ScaleByPosition: bind_scale_by_position,
    Softcap: _softcap,
    Weigh: _weigh,
    Route: bind_route,
    Experts: bind_experts,
    ZeroExperts: bind_zero_experts,
    Split: _split,
    SplitGroups: bind_split_groups,
    Join: bind_join,
    CausalConv: bind_causal_conv,
    SelectiveScan: bind_selective_scan,
    SsdScan: bind_ssd_scan,
    DecayAttention: bind_decay_attention,
    DeltaRule: bind_delta_rule,
    RgLru: bind_rg_lru,
    TokenShift: bind_token_shift,
    Wkv7: bind_wkv7,
    BlockLinear: bind_block_linear,
    StreamWeights: bind_stream_weights,
    Mix: bind_mix,
    MatchSize: bind_match_size,
    KeepLargest: bind_keep_largest,
    SelectRows: _select_rows,
    Pool: _pool,
}
