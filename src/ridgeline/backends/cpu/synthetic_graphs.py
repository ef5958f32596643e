"""Graphs of no model, for timing kernels: operators as they stand in models, of sizes of none.

Knows no weights and no steps.
"""

from __future__ import annotations

from ridgeline.model.formats import FORMATS, Format
from ridgeline.model.graph.build import Builder
from ridgeline.model.graph.kv_format import KV_FORMATS
from ridgeline.model.graph.node import Graph, KvState, Value
from ridgeline.model.graph.ops import (
    Add,
    AddNorm,
    Attention,
    Embed,
    GatedActivation,
    GatedLinear,
    KvWrite,
    Linear,
    Norm,
    Rope,
    RopeKvWrite,
    Rotation,
    Scale,
    SelectRows,
    Softcap,
)
from ridgeline.units import MIB

# Timed at more numbers of rows, and again where these are few.
COMMON_FORMATS = ("Q4_0", "Q4_1", "Q5_0", "Q6_K", "Q8_0", "BF16")
HEAD_DIMS, GROUPS = (64, 128, 256), (1, 4, 8)
LARGE_FORMATS = ("Q4_1", "Q5_0", "Q6_K", "Q8_0")
# More than a core's own cache keeps of two threads.
BETWEEN_BYTES = 3 * MIB
VOCAB, CONTEXT = 64, 2560


