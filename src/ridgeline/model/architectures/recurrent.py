"""Mixers that carry a state from token to token instead of a cache of all tokens: functions with
explicit arguments, as `blocks`.

Mamba: Gu and Dao 2023. Mamba 2: Dao and Gu 2024. Gated DeltaNet: Yang et al. 2024. Kimi Delta
Attention: Kimi team 2025. Griffin: De et al. 2024. Lightning attention: Qin et al. 2024. Does not
know any architecture, configuration or file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ridgeline.model.architectures.blocks import linear, norm, scaled, width
from ridgeline.model.graph.build import Builder
from ridgeline.model.graph.node import RowState, Value
from ridgeline.model.graph.ops import (
    Activate,
    BlockLinear,
    CausalConv,
    DecayAttention,
    DeltaRule,
    GatedActivation,
    Norm,
    RgLru,
    SelectiveScan,
    Split,
    SplitGroups,
    SsdScan,
)
from ridgeline.model.graph.ops.activation import Activation

NO_LIMITS = (0.0, float("inf"))


@dataclass(frozen=True, slots=True)
class MambaSizes:
    """Of a Mamba mixer: `inner` channels with `state` numbers each, dt of `rank`."""

    inner: int
    state: int
    rank: int
    taps: int


@dataclass(frozen=True, slots=True)
class SsdSizes:
    """Of a Mamba 2 mixer: heads of head_dim channels, groups of b and c of `state` numbers."""

    heads: int
    head_dim: int
    groups: int
    state: int
    taps: int

    @property
    def inner(self) -> int:
        return self.heads * self.head_dim

    @property
    def conv(self) -> int:
        return self.inner + 2 * self.groups * self.state


@dataclass(frozen=True, slots=True)
class DeltaSizes:
    """Of a delta rule's mixer: heads of keys and of values, and their channels."""

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    taps: int

    @property
    def keys(self) -> int:
        return self.key_heads * self.key_dim

    @property
    def values(self) -> int:
        return self.value_heads * self.value_dim


def causal_conv(
    b: Builder, name: str, x: Value, taps: int, *, bias: bool = False, silu: bool = False
) -> Value:
    channels = width(x)
    weights = [b.weight(f"{name}.weight", channels, taps)]
    if bias:
        weights.append(b.weight(f"{name}.bias", channels))
    state = RowState(f"{name}.inputs", channels, taps - 1, is_rolling=True)
    op = CausalConv(taps, bias=bias, silu=silu)
    return b.one(name, op, x, weights=tuple(weights), state=state)


def mamba(
    b: Builder,
    layer: str,
    x: Value,
    sizes: MambaSizes,
    *,
    log_a: bool = True,
    bias: bool = False,
    conv_bias: bool = True,
    inner_norm: Norm | None = None,
    inner_norm_weight: bool = True,
) -> Value:
    """Mamba's mixer; inner_norm: of dt, b and c (Jamba), without weights in Falcon Mamba. log_a:
    see `SelectiveScan`.
    """
    name, inner, state = f"{layer}.ssm", sizes.inner, sizes.state
    both = linear(b, f"{name}.in", x, 2 * inner, bias=bias)
    u, gate = b.add(f"{name}.in.split", Split((inner, inner)), both)
    u = causal_conv(b, f"{name}.conv", u, sizes.taps, bias=conv_bias, silu=True)
    selected = linear(b, f"{name}.x", u, sizes.rank + 2 * state)
    dt, in_b, out_c = b.add(f"{name}.x.split", Split((sizes.rank, state, state)), selected)
    if inner_norm is not None:
        dt, in_b, out_c = (
            norm(b, f"{name}.{part}_norm", v, inner_norm, weight=inner_norm_weight)
            for part, v in (("dt", dt), ("b", in_b), ("c", out_c))
        )
    dt = linear(b, f"{name}.dt", dt, inner, bias=True)
    y = b.one(
        f"{name}.scan",
        SelectiveScan(log_a),
        *(u, dt, in_b, out_c),
        weights=(b.weight(f"{name}.a", inner, state), b.weight(f"{name}.d", inner)),
        state=RowState(f"{name}.state", inner, state),
    )
    y = b.one(f"{name}.gate", GatedActivation("silu"), gate, y)
    return linear(b, f"{name}.out", y, width(x), bias=bias)


