"""A small decoder with every choice that a rewrite or a cut must tell apart, and its weights."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ridgeline.model.formats import FORMATS
from ridgeline.model.graph.build import Builder
from ridgeline.model.graph.node import Graph, KvState, Value, Weight
from ridgeline.model.graph.ops import (
    Add,
    Attention,
    Embed,
    GatedActivation,
    KvWrite,
    Linear,
    Norm,
    Rope,
    Rotation,
    SelectRows,
    Split,
)
from ridgeline.model.passes.shard import share_of

MATRICES = (".w", "embed.weight")


@dataclass(frozen=True)
class Decoder:
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 8
    width: int = 32
    hidden: int = 48
    vocab: int = 64
    head_norm: bool = False
    joint_qkv: bool = False
    rope: bool = True
    bias: bool = False
    sandwich: bool = False
    tied: bool = False
    window: int | None = None
    format: str = "F32"
    max_context: int = 128


def decoder(how: Decoder) -> Graph:
    b = Builder("decoder", lambda name: FORMATS[how.format if name.endswith(MATRICES) else "F32"])
    table = b.weight("embed.weight", how.vocab, how.width, axes=("vocab", None))
    h = b.one("embed", Embed(), b.token_ids, weights=(table,))
    for i in range(how.layers):
        layer = f"layers.{i}"
        y = _attention(b, how, layer, _norm(b, f"{layer}.norm1", h))
        if how.sandwich:
            y = _norm(b, f"{layer}.post1", y)
        h = b.one(f"{layer}.add1", Add(), h, y)
        x = _norm(b, f"{layer}.norm2", h)
        gate = _linear(b, how, f"{layer}.gate", x, how.hidden, ("ffn", None))
        up = _linear(b, how, f"{layer}.up", x, how.hidden, ("ffn", None))
        y = b.one(f"{layer}.act", GatedActivation("silu"), gate, up)
        y = _linear(b, how, f"{layer}.down", y, how.width, (None, "ffn"), biased=False)
        h = b.one(f"{layer}.add2", Add(), h, y)
    h = _norm(b, "norm", b.one("select", SelectRows(), h))
    head = table if how.tied else b.weight("head.w", how.vocab, how.width, axes=("vocab", None))
    return b.finish(b.one("head", Linear(), h, weights=(head,)), how.max_context)


def _attention(b: Builder, how: Decoder, layer: str, x: Value) -> Value:
    q_width, kv_width = how.heads * how.head_dim, how.kv_heads * how.head_dim
    if how.joint_qkv:
        qkv = _linear(b, how, f"{layer}.qkv", x, q_width + 2 * kv_width, (None, None))
        q, k, v = b.add(f"{layer}.split", Split((q_width, kv_width, kv_width)), qkv)
    else:
        q = _linear(b, how, f"{layer}.q", x, q_width, ("heads", None))
        k = _linear(b, how, f"{layer}.k", x, kv_width, ("kv_heads", None))
        v = _linear(b, how, f"{layer}.v", x, kv_width, ("kv_heads", None))
    if how.head_norm:
        q = _norm(b, f"{layer}.q_norm", q, how.heads)
        k = _norm(b, f"{layer}.k_norm", k, how.kv_heads)
    if how.rope:
        rotation = Rotation(tuple(10000.0 ** (-2 * i / how.head_dim) for i in range(3)))
        q = b.one(f"{layer}.q_rope", Rope(how.heads, how.head_dim, rotation), q)
        k = b.one(f"{layer}.k_rope", Rope(how.kv_heads, how.head_dim, rotation), k)
    state = KvState(f"{layer}.kv", how.kv_heads, how.head_dim, how.head_dim, how.window)
    b.add(f"{layer}.kv_write", KvWrite(), k, v, state=state)
    op = Attention(how.heads, how.head_dim, how.head_dim, how.head_dim**-0.5)
    y = b.one(f"{layer}.attend", op, q, state=state)
    return _linear(b, how, f"{layer}.o", y, how.width, (None, "heads"), biased=False)


def _linear(
    b: Builder,
    how: Decoder,
    name: str,
    x: Value,
    outputs: int,
    axes: tuple[str | None, str | None],
    biased: bool = True,
) -> Value:
    inputs = x.shape[-1]
    assert isinstance(inputs, int)
    weights = [b.weight(f"{name}.w", outputs, inputs, axes=axes)]
    if how.bias and biased:
        weights.append(b.weight(f"{name}.bias", outputs))
    return b.one(name, Linear(bias=len(weights) > 1), x, weights=tuple(weights))


def _norm(b: Builder, name: str, x: Value, num_groups: int = 1) -> Value:
    width = x.shape[-1]
    assert isinstance(width, int)
    weight = b.weight(f"{name}.weight", width // num_groups)
    return b.one(name, Norm(num_groups=num_groups, eps=1e-5), x, weights=(weight,))


def numbers_of(weight: Weight) -> npt.NDArray[np.float32]:
    """Numbers that follow from a weight's name and shape, of a size that keeps values near 1."""
    rng = np.random.default_rng(zlib.crc32(weight.name.encode()))
    return (rng.standard_normal(weight.shape) / np.sqrt(weight.shape[-1])).astype(np.float32)


@dataclass(frozen=True)
class RandomWeights:
    """`numbers_of` a graph's weights; ranks' shares are shares of the whole."""

    graph: Graph

    def float32(self, weight: Weight) -> npt.NDArray[np.float32]:
        share = share_of(weight)
        (whole,) = (w for w in self.graph.weights if w.name == share.name)
        return np.split(numbers_of(whole), share.parts, axis=share.dim)[share.part]
