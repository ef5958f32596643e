"""Forced spans: with and without them the same answers, bit for bit, for fewer steps."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import pytest
from byte_vocabulary import byte_tokenizer

from ridgeline import LLM, SamplingParams
from ridgeline.backends.null.executor import NullExecutor
from ridgeline.engine.constrain import StructuredOutputs
from ridgeline.engine.constrain.compile import Constraints
from ridgeline.engine.engine import Engine
from ridgeline.engine.outputs import CompletionOutput
from ridgeline.engine.prompts import Tokenized
from ridgeline.engine.record import Recorder, read_record, replay
from ridgeline.engine.schedule.spans import MAX_SPAN
from ridgeline.engine.session import Group, Session

GOLDEN = Path(__file__).parent.parent / "golden"
VOCAB = 160
SCHEMA = StructuredOutputs(
    json={
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 6},
            "of_what_it_is_made": {"enum": ["wood", "water", "nothing"]},
            "n": {"type": "integer", "minimum": 0, "maximum": 99},
        },
        "required": ["name", "of_what_it_is_made", "n"],
        "additionalProperties": False,
    },
    disable_any_whitespace=True,
)
LONG = "a sentence that is much longer than the longest span which is given at once, by far"
GRAMMARS = (
    SCHEMA,
    StructuredOutputs(choice=["yes, of course", "no, never", LONG]),
    StructuredOutputs(regex=r"the number [0-9]{2} is (odd|even), I say(\.|!)"),
    StructuredOutputs(regex="[a-z]{3,20}"),
)


def session(on: bool, *, num_blocks: int = 300, record: Recorder | None = None) -> Session:
    executor = NullExecutor(vocab_size=VOCAB, num_blocks=num_blocks, max_rows=8)
    tokenizer = byte_tokenizer()
    constraints = Constraints(tokenizer, VOCAB)
    engine = Engine(
        executor,
        max_context=400,
        max_tokens_per_step=40,
        constraints=constraints,
        observer=record,
        forced_spans=on,
    )
    return Session(engine, tokenizer, VOCAB, constraints)


def submit(own: Session, text: str, asked: SamplingParams) -> Group:
    return own.submit(Tokenized(text, list(text.encode())), asked, arrival=time.monotonic())


def run(own: Session, groups: list[Group]) -> tuple[list[CompletionOutput], int]:
    steps = 0
    while own.engine.has_work:
        own.step()
        own.engine.state.check_invariants()
        steps += 1
    return [answer for group in groups for answer in group.output().outputs], steps


def params(asked: StructuredOutputs, **more: Any) -> SamplingParams:
    return SamplingParams(structured_outputs=asked, **({"max_tokens": 150, "seed": 7} | more))


def many(on: bool, num_blocks: int = 300) -> tuple[list[CompletionOutput], int, Session]:
    own = session(on, num_blocks=num_blocks)
    asked = [params(GRAMMARS[i % 4], seed=i) for i in range(24)]
    asked += [params(GRAMMARS[i % 4], seed=i, max_tokens=1 + 7 * i) for i in range(12)]
    asked += [params(GRAMMARS[i % 4], seed=i, n=3) for i in range(4)]
    asked += [SamplingParams(max_tokens=9, seed=i) for i in range(6)]
    groups = [submit(own, f"prompt {i} of some length", one) for i, one in enumerate(asked)]
    return *run(own, groups), own


def test_many_together_have_the_answers_that_they_have_without() -> None:
    plain, plain_steps, _ = many(False)
    spanned, steps, own = many(True)
    assert [a.token_ids for a in spanned] == [a.token_ids for a in plain]
    assert [(a.text, a.finish_reason) for a in spanned] == [
        (a.text, a.finish_reason) for a in plain
    ]
    assert steps < 0.8 * plain_steps
    assert own.engine.book.forced_tokens > 200
    assert own.engine.book.answer_tokens == sum(len(a.token_ids) for a in spanned)


def test_preempted_and_computed_again() -> None:
    plain, _, _ = many(False)
    tight, _, own = many(True, num_blocks=14)
    assert own.engine.state.num_preemptions > 0
    assert [a.token_ids for a in tight] == [a.token_ids for a in plain]


def test_a_long_span_comes_in_parts_and_a_ledger_tells_it() -> None:
    own = session(True)
    group = submit(own, "x", params(StructuredOutputs(choice=[LONG])))
    (answer,), steps = run(own, [group])
    assert answer.text == LONG
    assert answer.finish_reason == "stop"
    (ledger,) = group.output().ledgers
    # The first token of each part, and the end, have a step.
    assert ledger.forced == len(LONG) + 1 - steps
    assert steps == -(-len(LONG) // (MAX_SPAN + 1)) + 1


def test_stop_strings_and_stop_tokens_end_within_a_span() -> None:
    asked = StructuredOutputs(choice=[LONG])
    for more in ({"stop": "much"}, {"stop_token_ids": [ord("w")]}, {"max_tokens": 11}):
        plain, spanned = (
            run(own, [submit(own, "x", params(asked, **more))])[0]
            for own in (session(False), session(True))
        )
        assert spanned == plain
        assert LONG.startswith(plain[0].text.rstrip())
        assert len(plain[0].text) < len(LONG)


@pytest.mark.parametrize(
    "more",
    [
        {"logprobs": 1},
        {"mirostat": 2, "temperature": 0.8},
        {"bad_words": ["zz"]},
        {"logit_bias": {5: 1.0}},
        {"min_tokens": 2},
        {"dry_multiplier": 0.5},
        {"no_repeat_ngram_size": 9},
        {"n": 1, "best_of": 2},
    ],
)
def test_where_each_token_is_asked_for_more_each_has_its_step(more: dict[str, Any]) -> None:
    found = []
    for on in (False, True):
        own = session(on)
        found.append(run(own, [submit(own, "x", params(GRAMMARS[2], **more))])[0])
        assert own.engine.book.forced_tokens == 0
    assert found[0] == found[1]


def test_a_record_replays() -> None:
    file = io.StringIO()
    own = session(True, record=Recorder(file, {"model": "null"}))
    run(own, [submit(own, f"prompt {i}", params(GRAMMARS[i % 4], seed=i)) for i in range(8)])
    _header, *entries = read_record(file.getvalue().splitlines())
    assert replay(entries, session(True).engine).difference is None
    assert replay(entries, session(False).engine).difference is not None


@pytest.mark.parametrize("model", ["llama3", "qwen3_5", "mamba", "gpt_oss"])
def test_a_model_gives_the_same_bits(model: str) -> None:
    """Alone, in company, streamed, cold and cached, in small chunks; sampled many ways. Two of the
    models carry recurrent states, one looks back a window in some layers.
    """
    place = str(GOLDEN / model / "model.gguf")
    ways: list[dict[str, Any]] = [
        {"temperature": 0},
        {"temperature": 0.9, "top_p": 0.9},
        {"temperature": 1.2, "repetition_penalty": 1.3, "frequency_penalty": 0.4, "top_k": 7},
        {"temperature": 0.7, "min_p": 0.05, "presence_penalty": -0.5, "top_n_sigma": 1.5},
    ]
    digits = StructuredOutputs(regex="(in all 12|in part 34): [0-9]{2} of them")
    asked = [params(digits, **more) for more in ways]
    prompt = "hello there, this is a prompt of some length"
    off = LLM(place, max_rows=4, max_tokens_per_step=64, forced_spans=False)
    plain = [off.generate(prompt, one)[0].outputs for one in asked]
    on = LLM(place, max_rows=3, max_tokens_per_step=16)
    assert [on.generate(prompt, one)[0].outputs for one in asked] == plain  # cold, then cached
    free = SamplingParams(seed=2, max_tokens=12, logprobs=1)
    *together, beside = on.generate([prompt] * 5, [*asked, free])
    assert [one.outputs for one in together] == plain
    assert beside.outputs == off.generate(prompt, free)[0].outputs
    streamed = list(on.stream(prompt, asked[1]))
    assert "".join(delta.text for delta in streamed) == plain[1][0].text
    assert [i for delta in streamed for i in delta.token_ids] == list(plain[1][0].token_ids)
    assert on.session.engine.book.forced_tokens > 0
