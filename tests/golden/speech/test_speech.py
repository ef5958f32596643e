"""Whisper against transformers, and the same bits in any company.

Tiny random weights (make_speech.py): the encoder's rows and the decoder's logits, by the
definition and by each instruction set; alone, in a batch, in chunks, token by token.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ridgeline.backends.cpu.executor import ISAS, CpuExecutor, choose_isa
from ridgeline.backends.cpu.program import ProgramLimits, predict_memory
from ridgeline.backends.reference.executor import ReferenceExecutor
from ridgeline.errors import EngineError, ModelError
from ridgeline.model.graph.kv_format import KV_FORMATS
from ridgeline.model.graph.node import Graph
from ridgeline.model.opened import OpenedModel, open_model
from ridgeline.model.passes.fuse import fuse
from ridgeline.model.passes.kv_format import with_kv_format
from ridgeline.model.passes.shard import shard
from ridgeline.step import PlanRow, RowSampling, StepPlan
from threads import OTHER, USUAL

HERE = Path(__file__).parent
MODEL = HERE / "whisper"
AVAILABLE = ISAS[ISAS.index(choose_isa(None)) :]
REFERENCE_BOUND = 1e-5
# Keys and values rounded once: to 8 bits of mantissa, to 11, to codes of 8 bits a head.
CPU_BOUNDS = {"bf16": 1.2e-2, "f16": 1e-3, "int8": 1.5e-2}
POSITIONS, TOKENS, BLOCK = 37, 20, 16

Floats = npt.NDArray[np.float32]


def expected(name: str) -> npt.NDArray[Any]:
    with np.load(MODEL / "expected.npz") as file:
        return np.asarray(file[name])


def frames_of(text: int) -> Floats:
    """[mels, 2 * positions] as a position carries them: two frames side by side."""
    return np.ascontiguousarray(expected("features")[text].T).reshape(POSITIONS, -1)


def ids_of(text: int) -> list[int]:
    return [int(token) for token in expected("token_ids")[text]]


def graph_in(kv_format: str, fused: bool = True) -> tuple[Graph, OpenedModel]:
    opened = open_model(MODEL)
    graph = with_kv_format(opened.graph, KV_FORMATS[kv_format])
    return fuse(graph) if fused else graph, opened


def cpu(isa: str | None = None, kv_format: str = "bf16", threads: int = USUAL) -> CpuExecutor:
    graph, opened = graph_in(kv_format)
    return CpuExecutor(
        graph,
        opened.weights,
        num_blocks=16,
        max_rows=4,
        max_tokens_per_step=64,
        max_logits_per_step=64,
        threads=threads,
        isa=isa,
    )


def distance(found: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def logits_of(executor: CpuExecutor, row: int, text: int, cuts: tuple[int, ...] = ()) -> Floats:
    """All logits of a text whose frames the row has, computed in the parts that `cuts` make."""
    executor.open_row(row, ids_of(text), RowSampling())
    found = []
    for begin, end in pairwise((0, *cuts, TOKENS)):
        have, need = -(-begin // BLOCK), -(-end // BLOCK)
        blocks = tuple(2 * row + entry for entry in range(have, need))
        plan = PlanRow(row, end - begin, begin, end - begin, blocks)
        found.append(executor.forward(StepPlan(rows=(plan,))))
    executor.close_row(row)
    return np.concatenate(found)


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
def test_reference_is_transformers(fused: bool) -> None:
    graph, opened = graph_in("f32", fused)
    executor = ReferenceExecutor(graph, opened.weights, num_blocks=8, max_rows=2)
    for text in range(2):
        hidden = executor.encode(text, frames_of(text), POSITIONS)
        assert distance(hidden, expected("hidden")[text]) < REFERENCE_BOUND
        executor.open_row(text, ids_of(text), RowSampling())
        row = PlanRow(text, TOKENS, 0, TOKENS, (2 * text, 2 * text + 1))
        logits = executor.forward(StepPlan(rows=(row,)))
        assert distance(logits, expected("logits")[text]) < REFERENCE_BOUND


@pytest.mark.parametrize("kv_format", sorted(CPU_BOUNDS))
@pytest.mark.parametrize("isa", AVAILABLE)
def test_cpu_is_transformers(isa: str, kv_format: str) -> None:
    executor = cpu(isa, kv_format)
    for text in range(2):
        hidden = executor.encode(text, frames_of(text), POSITIONS)
        assert hidden is not None
        assert distance(hidden, expected("hidden")[text]) < CPU_BOUNDS[kv_format]
        logits = logits_of(executor, text, text)
        assert distance(logits, expected("logits")[text]) < CPU_BOUNDS[kv_format]


@pytest.mark.parametrize("kv_format", sorted(CPU_BOUNDS))
@pytest.mark.parametrize("isa", AVAILABLE)
def test_the_same_bits_in_any_company(isa: str, kv_format: str) -> None:
    executor = cpu(isa, kv_format)
    executor.encode(0, frames_of(0))
    alone = logits_of(executor, 0, 0)
    # Token by token, and in odd chunks, after the prompt was forced whole.
    assert np.array_equal(logits_of(executor, 0, 0, tuple(range(1, TOKENS))), alone)
    assert np.array_equal(logits_of(executor, 0, 0, (3, 16, 17)), alone)
    # One thread; another row; other rows beside it, that hear something else.
    single = cpu(isa, kv_format, threads=OTHER)
    single.encode(3, frames_of(0))
    assert np.array_equal(logits_of(single, 3, 0), alone)
    texts = (1, 0, 1, 0)
    for row, text in enumerate(texts):
        executor.encode(row, frames_of(text))
        executor.open_row(row, ids_of(text), RowSampling())
    plan = tuple(PlanRow(row, 6, 0, 6, (2 * row, 2 * row + 1)) for row in (2, 3, 0, 1))
    together = executor.forward(StepPlan(rows=plan)).reshape(4, 6, -1)
    assert np.array_equal(together[1], alone[:6])
    assert np.array_equal(together[3], alone[:6])
    assert np.array_equal(together[0], together[2])
    assert not np.array_equal(together[0], together[1])


def test_the_same_frames_are_read_once() -> None:
    executor, frames, others = cpu(), frames_of(0), frames_of(1)
    executor.encode(0, frames)
    alone = logits_of(executor, 0, 0)
    before = executor.encoder_steps
    executor.encode(0, frames)
    assert executor.encoder_steps == before
    executor.encode(1, frames)  # another row's place
    executor.encode(0, others)
    assert executor.encoder_steps == before + 2
    assert not np.array_equal(logits_of(executor, 0, 0), alone)
    executor.encode(0, frames)
    assert np.array_equal(logits_of(executor, 0, 0), alone)


def test_what_an_executor_refuses() -> None:
    executor = cpu()
    for wrong in (frames_of(0)[:-1], frames_of(0).astype(np.float64), frames_of(0)[:, :-1]):
        with pytest.raises(EngineError, match=r"float32 \(37, 20\) are needed"):
            executor.encode(0, wrong)
    with pytest.raises(EngineError, match="row 4: there is no encoder"):
        executor.encode(4, frames_of(0))
    graph, _ = graph_in("bf16")
    with pytest.raises(ModelError, match="with an encoder is not cut"):
        shard(graph, 2)


def test_memory_is_what_was_predicted() -> None:
    executor, (graph, _) = cpu(), graph_in("bf16")
    limits = ProgramLimits(executor.isa, USUAL, 16, 4, 64, 64)
    memory = executor.memory()
    assert memory == predict_memory(graph, limits)
    # Keys and values of 37 positions in blocks of 16, two layers of 32 channels, in bfloat16.
    assert memory["cross"] >= 4 * 48 * 2 * 2 * 32 * 2
