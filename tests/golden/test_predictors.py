"""Modules of multi-token prediction on golden checkpoints: transformers' logits, and the same bits
however a row is computed.

The main model's logits on these checkpoints are in `test_logits` and `test_cpu`.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from test_cpu import AVAILABLE, BOUNDS
from test_logits import HERE, distance, exact

from block_entries import blocks_for, spread
from ridgeline.backends.cpu.executor import CpuExecutor
from ridgeline.backends.reference.executor import ReferenceExecutor
from ridgeline.errors import EngineError, ModelError
from ridgeline.model.opened import open_model
from ridgeline.model.passes.fuse import fuse
from ridgeline.model.passes.hidden import with_hidden
from ridgeline.model.predictors import open_predictors
from ridgeline.step import PlanRow, RowSampling, StepPlan
from threads import OTHER, USUAL

Floats = npt.NDArray[np.float32]
Executor = CpuExecutor | ReferenceExecutor

CASES = sorted(path.name for path in HERE.glob("mtp_*"))
GREEDY = RowSampling()


def expected(case: str) -> tuple[list[int], list[Floats]]:
    """The prompt, and each module's logits."""
    with np.load(HERE / case / "expected.npz") as found:
        modules = sum(name.startswith("predicted_") for name in found)
        return found["token_ids"].tolist(), [found[f"predicted_{k}"] for k in range(modules)]


def reference(case: str, *, fused: bool) -> list[Executor]:
    """Executors of the model, which gives hidden states, and of its modules."""
    model = open_model(HERE / case)
    parts = [(with_hidden(model.graph), model.weights), *open_predictors(model)]
    return [
        ReferenceExecutor(
            exact(fuse(graph) if fused else graph),
            weights,
            num_blocks=blocks_for(graph, 8),
            max_rows=1,
        )
        for graph, weights in parts
    ]


def cpu(
    case: str, *, isa: str | None = None, threads: int = USUAL, fused: bool = True
) -> list[Executor]:
    model = open_model(HERE / case)
    parts = [(with_hidden(model.graph), model.weights), *open_predictors(model)]
    return [
        CpuExecutor(
            fuse(graph) if fused else graph,
            weights,
            num_blocks=blocks_for(graph, 40),
            max_rows=8,
            max_tokens_per_step=256,
            max_logits_per_step=128,
            threads=threads,
            isa=isa,
        )
        for graph, weights in parts
    ]


def run(
    executor: Executor, token_ids: list[int], hidden: Floats | None, chunks: list[int]
) -> Floats:
    """All logits of a row, so many tokens at a time, with the hidden states that go in."""
    executor.open_row(0, token_ids, GREEDY)
    logits, given, done = [], [], 0
    for size in chunks:
        count = min(size, len(token_ids) - done)
        if count < 1:
            break
        blocks = spread(executor, (3, 0, 5) if done == 0 else ())
        plan = StepPlan((PlanRow(0, count, done, count, blocks),))
        goes_in = None if hidden is None else hidden[done : done + count]
        logits.append(executor.forward(plan, hidden=goes_in))
        given.append(executor.hidden())
        done += count
    executor.close_row(0)
    assert done == len(token_ids)
    return np.concatenate([np.concatenate(logits), np.concatenate(given)], axis=1)


def drafted(parts: list[Executor], token_ids: list[int], chunks: list[int]) -> list[Floats]:
    """Logits and hidden states, side by side, of the model and of each module."""
    found: list[Floats] = []
    for k, executor in enumerate(parts):
        hidden = found[-1][:, executor.vocab_size :] if k else None
        found.append(run(executor, token_ids[k:], hidden, chunks))
    return found


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("case", CASES)
def test_reference_is_transformers(case: str, fused: bool) -> None:
    token_ids, logits = expected(case)
    parts = reference(case, fused=fused)
    found = drafted(parts, token_ids, [len(token_ids)])
    assert len(found) == 1 + len(logits) == 1 + (2 if "deepseek" in case else 1)
    for module, wanted in zip(found[1:], logits, strict=True):
        assert distance(module[:, : wanted.shape[1]], wanted) < 1e-5


@pytest.mark.parametrize("isa", AVAILABLE)
@pytest.mark.parametrize("case", CASES)
def test_cpu_is_transformers(case: str, isa: str) -> None:
    token_ids, logits = expected(case)
    found = drafted(cpu(case, isa=isa), token_ids, [len(token_ids)])
    for module, wanted in zip(found[1:], logits, strict=True):
        # Rounded once in the model and again in the module; a token whose experts nearly tie may
        # go to another one.
        tokens = [distance(a[: len(b)], b) for a, b in zip(module, wanted, strict=True)]
        assert np.median(tokens) < 2 * BOUNDS["BF16"]


