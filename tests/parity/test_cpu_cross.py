"""conv1d and cross attention on the CPU, on each instruction set, against float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ridgeline.backends.cpu.executor import ISAS, CpuExecutor, choose_isa
from ridgeline.backends.reference.executor import ReferenceExecutor
from ridgeline.model.formats import FORMATS, dequantize, quantize
from ridgeline.model.graph.build import Builder
from ridgeline.model.graph.kv_format import KV_FORMATS
from ridgeline.model.graph.node import CrossState, Graph, KvState, Weight
from ridgeline.model.graph.ops import (
    Attention,
    Conv1d,
    CrossAttention,
    CrossWrite,
    Embed,
    KvWrite,
    SelectRows,
)
from ridgeline.model.passes.kv_format import with_kv_format
from ridgeline.step import PlanRow, RowSampling, StepPlan

AVAILABLE = ISAS[ISAS.index(choose_isa(None)) :]
VOCAB = 40
BOUNDS = {"bf16": 8e-3, "f16": 1e-3, "int8": 1.2e-2}

# positions, frames a position, stride, taps, channels, heads, KV heads, size of a head
SHAPES = [
    (1, 1, 1, 1, 3, 1, 1, 8),
    (17, 2, 2, 3, 5, 4, 2, 16),
    (100, 4, 2, 5, 7, 3, 3, 24),
    (300, 2, 1, 3, 16, 8, 8, 64),
    (530, 1, 1, 9, 4, 6, 1, 40),
]


class Random:
    """Weights that are noise, of the name and the shape."""

    def raw(self, weight: Weight) -> npt.NDArray[np.uint8]:
        fan = np.prod(weight.shape[1:]) if len(weight.shape) > 1 else 1
        seed = sum(weight.name.encode()) + len(weight.shape)
        noise = np.random.default_rng(seed).standard_normal(weight.shape) / np.sqrt(fan)
        values = 3 * noise if weight.name == "embed.weight" else noise
        return quantize(values.astype(np.float32), weight.format.name)

    def float32(self, weight: Weight) -> npt.NDArray[np.float32]:
        return dequantize(self.raw(weight), weight.format.name, weight.shape)

    def entry(self, weight: Weight, index: int) -> npt.NDArray[np.uint8]:
        raise NotImplementedError

    def release(self, weight: Weight, index: int | None = None) -> None:
        """Nothing is held."""


def graph_of(shape: tuple[int, ...], kv_format: str, stored: str = "F32") -> Graph:
    """An encoder of one convolution, whose outputs are keys and values; a decoder of one cross
    attention, whose queries are an embedding's rows.
    """
    positions, frames, stride, taps, channels, heads, kv_heads, dim = shape
    out, each = kv_heads * dim, frames // stride
    state = CrossState("cross", positions, kv_heads, each * dim, each * dim)
    b = Builder("heard", lambda _: FORMATS[stored])
    x = b.hidden(frames * channels)
    weights = (b.weight("conv.weight", out, channels, taps), b.weight("conv.bias", out))
    x = b.one("conv", Conv1d(taps, frames, stride), x, weights=weights)
    b.add("write", CrossWrite(), x, x, state=state)
    encoder = b.finish(b.one("select", SelectRows(), x), positions)
    b = Builder("hearing", lambda _: FORMATS["F32"])
    dim *= each
    q = b.one(
        "embed", Embed(), b.token_ids, weights=(b.weight("embed.weight", VOCAB, heads * dim),)
    )
    y = b.one("cross", CrossAttention(heads, dim, dim, dim**-0.5), q, state=state)
    # A layer with a cache, so that rows have blocks.
    own = KvState("kv", heads, dim, dim)
    b.add("kv_write", KvWrite(), q, y, state=own)
    b.one("attend", Attention(heads, dim, dim, dim**-0.5), q, state=own)
    graph = b.finish(b.one("select", SelectRows(), y), 64, encoder=encoder)
    return with_kv_format(graph, KV_FORMATS[kv_format])


def frames_of(shape: tuple[int, ...], seed: int) -> npt.NDArray[np.float32]:
    positions, frames, _, _, channels, *_ = shape
    noise = np.random.default_rng(seed).standard_normal((positions, frames * channels))
    return noise.astype(np.float32)


def distance(found: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> float:
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("kv_format", sorted(BOUNDS))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("isa", AVAILABLE)
def test_what_an_encoder_makes_and_a_decoder_sees(
    isa: str, shape: tuple[int, ...], kv_format: str
) -> None:
    positions, tokens = shape[0], [3, 1, 4, 1, 5, 9, 2, 6]
    exact = ReferenceExecutor(
        graph_of(shape, "f32"), Random(), num_blocks=4, max_rows=2, dtype="float64"
    )
    executor = CpuExecutor(
        graph_of(shape, kv_format),
        Random(),
        num_blocks=4,
        max_rows=2,
        max_tokens_per_step=16,
        max_logits_per_step=16,
        threads=2,
        isa=isa,
    )
    rows = []
    for row in range(2):
        frames = frames_of(shape, row)
        hidden = executor.encode(row, frames, positions)
        assert hidden is not None
        assert distance(hidden, exact.encode(row, frames, positions)) < 3e-6
        for each in (executor, exact):
            each.open_row(row, tokens, RowSampling())
        rows.append(PlanRow(row, len(tokens), 0, len(tokens), (row,)))
    found = executor.forward(StepPlan(rows=tuple(rows)))
    wanted = exact.forward(StepPlan(rows=tuple(rows)))
    assert distance(found, wanted) < BOUNDS[kv_format]
    # The same token hears the same, and each row what is its own.
    assert np.array_equal(found[1], found[3])
    assert positions == 1 or not np.allclose(found[:8], found[8:])


@pytest.mark.parametrize("isa", AVAILABLE)
@pytest.mark.parametrize("stored", ["F16", "BF16"])
def test_a_convolution_of_stored_numbers(isa: str, stored: str) -> None:
    """BF16 multiplies inputs that are rounded to it; all else is exact as stored."""
    shape = (40, 2, 2, 3, 32, 2, 2, 16)
    exact = ReferenceExecutor(
        graph_of(shape, "f32", stored), Random(), num_blocks=4, max_rows=1, dtype="float64"
    )
    executor = CpuExecutor(
        graph_of(shape, "bf16", stored),
        Random(),
        num_blocks=4,
        max_rows=1,
        max_tokens_per_step=16,
        threads=2,
        isa=isa,
    )
    frames = frames_of(shape, 5)
    found = executor.encode(0, frames, shape[0])
    assert found is not None
    bound = 8e-3 if stored == "BF16" else 3e-6
    assert distance(found, exact.encode(0, frames, shape[0])) < bound
