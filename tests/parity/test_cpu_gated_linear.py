"""GatedLinear on the CPU: the bits of a linear and a gated activation, whatever the shape, whoever
reads it, and however many rows and threads there are.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pytest
from cpu_graphs import AVAILABLE, Stored, run

from ridgeline.backends.cpu import _native
from ridgeline.backends.cpu.activations import activation_kinds
from ridgeline.backends.cpu.executor import CpuExecutor
from ridgeline.model.formats import FORMATS
from ridgeline.model.graph.build import Builder
from ridgeline.model.graph.node import Graph, Value
from ridgeline.model.graph.ops import Embed, GatedActivation, GatedLinear, Linear, Norm, SelectRows
from ridgeline.model.graph.ops.activation import Activation
from ridgeline.model.passes.fuse import fuse

Floats = npt.NDArray[np.float32]
ROWS = 600


@dataclass(frozen=True)
class Shape:
    """parts: of gate and up. normed: a norm stands before. down: a linear reads the product."""

    width: int = 64
    hidden: int = 128
    parts: int = 2
    bias: bool = False
    format: str = "Q4_1"
    up_format: str | None = None
    activation: Activation = "silu"
    normed: bool = True
    down: bool = True


SHAPES = {
    "plain": Shape(),
    "biases": Shape(bias=True),
    "one_part": Shape(parts=1, bias=True),
    "one_part_within_a_strip": Shape(parts=1, hidden=80, bias=True),
    "part_of_a_block": Shape(hidden=200, format="F16"),
    "narrow": Shape(width=32, hidden=10, format="F32", down=False),
    "floats_in_and_out": Shape(normed=False, down=False),
    "two_kinds": Shape(up_format="BF16"),
    "wide": Shape(hidden=832, activation="gelu_tanh"),
    "gelu": Shape(hidden=192, activation="gelu", format="BF16"),
    "relu": Shape(hidden=192, activation="relu", format="Q6_K", width=256),
}


def graph_of(shape: Shape) -> Graph:
    formats = {"up.w": shape.up_format or shape.format, "down.w": "F32"}
    b = Builder(
        "gated",
        lambda name: FORMATS[formats.get(name, shape.format) if name.endswith(".w") else "F32"],
    )
    x = b.one("embed", Embed(), b.token_ids, weights=(b.weight("table", ROWS, shape.width),))
    if shape.normed:
        x = b.one("norm", Norm(), x, weights=(b.weight("norm", shape.width),))
    joint = shape.parts == 1

    def linear(name: str, x: Value, channels: int) -> Value:
        width = x.shape[-1]
        assert isinstance(width, int)
        weights = [b.weight(f"{name}.w", channels, width)]
        if shape.bias:
            weights.append(b.weight(f"{name}.b", channels))
        return b.one(name, Linear(bias=shape.bias), x, weights=tuple(weights))

    if joint:
        both = linear("gate_up", x, 2 * shape.hidden)
        y = b.one("act", GatedActivation(shape.activation, joint=True), both)
    else:
        gate, up = linear("gate", x, shape.hidden), linear("up", x, shape.hidden)
        y = b.one("act", GatedActivation(shape.activation), gate, up)
    if shape.down:
        y = linear("down", y, 48)
    return b.finish(b.one("select", SelectRows(), y), 4096)


def arrays(graph: Graph) -> dict[str, Floats]:
    """Numbers that follow from a weight's name: the fused graph has weights in another order."""
    return {
        w.name: np.random.default_rng(zlib.crc32(w.name.encode()))
        .normal(0, 1, w.shape)
        .astype(np.float32)
        for w in graph.weights
    }


def executor(graph: Graph, isa: str, threads: int, quantize_early: bool) -> CpuExecutor:
    return CpuExecutor(
        graph,
        Stored(arrays(graph)),
        num_blocks=64,
        max_rows=4,
        max_tokens_per_step=ROWS,
        max_logits_per_step=ROWS,
        threads=threads,
        isa=isa,
        quantize_early=quantize_early,
    )


@pytest.mark.parametrize("isa", AVAILABLE)
@pytest.mark.parametrize("name", SHAPES)
def test_the_bits_of_the_operators_that_it_joins(name: str, isa: str) -> None:
    graph = graph_of(SHAPES[name])
    fused = fuse(graph)
    assert any(isinstance(node.op, GatedLinear) for node in fused.nodes)
    plain = executor(graph, isa, 2, quantize_early=False)
    joined = [
        executor(fused, isa, threads, early) for threads in (1, 2, 3) for early in (False, True)
    ]
    for rows in (1, 2, 8, 9, 40, 64, 130, 257, ROWS):
        expected = run(plain, rows)
        assert np.isfinite(expected).all()
        for cpu in joined:
            assert np.array_equal(run(cpu, rows), expected), rows


def test_which_values_lie_as_activations() -> None:
    def kinds(shape: Shape, isa: str = "portable") -> dict[str, str]:
        graph = fuse(graph_of(shape))
        names = {value.id: node.name for node in graph.nodes for value in node.outputs}
        return {names[value_id]: kind for value_id, kind in activation_kinds(graph, isa).items()}

    whole = Shape(format="Q8_0")
    assert kinds(whole) == {"norm": "int8", "gate_up": "f32"}
    if _native.best_isa() == "amx":
        assert kinds(whole, "amx") == {"norm": "int16", "gate_up": "f32"}
    assert kinds(replace(whole, format="BF16")) == {"norm": "bf16", "gate_up": "f32"}
    assert kinds(replace(whole, up_format="BF16")) == {"gate_up": "f32"}, "two kinds"
    assert kinds(replace(whole, down=False)) == {"norm": "int8"}, "selected as floats"
