"""Mixers that carry a state from token to token instead of a cache of all tokens: functions with
explicit arguments, as `blocks`.

Mamba: Gu and Dao 2023. Mamba 2: Dao and Gu 2024. Does not know any architecture, configuration or
file.
"""

from __future__ import annotations

from dataclasses import dataclass

from ridgeline.model.architectures.blocks import linear, norm, width
from ridgeline.model.graph.build import Builder
from ridgeline.model.graph.node import RowState, Value
from ridgeline.model.graph.ops import (
    CausalConv,
    GatedActivation,
    Norm,
    SelectiveScan,
    Split,
    SsdScan,
)

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
) -> Value:
    """Mamba's mixer; inner_norm: of dt, b and c (Jamba). log_a: see `SelectiveScan`."""
    name, inner, state = f"{layer}.ssm", sizes.inner, sizes.state
    both = linear(b, f"{name}.in", x, 2 * inner, bias=bias)
    u, gate = b.add(f"{name}.in.split", Split((inner, inner)), both)
    u = causal_conv(b, f"{name}.conv", u, sizes.taps, bias=conv_bias, silu=True)
    selected = linear(b, f"{name}.x", u, sizes.rank + 2 * state)
    dt, in_b, out_c = b.add(f"{name}.x.split", Split((sizes.rank, state, state)), selected)
    if inner_norm is not None:
        dt = norm(b, f"{name}.dt_norm", dt, inner_norm)
        in_b = norm(b, f"{name}.b_norm", in_b, inner_norm)
        out_c = norm(b, f"{name}.c_norm", out_c, inner_norm)
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
) -> Value:
    """Mamba 2's mixer; norm_eps: of the norm of each group after the gate (before it, if not
    gate_first), None for none.
    """
    name, inner = f"{layer}.ssm", sizes.inner
    parts = linear(b, f"{name}.in", x, inner + sizes.conv + sizes.heads, bias=bias)
    split = Split((inner, sizes.conv, sizes.heads))
    gate, u, dt = b.add(f"{name}.in.split", split, parts)
    u = causal_conv(b, f"{name}.conv", u, sizes.taps, bias=conv_bias, silu=True)
    group = sizes.groups * sizes.state
    u, in_b, out_c = b.add(f"{name}.conv.split", Split((inner, group, group)), u)
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
