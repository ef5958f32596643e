"""A whole decoder in every weight format on every instruction set: near the reference on the same
dequantized weights, and the same bits however a row is computed.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "null"))
from small_graphs import Decoder, decoder, numbers_of

from ridgeline.backends.cpu.executor import ISAS, CpuExecutor, choose_isa
from ridgeline.backends.reference.executor import ReferenceExecutor
from ridgeline.model.formats import FORMATS, dequantize, quantize
from ridgeline.model.graph.kv_format import KV_FORMATS
from ridgeline.model.graph.node import Graph, Weight
from ridgeline.model.passes.fuse import fuse
from ridgeline.model.passes.kv_format import with_kv_format
from ridgeline.step import PlanRow, RowSampling, StepPlan
from threads import OTHER, USUAL

Floats = npt.NDArray[np.float32]

AVAILABLE = ISAS[ISAS.index(choose_isa(None)) :]
NUM_TOKENS = 40
TOKEN_IDS = np.random.default_rng(1).integers(0, 64, NUM_TOKENS).tolist()
MAX_ROWS = 9

# Of the logits' norm. Found: at most 7.1e-4 (attention multiplies BF16) and 2.2e-3; 8.8e-3 where
# activations are rounded to 8 bits, whatever the weights' format.
BOUNDS = {"F32": 1.5e-3, "F16": 1.5e-3, "BF16": 4e-3}
INTEGER_BOUND = 1.5e-2

SHAPE = Decoder(heads=4, kv_heads=2, head_dim=64, width=256, hidden=256, head_norm=True)


class StoredWeights:
    """Random numbers, rounded to their formats."""

    def raw(self, weight: Weight) -> npt.NDArray[np.uint8]:
        return stored(weight)

    def float32(self, weight: Weight) -> Floats:
        return dequantize(self.raw(weight), weight.format.name, weight.shape)

    def release(self, weight: Weight) -> None:
        """Nothing is mapped here."""


@cache
def stored(weight: Weight) -> npt.NDArray[np.uint8]:
    return quantize(numbers_of(weight), weight.format.name)


@cache
def model(format_name: str) -> Graph:
    return fuse(decoder(replace(SHAPE, format=format_name)))


def cpu(format_name: str, isa: str, threads: int = USUAL, kv_format: str = "bf16") -> CpuExecutor:
    return CpuExecutor(
        with_kv_format(model(format_name), KV_FORMATS[kv_format]),
        StoredWeights(),
        num_blocks=4 * MAX_ROWS,
        max_rows=MAX_ROWS,
        max_tokens_per_step=256,
        threads=threads,
        max_logits_per_step=256,
        isa=isa,
    )


def in_chunks(executor: CpuExecutor | ReferenceExecutor, row: int, chunks: list[int]) -> Floats:
    executor.open_row(row, TOKEN_IDS, RowSampling())
    parts, done = [], 0
    for n in chunks:
        blocks = (3, 0, 2) if done == 0 else ()
        parts.append(executor.forward(StepPlan((PlanRow(row, n, done, n, blocks),))))
        done += n
    executor.close_row(row)
    return np.concatenate(parts)


@pytest.mark.parametrize("isa", AVAILABLE)
@pytest.mark.parametrize("format_name", FORMATS)
def test_logits_are_the_references(format_name: str, isa: str) -> None:
    reference = ReferenceExecutor(model(format_name), StoredWeights(), num_blocks=4, max_rows=1)
    expected = in_chunks(reference, 0, [NUM_TOKENS])
    found = in_chunks(cpu(format_name, isa), 0, [NUM_TOKENS])
    bound = BOUNDS.get(format_name, INTEGER_BOUND)
    assert np.linalg.norm(found - expected) < bound * np.linalg.norm(expected)


@pytest.mark.parametrize("isa", AVAILABLE)
@pytest.mark.parametrize("kv_format", ["bf16", "f16", "int8"])
def test_caches_are_the_references(kv_format: str, isa: str) -> None:
    """The definition rounds keys and values the same way, so that only arithmetic is between them,
    and far less of it than a cache in another format would bring.
    """
    graph = with_kv_format(model("F32"), KV_FORMATS[kv_format])
    found = in_chunks(cpu("F32", isa, kv_format=kv_format), 0, [NUM_TOKENS])
    distances = {}
    for name in KV_FORMATS:
        graph = with_kv_format(model("F32"), KV_FORMATS[name])
        reference = ReferenceExecutor(graph, StoredWeights(), num_blocks=4, max_rows=1)
        expected = in_chunks(reference, 0, [NUM_TOKENS])
        distances[name] = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert min(distances, key=lambda name: distances[name]) == kv_format
    assert distances[kv_format] < {"bf16": 1e-3, "f16": 2e-5, "int8": 1e-3}[kv_format]


@pytest.mark.parametrize("isa", AVAILABLE)
@pytest.mark.parametrize("format_name", FORMATS)
def test_the_same_bits_however_a_row_is_computed(format_name: str, isa: str) -> None:
    """Whole, in chunks, token by token; with one thread; as a middle row of several."""
    executor = cpu(format_name, isa)
    whole = in_chunks(executor, 0, [NUM_TOKENS])
    for chunks in ([1] * NUM_TOKENS, [7, 1, 16, 16], [33, 7]):
        assert np.array_equal(in_chunks(executor, 2, chunks), whole), chunks
    assert np.array_equal(in_chunks(cpu(format_name, isa, threads=OTHER), 1, [39, 1]), whole)
    plans = []
    for row in range(MAX_ROWS):
        mine = row == 4
        prompt = TOKEN_IDS if mine else TOKEN_IDS[row : 2 * row + 3]
        executor.open_row(row, prompt, RowSampling())
        blocks = (4 * row, 4 * row + 1, 4 * row + 2)
        plans.append(PlanRow(row, len(prompt), 0, len(prompt) if mine else 1, blocks))
    found = executor.forward(StepPlan(tuple(plans)))
    assert np.array_equal(found[4 : 4 + NUM_TOKENS], whole)


@pytest.mark.parametrize("isa", AVAILABLE)
@pytest.mark.parametrize("format_name", ["Q8_0", "Q4_1", "Q6_K"])
def test_a_last_norm_makes_the_heads_rows_in_its_room(format_name: str, isa: str) -> None:
    """Of widths that are whole blocks and that are not; one, two and many rows of logits."""
    for width in (256, 512, 768) if format_name == "Q6_K" else (96, 576):
        shape = replace(SHAPE, width=width, hidden=2 * width, layers=1, format=format_name)
        executor = CpuExecutor(
            fuse(decoder(shape)),
            StoredWeights(),
            num_blocks=4,
            max_rows=2,
            max_tokens_per_step=NUM_TOKENS,
            threads=2,
            max_logits_per_step=NUM_TOKENS,
            isa=isa,
        )
        whole = in_chunks(executor, 0, [NUM_TOKENS])
        assert np.isfinite(whole).all()
        for chunks in ([1] * NUM_TOKENS, [2] * (NUM_TOKENS // 2)):
            assert np.array_equal(in_chunks(executor, 0, chunks), whole), (width, len(chunks))
