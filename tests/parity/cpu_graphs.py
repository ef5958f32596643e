"""Graphs of one operator, whose input rows a test chooses: row i of the input is token i."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from ridgeline.backends.cpu.executor import ISAS, CpuExecutor, choose_isa
from ridgeline.backends.reference.executor import ReferenceExecutor
from ridgeline.model.formats import FORMATS, dequantize, quantize
from ridgeline.model.graph.build import Builder
from ridgeline.model.graph.node import Graph, Value, Weight
from ridgeline.model.graph.ops import Embed, SelectRows, Split
from ridgeline.step import PlanRow, RowSampling, StepPlan
from threads import USUAL

Floats = npt.NDArray[np.float32]
AVAILABLE = ISAS[ISAS.index(choose_isa(None)) :]
NUM_BLOCKS = 256


class Stored:
    """Weights given as float arrays, stored in the format that the graph says: once in each."""

    def __init__(self, arrays: Mapping[str, npt.NDArray[np.floating]]) -> None:
        self._arrays = arrays
        self._raw: dict[tuple[str, str], npt.NDArray[np.uint8]] = {}

    def raw(self, weight: Weight) -> npt.NDArray[np.uint8]:
        array, format_name = self._arrays[weight.name], weight.format.name
        if format_name == "F32":  # NaN, too
            return np.ascontiguousarray(array, np.float32).view(np.uint8).reshape(-1)
        if (weight.name, format_name) not in self._raw:
            self._raw[weight.name, format_name] = quantize(array, format_name)
        return self._raw[weight.name, format_name]

    def float32(self, weight: Weight) -> Floats:
        return dequantize(self.raw(weight), weight.format.name, weight.shape)

    def entry(self, weight: Weight, index: int) -> npt.NDArray[np.uint8]:
        return self.raw(weight).reshape(weight.shape[0], -1)[index]

    def release(self, weight: Weight, index: int | None = None) -> None:
        pass


def one_operator(
    rows: int, widths: tuple[int, ...], add: Callable[[Builder, tuple[Value, ...]], Value]
) -> Graph:
    """`add` puts operators on values of `widths` columns, which lie side by side in a table."""
    b = Builder("one", lambda name: FORMATS["F32"])
    table = b.weight("table", rows, sum(widths))
    x = b.one("embed", Embed(), b.token_ids, weights=(table,))
    values = b.add("split", Split(widths), x) if len(widths) > 1 else (x,)
    y = b.one("select", SelectRows(), add(b, values))
    return b.finish(y, 4096)


def executor(
    graph: Graph, arrays: Mapping[str, npt.NDArray[np.floating]], isa: str, threads: int = USUAL
) -> CpuExecutor:
    return CpuExecutor(
        graph,
        Stored(arrays),
        num_blocks=NUM_BLOCKS,
        max_rows=64,
        max_tokens_per_step=1024,
        max_logits_per_step=1024,
        threads=threads,
        isa=isa,
    )


def run(cpu: CpuExecutor, num_tokens: int) -> Floats:
    """All outputs of tokens 0, 1, ... in one step of one row."""
    cpu.open_row(0, list(range(num_tokens)), RowSampling())
    blocks = tuple(range(-(-num_tokens // 16)))
    try:
        return cpu.forward(StepPlan((PlanRow(0, num_tokens, 0, num_tokens, blocks),)))
    finally:
        cpu.close_row(0)


def paged(
    graph: Graph,
    arrays: Mapping[str, npt.NDArray[np.floating]],
    isa: str,
    threads: int,
    tokens: int,
) -> CpuExecutor:
    """With a small cache, and logits of each of a step's `tokens`."""
    return CpuExecutor(
        graph,
        Stored(arrays),
        num_blocks=40,
        max_rows=4,
        max_tokens_per_step=tokens,
        max_logits_per_step=tokens,
        threads=threads,
        isa=isa,
    )


def in_chunks(
    executor: CpuExecutor | ReferenceExecutor,
    ids: list[int],
    chunks: list[int],
    table: tuple[int, ...],
) -> Floats:
    """Logits of the first sum(chunks) of `ids` in row 0, whose blocks are `table`."""
    executor.open_row(0, ids[: sum(chunks)], RowSampling())
    parts, done = [], 0
    for n in chunks:
        plan = StepPlan((PlanRow(0, n, done, n, () if done else table),))
        parts.append(executor.forward(plan))
        done += n
    executor.close_row(0)
    return np.concatenate(parts)
