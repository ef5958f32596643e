"""Sessions of coding agents: Codex CLI's over /v1/responses, Claude Code's over /v1/messages.

The bodies have the fields of the agents' sources and of requests that their users have published.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import anthropic
import httpx
import httpx2
import openai
import pytest
from tiny import client_of, settled, tiny_core

from ridgeline.model.text.chat import ChatTemplate
from ridgeline.serve.app import build_app
from ridgeline.serve.core.core import Core
from ridgeline.serve.core.events import (
    AnswerEnd,
    AnswerEvent,
    ReasoningDelta,
    TextDelta,
    ToolCallArguments,
    ToolCallBegin,
)
from ridgeline.serve.core.freeform import FreeformInput
from ridgeline.serve.core.sealed import seal, unseal
from ridgeline.serve.responses.bodies import CustomTool
from ridgeline.serve.responses.response import ResponseBuilder
from ridgeline.serve.responses.tools import offered_of
from serve.tool_server import TEMPLATE

# The definitions are long, and the tiny model's context is short.
TOLD = TEMPLATE.replace(
    "{{ tools | tojson }}", "{% for t in tools %}{{ t.function.name }} {% endfor %}"
)
# The same, of a model that always thinks first.
THINKING = TOLD.replace("<assistant>{% endif %}", "<assistant><think>{% endif %}").replace(
    "{{ m.content or '' }}",
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}"
    "{{ m.content or '' }}",
)
SHELL = {
    "type": "function",
    "name": "shell",
    "description": "Runs a command.",
    "strict": False,
    "parameters": {
        "type": "object",
        "properties": {"command": {"enum": ["ls", "pwd"]}},
        "required": ["command"],
        "additionalProperties": False,
    },
}
PATCH = {
    "type": "custom",
    "name": "apply_patch",
    "description": "Changes files.",
    "format": {"type": "grammar", "syntax": "regex", "definition": '[ab"]{3}\n?'},
}
MCP = {"type": "namespace", "name": "mcp__docs", "description": "Docs.", "tools": [SHELL]}
CODEX: dict[str, Any] = {
    "model": "tiny",
    "instructions": "You are a coding agent.",
    "input": [
        {
            "type": "message",
            "role": "developer",
            "content": [{"type": "input_text", "text": "Read only."}],
        },
        {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": "<environment_context/>"}],
        },
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Look"}]},
    ],
    "tools": [SHELL, PATCH, MCP],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "reasoning": {"summary": "auto"},
    "store": False,
    "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": "0199-a",
    "extra_body": {"client_metadata": {"originator": "codex_cli_rs"}},
    "max_output_tokens": 120,
    "temperature": 0,
}
CLAUDE: dict[str, Any] = {
    "model": "tiny",
    "max_tokens": 48,
    "extra_body": {"temperature": 0},
    "system": [
        {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.9; cch=a1b2c;"},
        {
            "type": "text",
            "text": "You are Claude Code.",
            "cache_control": {"type": "ephemeral", "scope": "global"},
        },
    ],
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "<system-reminder/>"},
                {"type": "text", "text": "Look", "cache_control": {"type": "ephemeral"}},
            ],
        }
    ],
    "tools": [
        {
            "name": "Bash",
            "description": "Runs a command.",
            "input_schema": SHELL["parameters"],
            "cache_control": {"type": "ephemeral", "ttl": "1h"},
        }
    ],
    "metadata": {"user_id": "user_0_account__session_1"},
    "thinking": {"type": "adaptive"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "betas": ["claude-code-20250219", "interleaved-thinking-2025-05-14"],
}


def core_of(template: str, **options: Any) -> Core:
    core = tiny_core(**options)
    core.llm.tokenizer._known[125] = b"}"  # see tool_server
    core.llm.prompts._template = ChatTemplate(template)
    return core


@pytest.fixture
def core() -> Iterator[Core]:
    core = core_of(TOLD)
    yield core
    core.close()


@pytest.fixture
def thinking() -> Iterator[Core]:
    core = core_of(THINKING)
    yield core
    core.close()


def playing(core: Core, play: Callable[[httpx.AsyncClient], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        async with client_of(build_app(core)) as http:
            await play(http)
            await settled(core)

    asyncio.run(run())


def over(http: httpx.AsyncClient) -> Any:
    """The official clients' own kind of HTTP client, to the same application."""
    transport: Any = httpx2.ASGITransport(http._transport.app)  # type: ignore[attr-defined]
    return httpx2.AsyncClient(transport=transport, timeout=120)


