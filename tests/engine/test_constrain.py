"""Answers under a grammar: they keep to it, whatever else goes on; and what cannot be is refused
before it is queued.
"""

from __future__ import annotations

import asyncio
import io
import json
import re
import threading
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from byte_vocabulary import ASCII, EOS, byte_tokenizer

from ridgeline import LLM, RequestError, SamplingParams
from ridgeline.async_engine import AsyncEngine
from ridgeline.backends.null.executor import NullExecutor
from ridgeline.engine.constrain import StructuredOutputs
from ridgeline.engine.constrain.compile import Budget, Constraints, Grammar
from ridgeline.engine.engine import Engine
from ridgeline.engine.outputs import CompletionOutput
from ridgeline.engine.prompts import Tokenized
from ridgeline.engine.record import Recorder, read_record, replay
from ridgeline.engine.session import Group, Session
from ridgeline.errors import Overloaded

MODEL = str(Path(__file__).parent.parent / "golden" / "llama3" / "model.gguf")
VOCAB = 160  # of the logits: the tokenizer has fewer
CODE = StructuredOutputs(regex=r"[0-9]{3}-[a-f]{4}(x|yz)?")
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "n": {"type": "integer", "minimum": 0, "maximum": 99},
        "tags": {"type": "array", "items": {"enum": ["a", "bb"]}, "maxItems": 2},
    },
    "required": ["name", "n"],
    "additionalProperties": False,
}


def session(*, num_blocks: int = 200, max_rows: int = 8, record: Recorder | None = None) -> Session:
    executor = NullExecutor(vocab_size=VOCAB, num_blocks=num_blocks, max_rows=max_rows)
    tokenizer = byte_tokenizer()
    constraints = Constraints(tokenizer, VOCAB)
    engine = Engine(
        executor,
        max_context=600,
        max_tokens_per_step=24,
        observer=record,
        constraints=constraints,
    )
    return Session(engine, tokenizer, VOCAB, constraints)


def submit(own: Session, text: str, params: SamplingParams) -> Group:
    return own.submit(Tokenized(text, list(text.encode())), params, arrival=time.monotonic())


def run(own: Session, groups: list[Group]) -> list[CompletionOutput]:
    while own.engine.has_work:
        own.step()
    return [answer for group in groups for answer in group.output().outputs]


def params(asked: StructuredOutputs, **more: Any) -> SamplingParams:
    return SamplingParams(structured_outputs=asked, **({"max_tokens": 120} | more))


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({}, "exactly one"),
        ({"regex": "a", "json_object": True}, "exactly one"),
        ({"json": "{"}, "not JSON"),
        ({"json": "[]"}, "#: a schema"),
        ({"json": {"a": float("nan")}}, "not JSON"),
        ({"json": {"a" * 300_000: {}}}, "are allowed"),
        ({"regex": ""}, "at least one character"),
        ({"regex": "a" * 20_000}, "are allowed"),
        ({"choice": []}, "at least one character"),
        ({"choice": "abc"}, "must be texts"),
        ({"choice": ["\ud800"]}, "surrogate"),
        ({"grammar": 3}, "must be a text"),
        ({"regex": "a", "disable_any_whitespace": True}, "json or json_object only"),
    ],
)
def test_what_is_not_a_wish_is_refused(asked: dict[str, Any], why: str) -> None:
    with pytest.raises(RequestError, match=re.escape(why)):
        StructuredOutputs(**asked)


def test_a_grammar_says_when_to_end() -> None:
    with pytest.raises(RequestError, match="ignore_eos"):
        SamplingParams(structured_outputs=CODE, ignore_eos=True)


@pytest.mark.parametrize(
    ("schema", "pointer"),
    [
        ({"properties": {"a/b": {"if": {}}}}, "#/properties/a~1b/if"),
        ({"type": "array", "uniqueItems": True}, "#/uniqueItems"),
        ({"anyOf": [{}, {"not": {}}]}, "#/anyOf/1/not"),
        ({"$ref": "http://example.com/s"}, "#/$ref"),
        ({"$defs": {"x": {"$dynamicRef": "#y"}}}, "#/$defs/x/$dynamicRef"),
        ({"items": [{"type": "string"}]}, "#/items"),
        ({"exclusiveMinimum": True}, "#/exclusiveMinimum"),
        ({"type": "string", "format": "iri"}, "#/format"),
        ({"type": "any"}, "#/type"),
        ({"minProperties": 1}, "#/minProperties"),
        ({"enum": []}, "#/enum"),
        ({"madeup": 1}, "#/madeup"),
        ({"x-guidance": {"lenient": True}, "if": {}}, "#/x-guidance"),
        ({"properties": {"a": {"$id": "u"}}}, "#/properties/a/$id"),
        ({"required": "a"}, "#/required"),
        ({"minLength": -1}, "#/minLength"),
        ({"items": 3}, "#/items"),
    ],
)
def test_a_schema_is_refused_with_its_pointer(schema: dict[str, Any], pointer: str) -> None:
    own = session()
    with pytest.raises(RequestError) as refused:
        submit(own, "x", params(StructuredOutputs(json=schema)))
    assert str(refused.value).startswith(f"structured_outputs.json: {pointer}: ")
    assert not own.engine.has_work