def linear_graph(format_name: str) -> Graph:
    """Linears of a format as they stand in models: behind norms, behind attention (`late`, their
    input not yet quantized), gated, and a head. In common formats, one gated linear is so wide that
    no core's own cache holds what it makes of the rows that are computed together.
    """
    wide = FORMATS[format_name].block_bytes / FORMATS[format_name].block_elements > 2
    d, e, f, g, h = (512, 768, 1280, 3072, 1024) if wide else (768, 1280, 2304, 5120, 1792)
    common = format_name in COMMON_FORMATS
    b = _builder(format_name)
    x0 = b.one("embed", Embed(), b.token_ids, weights=(b.weight("table", VOCAB, d),))
    a = _linear(b, "a", _norm(b, "norm0", x0), e)
    x1, y1 = _add_norm(b, "norm1", x0, _linear(b, "late_a", a, d))
    if common:
        down = _linear(b, "down_a", _gated(b, "gated_a", y1, g), d)
        x1, y1 = _add_norm(b, "norm2", x1, down)
    # As small as in the smallest models; nobody reads what they make.
    small = _linear(b, "d", y1, 512)
    _linear(b, "late_c", small, 512)
    if common:
        _linear(b, "down_c", _gated(b, "gated_c", _norm(b, "norm7", small), 1536), 512)
    c = _linear(b, "b", y1, e)
    s = _linear(b, "c", _norm(b, "norm3", c), f)
    x2, y2 = _add_norm(b, "norm4", c, _linear(b, "late_b", s, e))
    x2, _ = _add_norm(b, "norm5", x2, _linear(b, "down_b", _gated(b, "gated_b", y2, h), e))
    y = _norm(b, "norm6", b.one("select", SelectRows(), x2))
    return b.finish(
        _linear(b, "head", y, (4096 if wide else 8064) // (1 if common else 2)), CONTEXT
    )


def large_graph(num_bytes: int) -> Graph:
    """Layers of some formats in turn, as many as take so many bytes; matrices of 1 to 14 MB."""

    def format_of(name: str) -> Format:
        layer = name.removesuffix(".w").split(".")[0].lstrip("abcdefghijklmnopqrstuvwxyz_")
        return FORMATS[LARGE_FORMATS[int(layer or 0) % len(LARGE_FORMATS)]]

    b = Builder("synthetic", lambda n: format_of(n) if n.endswith(".w") else FORMATS["F32"])
    d, h, small, less = 1280, 5120, 768, 2304
    x = b.one("embed", Embed(), b.token_ids, weights=(b.weight("table", VOCAB, d),))
    y = _norm(b, "norm", x)
    weights = 3 * d * h + small * d + 3 * small * less
    bits = [FORMATS[name].bits_per_weight for name in LARGE_FORMATS]
    layer_bytes = weights * sum(bits) / len(bits) / 8
    for layer in range(max(1, int(num_bytes / layer_bytes))):
        down = _linear(b, f"down{layer}", _gated(b, f"gated{layer}", y, h), d)
        z = _norm(b, f"small_norm{layer}", _linear(b, f"small{layer}", y, small))
        _linear(b, f"less{layer}", _gated(b, f"small_gated{layer}", z, less), small)
        x, y = _add_norm(b, f"norm{layer}", x, down)
    y = _norm(b, "last", b.one("select", SelectRows(), x))
    return b.finish(_linear(b, "head", y, VOCAB), CONTEXT)


def attention_graph(kv_format: str) -> Graph:
    """Caches and attention, heads of some widths in groups of some sizes, two KV heads each; before
    each a linear, as in a model: its weights take the place of the cache's lines in the core's own
    cache, and units that only attention uses go to sleep.
    """
    b = _builder("Q8_0")
    last: Value | None = None
    for dim in HEAD_DIMS:
        rotation = Rotation(tuple(10000.0 ** (-2 * i / dim) for i in range(dim // 2)))
        for group in GROUPS:
            name, heads = f"h{dim}g{group}", 2 * group
            state = KvState(f"{name}.kv", 2, dim, dim, None, KV_FORMATS[kv_format])
            table = b.weight(f"{name}.table", VOCAB, (heads + 4) * dim)
            qkv = b.one(f"{name}.embed", Embed(), b.token_ids, weights=(table,))
            _between(b, f"{name}.between", qkv)
            write = RopeKvWrite(heads, 2, dim, rotation)
            q = b.one(f"{name}.write", write, qkv, state=state)
            op = Attention(heads, dim, dim, dim**-0.5)
            last = b.one(f"{name}.attend", op, q, state=state)
    assert last is not None
    chosen = b.one("select", SelectRows(), last)
    return b.finish(_linear(b, "head", chosen, VOCAB), CONTEXT)


def small_graph() -> Graph:
    """Operators that move values, and a vocabulary to sample from."""
    b = _builder("Q8_0")
    widths = (768, 2304)
    last: Value | None = None
    for width in widths:
        table = b.weight(f"table{width}", VOCAB, width)
        x = b.one(f"embed{width}", Embed(), b.token_ids, weights=(table,))
        _between(b, f"between{width}", x)
        y = _norm(b, f"rms{width}", x)
        z = b.one(
            f"layer{width}",
            Norm("layer", 1e-5),
            x,
            weights=(b.weight(f"lw{width}", width), b.weight(f"lb{width}", width)),
        )
        s = b.one(f"sum{width}", Add(), y, z)
        s = b.one(f"scale{width}", Scale(0.5), s)
        s = b.one(f"cap{width}", Softcap(30.0), s)
        s = b.one(f"gate{width}", GatedActivation("silu"), s, x)
        rotation = Rotation(tuple(10000.0 ** (-2 * i / 64) for i in range(32)))
        q = b.one(f"rope{width}", Rope(width // 64, 64, rotation), s)
        state = KvState(f"{width}.kv", width // 64, 64, 64, None)
        b.add(f"write{width}", KvWrite(), q, x, state=state)
        last = b.one(f"attend{width}", Attention(width // 64, 64, 64, 0.125), q, state=state)
    assert last is not None
    y = _norm(b, "norm", b.one("select", SelectRows(), last))
    return b.finish(_linear(b, "head", y, 8192), CONTEXT)


def _builder(format_name: str) -> Builder:
    matrix, vector = FORMATS[format_name], FORMATS["F32"]
    return Builder("synthetic", lambda name: matrix if name.endswith(".w") else vector)


def _linear(b: Builder, name: str, x: Value, outputs: int) -> Value:
    weight = b.weight(f"{name}.w", outputs, _width(x))
    return b.one(name, Linear(), x, weights=(weight,))


def _between(b: Builder, name: str, x: Value) -> None:
    """A linear of some megabytes that nobody reads."""
    _linear(b, name, x, BETWEEN_BYTES // _width(x) // 32 * 32)


def _gated(b: Builder, name: str, x: Value, outputs: int) -> Value:
    weights = tuple(b.weight(f"{name}.{part}.w", outputs, _width(x)) for part in ("gate", "up"))
    return b.one(name, GatedLinear("silu"), x, weights=weights)


def _norm(b: Builder, name: str, x: Value) -> Value:
    return b.one(name, Norm(), x, weights=(b.weight(f"{name}.weight", _width(x)),))


def _add_norm(b: Builder, name: str, x: Value, y: Value) -> tuple[Value, Value]:
    total, normed = b.add(
        name, AddNorm(Norm()), x, y, weights=(b.weight(f"{name}.weight", _width(x)),)
    )
    return total, normed


def _width(value: Value) -> int:
    width = value.shape[-1]
    assert isinstance(width, int)
    return width
