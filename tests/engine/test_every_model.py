"""The engine on every golden checkpoint: a request's tokens are its own, however it shares the
machine.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from ridgeline.backends.cpu.executor import CpuExecutor
from ridgeline.engine.engine import Engine
from ridgeline.engine.request import Request
from ridgeline.model.opened import OpenedModel, open_model
from ridgeline.model.passes.fuse import fuse
from ridgeline.model.passes.state_groups import state_groups
from ridgeline.step import RowSampling
from threads import OTHER, USUAL

GOLDEN = Path(__file__).parents[1] / "golden"
NUM_REQUESTS = 6
ANSWER = 24
CONTEXT = 128


@lru_cache(maxsize=1)
def opened(case: str) -> OpenedModel:
    """A test's engines all read it. Dynamic NTK turns by the context that it is built for."""
    return open_model(GOLDEN / case, context_length=CONTEXT if "dynamic" in case else None)


def engine(case: str, *, num_blocks: int, max_rows: int, step: int, threads: int = USUAL) -> Engine:
    """num_blocks: as many as a model has whose groups of layers fill one each."""
    model = opened(case)
    layout = state_groups(model.graph)
    executor = CpuExecutor(
        fuse(model.graph),
        model.weights,
        num_blocks=num_blocks * len(layout.column_windows) // len(layout.groups),
        max_rows=max_rows,
        max_tokens_per_step=step,
        threads=threads,
        num_slots=max_rows + 16,
    )
    context = min(CONTEXT, model.graph.max_context)
    return Engine(executor, max_context=context, max_tokens_per_step=step)


def requests(case: str) -> list[Request]:
    """Prompts with common beginnings, some sampled, and two forks of the last; each leaves an
    answer room.
    """
    longest = min(CONTEXT, opened(case).graph.max_context) - ANSWER
    random = np.random.default_rng(5)
    shared = random.integers(0, 126, 40).tolist()
    found = []
    for i in range(NUM_REQUESTS):
        prompt = [*shared[: 8 * i], *random.integers(0, 126, 3 + 5 * i).tolist()]
        how = RowSampling(temperature=0.9 if i % 2 else 0.0, seed=i, num_logprobs=0)
        found.append(request(f"r{i}", prompt[:longest], how))
    for seed in (100, 101):
        how = RowSampling(temperature=1.2, seed=seed, num_logprobs=0)
        found.append(request(f"fork{seed}", found[5].token_ids, how, fork_of="r5"))
    return found


def request(name: str, prompt: list[int], how: RowSampling, fork_of: str | None = None) -> Request:
    return Request(
        id=name,
        token_ids=list(prompt),
        num_prompt=len(prompt),
        max_tokens=ANSWER,
        stop_token_ids=frozenset(),
        sampling=how,
        fork_of=fork_of,
    )


def answers(of: Engine, asked: list[Request]) -> dict[str, list[tuple[int | None, float]]]:
    found: dict[str, list[tuple[int | None, float]]] = {each.id: [] for each in asked}
    for each in asked:
        of.submit(each)
    while of.has_work:
        for event in of.step():
            assert event.error is None, event.error
            if event.token_id is not None:
                found[event.request_id].append((event.token_id, event.logprob))
    return found


# DeepSeek V4's entries of 8 tokens are of 32 in the second.
WIDER = "deepseek_v4 with entries of 32 tokens"
CASES = [*sorted(path.parent.name for path in GOLDEN.glob("*/model.safetensors")), WIDER]


def wider(folder: Path) -> str:
    """The golden checkpoint, of which no entry is complete at most ends of blocks."""
    model = open_model(GOLDEN / "deepseek_v4")
    config = {**model.config, "compress_rate_hca": 32}
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {name: model.checkpoint.read(name) for name in model.checkpoint.tensors}
    biases = tensors["layers.2.attn.compressor.ape"]
    tensors["layers.2.attn.compressor.ape"] = np.tile(biases, (4, 1)).copy()
    save_file(tensors, folder / "model.safetensors")
    return str(folder)


@pytest.mark.parametrize("case", CASES)
def test_a_request_has_the_same_tokens_alone_and_in_any_company(case: str, tmp_path: Path) -> None:
    case = wider(tmp_path) if case == WIDER else case
    alone: dict[str, list[tuple[int | None, float]]] = {}
    for each in requests(case):
        each.fork_of = None
        alone |= answers(engine(case, num_blocks=64, max_rows=1, step=512), [each])
    together = answers(engine(case, num_blocks=200, max_rows=8, step=512), requests(case))
    assert together == alone
    in_chunks = answers(
        engine(case, num_blocks=64, max_rows=3, step=7, threads=OTHER), requests(case)
    )
    assert in_chunks == alone
    tight = engine(case, num_blocks=14, max_rows=8, step=40)
    asked = requests(case)
    assert answers(tight, asked) == alone
    assert sum(each.num_preemptions for each in asked) > 0
    again = requests(case)
    assert answers(tight, again) == alone
    roomy = engine(case, num_blocks=200, max_rows=8, step=64)
    assert answers(roomy, requests(case)) == alone
    again = requests(case)
    assert answers(roomy, again) == alone
    assert any(each.num_cached for each in again)