def codex(http: httpx.AsyncClient) -> openai.AsyncOpenAI:
    url = "http://localhost/v1"
    return openai.AsyncOpenAI(base_url=url, api_key="x", http_client=over(http), max_retries=0)


def claude(http: httpx.AsyncClient) -> anthropic.AsyncAnthropic:
    url = "http://localhost"
    return anthropic.AsyncAnthropic(
        base_url=url, api_key="x", http_client=over(http), max_retries=0
    )


async def streamed(client: openai.AsyncOpenAI, asked: dict[str, Any]) -> tuple[list[Any], Any]:
    """The events, and the response that the last one has."""
    events = [event async for event in await client.responses.create(**asked, stream=True)]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    return events, events[-1].response


def of_output(response: Any) -> list[dict[str, Any]]:
    """Items without what differs from one response to the next."""
    return [
        {name: value for name, value in item.to_dict().items() if name not in ("id", "call_id")}
        for item in response.output
    ]


def test_a_session_of_codex(core: Core) -> None:
    async def play(http: httpx.AsyncClient) -> None:
        client = codex(http)
        for choice in ("auto", {"type": "custom", "name": "apply_patch"}):
            asked = CODEX | {"tool_choice": choice}
            events, told = await streamed(client, asked)
            whole = await client.responses.create(**asked)
            assert of_output(told) == of_output(whole)
            assert whole.store is False
        kinds = [event.type for event in events]
        assert kinds[:3] == [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
        ]
        assert kinds[-3:] == [
            "response.custom_tool_call_input.done",
            "response.output_item.done",
            "response.completed",
        ]
        (patch,) = whole.output
        assert patch.type == "custom_tool_call"
        assert len(patch.input.rstrip("\n")) == 3
        deltas = [e.delta for e in events if e.type == "response.custom_tool_call_input.delta"]
        assert "".join(deltas) == patch.input == events[-3].input
        called: Any = await client.responses.create(
            **CODEX | {"tool_choice": {"type": "function", "name": "mcp__docs.shell"}}
        )
        (call,) = called.output
        assert (call.namespace, call.name) == ("mcp__docs", "shell")
        said = [item.to_dict() for item in (patch, call)]
        history = [
            *CODEX["input"],
            *({name: value for name, value in one.items() if name != "id"} for one in said),
            {
                "type": "custom_tool_call_output",
                "call_id": patch.call_id,
                "output": "Done",
            },
            {
                "type": "function_call_output",
                "call_id": call.call_id,
                "output": [{"type": "input_text", "text": "a.txt"}],
            },
        ]
        second = CODEX | {"input": history}
        events, told = await streamed(client, second)
        assert told.status in ("completed", "incomplete")
        count = await client.responses.input_tokens.count(
            **{
                name: second[name]
                for name in ("model", "instructions", "input", "tools", "parallel_tool_calls")
            }
        )
        assert count.input_tokens == told.usage.input_tokens

    playing(core, play)


def test_codex_gets_reasoning_to_keep(thinking: Core) -> None:
    """Sealed and sent back it is the same prompt as in the clear."""

    async def play(http: httpx.AsyncClient) -> None:
        client = codex(http)
        events, told = await streamed(client, CODEX)
        assert of_output(told) == of_output(await client.responses.create(**CODEX))
        item = told.output[0]
        text = item.summary[0].text
        assert item.content is None
        assert unseal(item.encrypted_content) == text
        assert told.reasoning.summary == "detailed"
        kind = "response.reasoning_summary_text.delta"
        assert "".join(event.delta for event in events if event.type == kind) == text
        in_the_clear: Any = await client.responses.create(
            **CODEX | {"reasoning": None, "include": None}
        )
        assert in_the_clear.output[0].content[0].text == text
        counts = set()
        for way in (
            {"encrypted_content": item.encrypted_content},
            {"content": [{"type": "reasoning_text", "text": text}]},
            {"summary": [{"type": "summary_text", "text": text}]},
        ):
            thought = {"type": "reasoning", "id": "rs_1", "summary": []} | way
            given: Any = [*CODEX["input"], thought, {"role": "user", "content": "And?"}]
            count = await client.responses.input_tokens.count(input=given)
            counts.add(count.input_tokens)
        assert len(counts) == 1
        without = await client.responses.input_tokens.count(input=given[:3] + given[4:])
        assert counts.pop() >= without.input_tokens + len(text)

    playing(thinking, play)


