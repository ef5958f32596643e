"""The grammar of calls lets through what the template prints and the parser reads, and no more."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import llguidance
import pytest

from ridgeline.errors import RequestError
from ridgeline.model.text.chat import ChatTemplate
from ridgeline.serve.parse.derive import format_of
from ridgeline.serve.parse.format import ModelFormat
from ridgeline.serve.parse.grammar import tool_grammar
from serve.model_outputs import (
    HARMONY,
    SCHEMAS,
    SHORT,
    TEMPLATES,
    WEATHER,
    calls_of,
    model,
    parse,
    written,
)

TOOLS = list(SCHEMAS.items())
BYTES = llguidance.LLTokenizer("byte")


def matcher(grammar: str) -> llguidance.LLMatcher:
    found = llguidance.LLMatcher(BYTES, grammar)
    assert not found.get_error(), found.get_error()
    return found


def accepts(grammar: str, text: str) -> bool:
    """Whether the whole text is a sentence of the grammar."""
    found = matcher(grammar)
    ids = list(text.encode())
    return found.try_consume_tokens(ids) == len(ids) and found.is_accepting()


def random_answer(grammar: str, chance: random.Random, most: int = 4000) -> str:
    """Bytes drawn at random among those that the grammar allows."""
    found, answer = matcher(grammar), bytearray()
    while not found.is_stopped() and len(answer) < most:
        mask = found.compute_bitmask()
        allowed = [i for i in range(BYTES.vocab_size) if mask[i // 8] >> (i % 8) & 1]
        # What a model would write: letters, and the shortest way out.
        plain = [i for i in allowed if 32 <= i < 127 or i == BYTES.eos_token]
        token = chance.choice(plain or allowed)
        if BYTES.eos_token in allowed:
            break
        assert found.consume_token(token)
        answer.append(token)
    return answer.decode("utf-8", "replace")


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_a_template_prints_is_allowed(name: str) -> None:
    form = model(name)
    required = tool_grammar(form, TOOLS, required=True)
    free = tool_grammar(form, TOOLS, required=False)
    text = written(name, WEATHER).strip()
    assert accepts(required, text)
    assert accepts(free, text)
    assert not accepts(required, "Words.")
    assert accepts(free, "Words <and> more.")
    assert not accepts(required, text.replace("get_weather", "no_such_tool"))
    assert not accepts(free, text.replace("get_weather", "no_such_tool"))
    if form.tools is not None and form.tools.many:
        two = written(name, SHORT, WEATHER).strip()
        assert accepts(required, two)
        assert accepts(free, two)
        assert not accepts(tool_grammar(form, TOOLS, required=True, many=False), two)
        assert not accepts(tool_grammar(form, TOOLS, required=False, many=False), two)


@pytest.mark.parametrize("name", TEMPLATES)
def test_whatever_the_grammar_lets_a_model_write_is_a_call(name: str) -> None:
    chance = random.Random(name)
    tools: Mapping[str, Any] = {
        "pick": {
            "type": "object",
            "properties": {
                "color": {"enum": ["red", "green"]},
                "count": {"type": "integer", "minimum": 0, "maximum": 9},
                "on": {"type": "boolean"},
            },
            "required": ["count"],
        }
    }
    form = replace(model(name), reasoning=None)
    grammar = tool_grammar(form, list(tools.items()), required=True, many=False)
    for _ in range(6):
        text = random_answer(grammar, chance)
        parts = parse(form, text, tools=tools)
        ((called, arguments),) = calls_of(parts)
        assert called == "pick", text
        assert set(arguments) <= {"color", "count", "on"}
        assert arguments["count"] in range(10)
        assert arguments.get("color", "red") in ("red", "green")
        assert arguments.get("on", True) in (True, False)


def test_reasoning_comes_before_what_is_required() -> None:
    form = model("hermes")
    call = written("hermes", SHORT).strip()
    grammar = tool_grammar(form, TOOLS, required=True)
    assert accepts(grammar, "<think>\nWell: <tool_call> would do.\n</think>\n\n" + call)
    assert not accepts(grammar, "<think>\nWell.\n</think>\n\nWords.")
    inside = tool_grammar(form, TOOLS, required=True, reasons=True)
    assert accepts(inside, "Well.\n</think>\n\n" + call)
    assert not accepts(inside, call)


def test_calls_of_gpt_oss() -> None:
    form: ModelFormat = format_of(ChatTemplate(HARMONY))
    call = (
        "<|channel|>analysis<|message|>Hmm.<|end|><|start|>assistant<|channel|>commentary "
        'to=functions.get_weather <|constrain|>json<|message|>{"city": "Ulm"}'
    )
    required = tool_grammar(form, TOOLS, required=True)
    assert accepts(required, call)
    assert not accepts(required, "<|channel|>final<|message|>Hello")
    assert not accepts(required, call.replace("city", "town"))
    free = tool_grammar(form, TOOLS, required=False)
    assert accepts(free, call)
    assert accepts(free, "<|channel|>final<|message|>Hello")


def test_special_tokens_are_written_by_their_ids() -> None:
    grammar = tool_grammar(model("kimi"), TOOLS, required=True, special={"<|tool_call_begin|>": 97})
    assert "<[97]>" in grammar
    assert json.dumps("<|tool_call_begin|>") not in grammar


def test_what_tags_cannot_hold_is_refused_with_its_place() -> None:
    schema = {"type": "object", "properties": {"day": {"type": "string", "pattern": "^[0-9]+$"}}}
    with pytest.raises(RequestError, match="/f/properties/day/pattern"):
        tool_grammar(model("qwen3-coder"), [("f", schema)], required=True)
    assert accepts(
        tool_grammar(model("hermes"), [("f", schema)], required=True),
        '<tool_call>\n{"name": "f", "arguments": {"day": "12"}}\n</tool_call>',
    )


def test_arguments_in_braces_keep_to_their_schema() -> None:
    schema = {
        "type": "object",
        "properties": {
            "unit": {"enum": ["C", 7, None]},
            "city": {"type": "string"},
            "list": {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 3},
            "deep": {"properties": {"b": {"type": "boolean"}}, "required": ["b"]},
            "some": {"anyOf": [{"type": ["null", "number"], "minimum": 2}, {"type": "string"}]},
        },
        "required": ["unit", "city"],
    }
    grammar = tool_grammar(model("gemma 4"), [("f", schema)], required=True)
    q = '<|"|>'

    def held(arguments: str) -> bool:
        return accepts(grammar, f"<|tool_call>call:f{{{arguments}}}<tool_call|>")

    assert held(f"city:{q}a{{,}}{q},unit:7")
    assert held(f"city:{q}{q},deep:{{b:true}},list:[1,-2,3],some:null,unit:{q}C{q}")
    assert held(f"city:{q}x{q},some:{q}x{q},unit:null")
    for wrong in (
        f"unit:7,city:{q}a{q}",  # the template goes by the alphabet
        f"city:{q}a{q}",
        "city:a,unit:7",
        f"city:{q}a{q},unit:8",
        f"city:{q}a{q},list:[],unit:7",
        f"city:{q}a{q},list:[1,2,3,4],unit:7",
        f"city:{q}a{q},deep:{{}},unit:7",
        f"city:{q}a{q},some:1,unit:7",
        f"city:{q}a{q},other:1,unit:7",
    ):
        assert not held(wrong), wrong


@pytest.mark.parametrize(
    ("part", "place"),
    [
        ({"type": "string", "pattern": "a"}, "/properties/a/pattern"),
        ({"type": "array", "uniqueItems": True}, "/properties/a/uniqueItems"),
        ({"type": "array", "items": {"minLength": 2}}, "/properties/a/items/minLength"),
        ({"$ref": "#/$defs/x"}, "/properties/a/$ref"),
        ({"type": "object", "properties": {"b c": {}}}, "/properties/a/properties/b c"),
        ({"enum": ['<|"|>']}, "/properties/a/enum"),
    ],
)
def test_what_braces_cannot_hold_is_refused_with_its_place(
    part: dict[str, Any], place: str
) -> None:
    tools = [("f", {"type": "object", "properties": {"a": part}})]
    with pytest.raises(RequestError) as refused:
        tool_grammar(model("gemma 4"), tools, required=True)
    assert refused.value.field == f"tools: f{place}"
