"""The Python API on a tiny model: results, streams, stops, seeds, faults; and that nothing
of one request is visible in another.
"""

from __future__ import annotations

import gc
import math
import time
import weakref
from dataclasses import replace
from pathlib import Path

import pytest

from ridgeline import LLM, EngineError, RequestError, SamplingParams
from ridgeline.engine.outputs import CompletionOutput
from ridgeline.errors import CapacityError, ModelError
from ridgeline.step import StepResult

GOLDEN = Path(__file__).parent.parent / "golden"
GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
PROMPTS = ["Hello there", "A second, somewhat longer prompt about nothing", "z", "Hello there!"]


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(str(GOLDEN / "llama3" / "model.gguf"), max_tokens_per_step=16, max_rows=4)


def test_results_have_the_shape_that_users_know(llm: LLM) -> None:
    outputs = llm.generate(PROMPTS, GREEDY)
    assert [o.prompt for o in outputs] == PROMPTS
    for output in outputs:
        assert output.finished
        assert list(output.prompt_token_ids) == llm.tokenizer.encode(output.prompt)
        (answer,) = output.outputs
        assert len(answer.token_ids) == 12
        assert answer.finish_reason == "length"
        assert answer.text == llm.tokenizer.decode(list(answer.token_ids), continues=True)
        assert answer.logprobs is None


def test_together_is_alone(llm: LLM) -> None:
    params = SamplingParams(temperature=0.9, seed=5, max_tokens=10, ignore_eos=True, logprobs=2)
    together = llm.generate(PROMPTS * 3, params)
    for prompt, output in zip(PROMPTS * 3, together, strict=True):
        (alone,) = llm.generate(prompt, params)
        assert alone.outputs[0].token_ids == output.outputs[0].token_ids
        assert alone.outputs[0].logprobs == output.outputs[0].logprobs


def test_stream_is_generate(llm: LLM) -> None:
    params = SamplingParams(temperature=0.7, seed=1, max_tokens=20, ignore_eos=True)
    deltas = list(llm.stream(PROMPTS[1], params))
    (whole,) = llm.generate(PROMPTS[1], params)
    assert "".join(d.text for d in deltas) == whole.outputs[0].text
    assert [i for d in deltas for i in d.token_ids] == list(whole.outputs[0].token_ids)
    assert deltas[-1].output is not None
    assert deltas[-1].output.outputs == whole.outputs
    assert deltas[-1].finish_reason == "length"


def test_a_dropped_stream_frees_its_blocks(llm: LLM) -> None:
    stream = llm.stream(PROMPTS[0], SamplingParams(max_tokens=100, ignore_eos=True))
    next(stream)
    assert llm._engine.has_work
    stream.close()
    assert not llm._engine.has_work
    pool = llm._engine.state.pool
    assert pool.num_free == pool.num_blocks
    assert stream.output.outputs[0].finish_reason is None


def test_a_cancelled_stream_keeps_what_was_said(llm: LLM) -> None:
    stream = llm.stream(PROMPTS[0], SamplingParams(temperature=0, max_tokens=90, ignore_eos=True))
    next(stream)
    stream.cancel()
    *_, last = stream
    assert last.finish_reason == "abort"
    assert len(stream.output.outputs[0].token_ids) == 1
    assert not llm._engine.has_work


def test_a_prompt_seen_before_is_cached_and_answers_the_same(llm: LLM) -> None:
    prompt = "the quick brown fox jumps over the lazy dog " * 2
    first, second = (llm.generate(prompt, GREEDY)[0] for _ in range(2))
    assert first.num_cached_tokens == 0
    assert second.num_cached_tokens == (len(second.prompt_token_ids) - 1) // 16 * 16 > 0
    assert first.outputs[0].token_ids == second.outputs[0].token_ids


def test_stop_strings_and_ids_end_an_answer(llm: LLM) -> None:
    (plain,) = llm.generate(PROMPTS[0], GREEDY)
    text = plain.outputs[0].text
    stop = next(text[i : i + 2] for i in range(2, len(text)) if "\ufffd" not in text[i : i + 2])
    (stopped,) = llm.generate(
        PROMPTS[0], SamplingParams(temperature=0, max_tokens=12, ignore_eos=True, stop=[stop])
    )
    assert stopped.outputs[0].text == text[: text.index(stop)]
    assert (stopped.outputs[0].finish_reason, stopped.outputs[0].stop_reason) == ("stop", stop)
    third = plain.outputs[0].token_ids[2]
    (stopped,) = llm.generate(
        PROMPTS[0],
        SamplingParams(temperature=0, max_tokens=12, ignore_eos=True, stop_token_ids=[third]),
    )
    position = plain.outputs[0].token_ids.index(third)
    assert stopped.outputs[0].token_ids == plain.outputs[0].token_ids[: position + 1]
    assert stopped.outputs[0].stop_reason == third


