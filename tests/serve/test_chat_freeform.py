"""Freeform tools in chat completions, with OpenAI's own client.

The tiny model's weights are random: what it writes of its own is noise, and so are its calls.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from test_agents import TOLD, codex, core_of, playing

from ridgeline.serve.core.core import Core
from ridgeline.serve.core.events import (
    AnswerEnd,
    AnswerEvent,
    TextDelta,
    ToolCallArguments,
    ToolCallBegin,
)
from ridgeline.serve.openai.chat_answer import ChatBuilder

LARK = 'start: "+" line ("\\n" line)?\nline: /[xy"]{1,2}/\n'
KEPT = {"edit": re.compile(r'\+[xy"]{1,2}(\n[xy"]{1,2})?'), "rx": re.compile(r'[pq\\]{2}"?')}


def custom(name: str, syntax: str, definition: str) -> dict[str, Any]:
    grammar = {"syntax": syntax, "definition": definition}
    form = {"type": "grammar", "grammar": grammar}
    return {"type": "custom", "custom": {"name": name, "description": "d", "format": form}}


OFFERED = [custom("edit", "lark", LARK), custom("rx", "regex", r'[pq\\]{2}"?')]
LOOK = {
    "type": "function",
    "function": {
        "name": "look",
        "parameters": {
            "type": "object",
            "properties": {"at": {"enum": ["a", "b"]}},
            "required": ["at"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture
def core() -> Iterator[Core]:
    core = core_of(TOLD.replace("{# <think> </think> #}", ""))
    yield core
    core.close()


def called(name: str) -> dict[str, Any]:
    return {"type": "custom", "custom": {"name": name}}


CHOICES: list[Any] = [
    "auto",
    "required",
    called("edit"),
    called("rx"),
    {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [called("edit")]}},
]


async def streamed(client: Any, asked: dict[str, Any]) -> list[dict[str, Any]]:
    """The calls that the chunks of a stream come to."""
    found: list[dict[str, Any]] = []
    async for chunk in await client.chat.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            for piece in choice.delta.tool_calls or ():
                given = piece.to_dict()
                if given["index"] == len(found):
                    found.append({name: given[name] for name in given if name != "index"})
                    continue
                assert set(given) in ({"index", "custom"}, {"index", "function"})
                kind = "custom" if "custom" in given else "function"
                for name, text in given[kind].items():
                    found[given["index"]][kind][name] += text
    return found


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_calls_keep_to_their_grammars_streamed_or_not(core: Core, choice: Any) -> None:
    async def play(http: httpx.AsyncClient) -> None:
        client: Any = codex(http)
        count = 0
        for seed in range(6):
            asked: dict[str, Any] = {
                "model": "tiny",
                "messages": [{"role": "user", "content": "Go"}],
                "tools": [*OFFERED, LOOK],
                "tool_choice": choice,
                "parallel_tool_calls": seed % 2 == 0,
                "temperature": (0.0, 1.0, 3.0)[seed % 3],
                "seed": seed,
                "max_tokens": 160,
            }
            whole = (await client.chat.completions.create(**asked)).choices[0]
            calls = whole.message.tool_calls or []
            assert await streamed(client, asked) == [call.to_dict() for call in calls]
            if whole.finish_reason == "length":
                continue
            assert (whole.finish_reason == "tool_calls") == bool(calls)
            for call in calls:
                if call.type == "custom":
                    assert KEPT[call.custom.name].fullmatch(call.custom.input)
                    count += 1
                else:
                    assert json.loads(call.function.arguments)["at"] in ("a", "b")
        assert choice in ("auto", "required") or count >= 4

    playing(core, play)


def test_a_conversation_goes_on_behind_a_freeform_call(core: Core) -> None:
    """As behind a call of the function that the model knows it as."""
    text = '+x"\n\\y'

    async def play(http: httpx.AsyncClient) -> None:
        function = {"name": "edit", "arguments": json.dumps({"input": text})}
        answers = []
        for call in (
            {"id": "c1", "type": "custom", "custom": {"name": "edit", "input": text}},
            {"id": "c1", "type": "function", "function": function},
        ):
            body = {
                "messages": [
                    {"role": "user", "content": "Go"},
                    {"role": "assistant", "content": None, "tool_calls": [call]},
                    {"role": "tool", "tool_call_id": "c1", "content": "Done"},
                ],
                "tools": OFFERED,
                "temperature": 0,
                "max_tokens": 8,
                "return_token_ids": True,
            }
            answer = (await http.post("/v1/chat/completions", json=body)).json()
            answers.append((answer["prompt_token_ids"], answer["choices"][0]["token_ids"]))
        assert answers[0] == answers[1]
        assert json.dumps(text)[1:-1] in bytes(answers[0][0]).decode("utf-8", "replace")

    playing(core, play)


def test_what_is_wrong_with_it_is_told_with_its_place(core: Core) -> None:
    base = {"messages": [{"role": "user", "content": "x"}]}
    bare = {"type": "custom", "custom": {"name": "f", "format": {"type": "grammar"}}}

    def said(call: dict[str, Any]) -> dict[str, Any]:
        entry = {"role": "assistant", "content": None, "tool_calls": [{"id": "c", **call}]}
        return {"messages": [*base["messages"], entry]}

    wrong: list[tuple[dict[str, Any], str]] = [
        (
            base | {"tools": [OFFERED[0], custom("b", "lark", "start: x")]},
            "tools.1.custom.format.grammar.definition",
        ),
        (
            base | {"tools": [custom("b", "regex", "[z-a]")], "tool_choice": "required"},
            "tools.0.custom.format.grammar.definition",
        ),
        (base | {"tools": [bare]}, "tools.0.custom.format.grammar"),
        (base | {"tools": [{"type": "custom"}]}, "tools.0.custom"),
        (base | {"tools": OFFERED, "tool_choice": called("no")}, "tool_choice"),
        (said({"type": "custom"}), "messages.1.tool_calls.0.custom"),
        (said({"type": "function"}), "messages.1.tool_calls.0.function"),
    ]

    async def play(http: httpx.AsyncClient) -> None:
        for body, place in wrong:
            answer = await http.post("/v1/chat/completions", json=body)
            assert answer.status_code == 400, answer.text
            assert answer.json()["error"]["param"] == place
        assert core.llm.session.engine.state.requests == {}

    playing(core, play)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ('{"input": "a\\u00e9\\n"}', "aé\n"),
        ('{"input": ""}', ""),
        ('{"other": 3}', '{"other": 3}'),
        ('{"input": "cut', "cut"),
        ('{"input": "a", "more": 1}', 'a", "more": 1}'),
    ],
)
def test_a_calls_text_is_told_whatever_was_written(arguments: str, told: str) -> None:
    """However it comes in pieces; between calls of functions, and in several answers at once."""
    ends = [AnswerEnd(index, "tool_calls") for index in range(2)]
    for size in (1, 3, len(arguments)):
        pieces = [arguments[at : at + size] for at in range(0, len(arguments), size)]
        events: list[AnswerEvent] = []
        for number, name in enumerate(("f", "g", "f")):
            events += [ToolCallBegin(index, number, f"c{index}{number}", name) for index in (0, 1)]
            for piece in pieces:
                events += [ToolCallArguments(index, number, piece) for index in range(2)]
        builder = ChatBuilder("id", "m", 2, False, freeform=frozenset({"f"}))
        folded = ChatBuilder("id", "m", 2, False, freeform=frozenset({"f"}))
        sent = "".join(map(builder.said, [TextDelta(0, "so"), *events, *ends]))
        for event in [TextDelta(0, "so"), *events, *ends]:
            folded.take(event)
        for choice in folded.whole()["choices"]:
            first, second, third = choice["message"]["tool_calls"]
            assert first["custom"] == third["custom"] == {"name": "f", "input": told}
            assert second["function"] == {"name": "g", "arguments": arguments}
        inputs: dict[tuple[int, int], str] = {}
        for line in sent.split("\n\n")[:-1]:
            (choice,) = json.loads(line.removeprefix("data: "))["choices"]
            for call in choice["delta"].get("tool_calls", ()):
                place = choice["index"], call["index"]
                inputs[place] = inputs.get(place, "") + call.get("custom", {}).get("input", "")
        assert inputs[0, 0] == inputs[1, 2] == told