@pytest.mark.parametrize(
    "asked",
    [
        {"json": {"type": "string", "pattern": "(?=a)b"}},
        {"json": {"$ref": "#/$defs/none"}},
        {"json": {"oneOf": [{"type": "integer"}, {"type": "number"}]}},
        {"json": {"type": "object", "required": ["a"], "properties": {"a": False}}},
        {"json": False},
        {"regex": "(a"},
        {"regex": r"(a)\1"},
        {"grammar": "start: nothing"},
        {"grammar": 'start: %json {"not": {}}'},
        {"grammar": 'start: %json {"x-guidance": {"lenient": true}}'},
        {"grammar": '{"grammars": []}'},
    ],
)
def test_what_cannot_be_kept_to_is_refused_before_it_is_queued(asked: dict[str, Any]) -> None:
    own = session()
    with pytest.raises(RequestError, match="structured_outputs"):
        submit(own, "x", params(StructuredOutputs(**asked)))
    assert not own.engine.has_work


def test_answers_keep_to_their_grammar() -> None:
    own = session()
    groups = []
    for i in range(40):
        asked = (
            StructuredOutputs(json=SCHEMA, disable_any_whitespace=bool(i % 2)),
            CODE,
            StructuredOutputs(choice=["ja", "nein", 'viel"leicht\n']),
            StructuredOutputs(grammar='start: "<" WORD ("," WORD)? ">"\nWORD: /[a-z]{1,4}/'),
        )[i % 4]
        groups.append(submit(own, f"prompt {i}", params(asked)))
    answers = run(own, groups)
    ended = 0
    for i, answer in enumerate(answers):
        assert answer.finish_reason in ("stop", "length")
        ended += answer.finish_reason == "stop"
        if answer.finish_reason == "length":
            continue
        if i % 4 == 0:
            jsonschema.validate(json.loads(answer.text), SCHEMA)
        elif i % 4 == 1:
            assert re.fullmatch(r"[0-9]{3}-[a-f]{4}(x|yz)?", answer.text)
        elif i % 4 == 2:
            assert answer.text in ("ja", "nein", 'viel"leicht\n')
        else:
            assert re.fullmatch(r"<[a-z]{1,4}(,[a-z]{1,4})?>", answer.text)
        assert answer.token_ids[-1] == EOS
    assert ended >= 35
    assert len({answer.text for answer in answers}) > 20