FOREIGN = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAAB"}
HINTS: list[tuple[dict[str, Any], str]] = [
    ({"text": {"verbosity": "low"}}, "text.verbosity"),
    ({"reasoning": {"effort": "medium"}}, "reasoning.effort"),
    ({"reasoning": {"summary": "concise"}}, "reasoning.summary"),
    ({"tools": [{"type": "web_search", "external_web_access": False}]}, "tools.0"),
    ({"input": [FOREIGN, {"role": "user", "content": "x"}]}, "input.0.encrypted_content"),
    ({"include": ["web_search_call.action.sources"]}, "include.0"),
]
OF_CLAUDE: list[tuple[dict[str, Any], str]] = [
    ({"output_config": {"effort": "high"}}, "output_config.effort"),
    (
        {"context_management": {"edits": [{"type": "compact_20260112"}]}},
        "context_management.edits.0",
    ),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0"),
]


def test_what_the_model_has_not_is_refused_or_listed() -> None:
    strict, lenient = core_of(TOLD), core_of(TOLD, lenient=True)

    async def refuse(http: httpx.AsyncClient) -> None:
        for change, what in HINTS:
            body = {"input": "x", "max_output_tokens": 2} | change
            answer = await http.post("/v1/responses", json=body)
            assert answer.status_code == 400
            place = answer.json()["error"]["param"].replace("[", ".").replace("]", "")
            assert place.startswith(what.removesuffix(".0")), place
        for change, what in OF_CLAUDE:
            body = {"model": "tiny", "max_tokens": 2, "messages": CLAUDE["messages"]} | change
            answer = await http.post("/v1/messages", json=body)
            assert answer.status_code == 400
            assert what in answer.text

    async def listed(http: httpx.AsyncClient) -> None:
        for change, what in HINTS:
            body = {"input": "x", "max_output_tokens": 2} | change
            answer = await http.post("/v1/responses", json=body)
            assert answer.status_code == 200, answer.text
            assert answer.json()["ignored_fields"] == [what]
        for change, what in OF_CLAUDE:
            body = {"model": "tiny", "max_tokens": 2, "messages": CLAUDE["messages"]} | change
            answer = await http.post("/v1/messages", json=body)
            assert answer.json()["ignored_fields"] == [what]
            answer = await http.post("/v1/messages", json=body | {"stream": True})
            assert answer.headers["ridgeline-ignored-fields"] == what

    playing(strict, refuse)
    playing(lenient, listed)
    strict.close()
    lenient.close()


def test_a_session_of_claude_code() -> None:
    core = core_of(TOLD.replace("{# <think> </think> #}", ""))  # it might think for ever

    async def play(http: httpx.AsyncClient) -> None:
        client = claude(http)
        whole = await client.beta.messages.create(**CLAUDE)
        assert whole.context_management is not None
        assert whole.context_management.applied_edits == []
        named = CLAUDE | {"tool_choice": {"type": "tool", "name": "Bash"}, "max_tokens": 256}
        called = await client.beta.messages.create(**named)
        async with client.beta.messages.stream(**named) as stream:
            folded = await stream.get_final_message()
        *_, call = called.content
        assert call.type == "tool_use"
        assert [b.to_dict() for b in folded.content] == [b.to_dict() for b in called.content]
        history = [
            *CLAUDE["messages"],
            {"role": "assistant", "content": [call.to_dict()]},
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": call.id,
                        "content": [{"type": "text", "text": "a.txt"}],
                        "is_error": False,
                        "cache_control": {"type": "ephemeral"},
                    }
                ],
            },
        ]
        other = [CLAUDE["system"][0] | {"text": "x-anthropic-billing-header: cch=fffff;"}]
        second = CLAUDE | {"messages": history, "system": [*other, CLAUDE["system"][1]]}
        after = await client.beta.messages.create(**second)
        # The billing line, another one, is no part of either prompt.
        assert (after.usage.cache_read_input_tokens or 0) >= 64
        asked = {name: second[name] for name in ("model", "system", "messages", "tools")}
        count = await client.beta.messages.count_tokens(**asked)
        usage = after.usage
        read = usage.cache_read_input_tokens or 0
        assert count.input_tokens == usage.input_tokens + read

    playing(core, play)
    core.close()