def test_n_answers_have_their_own_seeds(llm: LLM) -> None:
    params = SamplingParams(n=3, temperature=1.5, seed=11, max_tokens=8, ignore_eos=True)
    (output,) = llm.generate(PROMPTS[0], params)
    assert [a.seed for a in output.outputs] == [11, 12, 13]
    assert len({a.token_ids for a in output.outputs}) == 3
    (again,) = llm.generate(
        PROMPTS[0], SamplingParams(temperature=1.5, seed=12, max_tokens=8, ignore_eos=True)
    )
    assert again.outputs[0].token_ids == output.outputs[1].token_ids


def test_prompt_logprobs_are_those_of_the_softmax_before_each_token(llm: LLM) -> None:
    params = SamplingParams(
        n=2, temperature=0.8, seed=3, max_tokens=3, ignore_eos=True, prompt_logprobs=2
    )
    (output,) = llm.generate(PROMPTS[1], params)
    scored, ids = output.prompt_logprobs, output.prompt_token_ids
    assert scored is not None
    assert len(scored) == len(ids) > 16
    assert scored[0] is None
    one = SamplingParams(temperature=0, max_tokens=1, ignore_eos=True, logprobs=256)
    for position in range(1, len(ids)):
        (asked,) = llm.generate({"prompt_token_ids": ids[:position]}, one)
        assert asked.outputs[0].logprobs is not None
        after = asked.outputs[0].logprobs[0]
        found = scored[position]
        assert found is not None
        assert next(iter(found)) == ids[position]
        assert {1, 2} <= {entry.rank for entry in found.values()}
        expected = {i: after[i].logprob for i in found}
        assert {i: entry.logprob for i, entry in found.items()} == expected
    (plain,) = llm.generate(PROMPTS[1], replace(params, prompt_logprobs=None))
    assert plain.prompt_logprobs is None
    assert [a.token_ids for a in plain.outputs] == [a.token_ids for a in output.outputs]
    again = llm.generate([PROMPTS[1], *PROMPTS], params)[0]
    assert again.num_cached_tokens == 0
    assert again.cache_miss is not None
    assert again.cache_miss.kind == "scored"
    assert again.prompt_logprobs == scored
    deltas = list(llm.stream(PROMPTS[1], params))
    assert deltas[-1].output is not None
    assert deltas[-1].output.prompt_logprobs == scored


def test_best_of_gives_the_likeliest_per_token(llm: LLM) -> None:
    params = SamplingParams(
        n=5, temperature=1.5, seed=11, max_tokens=8, ignore_eos=True, logprobs=0
    )
    (whole,) = llm.generate(PROMPTS[0], params)

    def mean(answer: CompletionOutput) -> float:
        assert answer.cumulative_logprob is not None
        return answer.cumulative_logprob / len(answer.token_ids)

    expected = [a.token_ids for a in sorted(whole.outputs, key=mean, reverse=True)[:2]]
    chosen = replace(params, n=2, best_of=5, logprobs=None)
    (given,) = llm.generate(PROMPTS[0], chosen)
    assert [a.token_ids for a in given.outputs] == expected
    assert [a.index for a in given.outputs] == [0, 1]
    assert {a.seed for a in given.outputs} <= {11, 12, 13, 14, 15}
    assert given.outputs[0].cumulative_logprob is None
    deltas = list(llm.stream(PROMPTS[0], chosen))
    assert [d.token_ids for d in deltas] == expected
    assert [d.output is not None for d in deltas] == [False, True]
    assert deltas[-1].output is not None
    assert deltas[-1].output.outputs == given.outputs