@pytest.mark.parametrize("isa", AVAILABLE)
@pytest.mark.parametrize("case", CASES)
def test_the_same_bits_whole_in_chunks_and_one_by_one(case: str, isa: str) -> None:
    token_ids, _ = expected(case)
    parts = cpu(case, isa=isa)
    whole = drafted(parts, token_ids, [len(token_ids)])
    for chunks in ([1] * len(token_ids), [5, 16, 1, 14], [2] * 18):
        for a, b in zip(drafted(parts, token_ids, chunks), whole, strict=True):
            assert np.array_equal(a, b)


@pytest.mark.parametrize("case", CASES)
def test_the_same_bits_on_one_thread_unfused_and_without_hidden_states(case: str) -> None:
    token_ids, _ = expected(case)
    chunks = [len(token_ids) - 3, 1, 2]
    whole = drafted(cpu(case), token_ids, chunks)
    for other in (cpu(case, threads=OTHER), cpu(case, fused=False)):
        for a, b in zip(drafted(other, token_ids, chunks), whole, strict=True):
            assert np.array_equal(a, b)
    model = open_model(HERE / case)
    plain = CpuExecutor(
        fuse(model.graph),
        model.weights,
        num_blocks=blocks_for(model.graph, 8),
        max_rows=1,
        max_tokens_per_step=64,
        max_logits_per_step=64,
        threads=2,
    )
    plain.open_row(0, token_ids, GREEDY)
    rows = (PlanRow(0, len(token_ids), 0, len(token_ids), spread(plain, (2, 1, 0))),)
    assert np.array_equal(plain.forward(StepPlan(rows)), whole[0][:, : plain.vocab_size])


@pytest.mark.parametrize("case", CASES)
def test_the_same_bits_alone_and_beside_others(case: str) -> None:
    token_ids, _ = expected(case)
    model, module, *_ = cpu(case)
    whole = run(model, token_ids, None, [len(token_ids)])
    hidden, ids = whole[:-1, model.vocab_size :], token_ids[1:]
    alone = run(module, ids, hidden, [len(ids)])
    random = np.random.default_rng(0)
    rows, given = [], []
    for row in range(4):
        tokens = ids if row == 2 else random.integers(0, 126, 3 + 5 * row).tolist()
        count = len(tokens)
        module.open_row(row, tokens, GREEDY)
        rows.append(PlanRow(row, count, 0, count, spread(module, range(4 * row, 4 * row + 3))))
        width = (count, hidden.shape[1])
        given.append(hidden if row == 2 else random.standard_normal(width).astype(np.float32))
    logits = module.forward(StepPlan(tuple(rows)), hidden=np.concatenate(given))
    begin = rows[0].num_new + rows[1].num_new
    assert np.array_equal(logits[begin : begin + len(ids)], alone[:, : module.vocab_size])


def test_hidden_states_that_do_not_fit_a_step_are_refused() -> None:
    for parts in (reference("mtp_glm4_moe", fused=True), cpu("mtp_glm4_moe")):
        model, module = parts
        plan = StepPlan((PlanRow(0, 2, 0, 1, (0,)),))
        for executor, hidden in (
            (model, np.zeros((2, 64), np.float32)),
            (module, None),
            (module, np.zeros((3, 64), np.float32)),
        ):
            executor.open_row(0, [1, 2], GREEDY)
            with pytest.raises(EngineError, match="hidden states"):
                executor.forward(plan, hidden=hidden)
            executor.close_row(0)
    plain = CpuExecutor(
        *(open_model(HERE / "llama2").graph, open_model(HERE / "llama2").weights),
        num_blocks=4,
        max_rows=1,
        max_tokens_per_step=8,
        threads=1,
    )
    with pytest.raises(EngineError, match="llama gives no hidden states"):
        plain.hidden()


def test_a_missing_tensor_of_a_module_is_named(tmp_path: Path) -> None:
    source = HERE / "mtp_qwen3_next"
    raw = (source / "model.safetensors").read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + size])
    header["mtp.other"] = header.pop("mtp.norm.weight")
    text = json.dumps(header).encode()
    (tmp_path / "config.json").write_text((source / "config.json").read_text())
    whole = struct.pack("<Q", len(text)) + text + raw[8 + size :]
    (tmp_path / "model.safetensors").write_bytes(whole)
    model = open_model(tmp_path)
    with pytest.raises(ModelError, match=r"tensor 'mtp\.norm\.weight' is missing"):
        open_predictors(model)


def test_a_model_without_modules_has_none() -> None:
    assert open_predictors(open_model(HERE / "llama2")) == ()
    assert open_predictors(open_model(HERE / "deepseek_v3")) == ()