def test_thinking_is_kept_sealed_and_cleared(thinking: Core) -> None:
    async def play(http: httpx.AsyncClient) -> None:
        client = claude(http)
        plain = CLAUDE | {"tools": []}
        seen = await client.beta.messages.create(**plain)
        hidden = plain | {"thinking": {"type": "adaptive", "display": "omitted"}}
        omitted = await client.beta.messages.create(**hidden)
        thought: Any = seen.content[0]
        block: Any = omitted.content[0]
        assert block.thinking == ""
        assert unseal(block.signature) == thought.thinking
        async with client.beta.messages.stream(**hidden) as stream:
            folded: Any = await stream.get_final_message()
        assert [b.to_dict() for b in folded.content] == [b.to_dict() for b in omitted.content]
        counts = []
        last = {"role": "user", "content": "And?"}
        for one in (thought.to_dict(), block.to_dict()):
            turn = {"role": "assistant", "content": [one, {"type": "text", "text": "Yes"}]}
            history: Any = [*CLAUDE["messages"], turn, last, turn, last]
            count = await client.beta.messages.count_tokens(model="tiny", messages=history)
            counts.append(count.input_tokens)
        assert counts[0] == counts[1]
        keep = {"type": "thinking_turns", "value": 1}
        edits = {"edits": [{"type": "clear_thinking_20251015", "keep": keep}]}
        edited: Any = plain | {"messages": history, "context_management": edits}
        cleared = await client.beta.messages.create(**edited)
        assert cleared.context_management is not None
        (done,) = cleared.context_management.applied_edits
        assert done.cleared_input_tokens >= len(thought.thinking)
        count = await client.beta.messages.count_tokens(
            model="tiny", messages=history, context_management=edited["context_management"]
        )
        assert count.context_management is not None
        assert count.context_management.original_input_tokens == counts[0]
        assert counts[0] - count.input_tokens == done.cleared_input_tokens
        foreign = {"type": "thinking", "thinking": "", "signature": "EqQB"}
        turn = {"role": "assistant", "content": [foreign, {"type": "text", "text": "Yes"}]}
        history = [*CLAUDE["messages"], turn, last]
        with pytest.raises(anthropic.BadRequestError, match=r"signature"):
            await client.beta.messages.count_tokens(model="tiny", messages=history)

    playing(thinking, play)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ('{"input": "a\\n\\u00e9\\ud83d\\ude00\\"b\\\\"}', 'a\né😀"b\\'),
        ('{"input": ""}', ""),
        ('{"input": "cut \\u00', "cut \\u00"),
        ('{"other": 1}', '{"other": 1}'),
        ('{"inp', '{"inp'),
        ('{"input": "x", "more": 1}', 'x", "more": 1}'),
    ],
)
def test_a_freeform_input_is_the_same_however_it_is_cut(arguments: str, text: str) -> None:
    for size in (1, 2, 3, 7, 100):
        reader = FreeformInput()
        pieces = [arguments[at : at + size] for at in range(0, len(arguments), size)]
        assert "".join(map(reader.feed, pieces)) + reader.finish() == text


def test_events_of_thinking_and_freeform_calls_in_their_order() -> None:
    offered = offered_of([CustomTool.model_validate(PATCH)], None)
    builder = ResponseBuilder(
        "resp_1", {}, wants_logprobs=False, offered=offered, summarizes=True, seals=True
    )
    answer: list[AnswerEvent] = [
        ReasoningDelta(0, "Hm"),
        ReasoningDelta(0, "."),
        TextDelta(0, "I do."),
        ToolCallBegin(0, 0, "call_1", "apply_patch"),
        ToolCallArguments(0, 0, json.dumps({"input": 'a"b\n'})),
        AnswerEnd(0, "tool_calls"),
    ]
    events = [event for one in answer for event in builder.take(one)]
    assert [event["type"].removeprefix("response.") for event in events] == [
        "output_item.added",
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "custom_tool_call_input.delta",
        "custom_tool_call_input.done",
        "output_item.done",
    ]
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == builder.response["output"]
    assert done[0]["encrypted_content"] == seal("Hm.")
    assert done[2]["input"] == 'a"b\n'