def test_minimum_tokens_and_patterns(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
    (plain,) = llm.generate(PROMPTS[0], params)
    ids = plain.outputs[0].token_ids
    stops = replace(params, stop_token_ids=[ids[0], ids[3]], min_tokens=6)
    (longer,) = llm.generate(PROMPTS[0], stops)
    assert not set(longer.outputs[0].token_ids[:6]) & {ids[0], ids[3]}
    (ended,) = llm.generate(PROMPTS[0], replace(params, stop_regex="(?s)..", min_tokens=4))
    assert ended.outputs[0].finish_reason == "stop"
    assert ended.outputs[0].stop_reason == "(?s).."
    assert len(ended.outputs[0].token_ids) > 4
    (at_once,) = llm.generate(PROMPTS[0], replace(params, stop_regex="(?s).."))
    assert at_once.outputs[0].text == ""


def test_an_impossible_request_ends_alone(llm: LLM) -> None:
    alone = llm.generate(PROMPTS[1], GREEDY)[0].outputs[0]
    impossible = replace(GREEDY, allowed_token_ids=[5], bad_words=[[5]])
    bad, good = llm.generate([PROMPTS[0], PROMPTS[1]], [impossible, GREEDY])
    assert bad.outputs[0].finish_reason == "error"
    assert isinstance(bad.outputs[0].error, EngineError)
    assert "leave no token" in str(bad.outputs[0].error)
    assert good.outputs[0].token_ids == alone.token_ids


def test_a_drawn_seed_can_be_used_again(llm: LLM) -> None:
    (drawn,) = llm.generate(PROMPTS[0], SamplingParams(max_tokens=8, ignore_eos=True))
    seed = drawn.outputs[0].seed
    (again,) = llm.generate(PROMPTS[0], SamplingParams(seed=seed, max_tokens=8, ignore_eos=True))
    assert again.outputs[0].token_ids == drawn.outputs[0].token_ids


def test_logprobs_are_those_of_the_softmax(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=3, ignore_eos=True, logprobs=256)
    (output,) = llm.generate(PROMPTS[0], params)
    answer = output.outputs[0]
    assert answer.logprobs is not None
    for token_id, logprobs in zip(answer.token_ids, answer.logprobs, strict=True):
        assert next(iter(logprobs)) == token_id
        assert logprobs[token_id].rank == 1
        by_rank = sorted(logprobs.values(), key=lambda entry: entry.rank or 0)
        assert [entry.rank for entry in by_rank] == list(range(1, len(by_rank) + 1))
        assert sorted(by_rank, key=lambda entry: -entry.logprob) == by_rank
        assert sum(math.exp(entry.logprob) for entry in by_rank) == pytest.approx(1, abs=1e-3)
        assert logprobs[token_id].decoded_token == llm.tokenizer.decode([token_id], continues=True)
    assert answer.cumulative_logprob == pytest.approx(
        sum(p[i].logprob for i, p in zip(answer.token_ids, answer.logprobs, strict=True))
    )


def test_a_sampled_token_that_is_none_of_the_likeliest_comes_first_and_unranked(llm: LLM) -> None:
    params = SamplingParams(temperature=50, seed=3, max_tokens=8, ignore_eos=True, logprobs=1)
    (output,) = llm.generate(PROMPTS[0], params)
    answer = output.outputs[0]
    assert answer.logprobs is not None
    unranked = [
        p for i, p in zip(answer.token_ids, answer.logprobs, strict=True) if p[i].rank is None
    ]
    assert unranked
    for logprobs in unranked:
        first, second = logprobs.values()
        assert first.rank is None
        assert second.rank == 1
        assert first.logprob <= second.logprob


def test_a_fault_ends_one_request_and_no_other(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = llm.generate(PROMPTS, GREEDY)
    executor, calls = llm._engine._executor, 0
    collect = executor.collect

    def broken() -> StepResult:
        nonlocal calls
        calls += 1
        result = collect()
        if calls != 5:
            return result
        first, *others = result.sampled
        return StepResult((first._replace(token_id=0, fault="logits are not finite"), *others))

    monkeypatch.setattr(type(executor), "collect", lambda _: broken())
    outputs = llm.generate(PROMPTS, GREEDY)
    ended = [o.outputs[0] for o in outputs if o.outputs[0].finish_reason == "error"]
    assert len(ended) == 1
    assert isinstance(ended[0].error, EngineError)
    assert "not finite" in str(ended[0].error)
    for output, expected in zip(outputs, whole, strict=True):
        if output.outputs[0].finish_reason != "error":
            assert output.outputs[0].token_ids == expected.outputs[0].token_ids
    assert not llm._engine.has_work


def test_moments_are_in_order_and_ttft_counts_from_the_call(llm: LLM) -> None:
    before = time.monotonic()
    (output,) = llm.generate(PROMPTS[1], GREEDY)
    metrics = output.metrics
    assert metrics.first_token is not None
    assert metrics.finished is not None
    moments = [before, metrics.arrival, metrics.submitted, metrics.first_token, metrics.finished]
    assert sorted(moments) == moments
    assert metrics.ttft_seconds == metrics.first_token - metrics.arrival


def test_answers_to_several_prompts_come_in_their_order_with_their_own_params(llm: LLM) -> None:
    params = [replace(GREEDY, max_tokens=i + 1) for i in range(len(PROMPTS))]
    outputs = llm.generate(PROMPTS, params, use_tqdm=False)
    assert [o.prompt for o in outputs] == PROMPTS
    assert [len(o.outputs[0].token_ids) for o in outputs] == [1, 2, 3, 4]
    assert llm.generate([]) == []


def test_a_bar_is_shown_where_asked_for(llm: LLM, capsys: pytest.CaptureFixture[str]) -> None:
    llm.generate(PROMPTS, GREEDY, use_tqdm=True)
    shown = capsys.readouterr()
    assert "4/4" in shown.err
    assert not shown.out
    llm.generate(PROMPTS, GREEDY)
    assert not capsys.readouterr().err


def test_ids_and_mappings_are_prompts_too(llm: LLM) -> None:
    ids = llm.tokenizer.encode(PROMPTS[1])
    expected = llm.generate(PROMPTS[1], GREEDY)[0]
    for prompt in (ids, {"prompt_token_ids": ids}, {"prompt": PROMPTS[1]}):
        (output,) = llm.generate(prompt, GREEDY)
        assert output.outputs[0].token_ids == expected.outputs[0].token_ids
        assert output.prompt_token_ids == expected.prompt_token_ids


def test_wrong_arguments_are_named(llm: LLM) -> None:
    with pytest.raises(RequestError, match="prompts"):
        llm.generate(5)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="sampling_params"):
        llm.generate("a", {"temperature": 1})  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="1 entries for 2"):
        llm.generate(["a", "b"], [GREEDY])
    with pytest.raises(RequestError, match="messages"):
        llm.chat([], GREEDY)
    with pytest.raises(TypeError, match="max_new_tokens"):
        SamplingParams(max_new_tokens=3)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 0),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_p", 0.0),
        ("top_k", 1.5),
        ("min_p", 2),
        ("repetition_penalty", 0),
        ("seed", -1),
        ("max_tokens", 0),
        ("stop", [""]),
        ("logprobs", 100_000),
        ("stop_token_ids", [-1]),
    ],
)
def test_a_wrong_parameter_is_named(field: str, value: object) -> None:
    with pytest.raises(RequestError) as refused:
        SamplingParams(**{field: value})  # type: ignore[arg-type]
    assert refused.value.field == field


