"""Real weights, mixed requests: tokens and logprobs are the request's own in any company."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from ridgeline import LLM, SamplingParams
from ridgeline.backends.cpu.executor import CpuExecutor
from ridgeline.engine.request import Request
from ridgeline.engine.schedule import step
from ridgeline.engine.schedule.state import SchedulerState

# One a request: every sampler at least twice.
SAMPLERS: list[dict[str, Any]] = [
    {"temperature": 0},
    {"top_k": 40, "top_p": 0.9},
    {"min_p": 0.05, "repetition_penalty": 1.1},
    {"typical_p": 0.9, "frequency_penalty": 0.4},
    {"top_n_sigma": 1.2, "presence_penalty": 0.5},
    {"xtc_probability": 0.6, "xtc_threshold": 0.05},
    {"mirostat": 2, "mirostat_tau": 4.0},
    {"mirostat": 2, "mirostat_tau": 2.0, "temperature": 1.2},
    {"dynatemp_range": 0.5, "top_p": 0.95},
    {"dry_multiplier": 0.8, "no_repeat_ngram_size": 3},
    {"logit_bias": {260: 4.0, 284: -100.0}, "bad_words": [" the"], "min_tokens": 3},
    {"allowed_token_ids": [*range(100, 2000)], "prompt_logprobs": 1},
    {"top_p": 0.9, "prompt_logprobs": 0},
    {"temperature": 1.5, "min_p": 0.1, "top_k": 100, "xtc_probability": 0.3},
]
NUM_REQUESTS = 2 * len(SAMPLERS)
Answer = tuple[tuple[int, ...], tuple[dict[int, float], ...]]


def requests() -> list[tuple[list[int], SamplingParams]]:
    rng = random.Random(3)
    shared = [rng.randrange(1000, 40000) for _ in range(120)]
    made = []
    for index in range(NUM_REQUESTS):
        start = shared[: rng.randrange(120)] if index % 3 == 0 else []
        own = [rng.randrange(1000, 40000) for _ in range(rng.choice([1, 5, 17, 60, 200]))]
        params = SamplingParams(
            **{"temperature": rng.choice([0.7, 1.2])} | SAMPLERS[index % len(SAMPLERS)],
            seed=index,
            max_tokens=rng.randrange(3, 64),
            ignore_eos=True,
            logprobs=2,
        )
        made.append((start + own, params))
    return made


def answers(llm: LLM, order: list[int]) -> dict[int, Answer]:
    made = requests()
    outputs = llm.generate(
        [{"prompt_token_ids": made[i][0]} for i in order], [made[i][1] for i in order]
    )
    found: dict[int, Answer] = {}
    for index, output in zip(order, outputs, strict=True):
        (answer,) = output.outputs
        assert answer.logprobs is not None
        scored = [each for each in output.prompt_logprobs or () if each is not None]
        assert len(scored) == (
            len(output.prompt_token_ids) - 1 if output.prompt_logprobs is not None else 0
        )
        both = [*answer.logprobs, *scored]
        logprobs = tuple({k: v.logprob for k, v in each.items()} for each in both)
        found[index] = (answer.token_ids, logprobs)
    return found


@pytest.fixture(scope="module")
def together(smollm2_path: Path) -> tuple[LLM, dict[int, Answer]]:
    llm = LLM(str(smollm2_path), max_rows=64, context_length=512)
    return llm, answers(llm, list(range(NUM_REQUESTS)))


def test_alone_and_from_the_cache(together: tuple[LLM, dict[int, Answer]]) -> None:
    llm, expected = together
    alone = {k: v for i in range(NUM_REQUESTS) for k, v in answers(llm, [i]).items()}
    assert alone == expected


@pytest.mark.parametrize(
    ("max_rows", "chunk", "threads", "blocks"),
    [(3, 37, 1, None), (16, 64, 2, 32)],
    ids=["few rows, odd chunks, one thread", "a cache so small that requests are preempted"],
)
def test_any_engine(
    smollm2_path: Path,
    together: tuple[LLM, dict[int, Answer]],
    max_rows: int,
    chunk: int,
    threads: int,
    blocks: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, expected = together
    preempted: list[str] = []
    preempt = step._preempt

    def counted(state: SchedulerState, request: Request) -> None:
        preempted.append(request.id)
        preempt(state, request)

    monkeypatch.setattr(step, "_preempt", counted)
    executor = whole.assembled.executor
    assert isinstance(executor, CpuExecutor)
    block_bytes = executor.unit_memory()["kv_block"]
    llm = LLM(
        str(smollm2_path),
        max_rows=max_rows,
        max_tokens_per_step=chunk,
        threads=threads,
        context_length=512,
        memory=None if blocks is None else blocks * block_bytes,
    )
    order = list(range(NUM_REQUESTS))
    random.Random(chunk).shuffle(order)
    assert answers(llm, order) == expected
    assert bool(preempted) == (blocks is not None)