def test_the_end_comes_only_where_the_grammar_may_end() -> None:
    follower = session().constraints.compile(CODE).follow()

    def allowed(text: str) -> set[int]:
        words = follower.mask(list(text.encode()), 5)
        ids = {i for i in range(VOCAB) if words[i // 32] >> (i % 32) & 1}
        return ids & {*range(ASCII), *range(EOS, VOCAB)}

    assert allowed("") == {ord(c) for c in "0123456789"}
    assert EOS not in allowed("123-abc")
    assert allowed("123-abcd") == {EOS, ord("x"), ord("y")}
    assert allowed("123-abcdx") == {EOS}


def test_max_tokens_leaves_a_beginning() -> None:
    own = session()
    (answer,) = run(own, [submit(own, "x", params(CODE, max_tokens=5))])
    assert answer.finish_reason == "length"
    assert re.fullmatch(r"[0-9]{3}-[a-f]", answer.text)


def test_stop_strings_end_an_answer_under_a_grammar() -> None:
    own = session()
    (answer,) = run(own, [submit(own, "x", params(CODE, stop="-"))])
    assert answer.finish_reason == "stop"
    assert answer.stop_reason == "-"
    assert re.fullmatch(r"[0-9]{3}", answer.text)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_what_leaves_no_token_ends_alone_and_typed(backend: str) -> None:
    llm = LLM(MODEL, backend=backend, max_rows=4)
    own = SamplingParams(temperature=0.8, seed=3, max_tokens=8)
    (alone,) = llm.generate("hello", own)
    digits = StructuredOutputs(regex="[0-9]+")
    impossible = [
        params(digits, allowed_token_ids=llm.tokenizer.encode("ab", add_special=False)),
        params(StructuredOutputs(choice=["7"]), min_tokens=5),
        params(StructuredOutputs(choice=["7"]), bad_words=["7"]),
        params(StructuredOutputs(choice=["7}"])),  # this vocabulary cannot write it
    ]
    *failed, beside = llm.generate(["hello"] * 5, [*impossible, own])
    for output in failed:
        (answer,) = output.outputs
        assert answer.finish_reason == "error"
        assert isinstance(answer.error, RequestError)
        assert answer.error.field == "structured_outputs"
    assert beside.outputs == alone.outputs


def test_same_request_same_tokens() -> None:
    """Alone, in company, in chunks, with one thread or two, cold and cached; and an unconstrained
    neighbour has the bits that it has alone.
    """
    prompts = ["hello there, this is a prompt of some length", "hello", "z", "hello there, this"]
    asked = [
        params(CODE, seed=3, logprobs=2),
        params(StructuredOutputs(regex="[a-z ]{5,20}"), seed=1, temperature=0.7, top_p=0.9),
        SamplingParams(seed=9, max_tokens=12, logprobs=2),
        params(StructuredOutputs(choice=["ja", "nein"]), temperature=0, seed=0),
    ]
    wide = LLM(MODEL, max_rows=4, max_tokens_per_step=64, threads=2)
    alone = [wide.generate(p, a)[0].outputs for p, a in zip(prompts, asked, strict=True)]
    cached = [wide.generate(p, a)[0].outputs for p, a in zip(prompts, asked, strict=True)]
    narrow = LLM(MODEL, max_rows=3, max_tokens_per_step=16, threads=1)
    together = [output.outputs for output in narrow.generate(prompts * 2, asked * 2)]
    assert alone == cached
    assert together == alone * 2
    assert re.fullmatch(r"[0-9]{3}-[a-f]{4}(x|yz)?", alone[0][0].text)
    streamed = "".join(delta.text for delta in wide.stream(prompts[0], asked[0]))
    assert streamed == alone[0][0].text


def test_logprobs_are_of_the_model_not_of_the_mask() -> None:
    llm = LLM(MODEL)
    free, held = (
        llm.generate("hello", SamplingParams(temperature=0, max_tokens=1, logprobs=5, **more))[0]
        for more in ({}, {"structured_outputs": CODE})
    )
    (one,), (other,) = free.outputs[0].logprobs or (), held.outputs[0].logprobs or ()
    assert {k: v for k, v in other.items() if v.rank} == one


def test_n_best_of_and_seeds() -> None:
    llm = LLM(MODEL, max_rows=4)
    many = llm.generate("hello", params(CODE, n=3, seed=5))[0].outputs
    for i, answer in enumerate(many):
        (alone,) = llm.generate("hello", params(CODE, seed=5 + i))[0].outputs
        assert (alone.text, alone.token_ids) == (answer.text, answer.token_ids)
    best = llm.generate("hello", params(CODE, n=1, best_of=3, seed=5))[0].outputs
    assert best[0].text in {answer.text for answer in many}


def test_preempted_and_computed_again() -> None:
    """Blocks for one answer and a half: the others are computed again, to the same tokens."""
    asked = params(StructuredOutputs(regex="[a-z]{40,60}"))
    roomy = session()
    wanted = run(roomy, [submit(roomy, f"a prompt, number {i}", asked) for i in range(4)])
    tight = session(num_blocks=11)
    found = run(tight, [submit(tight, f"a prompt, number {i}", asked) for i in range(4)])
    assert tight.engine.state.num_preemptions > 0
    assert [a.token_ids for a in found] == [a.token_ids for a in wanted]
    assert all(re.fullmatch("[a-z]{40,60}", a.text) for a in found)


def test_an_abort_frees_and_a_record_replays() -> None:
    file = io.StringIO()
    own = session(record=Recorder(file, {"model": "null"}))
    groups = [submit(own, f"prompt {i}", params(CODE)) for i in range(3)]
    own.step()
    own.cancel(groups[1])
    answers = run(own, groups)
    assert answers[1].finish_reason == "abort"
    assert {answers[0].finish_reason, answers[2].finish_reason} == {"stop"}
    _header, *entries = read_record(file.getvalue().splitlines())
    found = replay(entries, session().engine)
    assert found.difference is None
    assert found.num_tokens > 10


def test_async_compiles_off_the_engine_and_refuses() -> None:
    async def main() -> None:
        async with AsyncEngine(LLM(MODEL, max_rows=4)) as engine:
            bad = params(StructuredOutputs(json={"not": {}}))
            with pytest.raises(RequestError, match="#/not"):
                await engine.generate("hello", bad)
            outputs = await asyncio.gather(
                *(engine.generate("hello", params(CODE, seed=i)) for i in range(5))
            )
            for output in outputs:
                assert re.fullmatch(r"[0-9]{3}-[a-f]{4}(x|yz)?", output.outputs[0].text)

    asyncio.run(main())


@pytest.mark.parametrize(
    "bomb",
    [
        {"regex": "(a{1,900}){1,900}(b{1,900}){1,900}"},
        {"regex": "((a*)*)*b" * 100},
        {"regex": r"(\w{1,300}\W{1,300}){1,300}"},
        {"json": {"type": "string", "pattern": "^(a|aa|aaa){200}(.*x.*){50}$"}},
        {"json": {"enum": [f"{i:06d}" for i in range(20_000)]}},
        {"json": '{"items":' * 500 + "{}" + "}" * 500},
        {"json": '{"pattern":"(?=a)","items":{"const":' + "[" * 450 + "]" * 450 + "}}"},
        {"json": {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"}},
        {"grammar": "start: a\n" + "".join(f"a{i}: a{i + 1} a{i + 1}\n" for i in range(50))},
    ],
)
def test_bombs_are_refused_or_bounded(bomb: dict[str, Any]) -> None:
    """Whatever it is: an answer in its form, or a typed error, in bounded time."""
    own = session()
    start = time.monotonic()
    try:
        group = submit(own, "x", params(StructuredOutputs(**bomb), max_tokens=20))
    except RequestError:
        assert not own.engine.has_work
    else:
        (answer,) = run(own, [group])
        assert answer.finish_reason in ("stop", "length", "error")
    assert time.monotonic() - start < 60


def test_the_clock_is_kept_to_and_what_compiles_does_not_pile_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    release = threading.Event()
    build = Constraints._build

    def slow(self: Constraints, text: str, field: str, schema: str | None = None) -> Grammar:
        assert release.wait(30)
        return build(self, text, field, schema)

    monkeypatch.setattr(Constraints, "_build", slow)
    constraints = Constraints(byte_tokenizer(), VOCAB, Budget(seconds=0.05, threads=1))
    with pytest.raises(RequestError, match=r"structured_outputs.regex: .* to compile"):
        constraints.compile(CODE)
    with pytest.raises(Overloaded, match="come back"):
        constraints.compile(StructuredOutputs(regex="b"))
    release.set()
    monkeypatch.undo()
    patient = Constraints(byte_tokenizer(), VOCAB)
    assert patient.compile(CODE).text


def test_the_cache_is_bounded_and_gives_the_same() -> None:
    constraints = Constraints(byte_tokenizer(), VOCAB, Budget(cache_bytes=200_000))
    first = constraints.compile(CODE)
    assert constraints.compile(CODE) is first
    for i in range(5):
        constraints.compile(StructuredOutputs(choice=[f"c{i}"]))
    again = constraints.compile(CODE)
    assert again is not first
    assert again.text == first.text
    assert (again.follow().mask([], 5) == first.follow().mask([], 5)).all()


def test_free_text_then_a_call() -> None:
    """Lark with a lazy text: nothing binds until the trigger, and then the schema does."""
    schema = json.dumps(
        {
            "type": "object",
            "properties": {"q": {"enum": ["a", "b"]}},
            "required": ["q"],
            "additionalProperties": False,
        }
    )
    grammar = (
        f'start: (call | TEXT)\ncall: head %json {schema} "</call>"\n'
        "head[lazy]: /(.|\\n)*<call>/\nTEXT: /(.|\\n)*/\n"
    )
    follower = session().constraints.compile(StructuredOutputs(grammar=grammar)).follow()

    def allowed(text: str) -> str:
        words = follower.mask(list(text.encode()), 5)
        return "".join(chr(i) for i in range(ASCII) if words[i // 32] >> (i % 32) & 1)

    assert len(allowed("")) == ASCII
    assert len(allowed("some <cal")) == ASCII
    assert "{" in allowed("some <call>")
    assert "a" not in allowed("some <call>")
    assert allowed('some <call>{"q":"') == "ab"
