"""Binders of operators whose rows carry a state: their weights in tiles of 16 lanes.

How a state lies in memory is the kernels' affair (`src/native/recurrent.h`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ridgeline.model.graph.node import Node, Weight
from ridgeline.model.graph.ops.causal_conv import CausalConv
from ridgeline.model.graph.ops.decay_attention import DecayAttention
from ridgeline.model.graph.ops.delta_rule import DeltaRule
from ridgeline.model.graph.ops.elementwise import Join, SplitGroups
from ridgeline.model.graph.ops.rg_lru import DECAY, RgLru
from ridgeline.model.graph.ops.state_space import SelectiveScan, SsdScan
from ridgeline.model.graph.ops.token_shift import TokenShift
from ridgeline.model.graph.ops.wkv7 import Wkv7

if TYPE_CHECKING:
    from ridgeline.backends.cpu.bind import Binding

Floats = npt.NDArray[np.float32]

LANES = 16
LARGEST = float(np.finfo(np.float32).max)


def bind_causal_conv(b: Binding, node: Node, op: CausalConv) -> None:
    weights = [tiled(b.weights.float32(weight)) for weight in node.weights]
    b.program.add_causal_conv(
        node.name,
        b.view(node.inputs[0]),
        b.view(node.outputs[0]),
        op.taps,
        op.silu,
        weights[0],
        weights[1] if op.bias else None,
    )


def bind_selective_scan(b: Binding, node: Node, op: SelectiveScan) -> None:
    a, d = node.weights
    b.program.add_selective_scan(
        node.name,
        [b.view(value) for value in (*node.inputs, *node.outputs)],
        tiled(decay_rate(b, a, op.log_a)),
        tiled(b.weights.float32(d)),
    )


def bind_ssd_scan(b: Binding, node: Node, op: SsdScan) -> None:
    a, d, dt_bias = node.weights
    low, high = op.dt_limits
    b.program.add_ssd_scan(
        node.name,
        [b.view(value) for value in (*node.inputs, *node.outputs)],
        groups=op.num_groups,
        a=decay_rate(b, a, op.log_a),
        d=b.floats(d),
        dt_bias=b.floats(dt_bias),
        dt_low=min(low, LARGEST),
        dt_high=min(high, LARGEST),
    )


def bind_decay_attention(b: Binding, node: Node, op: DecayAttention) -> None:
    values = [b.view(value) for value in (*node.inputs, *node.outputs)]
    b.program.add_decay_attention(node.name, values, -np.array(op.rates, np.float32))


def bind_delta_rule(b: Binding, node: Node, op: DeltaRule) -> None:
    a, dt_bias = node.weights
    b.program.add_delta_rule(
        node.name,
        [b.view(value) for value in (*node.inputs, *node.outputs)],
        key_heads=op.key_heads,
        by_channel=op.by_channel,
        tiled=op.tiled,
        a=decay_rate(b, a, op.log_a),
        dt_bias=b.floats(dt_bias),
        floor=op.floor or 0.0,
    )


def bind_rg_lru(b: Binding, node: Node, op: RgLru) -> None:
    a = b.weights.float32(node.weights[0]).astype(np.float64)
    rate = (-DECAY * np.logaddexp(0, a)).astype(np.float32)
    values = [b.view(value) for value in (*node.inputs, *node.outputs)]
    b.program.add_rg_lru(node.name, values, tiled(rate))


def bind_token_shift(b: Binding, node: Node, op: TokenShift) -> None:
    weights = [tiled(b.weights.float32(weight)) for weight in node.weights]
    outputs = [b.view(value) for value in node.outputs]
    b.program.add_token_shift(node.name, b.view(node.inputs[0]), outputs, weights)


def bind_wkv7(b: Binding, node: Node, op: Wkv7) -> None:
    values = [b.view(value) for value in (*node.inputs, *node.outputs)]
    b.program.add_wkv7(node.name, values, op.num_heads, *(b.floats(w) for w in node.weights))


def bind_split_groups(b: Binding, node: Node, op: SplitGroups) -> None:
    outputs = [b.view(value) for value in node.outputs]
    b.program.add_split_groups(node.name, b.view(node.inputs[0]), outputs, op.num_groups)


def bind_join(b: Binding, node: Node, op: Join) -> None:
    first, second, y = (b.view(value) for value in (*node.inputs, *node.outputs))
    b.program.add_join(node.name, first, second, y)


def decay_rate(b: Binding, weight: Weight, log_a: bool) -> Floats:
    """The weight, or -exp of it."""
    a = b.weights.float32(weight)
    return (-np.exp(a.astype(np.float64))).astype(np.float32) if log_a else a


def tiled(x: Floats) -> Floats:
    """[channels] or [channels, n] -> [tiles of 16 channels][n][16], flat; missing channels 0."""
    rows = x.reshape(len(x), -1)
    padded = np.zeros((-(-len(x) // LANES) * LANES, rows.shape[1]), np.float32)
    padded[: len(x)] = rows
    tiles = padded.reshape(-1, LANES, rows.shape[1]).transpose(0, 2, 1)
    return np.ascontiguousarray(tiles).reshape(-1)
