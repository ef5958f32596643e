"""Beam search on a tiny model, against a search by hand over whole distributions."""

from __future__ import annotations

from pathlib import Path

import pytest

from ridgeline import LLM, BeamSearchParams, RequestError, SamplingParams
from ridgeline.step import StepPlan

GOLDEN = Path(__file__).parent.parent / "golden"
PROMPTS = ["Hello there", "A second, somewhat longer prompt about nothing"]


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(str(GOLDEN / "llama3" / "model.gguf"), max_rows=16, context_length=96)


def by_hand(llm: LLM, prompt: str, width: int, length: int) -> list[tuple[tuple[int, ...], float]]:
    """All continuations of the beams, of which the likeliest are kept."""
    every = SamplingParams(temperature=0, max_tokens=1, ignore_eos=True, logprobs=256)
    start = llm.tokenizer.encode(prompt)
    beams: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
    for _ in range(length):
        grown = []
        for ids, total in beams:
            (output,) = llm.generate([{"prompt_token_ids": [*start, *ids]}], every)
            assert output.outputs[0].logprobs is not None
            for token, entry in output.outputs[0].logprobs[0].items():
                grown.append(((*ids, token), total + entry.logprob))
        beams = sorted(grown, key=lambda beam: (-beam[1], beam[0]))[:width]
    return beams


@pytest.mark.parametrize("width", [1, 3, 5])
def test_beams_are_those_of_a_search_by_hand(llm: LLM, width: int) -> None:
    params = BeamSearchParams(width, 6, ignore_eos=True)
    for prompt, output in zip(PROMPTS, llm.beam_search(PROMPTS, params), strict=True):
        found = [(s.token_ids, s.cumulative_logprob) for s in output.sequences]
        assert found == by_hand(llm, prompt, width, 6)
        assert output.prompt == prompt
        for sequence in output.sequences:
            assert sequence.score == sequence.cumulative_logprob / 6
            assert sequence.text == llm.tokenizer.decode(list(sequence.token_ids), continues=True)
            assert sequence.finish_reason == "length"


def test_one_beam_is_greedy(llm: LLM) -> None:
    greedy = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
    (output,) = llm.beam_search(PROMPTS[0], BeamSearchParams(1, 8, ignore_eos=True))
    assert output.sequences[0].token_ids == llm.generate(PROMPTS[0], greedy)[0].outputs[0].token_ids


def test_a_beam_computes_one_token_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """However its tokens lie in blocks: what a beam grew from is shared or copied."""
    llm = LLM(str(GOLDEN / "llama3" / "model.gguf"), max_rows=16, context_length=96)
    plans: list[StepPlan] = []
    executor = llm.session.engine._executor
    submit = executor.submit

    def noted(plan: StepPlan) -> None:
        plans.append(plan)
        submit(plan)

    monkeypatch.setattr(executor, "submit", noted)
    for width, length in [(1, 20), (4, 20)]:
        plans.clear()
        llm.beam_search(PROMPTS[1], BeamSearchParams(width, length, ignore_eos=True))
        _first, *others = plans
        assert len(others) == length - 1
        assert {row.num_new for plan in others for row in plan.rows} == {1}
        assert max(len(plan.rows) for plan in others) <= 2 * width  # a beam, and what it forked
        assert sum(len(plan.copies) for plan in others) > 0
    assert not llm.session.engine.has_work
    pool = llm.session.engine.state.pool
    assert pool.num_free == pool.num_blocks


@pytest.mark.parametrize("max_rows", [1, 2, 3, 5])
def test_few_rows_change_no_beam(llm: LLM, max_rows: int) -> None:
    params = BeamSearchParams(3, 8, ignore_eos=True)
    few = LLM(str(GOLDEN / "llama3" / "model.gguf"), max_rows=max_rows, context_length=96)
    assert few.beam_search(PROMPTS, params) == llm.beam_search(PROMPTS, params)


def test_the_models_end_ends_a_beam() -> None:
    """A token that beams have is made the model's end."""
    llm = LLM(str(GOLDEN / "llama3" / "model.gguf"), max_rows=16, context_length=96)
    (plain,) = llm.beam_search(PROMPTS[0], BeamSearchParams(3, 5, ignore_eos=True))
    last = plain.sequences[0].token_ids[2]
    object.__setattr__(llm.tokenizer, "eos_ids", frozenset({last}))
    (output,) = llm.beam_search(PROMPTS[0], BeamSearchParams(3, 5))
    ended = [s for s in output.sequences if s.finish_reason == "stop"]
    assert ended
    for sequence in ended:
        assert sequence.token_ids.index(last) == len(sequence.token_ids) - 1
        shown = list(sequence.token_ids[:-1])
        assert sequence.text == llm.tokenizer.decode(shown, continues=True)
    assert [s.score for s in output.sequences] == sorted(
        (s.score for s in output.sequences), reverse=True
    )


def test_a_full_context_ends_all(llm: LLM) -> None:
    ids = [5] * 90
    (output,) = llm.beam_search({"prompt_token_ids": ids}, BeamSearchParams(2, 50, ignore_eos=True))
    assert [len(s.token_ids) for s in output.sequences] == [6, 6]


@pytest.mark.parametrize(
    ("field", "params"),
    [
        ("beam_width", {"beam_width": 0, "max_tokens": 5}),
        ("beam_width", {"beam_width": 1000, "max_tokens": 5}),
        ("max_tokens", {"beam_width": 2, "max_tokens": 0}),
        ("ignore_eos", {"beam_width": 2, "max_tokens": 5, "ignore_eos": 1}),
        ("length_penalty", {"beam_width": 2, "max_tokens": 5, "length_penalty": 100}),
    ],
)
def test_a_wrong_parameter_is_named(field: str, params: dict[str, int]) -> None:
    with pytest.raises(RequestError) as refused:
        BeamSearchParams(**params)  # type: ignore[arg-type]
    assert refused.value.field == field
