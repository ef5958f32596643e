"""Each dialect's stream, put together by its official client's own code, is its whole answer."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import anthropic.types
import ollama
import openai.types.responses
import pytest
from anthropic.lib.streaming._messages import accumulate_event
from pydantic import TypeAdapter

from ridgeline.engine.answer import Logprob
from ridgeline.engine.outputs import RequestMetrics, RequestOutput
from ridgeline.serve.anthropic.message import MessageBuilder
from ridgeline.serve.core.events import (
    AnswerEnd,
    AnswerEvent,
    Done,
    ReasoningDelta,
    TextDelta,
    ToolCallArguments,
    ToolCallBegin,
    Usage,
)
from ridgeline.serve.ollama.answer import Lines
from ridgeline.serve.responses.response import ResponseBuilder

OUTPUT = RequestOutput(
    request_id="r",
    prompt=None,
    prompt_token_ids=(1, 2, 3),
    outputs=(),
    finished=True,
    metrics=RequestMetrics(1.0, 1.25, 1.5, 2.0),
    num_cached_tokens=1,
)
ARGUMENTS = '{"city": "Zürich", "days": [1, 2]}'


def one_token(text: str) -> tuple[dict[int, Logprob], ...]:
    return ({7: Logprob(-0.5, 1, text), 8: Logprob(-1.5, 2, "?")},)


def an_answer(chance: random.Random, *, cut: bool = False) -> list[AnswerEvent]:
    """Reasoning, words and calls in pieces of any size, empty ones among them."""
    found: list[AnswerEvent] = []
    calls = 0

    def pieces(text: str) -> Iterator[str]:
        while text:
            size = chance.randrange(6)
            yield text[:size]
            text = text[size:]

    for kind in ["reasoning"] * chance.randrange(2) + chance.choices(["text", "call"], k=3):
        if kind == "reasoning":
            found += [ReasoningDelta(0, piece, (1,)) for piece in pieces("I look it up.")]
        elif kind == "text":
            found += [TextDelta(0, p, (1,), one_token(p)) for p in pieces("Grüezi, 世界!")]
        else:
            found.append(ToolCallBegin(0, calls, f"call_{calls}", "get_weather"))
            found += [ToolCallArguments(0, calls, piece) for piece in pieces(ARGUMENTS)]
            calls += 1
    finish: Any = "length" if cut else "tool_calls" if calls else "stop"
    found += [AnswerEnd(0, finish), Done(Usage(3, 9, 1, 2), OUTPUT)]
    return found


def texts(events: list[AnswerEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


@pytest.mark.parametrize("seed", range(25))
def test_anthropic(seed: int) -> None:
    events = an_answer(random.Random(seed))
    builder = MessageBuilder("msg_1", "m")
    stream = builder.start() + [one for event in events for one in builder.take(event)]
    snapshot: Any = None
    buffers: dict[int, bytes] = {}
    checked = TypeAdapter(anthropic.types.RawMessageStreamEvent)
    for name, data in stream:
        assert name == data["type"]
        event = checked.validate_python(json.loads(json.dumps(data)))
        snapshot = accumulate_event(event=event, current_snapshot=snapshot, json_bufs=buffers)
    whole = anthropic.types.Message.model_validate(json.loads(json.dumps(builder.whole())))
    plain = {"exclude_none": True, "exclude": {"content": {"__all__": {"parsed_output"}}}}
    assert snapshot.model_dump(**plain) == whole.model_dump(exclude_none=True)
    assert "".join(b.text for b in whole.content if b.type == "text") == texts(events)
    assert [b.input for b in whole.content if b.type == "tool_use"] == [
        json.loads(ARGUMENTS) for event in events if isinstance(event, ToolCallBegin)
    ]
    assert (whole.usage.input_tokens, whole.usage.cache_read_input_tokens) == (2, 1)


def test_anthropic_says_why_it_stopped() -> None:
    for end, reason, sequence in (
        (AnswerEnd(0, "stop"), "end_turn", None),
        (AnswerEnd(0, "stop", "END"), "stop_sequence", "END"),
        (AnswerEnd(0, "stop", 5), "end_turn", None),
        (AnswerEnd(0, "length"), "max_tokens", None),
        (AnswerEnd(0, "tool_calls"), "tool_use", None),
    ):
        builder = MessageBuilder("m", "m")
        builder.take(end)
        whole = builder.whole()
        assert (whole["stop_reason"], whole["stop_sequence"]) == (reason, sequence)


@pytest.mark.parametrize("seed", range(25))
def test_responses(seed: int) -> None:
    cut = seed % 5 == 4
    events = an_answer(random.Random(seed), cut=cut)
    head = {"model": "m", "parallel_tool_calls": True, "tool_choice": "auto", "tools": []}
    builder = ResponseBuilder("resp_1", head, wants_logprobs=seed % 2 == 0)
    stream = builder.start() + [one for event in events for one in builder.take(event)]
    checked = TypeAdapter(openai.types.responses.ResponseStreamEvent)
    deltas: dict[str, str] = {}
    for number, data in enumerate(stream):
        event = checked.validate_python(json.loads(json.dumps(data)))
        assert event.sequence_number == number
        if event.type.endswith(".delta"):
            deltas[event.item_id] = deltas.get(event.item_id, "") + event.delta
    last = stream[-1]
    assert last["type"] == ("response.incomplete" if cut else "response.completed")
    assert last["response"] == builder.response
    whole = openai.types.responses.Response.model_validate(last["response"])
    assert whole.output_text == texts(events)
    for item in whole.output:
        assert item.status in ("completed", "incomplete")
        if item.type == "function_call":
            assert json.loads(item.arguments) == json.loads(ARGUMENTS)
            assert item.id is not None
            assert deltas[item.id] == item.arguments
        else:
            assert item.content is not None
            assert deltas[item.id] == item.content[0].text
    assert whole.usage is not None
    assert whole.usage.output_tokens_details.reasoning_tokens == 2
    assert len({item.id for item in whole.output}) == len(whole.output)
    if cut:
        assert whole.incomplete_details is not None
        assert whole.incomplete_details.reason == "max_output_tokens"


@pytest.mark.parametrize("seed", range(25))
def test_ollama(seed: int) -> None:
    events = an_answer(random.Random(seed))
    lines = Lines("m", "chat", logprobs=True)
    stream = [one for event in events for one in lines.take(event)]
    whole = lines.whole()
    read = [ollama.ChatResponse.model_validate(line) for line in stream]
    assert [line.done for line in read] == [False] * (len(read) - 1) + [True]
    assert "".join(line.message.content or "" for line in read) == whole["message"]["content"]
    assert whole["message"]["content"] == texts(events)
    calls = [call for line in read for call in line.message.tool_calls or ()]
    assert [dict(call.function.arguments) for call in calls] == [
        call["function"]["arguments"] for call in whole["message"].get("tool_calls", ())
    ]
    assert [p for line in stream for p in line.get("logprobs", ())] == whole.get("logprobs", [])
    done = read[-1]
    assert (done.prompt_eval_count, done.eval_count) == (3, 9)
    assert (done.total_duration, done.prompt_eval_duration, done.eval_duration) == (
        1_000_000_000,
        250_000_000,
        500_000_000,
    )
    assert {key: whole[key] for key in whole if key.endswith("duration")} == {
        key: stream[-1][key] for key in whole if key.endswith("duration")
    }


def test_arguments_that_are_cut_off_are_not_lost() -> None:
    events = [
        ToolCallBegin(0, 0, "call_0", "f"),
        ToolCallArguments(0, 0, '{"a": [1, 2'),
        AnswerEnd(0, "length"),
    ]
    message = MessageBuilder("m", "m")
    for event in events:
        message.take(event)
    assert message.whole()["content"][0]["input"] == {"a": [1, 2]}
    lines = Lines("m", "chat", logprobs=False)
    (line,) = [one for event in events for one in lines.take(event)]
    assert line["message"]["content"] == '{"a": [1, 2'
    assert "tool_calls" not in line["message"]
    response = ResponseBuilder("resp_1", {}, wants_logprobs=False)
    for event in events:
        response.take(event)
    (item,) = response.response["output"]
    assert (item["arguments"], item["status"]) == ('{"a": [1, 2', "incomplete")