def mamba2(
    b: Builder,
    layer: str,
    x: Value,
    sizes: SsdSizes,
    *,
    norm_eps: float | None,
    log_a: bool = True,
    bias: bool = False,
    conv_bias: bool = True,
    dt_limits: tuple[float, float] = NO_LIMITS,
    gate_first: bool = True,
    part_scales: tuple[float, float, float, float, float] | None = None,
) -> Value:
    """Mamba 2's mixer; norm_eps: of the norm of each group after the gate (before it, if not
    gate_first), None for none. part_scales: of gate, x, b, c and dt as the first linear gives them
    (Falcon-H1), each then with a filter of its own.
    """
    name, inner, group = f"{layer}.ssm", sizes.inner, sizes.groups * sizes.state
    parts = linear(b, f"{name}.in", x, inner + sizes.conv + sizes.heads, bias=bias)
    if part_scales is None:
        split = Split((inner, sizes.conv, sizes.heads))
        gate, u, dt = b.add(f"{name}.in.split", split, parts)
        u = causal_conv(b, f"{name}.conv", u, sizes.taps, bias=conv_bias, silu=True)
        u, in_b, out_c = b.add(f"{name}.conv.split", Split((inner, group, group)), u)
    else:
        split = Split((inner, inner, group, group, sizes.heads))
        pieces = b.add(f"{name}.in.split", split, parts)
        gate, u, in_b, out_c, dt = (
            scaled(b, f"{name}.{part}_scale", piece, factor)
            for part, piece, factor in zip(
                ("gate", "x", "b", "c", "dt"), pieces, part_scales, strict=True
            )
        )
        u, in_b, out_c = (
            causal_conv(b, f"{name}.conv_{part}", v, sizes.taps, bias=conv_bias, silu=True)
            for part, v in (("x", u), ("b", in_b), ("c", out_c))
        )
    op = SsdScan(sizes.heads, sizes.head_dim, sizes.groups, sizes.state, log_a, dt_limits)
    y = b.one(
        f"{name}.scan",
        op,
        *(u, in_b, out_c, dt),
        weights=tuple(b.weight(f"{name}.{w}", sizes.heads) for w in ("a", "d", "dt_bias")),
        state=RowState(f"{name}.state", sizes.heads, sizes.head_dim * sizes.state),
    )
    if gate_first:
        y = b.one(f"{name}.gate", GatedActivation("silu"), gate, y)
    if norm_eps is not None:
        grouped = Norm("rms", norm_eps, num_groups=sizes.groups, by_group=True)
        y = b.one(f"{name}.norm", grouped, y, weights=(b.weight(f"{name}.norm.weight", inner),))
    if not gate_first:
        y = b.one(f"{name}.gate", GatedActivation("silu"), gate, y)
    return linear(b, f"{name}.out", y, width(x), bias=bias)


def delta_net(
    b: Builder,
    layer: str,
    x: Value,
    sizes: DeltaSizes,
    *,
    norm_eps: float,
    log_a: bool = True,
    joint: bool = False,
    joint_gates: bool = False,
    tiled: bool = False,
) -> Value:
    """Gated DeltaNet's mixer: q, k and v through one convolution, a norm of each head, then a gate.

    joint: q, k, v and the gate are one weight, parted by key head, as are beta and the decay
    (Qwen3-Next); each of q, k and v then has a part of the filter. joint_gates: only beta and the
    decay are one weight (Qwen3-Next in GGUF). tiled: see `DeltaRule`.
    """
    name, keys, values = f"{layer}.delta", sizes.keys, sizes.values
    if joint:
        share = sizes.value_heads // sizes.key_heads
        both = linear(b, f"{name}.qkvz", x, 2 * keys + 2 * values)
        of_head = (*(sizes.key_dim,) * 2, *(share * sizes.value_dim,) * 2)
        q, k, v, gate = b.add(f"{name}.qkvz.split", SplitGroups(sizes.key_heads, of_head), both)
        q, k, v = (
            causal_conv(b, f"{name}.conv_{part}", u, sizes.taps, silu=True)
            for part, u in (("q", q), ("k", k), ("v", v))
        )
    else:
        qkv = linear(b, f"{name}.qkv", x, 2 * keys + values)
        qkv = causal_conv(b, f"{name}.conv", qkv, sizes.taps, silu=True)
        q, k, v = b.add(f"{name}.conv.split", Split((keys, keys, values)), qkv)
        gate = linear(b, f"{name}.z", x, values)
    if joint or joint_gates:
        share = sizes.value_heads // sizes.key_heads
        both = linear(b, f"{name}.ba", x, 2 * sizes.value_heads)
        parted = SplitGroups(sizes.key_heads, (share, share))
        beta, decay = b.add(f"{name}.ba.split", parted, both)
    else:
        beta = linear(b, f"{name}.beta", x, sizes.value_heads)
        decay = linear(b, f"{name}.decay", x, sizes.value_heads)
    op = DeltaRule(
        *(sizes.key_heads, sizes.value_heads, sizes.key_dim, sizes.value_dim),
        log_a=log_a,
        tiled=tiled,
    )
    y = b.one(
        f"{name}.rule",
        op,
        *(q, k, v, decay, beta),
        weights=tuple(b.weight(f"{name}.{w}", sizes.value_heads) for w in ("a", "dt_bias")),
        state=RowState(f"{name}.state", sizes.value_heads, sizes.key_dim * sizes.value_dim),
    )
    y = norm(b, f"{name}.norm", y, Norm("rms", norm_eps, num_groups=sizes.value_heads))
    y = b.one(f"{name}.gate", GatedActivation("silu"), gate, y)
    return linear(b, f"{name}.out", y, width(x))


