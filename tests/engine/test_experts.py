"""Which experts a request's tokens went to: its own, whoever shares the steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ridgeline import LLM, SamplingParams
from ridgeline.errors import RequestError

GOLDEN = Path(__file__).parent.parent / "golden"
MODEL = str(GOLDEN / "qwen3_moe" / "model.gguf")
LAYERS = ("layers.0.moe.experts", "layers.1.moe.experts")
PROMPT, NEW, TOP_K = list(range(5, 25)), 6, 3


def greedy(new: int = NEW, n: int = 1) -> SamplingParams:
    return SamplingParams(temperature=0, max_tokens=new, ignore_eos=True, n=n)


def llm(**options: Any) -> LLM:
    return LLM(MODEL, memory=1 << 20, **options)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_counts_are_of_all_tokens_that_were_routed(backend: str) -> None:
    model = llm(expert_counts=True, backend=backend)
    (output,) = model.generate({"prompt_token_ids": PROMPT}, greedy())
    counts = output.expert_counts
    assert counts is not None
    assert tuple(counts) == LAYERS
    # The last answer token is never computed; the last layer has those whose logits were wanted.
    assert counts[LAYERS[0]].sum() == TOP_K * (len(PROMPT) + NEW - 1)
    assert counts[LAYERS[1]].sum() == TOP_K * NEW
    assert all(each.shape == (8,) for each in counts.values())


def test_counts_are_the_requests_own_in_any_company() -> None:
    model = llm(expert_counts=True, max_tokens_per_step=16)
    prompts = [{"prompt_token_ids": [i + 3 * j for j in range(9 + i)]} for i in range(5)]
    alone = [llm(expert_counts=True).generate(p, greedy())[0] for p in prompts]
    together = model.generate(prompts, greedy())
    for one, other in zip(alone, together, strict=True):
        assert one.outputs[0].token_ids == other.outputs[0].token_ids
        assert one.expert_counts is not None
        assert other.expert_counts is not None
        for name in LAYERS:
            assert np.array_equal(one.expert_counts[name], other.expert_counts[name])


def test_without_the_option_nothing_is_counted() -> None:
    (output,) = llm().generate({"prompt_token_ids": PROMPT}, greedy())
    assert output.expert_counts is None


def test_a_model_without_experts_is_told() -> None:
    with pytest.raises(RequestError, match="this model has no experts"):
        LLM(str(GOLDEN / "qwen3" / "model.gguf"), expert_counts=True)
    with pytest.raises(RequestError, match="this backend routes nothing"):
        llm(expert_counts=True, backend="null")