def test_an_impossible_prompt_is_refused_and_leaves_nothing_behind(llm: LLM) -> None:
    with pytest.raises(RequestError, match="prompt"):
        llm.generate(["fine", {"prompt_token_ids": []}], GREEDY)
    with pytest.raises(RequestError, match="prompt_token_ids"):
        llm.generate([[0, 10**6]], GREEDY)
    with pytest.raises(RequestError, match="prompt"):
        llm.generate("x" * 10_000, GREEDY)
    assert not llm._engine.has_work


def test_a_model_without_a_template_says_so(llm: LLM) -> None:
    with pytest.raises(ModelError, match="template"):
        llm.chat([{"role": "user", "content": "hi"}], GREEDY)


def test_a_loaded_model_is_old_to_the_garbage_collector_and_can_still_be_dropped() -> None:
    """What loading made is not looked through in the first steps; nothing of it is set aside."""
    frozen = gc.get_freeze_count()
    model = LLM(str(GOLDEN / "qwen3_moe" / "model.gguf"), max_rows=1)
    young = sum(len(gc.get_objects(generation)) for generation in (0, 1))
    assert young < 1_000 < len(gc.get_objects(2))
    assert gc.get_freeze_count() == frozen
    gone = weakref.ref(model.assembled.executor)
    del model
    gc.collect()
    assert gone() is None


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(RequestError, match="max_model_len"):
        LLM(str(GOLDEN / "llama3" / "model.gguf"), max_model_len=5)
    with pytest.raises(RequestError, match="backend"):
        LLM(str(GOLDEN / "llama3" / "model.gguf"), backend="abacus")


def test_what_does_not_fit_is_known_before() -> None:
    with pytest.raises(CapacityError, match="would fit"):
        LLM(str(GOLDEN / "llama3" / "model.gguf"), context_length=100, memory=100)
    with pytest.raises(CapacityError, match="does not fit"):
        LLM(str(GOLDEN / "llama3" / "model.gguf"), memory=10**18)


def test_a_stream_loses_nothing_to_a_generate_beside_it(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True)
    (alone,) = llm.generate(PROMPTS[1], params)
    stream = llm.stream(PROMPTS[1], params)
    pieces = [next(stream)]
    llm.generate(PROMPTS[0], GREEDY)
    pieces += stream
    assert "".join(p.text for p in pieces) == alone.outputs[0].text
