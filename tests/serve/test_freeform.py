"""Freeform tools with a grammar: what a model calls them with keeps to it, in every form of calls.

The tiny model's weights are random: what it writes of its own is noise, and so are its calls.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from test_agents import TOLD, codex, core_of, of_output, playing, streamed
from test_parse_grammar import accepts, random_answer

from ridgeline.engine.constrain.text_grammar import text_grammar
from ridgeline.model.text.chat import ChatTemplate
from ridgeline.serve.core.core import Core
from ridgeline.serve.parse.derive import format_of
from ridgeline.serve.parse.grammar import tool_grammar
from serve.model_outputs import HARMONY, TEMPLATES, calls_of, model, parse, written

# Of quotes, escapes, marks of several models, and lines.
NASTY = r"""["<\\é\n]{1,3}(?:</parameter>|<\|"\|>|</tool_call>)?[ab]\n?"""
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
    "additionalProperties": False,
}
TOOLS = {"patch": SCHEMA}


@pytest.mark.parametrize("name", [*TEMPLATES, "harmony"])
def test_whatever_a_model_writes_as_a_call_keeps_to_the_grammar(name: str) -> None:
    chance = random.Random(name)
    form = format_of(ChatTemplate(HARMONY)) if name == "harmony" else model(name)
    if name != "harmony":
        form = replace(form, reasoning=None)
    texts = {"patch": text_grammar("regex", NASTY, "tools.0.format.definition")}
    grammar = tool_grammar(form, [("patch", SCHEMA)], required=True, many=False, texts=texts)
    seen = set()
    for _ in range(24):
        answer = random_answer(grammar, chance, 400)
        if answer.startswith("<|channel|>analysis"):
            continue  # it thinks for ever
        ((called, arguments),) = calls_of(parse(form, answer, tools=TOOLS, texts=texts))
        assert called == "patch"
        assert list(arguments) == ["input"]
        assert re.fullmatch(NASTY, arguments["input"]), answer
        seen.add(arguments["input"])
    assert len(seen) > 4
    if name not in ("harmony", "lfm2", "llama 4"):  # the last two print quotes that end a text
        for text in ('"\\a', "<<\nb\n", "éa"):
            assert accepts(grammar, written(name, ("patch", {"input": text})).strip()), text
        assert not accepts(grammar, written(name, ("patch", {"input": "c"})).strip())


def test_a_call_without_its_marks_keeps_to_the_grammar_or_is_text() -> None:
    texts = {"patch": text_grammar("regex", "[ab]+", "f")}
    form = model("hermes")
    for text, is_call in (
        ('{"name": "patch", "arguments": {"input": "ab"}}', True),
        ('{"name": "patch", "arguments": {"input": "abc"}}', False),
        ('{"name": "patch", "arguments": {"input": 3}}', False),
        ('{"name": "patch", "arguments": {"input": "a", "more": "c"}}', False),
        ('{"name": "patch", "arguments": {}}', False),
    ):
        for cuts in ([], [9], [40]):
            parts = parse(form, text, list(cuts), tools=TOOLS, texts=texts)
            assert bool(calls_of(parts)) == is_call, text


def test_reasoning_that_is_not_separated_has_no_calls_in_it() -> None:
    form = model("hermes")
    call = written("hermes", ("patch", {"input": "ab"})).strip()
    text = f"<think>Hm {call}</think>\n\n"
    parts = parse(form, text + call, tools=TOOLS, separate=False)
    assert [name for name, _ in calls_of(parts)] == ["patch"]
    assert "".join(part.text for part in parts if not hasattr(part, "call_id")).startswith(text)
    inside = parse(form, text.removeprefix("<think>"), tools=TOOLS, separate=False, reasons=True)
    assert calls_of(inside) == []


def test_marks_that_are_tokens_are_not_spelled_in_a_text() -> None:
    form = replace(model("hermes"), reasoning=None)
    special = {"<tool_call>": 200, "</tool_call>": 201}
    texts = {"patch": text_grammar("regex", "[ab]+", "f")}
    grammar = tool_grammar(form, [("patch", SCHEMA)], required=False, special=special, texts=texts)
    assert accepts(grammar, "Words <tool and more")
    assert not accepts(grammar, 'x<tool_call>\n{"name": "patch", "arguments": {"input": "c"}}')


@pytest.fixture
def core() -> Iterator[Core]:
    core = core_of(TOLD.replace("{# <think> </think> #}", ""))
    yield core
    core.close()


def custom(name: str, syntax: str, definition: str) -> dict[str, Any]:
    form = {"type": "grammar", "syntax": syntax, "definition": definition}
    return {"type": "custom", "name": name, "description": "d", "format": form}


LARK = 'start: "+" line ("\\n" line)?\nline: /[xy"]{1,2}/\n'
KEPT = {"edit": re.compile(r'\+[xy"]{1,2}(\n[xy"]{1,2})?'), "rx": re.compile(r'[pq\\]{2}"?')}
OFFERED = [custom("edit", "lark", LARK), custom("rx", "regex", r'[pq\\]{2}"?')]
CHOICES: list[Any] = [
    "auto",
    "required",
    {"type": "custom", "name": "edit"},
    {"type": "custom", "name": "rx"},
    {
        "type": "allowed_tools",
        "mode": "required",
        "tools": [{"type": "custom", "name": "edit"}],
    },
]


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_calls_over_http_keep_to_their_grammars(core: Core, choice: Any) -> None:
    """Of random weights, at any temperature; streamed or not, one call or many."""

    async def play(http: httpx.AsyncClient) -> None:
        client = codex(http)
        count = 0
        for seed in range(6):
            asked: dict[str, Any] = {
                "model": "tiny",
                "input": "Go",
                "tools": OFFERED,
                "tool_choice": choice,
                "parallel_tool_calls": seed % 2 == 0,
                "temperature": (0.0, 1.0, 3.0)[seed % 3],
                "max_output_tokens": 160,
                "extra_body": {"seed": seed},
            }
            events, told = await streamed(client, asked)
            whole = await client.responses.create(**asked)
            assert of_output(told) == of_output(whole)
            calls = [item for item in whole.output if item.type == "custom_tool_call"]
            deltas: dict[str, str] = {}
            for event in events:
                if event.type == "response.custom_tool_call_input.delta":
                    deltas[event.item_id] = deltas.get(event.item_id, "") + event.delta
            assert [deltas[item.id] for item in told.output if item.type == "custom_tool_call"] == [
                call.input for call in calls
            ]
            for call in calls:
                if call.status == "completed":
                    assert KEPT[call.name].fullmatch(call.input), call.input
                    count += 1
            if choice != "auto":
                said = list(whole.output)
                if whole.status == "incomplete" and said[-1].type == "message":
                    # Cut off in what stands behind a call: it is no call's, and not lost.
                    assert "\n</tool_call>".startswith(said.pop().content[0].text)
                assert {item.type for item in said} == {"custom_tool_call"}
            if not asked["parallel_tool_calls"] and choice != "auto":
                assert len(calls) == 1
        assert choice == "auto" or count >= 6

    playing(core, play)


def test_what_cannot_be_enforced_is_refused_with_its_place(core: Core) -> None:
    async def play(http: httpx.AsyncClient) -> None:
        space = {"type": "namespace", "name": "n", "tools": [OFFERED[0]]}
        for definition in ('start: "a" missing', "start: <[1]>", 'x: "a"', "start: /(?=a)/"):
            bad = custom("bad", "lark", definition)
            for tools, place in (
                ([OFFERED[0], bad], "tools.1.format.definition"),
                ([space | {"tools": [bad]}], "tools.0.tools.0.format.definition"),
            ):
                for choice in ("auto", "required"):
                    body = {"input": "x", "tools": tools, "tool_choice": choice}
                    for more in ({}, {"stream": True}, {"background": True}):
                        answer = await http.post("/v1/responses", json=body | more)
                        if answer.status_code == 200 and more.get("background"):
                            continue  # it is told when it is looked at
                        assert answer.status_code == 400, answer.text
                        assert answer.json()["error"]["param"] == place
        body = {"input": "x", "tools": [custom("b", "regex", "[z-a]")]}
        answer = await http.post("/v1/responses", json=body)
        assert answer.json()["error"]["param"] == "tools.0.format.definition"
        assert core.llm.session.engine.state.requests == {}

    playing(core, play)


def test_an_answer_in_a_form_is_no_call(core: Core) -> None:
    """What looks like a call is the text that was asked for."""
    call = {"name": "edit", "arguments": {"input": "free"}}
    schema = {"const": call}

    async def play(http: httpx.AsyncClient) -> None:
        answer: Any = await codex(http).responses.create(
            model="tiny",
            input="x",
            tools=OFFERED,  # type: ignore[arg-type]
            text={"format": {"type": "json_schema", "name": "n", "schema": schema}},
            max_output_tokens=120,
        )
        (item,) = answer.output
        assert item.type == "message"
        assert json.loads(item.content[0].text) == call

    playing(core, play)
