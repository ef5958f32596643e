"""Long conversations made short, as Codex asks for it, and its shell; with OpenAI's own client.

The tiny model's weights are random: its summaries are noise, but they are its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from test_agents import THINKING, TOLD, codex, core_of, playing, streamed

from ridgeline.serve.core.core import Core
from ridgeline.serve.core.events import (
    AnswerEnd,
    AnswerEvent,
    TextDelta,
    ToolCallArguments,
    ToolCallBegin,
)
from ridgeline.serve.core.sealed import seal, unseal
from ridgeline.serve.responses.bodies import LocalShellTool
from ridgeline.serve.responses.compaction import remembered
from ridgeline.serve.responses.items import messages_of
from ridgeline.serve.responses.response import ResponseBuilder
from ridgeline.serve.responses.tools import offered_of

HISTORY: list[Any] = [
    {"type": "message", "role": "developer", "content": "Be brief."},
    {"type": "message", "role": "user", "content": "Look"},
    {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c1", "output": "a.txt"},
    {"type": "message", "role": "assistant", "content": "One file."},
    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "And?"}]},
]
LOCAL_SHELL = LocalShellTool(type="local_shell")
TRIGGER: Any = {"type": "compaction_trigger"}


@pytest.fixture(params=[TOLD, THINKING], ids=["plain", "thinking"])
def core(request: pytest.FixtureRequest) -> Iterator[Core]:
    core = core_of(request.param, context_length=1024)
    yield core
    core.close()


async def counted(http: httpx.AsyncClient, items: list[Any]) -> int:
    body = {"model": "tiny", "input": items, "instructions": "You code."}
    answer = await http.post("/v1/responses/input_tokens", json=body)
    assert answer.status_code == 200, answer.text
    return int(answer.json()["input_tokens"])


def test_a_conversation_is_compacted_and_gone_on_with(core: Core) -> None:
    async def play(http: httpx.AsyncClient) -> None:
        client = codex(http)
        asked: dict[str, Any] = {
            "model": "tiny",
            "input": HISTORY,
            "instructions": "You code.",
            "extra_body": {"tools": [{"type": "local_shell"}], "parallel_tool_calls": True},
        }
        made = await client.responses.compact(**asked)
        assert made.object == "response.compaction"
        *kept, item = [one.model_dump(exclude_unset=True, warnings=False) for one in made.output]
        assert [(one["role"], one["content"][0]["text"]) for one in kept] == [
            ("developer", "Be brief."),
            ("user", "Look"),
            ("user", "And?"),
        ]
        assert item["type"] == "compaction"
        summary = unseal(item["encrypted_content"])
        assert summary
        assert made.usage.output_tokens >= 1
        same = await client.responses.compact(**asked)
        last: Any = same.output[-1]
        assert last.encrypted_content == item["encrypted_content"]
        plain = [
            *({name: one[name] for name in ("type", "role", "content")} for one in kept),
            {"type": "message", "role": "assistant", "content": remembered(seal(summary))},
        ]
        new = {"type": "message", "role": "user", "content": "Go on"}
        assert await counted(http, [*kept, item, new]) == await counted(http, [*plain, new])
        again = await client.responses.compact(model="tiny", input=[*kept, item, new])
        assert [one.type for one in again.output] == ["message"] * 4 + ["compaction"]

    playing(core, play)


def test_a_trigger_in_the_input_is_answered_by_one_item(core: Core) -> None:
    """Streamed or not; what is stored so is gone on from without what it stands for."""

    async def play(http: httpx.AsyncClient) -> None:
        client = codex(http)
        asked: dict[str, Any] = {
            "model": "tiny",
            "input": [*HISTORY, TRIGGER],
            "instructions": "You code.",
            "temperature": 0,
            "tools": [{"type": "local_shell"}],
            "max_output_tokens": 40,
        }
        events, told = await streamed(client, asked)
        assert [event.type for event in events] == [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.output_item.done",
            "response.completed",
        ]
        (item,) = told.output
        assert item.type == "compaction"
        assert events[3].item == item
        whole = await client.responses.create(**asked)
        assert [one.encrypted_content for one in whole.output] == [item.encrypted_content]  # type: ignore[union-attr]
        assert whole.usage is not None
        assert whole.usage.input_tokens > await counted(http, HISTORY)
        chained = {"previous_response_id": told.id, "input": "Go on"}
        body = {"model": "tiny", "instructions": "You code.", **chained}
        answer = (await http.post("/v1/responses/input_tokens", json=body)).json()
        short = [HISTORY[0], HISTORY[1], HISTORY[5], item.to_dict()]
        new = {"role": "user", "content": "Go on"}
        assert answer["input_tokens"] == await counted(http, [*short, new])

    playing(core, play)


def test_what_cannot_be_compacted_is_refused_with_its_place(core: Core) -> None:
    foreign = {"type": "compaction", "encrypted_content": "gAAAA"}
    user = {"role": "user", "content": "x"}

    async def play(http: httpx.AsyncClient) -> None:
        made = await codex(http).conversations.create()
        for path, body, place in (
            ("/v1/responses", {"input": [TRIGGER, user]}, "input[0].type"),
            ("/v1/responses", {"input": [foreign, user]}, "input[0].encrypted_content"),
            ("/v1/responses/compact", {"input": [foreign]}, "input[0].encrypted_content"),
            ("/v1/responses/compact", {"input": [{"type": "x"}]}, "input[0].type"),
            (
                "/v1/responses/compact",
                {"previous_response_id": "resp_no"},
                "previous_response_id",
            ),
            (
                "/v1/responses",
                {"input": [user, TRIGGER], "conversation": made.id},
                "conversation",
            ),
        ):
            answer = await http.post(path, json=body)
            assert answer.status_code == 400, answer.text
            assert answer.json()["error"]["param"] == place
        long = [{"role": "user", "content": "a" * 2000}]
        with pytest.raises(openai.BadRequestError, match="context"):
            await codex(http).responses.compact(model="tiny", input=long)  # type: ignore[arg-type]

    playing(core, play)


CALLS = [
    ('{"command": ["ls", "-l"], "timeout_ms": 5}', ["ls", "-l"]),
    ('{"command": ["ls"], "env": {"A": "b"}, "working_directory": "/w"}', ["ls"]),
    ('{"command": "ls"}', None),
    ('{"command": ["ls"', None),
]


@pytest.mark.parametrize(("arguments", "command"), CALLS)
def test_a_shells_call_is_told_as_what_is_to_be_run(
    arguments: str, command: list[str] | None
) -> None:
    """What is no command is told as it was written: nothing is lost."""
    offered = offered_of([LOCAL_SHELL], None)
    builder = ResponseBuilder("resp_1", {}, wants_logprobs=False, offered=offered)
    answer: list[AnswerEvent] = [TextDelta(0, "So:"), ToolCallBegin(0, 0, "c1", "local_shell")]
    answer += [ToolCallArguments(0, 0, piece) for piece in (arguments[:7], arguments[7:])]
    events = [event for one in [*answer, AnswerEnd(0, "tool_calls")] for event in builder.take(one)]
    text, item = builder.response["output"]
    assert text["content"][0]["text"] == "So:"
    assert item["call_id"] == "c1"
    assert item["status"] == "completed"
    numbers = [event["sequence_number"] for event in events]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert events[-1]["type"] == "response.output_item.done"
    assert events[-1]["item"] == item
    if command is None:
        assert item["type"] == "function_call"
        assert (item["name"], item["arguments"]) == ("local_shell", arguments)
        return
    assert item["type"] == "local_shell_call"
    assert (item["action"]["type"], item["action"]["command"]) == ("exec", command)
    (message,) = messages_of([item], None)
    (call,) = message["tool_calls"]
    given = json.loads(arguments)
    assert call["function"] == {"name": "local_shell", "arguments": given}


def test_a_session_with_a_shell(core: Core) -> None:
    async def play(http: httpx.AsyncClient) -> None:
        client = codex(http)
        asked: dict[str, Any] = {
            "model": "tiny",
            "input": "Look",
            "tools": [{"type": "local_shell"}],
            "tool_choice": "required",
            "temperature": 0,
            "max_output_tokens": 400,
        }
        whole: Any = await client.responses.create(**asked)
        _, told = await streamed(client, asked)
        calls = [one for one in whole.output if one.type == "local_shell_call"]
        assert [one.action for one in calls] == [
            one.action for one in told.output if one.type == "local_shell_call"
        ]
        assert {one.type for one in whole.output} <= {
            "reasoning",
            "local_shell_call",
            "function_call",
        }
        call = {
            "type": "local_shell_call",
            "id": "lsh_1",
            "call_id": "c1",
            "status": "completed",
            "action": {"type": "exec", "command": ["ls"], "env": {}},
        }
        counts = []
        for named in ({"id": "c1"}, {"id": "lsh_1"}, {"call_id": "c1"}):
            result = {"type": "local_shell_call_output", "output": "a.txt", **named}
            counts.append(await counted(http, [{"role": "user", "content": "x"}, call, result]))
        plain = {
            "type": "function_call",
            "call_id": "c1",
            "name": "local_shell",
            "arguments": '{"command": ["ls"]}',
        }
        result = {"type": "function_call_output", "call_id": "c1", "output": "a.txt"}
        # Codex answers its shell's calls as it does functions'.
        user = {"role": "user", "content": "x"}
        counts += [await counted(http, [user, one, result]) for one in (call, plain)]
        assert len(set(counts)) == 1
        bad = {"type": "local_shell_call_output", "output": "a.txt", "id": "other"}
        body = {"input": [call, bad]}
        answer = await http.post("/v1/responses", json=body)
        assert answer.json()["error"]["param"] == "input[1].call_id"

    playing(core, play)
