"""Requests of every kind in one engine at once: beams, several answers, constraints or images,
logprobs and samplers, in each cache format, with preemption and prefix hits. Each is what it is
alone.
"""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest

from ridgeline import LLM, BeamSearchParams, SamplingParams
from ridgeline.backends.cpu.executor import CpuExecutor
from ridgeline.engine.constrain import StructuredOutputs
from ridgeline.engine.outputs import RequestOutput
from seeing import GRID_KINDS, ON_GRID, picture, seeing_model

BEAMS = BeamSearchParams(beam_width=3, max_tokens=9)
LONG: dict[str, Any] = {"max_tokens": 22, "ignore_eos": True}
WORDS = " ".join(f"w{i}" for i in (5, 3, 8, 5, 3, 9, 1, 2, 4, 4, 7, 11, 6, 5, 3, 8, 2, 2))


BYTES = str(Path(__file__).parent.parent / "golden" / "llama3" / "model.gguf")


def asked(sees: str | None) -> dict[str, tuple[Any, SamplingParams]]:
    """Prompts of which some begin alike; with images, or with constraints."""
    mixture = SamplingParams(
        seed=7,
        temperature=1.2,
        top_k=60,
        top_p=0.95,
        min_p=0.001,
        typical_p=0.95,
        xtc_probability=0.4,
        xtc_threshold=0.01,
        dry_multiplier=0.7,
        repetition_penalty=1.2,
        frequency_penalty=0.3,
        presence_penalty=0.2,
        no_repeat_ngram_size=4,
        logit_bias={3: 2.0, 9: -3.0},
        bad_words=("w5",),
        logprobs=2,
        **LONG,
    )
    dynamic = SamplingParams(
        seed=10, dynatemp_range=0.4, top_n_sigma=2.0, min_tokens=9, max_tokens=15
    )
    requests = {
        "greedy": (WORDS, SamplingParams(temperature=0, seed=0, logprobs=3, **LONG)),
        "seeded": (f"{WORDS} w1", SamplingParams(seed=1, logprobs=0, **LONG)),
        "several": (f"{WORDS} w1", SamplingParams(seed=2, n=3, logprobs=1, **LONG)),
        "best of": (WORDS, SamplingParams(seed=3, n=2, best_of=4, temperature=1.3, **LONG)),
        "prompt": (f"{WORDS} w2 w3", SamplingParams(seed=4, prompt_logprobs=2, **LONG)),
        "mixture": (WORDS, mixture),
        "mirostat": (f"{WORDS} w3", SamplingParams(seed=8, mirostat=2, top_p=1.0, **LONG)),
        "pattern": (WORDS, SamplingParams(seed=9, stop_regex=("[2-4a-f]",), max_tokens=40)),
        "dynamic": ("w1", dynamic),
    }
    many = SamplingParams(n=2, best_of=2, seed=11, logprobs=2, **LONG)
    if sees:
        for seed in (1, 2):
            image = {"multi_modal_data": {"image": picture(seed)}}
            place = ON_GRID if sees in GRID_KINDS else "<begin>"
            seen = {"prompt": f"{WORDS} {place} w9", **image}
            requests[f"seen {seed}"] = (seen, many if seed == 1 else SamplingParams(seed=6, **LONG))
        return requests
    for name, wish in {
        "choice": StructuredOutputs(choice=("yes", "no", "yesterday")),
        "regex": StructuredOutputs(regex="[a-c]{3,9}[0-9]+"),
        "json": StructuredOutputs(json='{"type": "array", "items": {"enum": [1, 2]}}'),
    }.items():
        held = SamplingParams(seed=12, n=2, logprobs=1, max_tokens=22, structured_outputs=wish)
        requests[name] = (f"{WORDS} w1", held)
    return requests


def said(output: RequestOutput) -> list[Any]:
    return [
        (one.index, one.token_ids, one.text, one.logprobs, one.cumulative_logprob, one.seed)
        for one in output.outputs
    ] + [output.prompt_logprobs, [one.finish_reason for one in output.outputs]]


def beams_of(llm: LLM) -> list[Any]:
    (found,) = llm.beam_search(WORDS, BEAMS)
    return [(one.token_ids, one.cumulative_logprob, one.text) for one in found.sequences]


@pytest.mark.parametrize("kv_format", ["bf16", "f16", "int8"])
@pytest.mark.parametrize("sees", [None, "gemma3", "qwen2_5_vl"])
def test_each_is_what_it_is_alone(tmp_path: Path, sees: str | None, kv_format: str) -> None:
    model = str(seeing_model(tmp_path / "model", sees)) if sees else BYTES
    requests = asked(sees)
    cold = LLM(model, kv_format=kv_format, threads=1, max_rows=4)
    alone = {}
    for name, (prompt, params) in requests.items():
        (output,) = cold.generate([prompt], params)
        alone[name] = said(output)
        assert not any(one.error for one in output.outputs)
    beams = beams_of(cold)
    assert len({str(each) for each in alone.values()}) == len(alone)
    executor = cold.assembled.executor
    assert isinstance(executor, CpuExecutor)

    preempted = hits = 0
    for seed, (rows, tokens, blocks) in enumerate(((6, 24, 11), (16, 64, 80), (9, 33, 16))):
        llm = LLM(
            model,
            kv_format=kv_format,
            threads=2,
            max_rows=rows,
            max_tokens_per_step=tokens,
            context_length=96,
            memory=blocks * executor.unit_memory()["kv_block"],
            wave_seconds=[None, 60.0, 60.0][seed],
        )
        names = list(requests) * 2
        random.Random(seed).shuffle(names)
        groups = []
        for name in names:
            prompt, params = requests[name]
            ready = llm.prompts.tokenize(prompt)
            group = llm.session.submit(ready, params, arrival=time.monotonic(), streams=False)
            groups.append((name, group))
        assert beams_of(llm) == beams  # steps the others, too
        while not all(group.done for _, group in groups):
            llm.session.step()
        for name, group in groups:
            assert said(group.output()) == alone[name], name
            hits += group.output().num_cached_tokens
        state = llm.session.engine.state
        preempted += state.num_preemptions
        state.check_invariants()
        assert state.pool.num_free == state.pool.num_blocks
    assert preempted > 0
    assert hits > 0
