"""The CPU backend on the golden checkpoints: close to transformers, and the same bits however a row
is computed.
"""

from __future__ import annotations

import numpy as np
import pytest
from test_logits import CASES, FILES, Floats, distance, open_case, prompts

from block_entries import blocks_for, spread
from ridgeline.backends.cpu.executor import ISAS, CpuExecutor, choose_isa
from ridgeline.backends.reference.sample import sample
from ridgeline.model.graph.kv_format import KV_FORMATS
from ridgeline.model.graph.ops.entries import SelectEntries
from ridgeline.model.graph.ops.route import Route
from ridgeline.model.graph.ops.select_blocks import SelectBlocks
from ridgeline.model.graph.ops.select_tokens import SelectTokens
from ridgeline.model.opened import OpenedModel
from ridgeline.model.passes.fuse import fuse
from ridgeline.model.passes.kv_format import with_kv_format
from ridgeline.step import PlanRow, RowSampling, StepPlan
from threads import USUAL

NUM_BLOCKS, MAX_ROWS, MAX_TOKENS, MAX_LOGITS = 320, 64, 2048, 256


AVAILABLE = ISAS[ISAS.index(choose_isa(None)) :]

# Distance from transformers' float32 logits, relative to their norm, by the matrices' format. Keys,
# values, queries and softmax weights are rounded to BF16 (8 bits of mantissa) in every format; BF16
# matrices multiply activations rounded to BF16, too. Found: at most 9.5e-3 and 1.62e-2.
BOUNDS = {"F32": 1.2e-2, "F16": 1.2e-2, "BF16": 2e-2}
# Gemma 4 has seven norms a layer, one of the values: each scales what was
# rounded before. Found: 2.39e-2 on every instruction set, with the reference at 1e-6.
SELECTING = (SelectTokens, SelectBlocks, SelectEntries)
CASE_BOUNDS = {"gemma4": 2.5e-2}


def cpu(
    model: OpenedModel,
    *,
    fused: bool = True,
    threads: int = USUAL,
    isa: str | None = None,
    kv_format: str = "bf16",
) -> CpuExecutor:
    graph = with_kv_format(model.graph, KV_FORMATS[kv_format])
    return CpuExecutor(
        fuse(graph) if fused else graph,
        model.weights,
        num_blocks=blocks_for(model.graph, NUM_BLOCKS),
        max_rows=MAX_ROWS,
        max_tokens_per_step=MAX_TOKENS,
        threads=threads,
        isa=isa,
        max_logits_per_step=MAX_LOGITS,
    )


def in_chunks(executor: CpuExecutor, row: int, token_ids: list[int], chunks: list[int]) -> Floats:
    """All logits of a row that is computed so many tokens at a time; closes it again."""
    executor.open_row(row, token_ids, RowSampling())
    parts, done = [], 0
    for n in chunks:
        blocks = spread(executor, (40, 7, 22) if done == 0 else ())
        parts.append(executor.forward(StepPlan((PlanRow(row, n, done, n, blocks),))))
        done += n
    executor.close_row(row)
    assert done == len(token_ids)
    return np.concatenate(parts)


@pytest.mark.parametrize("isa", AVAILABLE)
@pytest.mark.parametrize(("case", "file"), FILES)
def test_logits_are_transformers(case: str, file: str, isa: str) -> None:
    for token_ids, logits in prompts(case):
        model = open_case(case, file, len(token_ids))
        (bound,) = {
            BOUNDS[weight.format.name]
            for weight in model.graph.weights
            if len(weight.shape) == 2 and not weight.name.endswith(".table.weight")
        }
        found = in_chunks(cpu(model, isa=isa), 0, token_ids, [len(token_ids)])
        if any(
            isinstance(node.op, SelectTokens | SelectBlocks | SelectEntries)
            for node in model.graph.nodes
        ):
            # A rounding that turns a near tie of two tokens has another one looked at.
            tokens = [distance(a, b) for a, b in zip(found, logits, strict=True)]
            assert np.median(tokens) < bound
            continue
        assert distance(found, logits) < CASE_BOUNDS.get(case, bound)


@pytest.mark.parametrize(("kv_format", "bound"), [("f16", 1e-3), ("int8", 3e-2)])
@pytest.mark.parametrize("case", CASES)
def test_logits_of_other_caches_are_transformers(case: str, kv_format: str, bound: float) -> None:
    for token_ids, logits in prompts(case):
        model = open_case(case, "model.safetensors", len(token_ids))
        executor = cpu(model, kv_format=kv_format)
        found = in_chunks(executor, 0, token_ids, [len(token_ids)])
        rounded = {w.format.name for w in model.graph.weights if len(w.shape) == 2} - {"F32", "F16"}
        allowed = BOUNDS["BF16"] + bound if rounded else bound
        if any(isinstance(node.op, Route) for node in model.graph.nodes):
            # A rounding that turns a near tie of two experts changes a token's logits at large.
            tokens = [distance(a, b) for a, b in zip(found, logits, strict=True)]
            assert np.median(tokens) < allowed
        else:
            assert distance(found, logits) < allowed