def kimi_delta(
    b: Builder,
    layer: str,
    x: Value,
    sizes: DeltaSizes,
    *,
    norm_eps: float,
    log_a: bool = True,
    whole_rank: bool = False,
    floor: float | None = None,
) -> Value:
    """Kimi Delta Attention's mixer: each of q, k and v has a filter, each key channel a decay; the
    decays and the gate are made through as many channels as a head has, or directly if whole_rank
    (Ling). floor: see `DeltaRule`.
    """
    name, heads, keys, values = f"{layer}.delta", sizes.value_heads, sizes.keys, sizes.values
    parts = [linear(b, f"{name}.{p}", x, n) for p, n in (("q", keys), ("k", keys), ("v", values))]
    beta = linear(b, f"{name}.beta", x, heads)
    decay, gate = x, x
    if not whole_rank:
        decay = linear(b, f"{name}.decay_a", x, sizes.key_dim)
        gate = linear(b, f"{name}.gate_a", x, sizes.value_dim)
    decay = linear(b, f"{name}.decay_b", decay, keys)
    gate = linear(b, f"{name}.gate_b", gate, values)
    q, k, v = (
        causal_conv(b, f"{name}.conv_{part}", u, sizes.taps, silu=True)
        for part, u in zip("qkv", parts, strict=True)
    )
    op = DeltaRule(
        *(heads, heads, sizes.key_dim, sizes.value_dim),
        by_channel=True,
        log_a=log_a,
        floor=floor,
    )
    y = b.one(
        f"{name}.rule",
        op,
        *(q, k, v, decay, beta),
        weights=(b.weight(f"{name}.a", heads), b.weight(f"{name}.dt_bias", keys)),
        state=RowState(f"{name}.state", heads, sizes.key_dim * sizes.value_dim),
    )
    y = norm(b, f"{name}.norm", y, Norm("rms", norm_eps, num_groups=heads))
    y = b.one(f"{name}.gate", GatedActivation("sigmoid"), gate, y)
    return linear(b, f"{name}.out", y, width(x))


def lightning(
    b: Builder,
    layer: str,
    x: Value,
    *,
    heads: int,
    head_dim: int,
    rates: Sequence[float],
    activation: Activation,
    norm_eps: float,
) -> Value:
    """Lightning attention's mixer: activated q, k and v of one weight, parted by head; a norm of
    all channels, then a gate.
    """
    name, inner = f"{layer}.decay", heads * head_dim
    qkv = linear(b, f"{name}.qkv", x, 3 * inner)
    qkv = b.one(f"{name}.qkv_act", Activate(activation), qkv)
    q, k, v = b.add(f"{name}.qkv_split", SplitGroups(heads, (head_dim,) * 3), qkv)
    state = RowState(f"{name}.state", heads, head_dim * head_dim)
    y = b.one(f"{name}.attend", DecayAttention(tuple(rates)), q, k, v, state=state)
    y = norm(b, f"{name}.norm", y, Norm("rms", norm_eps))
    gate = linear(b, f"{name}.gate", x, inner)
    y = b.one(f"{name}.gated", GatedActivation("sigmoid"), gate, y)
    return linear(b, f"{name}.out", y, width(x))


def griffin(
    b: Builder,
    layer: str,
    x: Value,
    *,
    channels: int,
    blocks: int,
    taps: int,
    activation: Activation,
) -> Value:
    """Griffin's recurrent block: a filter and a recurrent unit, times an activated branch; each of
    `blocks` blocks of channels makes its own gates.
    """
    name, each = f"{layer}.lru", channels // blocks
    u = linear(b, f"{name}.x", x, channels, bias=True)
    y = linear(b, f"{name}.y", x, channels, bias=True)
    u = causal_conv(b, f"{name}.conv", u, taps, bias=True)
    r, i = (
        b.one(
            f"{name}.{gate}_gate",
            BlockLinear(),
            u,
            weights=(
                b.weight(f"{name}.{gate}_gate.weight", blocks, each, each),
                b.weight(f"{name}.{gate}_gate.bias", blocks, each),
            ),
        )
        for gate in ("recurrent", "input")
    )
    h = b.one(
        f"{name}.unit",
        RgLru(),
        *(u, r, i),
        weights=(b.weight(f"{name}.a", channels),),
        state=RowState(f"{name}.state", channels, 1),
    )
    h = b.one(f"{name}.gate", GatedActivation(activation), y, h)
    return linear(b, f"{name}.out", h, width(x), bias=True)