@pytest.mark.parametrize("case", CASES)
def test_the_same_bits_fused_and_not(case: str) -> None:
    token_ids, _ = prompts(case)[0]
    model = open_case(case, "model.safetensors", len(token_ids))
    fused, plain = (
        in_chunks(cpu(model, fused=fused), 0, token_ids, [len(token_ids)])
        for fused in (True, False)
    )
    assert np.array_equal(fused, plain)


@pytest.mark.parametrize("isa", AVAILABLE)
@pytest.mark.parametrize("case", CASES)
def test_the_same_bits_whole_in_chunks_and_one_by_one(case: str, isa: str) -> None:
    token_ids, _ = prompts(case)[0]
    executor = cpu(open_case(case, "model.safetensors", len(token_ids)), isa=isa)
    whole = in_chunks(executor, 0, token_ids, [len(token_ids)])
    for chunks in ([1] * len(token_ids), [5, 16, 1, 14], [35, 1], [2] * 18):
        assert np.array_equal(in_chunks(executor, 3, token_ids, chunks), whole), chunks


@pytest.mark.parametrize("isa", AVAILABLE)
@pytest.mark.parametrize("case", CASES)
def test_the_same_bits_alone_and_among_64(case: str, isa: str) -> None:
    """63 neighbours before and after, longer and shorter, prefilling and decoding."""
    token_ids, _ = prompts(case)[0]
    executor = cpu(open_case(case, "model.safetensors", len(token_ids)), isa=isa)
    length = len(token_ids)
    alone = in_chunks(executor, 0, token_ids, [length])
    random = np.random.default_rng(3)
    others = []
    for row in range(1, MAX_ROWS):
        num_tokens = int(random.integers(1, min(30, length)))
        executor.open_row(row, random.integers(0, 128, num_tokens).tolist(), RowSampling())
        blocks = spread(executor, (4 * row, 4 * row + 1, 4 * row + 2))
        others.append(PlanRow(row, num_tokens, 0, 1, blocks))
    executor.open_row(0, token_ids, RowSampling())
    done, found = 0, []
    for n in (length - 9, 4, 1, 1, 3):
        mine = PlanRow(0, n, done, n, spread(executor, (300, 260, 1) if done == 0 else ()))
        at = int(random.integers(0, len(others) + 1))
        found.append(executor.forward(StepPlan((*others[:at], mine, *others[at:])))[at : at + n])
        done += n
        # Once their prompts are in, the neighbours decode; which token does not matter here.
        for other in others:
            executor.append_tokens(other.row, [7])
        others = [
            o._replace(num_new=1, num_context=o.num_context + o.num_new, new_blocks=())
            for o in others
        ]
    assert np.array_equal(np.concatenate(found), alone)


@pytest.mark.parametrize("isa", AVAILABLE)
@pytest.mark.parametrize("case", CASES)
def test_the_same_bits_with_one_thread_and_two(case: str, isa: str) -> None:
    token_ids, _ = prompts(case)[0]
    model = open_case(case, "model.safetensors", len(token_ids))
    chunks = [len(token_ids) - 3, 1, 2]
    one, two = (in_chunks(cpu(model, threads=n, isa=isa), 0, token_ids, chunks) for n in (1, 2))
    assert np.array_equal(one, two)


SETTINGS = [
    RowSampling(num_logprobs=2),
    RowSampling(temperature=1.0, seed=1, num_logprobs=0),
    RowSampling(repetition_penalty=1.3, temperature=0.7, top_k=20, seed=2**40),
    RowSampling(temperature=1.5, top_p=0.8, seed=3, num_logprobs=5),
    RowSampling(temperature=1.2, min_p=0.05, seed=-4),
    RowSampling(repetition_penalty=1.1, temperature=0.9, top_k=50, top_p=0.9, min_p=0.02),
]


@pytest.mark.parametrize("how", SETTINGS, ids=range(len(SETTINGS)))
def test_tokens_are_the_references_of_the_same_logits(how: RowSampling) -> None:
    token_ids, _ = prompts("smollm")[0]
    executor = cpu(open_case("smollm", "model.gguf", len(token_ids)))
    executor.open_row(0, token_ids, how)
    executor.open_row(1, token_ids, how)
    so_far = list(token_ids)
    for n in range(20):
        new, context = (len(so_far), 0) if n == 0 else (1, len(so_far) - 1)
        blocks = ((1, 2, 3, 4), (5, 6, 7, 8)) if n == 0 else ((), ())
        logits = executor.forward(StepPlan((PlanRow(1, new, context, 1, blocks[1]),)))
        executor.submit(StepPlan((PlanRow(0, new, context, 1, blocks[0]),)))
        (found,) = executor.collect().sampled
        expected = sample(0, logits[0], so_far, how)
        assert (found.token_id, found.fault) == (expected.token_id, None)
        assert found.logprob == pytest.approx(expected.logprob, abs=1e-5)
        assert [i for i, _ in found.top_logprobs] == [i for i, _ in expected.top_logprobs]
        executor.append_tokens(1, [found.token_id])
        so_far.append(found.token_id)
