"""The official clients of OpenAI, Anthropic and Ollama against one server in a process of its own.

Streamed, folded by the client, and whole are the same, byte for byte.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import anthropic
import httpx
import jsonschema
import ollama
import openai
import pytest
from pydantic import BaseModel, ConfigDict

from serve.tool_server import KEY, SINGLE_KEY

SAID: list[Any] = [{"role": "user", "content": "Hello"}]
WEATHER = {
    "type": "object",
    "properties": {"city": {"enum": ["Ulm", "Bern"]}, "days": {"enum": [1, 2]}},
    "required": ["city", "days"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def url(state: Path) -> Iterator[str]:
    script = Path(__file__).parent / "tool_server.py"
    process = subprocess.Popen(
        [sys.executable, str(script), str(state)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    port = process.stdout.readline().strip()
    assert port, "the server did not start"
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    assert process.wait(120) == 0
    process.stdout.close()


@pytest.fixture(scope="module")
def of_openai(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def of_anthropic(url: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=url, api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def of_ollama(url: str) -> Iterator[ollama.Client]:
    client = ollama.Client(host=url, headers={"Authorization": f"Bearer {KEY}"})
    yield client
    client._client.close()


# ---- Anthropic


def test_anthropic_messages(of_anthropic: anthropic.Anthropic) -> None:
    asked: Any = {
        "model": "tiny",
        "max_tokens": 12,
        "messages": SAID,
        "system": "Be brief.",
        "extra_body": {"temperature": 0},
    }
    whole = of_anthropic.messages.create(**asked)
    assert whole.stop_reason in ("max_tokens", "end_turn")
    with of_anthropic.messages.stream(**asked) as stream:
        pieces = list(stream.text_stream)
        folded = stream.get_final_message()
    assert [block.to_dict() for block in folded.content] == [b.to_dict() for b in whole.content]
    assert "".join(pieces) == "".join(b.text for b in whole.content if b.type == "text")
    assert folded.stop_reason == whole.stop_reason
    counted = of_anthropic.messages.count_tokens(model="tiny", messages=SAID, system="Be brief.")
    assert whole.usage.input_tokens + (whole.usage.cache_read_input_tokens or 0) == (
        counted.input_tokens
    )
    assert whole.usage.output_tokens == folded.usage.output_tokens


def test_anthropic_conversations_of_blocks(of_anthropic: anthropic.Anthropic) -> None:
    messages: list[Any] = [
        {"role": "user", "content": [{"type": "text", "text": "Weather?"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": ""},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "t1", "name": "w", "input": {"city": "Ulm"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": "rain"},
                {"type": "text", "text": "So?"},
            ],
        },
    ]
    tools: Any = [{"name": "w", "description": "weather", "input_schema": WEATHER}]
    count = of_anthropic.messages.count_tokens(model="tiny", messages=messages, tools=tools)
    assert count.input_tokens > len("Weather?I look.rainSo?")
    made = of_anthropic.messages.create(
        model="tiny", max_tokens=4, messages=messages, tools=tools, tool_choice={"type": "none"}
    )
    assert made.usage.output_tokens <= 4


def test_anthropic_tools(of_anthropic: anthropic.Anthropic) -> None:
    asked: Any = {
        "model": "tiny",
        "max_tokens": 256,
        "messages": SAID,
        "tools": [{"name": "get_weather", "input_schema": WEATHER}],
        "tool_choice": {"type": "tool", "name": "get_weather"},
        "extra_body": {"temperature": 0},
        "thinking": {"type": "disabled"},
    }
    whole = of_anthropic.messages.create(**asked)
    (call,) = [block for block in whole.content if block.type == "tool_use"]
    assert whole.stop_reason == "tool_use"
    assert call.input["city"] in ("Ulm", "Bern")
    with of_anthropic.messages.stream(**asked) as stream:
        assert stream.get_final_message().content[-1].to_dict() == call.to_dict()


PICTURE = {
    "type": "image",
    "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"},
}


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"container": {"id": "x"}}, "container"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages.0"),
        ({"temperature": -1}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
            "source",
        ),
        ({"messages": [{"role": "user", "content": [PICTURE]}]}, "reads text, not images"),
        (
            {"messages": [{"role": "user", "content": [{"type": "document", "source": {}}]}]},
            "'document'",
        ),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0.type"),
        ({"thinking": {"type": "enabled", "budget_tokens": 4000}}, "budget_tokens"),
    ],
)
def test_anthropic_says_what_it_cannot(
    of_anthropic: anthropic.Anthropic, change: dict[str, Any], what: str
) -> None:
    asked: Any = {"model": "tiny", "max_tokens": 4, "messages": SAID} | change
    with pytest.raises(anthropic.BadRequestError, match=what) as caught:
        of_anthropic.post("/v1/messages", body=asked, cast_to=object)
    body: Any = caught.value.body
    assert body["type"] == "error"
    assert body["error"]["type"] == "invalid_request_error"


def test_anthropic_errors(url: str, of_anthropic: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError, match="other"):
        of_anthropic.messages.create(model="other", max_tokens=1, messages=SAID)
    with (
        anthropic.Anthropic(base_url=url, api_key="no", max_retries=0) as stranger,
        pytest.raises(anthropic.AuthenticationError) as caught,
    ):
        stranger.messages.create(model="tiny", max_tokens=1, messages=SAID)
    assert caught.value.body["error"]["type"] == "authentication_error"  # type: ignore[index]


def test_anthropic_async(url: str) -> None:
    async def main() -> list[str]:
        async with anthropic.AsyncAnthropic(base_url=url, api_key=KEY) as client:
            made = await asyncio.gather(
                *[
                    client.messages.create(
                        model="tiny", max_tokens=8, messages=SAID, extra_body={"seed": 3}
                    )
                    for _ in range(4)
                ]
            )
        return [json.dumps([block.to_dict() for block in one.content]) for one in made]

    assert len(set(asyncio.run(main()))) == 1


# ---- Ollama


def test_ollama_chat_and_generate(of_ollama: ollama.Client) -> None:
    options = {"seed": 1, "num_predict": 12}
    whole = of_ollama.chat(model="tiny", messages=SAID, options=options)
    lines = list(of_ollama.chat(model="tiny", messages=SAID, options=options, stream=True))
    assert "".join(line.message.content or "" for line in lines) == (whole.message.content or "")
    assert lines[-1].done
    assert whole.done_reason in ("length", "stop")
    assert lines[-1].eval_count == whole.eval_count
    assert (whole.total_duration or 0) >= (whole.eval_duration or 0) > 0
    made = of_ollama.generate(model="tiny", prompt="Hello", options=options)
    assert made.response == whole.message.content
    parts = list(
        of_ollama.generate(model="tiny:latest", prompt="Hello", options=options, stream=True)
    )
    assert "".join(part.response for part in parts) == made.response
    raw = of_ollama.generate(model="tiny", prompt="Hello", raw=True, options=options)
    assert raw.prompt_eval_count == len("Hello")


def test_ollama_logprobs(of_ollama: ollama.Client) -> None:
    made = of_ollama.generate(
        model="tiny", prompt="x", logprobs=True, top_logprobs=2, options={"num_predict": 3}
    )
    assert made.logprobs is not None
    assert len(made.logprobs) == made.eval_count
    assert all(len(one.top_logprobs or ()) >= 2 for one in made.logprobs)


def test_ollama_small_ones(of_ollama: ollama.Client) -> None:
    assert [model.model for model in of_ollama.list().models] == ["tiny", "alias"]
    (first, _) = of_ollama.ps().models
    assert first.size
    shown = of_ollama.show("tiny")
    assert shown.capabilities == ["completion", "tools", "thinking"]
    assert of_ollama.generate(model="tiny").done_reason == "load"


def test_ollama_tools_and_formats(of_ollama: ollama.Client) -> None:
    asked: Any = {
        "model": "tiny",
        "messages": SAID,
        "think": False,
        "options": {"temperature": 0, "num_predict": 256},
    }
    made = of_ollama.chat(**asked, format=WEATHER)
    assert json.loads(made.message.content or "")["city"] in ("Ulm", "Bern")


@pytest.mark.parametrize(
    ("asked", "what"),
    [
        ({"options": {"num_gpu": 1}}, "options.num_gpu"),
        ({"options": {"mirostat": 1}}, "mirostat"),
        ({"options": {"repeat_last_n": -2}}, "repeat_last_n"),
        ({"options": {"nonsense": 1}}, "options.nonsense"),
        ({"keep_alive": 0}, "keep_alive"),
        ({"keep_alive": "soon"}, "keep_alive"),
        ({"context": [1], "raw": True}, "context"),
        ({"context": [10**6]}, "context"),
        ({"context": [1], "system": "x"}, "system"),
        ({"images": ["aGk="]}, "images"),
        ({"suffix": "x"}, "suffix"),
        ({"template": "{{ .Prompt }}"}, "template"),
        ({"model": "other"}, "other"),
    ],
)
def test_ollama_says_what_it_cannot(
    of_ollama: ollama.Client, asked: dict[str, Any], what: str
) -> None:
    with pytest.raises(ollama.ResponseError, match=what) as caught:
        of_ollama._request_raw(
            "POST", "/api/generate", json={"model": "tiny", "prompt": "x"} | asked
        )
    assert caught.value.status_code in (400, 404)


# ---- OpenAI: responses


def test_responses(of_openai: openai.OpenAI) -> None:
    asked: Any = {"model": "tiny", "input": "Hello", "max_output_tokens": 12, "temperature": 0}
    whole = of_openai.responses.create(**asked)
    assert whole.status in ("completed", "incomplete")
    with of_openai.responses.stream(**asked) as stream:
        text = "".join(e.delta for e in stream if e.type == "response.output_text.delta")
        folded = stream.get_final_response() if whole.status == "completed" else None
    assert text == whole.output_text
    assert folded is None or folded.output_text == whole.output_text
    again = of_openai.responses.retrieve(whole.id)
    assert again.to_dict() == whole.to_dict()
    (item,) = of_openai.responses.input_items.list(whole.id).data
    assert item.to_dict()["content"] == [{"type": "input_text", "text": "Hello"}]
    of_openai.responses.delete(whole.id)
    with pytest.raises(openai.NotFoundError):
        of_openai.responses.retrieve(whole.id)


def test_responses_go_on_from_one_before(of_openai: openai.OpenAI) -> None:
    most: Any = {"model": "tiny", "max_output_tokens": 6, "temperature": 0}
    first = of_openai.responses.create(input="One", instructions="Be brief.", **most)
    second = of_openai.responses.create(input="Two", previous_response_id=first.id, **most)
    spelled = of_openai.responses.create(
        input=[
            {"role": "user", "content": "One"},
            {"role": "assistant", "content": first.output_text},
            {"role": "user", "content": "Two"},
        ],
        store=False,
        **most,
    )
    assert second.output_text == spelled.output_text
    assert second.usage is not None
    assert spelled.usage is not None
    assert second.usage.input_tokens == spelled.usage.input_tokens
    with pytest.raises(openai.NotFoundError):
        of_openai.responses.retrieve(spelled.id)
    with pytest.raises(openai.BadRequestError, match="previous_response_id"):
        of_openai.responses.create(input="x", previous_response_id="resp_none", **most)


def test_input_items_come_by_the_page(of_openai: openai.OpenAI) -> None:
    said: Any = [{"role": "user", "content": text} for text in ("One", "Two", "Three")]
    made = of_openai.responses.create(model="tiny", input=said, max_output_tokens=2)

    def texts(**asked: Any) -> list[Any]:
        listed = list(of_openai.responses.input_items.list(made.id, **asked))
        return [item.to_dict()["content"][0]["text"] for item in listed]  # type: ignore[index]

    assert texts() == ["Three", "Two", "One"]
    assert texts(order="asc", limit=2) == ["One", "Two", "Three"]  # the client turns the pages
    page = of_openai.responses.input_items.list(made.id, order="asc", limit=2)
    assert page.has_more
    for query, what in (({"order": "x"}, "order"), ({"limit": "0"}, "limit"), ({"a": "b"}, "a")):
        with pytest.raises(openai.BadRequestError, match=f"{what}: "):
            of_openai.get(
                f"/responses/{made.id}/input_items", cast_to=object, options={"params": query}
            )


def test_responses_in_the_background(of_openai: openai.OpenAI) -> None:
    made = of_openai.responses.create(
        model="tiny", input="Hello", background=True, max_output_tokens=4, temperature=0
    )
    assert made.status == "queued"
    while (got := of_openai.responses.retrieve(made.id)).status in ("queued", "in_progress"):
        time.sleep(0.01)
    assert got.status in ("completed", "incomplete")
    with pytest.raises(openai.BadRequestError, match="already"):
        of_openai.responses.cancel(made.id)


def test_responses_in_the_background_are_streamed_and_streamed_again(
    of_openai: openai.OpenAI, state: Path
) -> None:
    """Who goes away ends nothing, and goes on where it was; whoever comes late hears all."""
    asked: Any = {"model": "tiny", "input": "Hello", "temperature": 0, "max_output_tokens": 64}
    hold = state / "hold"
    hold.touch()
    with of_openai.responses.create(**asked, background=True, stream=True) as stream:
        heard = [next(stream) for _ in range(8)]
    assert [event.type for event in heard[:3]] == [
        "response.created",
        "response.queued",
        "response.in_progress",
    ]
    created: Any = heard[0]
    name, place = created.response.id, heard[-1].sequence_number
    assert of_openai.responses.retrieve(name).status == "in_progress"
    with of_openai.responses.retrieve(name, stream=True, starting_after=place) as rest:
        heard += [next(rest)]
        hold.unlink()
        heard += list(rest)
    whole = of_openai.responses.retrieve(name)
    assert [event.sequence_number for event in heard] == list(range(len(heard)))
    last: Any = heard[-1]
    assert last.type in ("response.completed", "response.incomplete")
    assert last.response == whole
    deltas = [event.delta for event in heard if event.type == "response.output_text.delta"]
    assert "".join(deltas) == whole.output_text
    assert list(of_openai.responses.retrieve(name, stream=True)) == heard
    assert list(of_openai.responses.retrieve(name, stream=True, starting_after=len(heard))) == []
    plain = of_openai.responses.create(**asked)
    assert plain.output_text == whole.output_text
    with pytest.raises(openai.BadRequestError, match="get it whole"):
        of_openai.responses.retrieve(plain.id, stream=True)
    with pytest.raises(openai.BadRequestError, match="needs stream"):
        of_openai.responses.retrieve(name, extra_query={"starting_after": 3})
    with pytest.raises(openai.NotFoundError):
        of_openai.responses.retrieve("resp_none", stream=True)
    cancelled = of_openai.responses.create(**asked, background=True, stream=True)
    begun: Any = next(cancelled)
    of_openai.responses.delete(begun.response.id)
    assert list(cancelled)[-1].type in ("response.failed", last.type)
    with pytest.raises(openai.NotFoundError):
        of_openai.responses.retrieve(begun.response.id, stream=True)


def test_responses_tools_and_formats(of_openai: openai.OpenAI) -> None:
    tool: Any = {"type": "function", "name": "w", "parameters": WEATHER, "strict": True}
    made = of_openai.responses.create(
        model="tiny",
        input="Hello",
        tools=[tool],
        tool_choice={"type": "function", "name": "w"},
        temperature=0,
        max_output_tokens=256,
    )
    (call,) = [item for item in made.output if item.type == "function_call"]
    assert json.loads(call.arguments)["city"] in ("Ulm", "Bern")
    after = of_openai.responses.create(
        model="tiny",
        input=[{"type": "function_call_output", "call_id": call.call_id, "output": "rain"}],
        previous_response_id=made.id,
        tools=[tool],
        max_output_tokens=4,
        tool_choice="none",
    )
    assert after.status in ("completed", "incomplete")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"truncation": "auto"}, "truncation"),
        ({"max_tool_calls": 1}, "max_tool_calls"),
        ({"input": [{"type": "computer_call_output"}]}, "computer_call_output"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "input_image",
        ),
        ({"tools": [{"type": "web_search", "name": "x"}]}, "web_search"),
        ({"include": ["file_search_call.results"]}, "include"),
        ({"reasoning": {"effort": "high"}}, "reasoning.effort"),
    ],
)
def test_responses_say_what_they_cannot(
    of_openai: openai.OpenAI, change: dict[str, Any], what: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=what):
        of_openai.post("/responses", body={"model": "tiny", "input": "x"} | change, cast_to=object)


def test_a_conversation_that_is_not_there_is_said(of_openai: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="conversation"):
        of_openai.responses.create(model="tiny", input="x", conversation="c")


# ---- OpenAI: files and batches


def test_batches(of_openai: openai.OpenAI) -> None:
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("good", {"model": "tiny", "messages": SAID, "max_tokens": 6, "temperature": 0}),
        ("bad", {"model": "tiny", "messages": SAID, "nonsense": 1}),
        ("again", {"model": "tiny", "messages": SAID, "max_tokens": 6, "temperature": 0}),
    ]
    lines = [
        {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}
        for name, body in bodies
    ]
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    file = of_openai.files.create(file=("in.jsonl", data), purpose="batch")
    assert of_openai.files.content(file.id).read() == data
    assert file.id in [one.id for one in of_openai.files.list()]
    batch = of_openai.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    while (done := of_openai.batches.retrieve(batch.id)).status in ("in_progress", "finalizing"):
        time.sleep(0.02)
    assert done.status == "completed"
    assert done.request_counts is not None
    assert (done.request_counts.completed, done.request_counts.failed) == (2, 1)
    assert done.output_file_id is not None
    output = [
        json.loads(line) for line in of_openai.files.content(done.output_file_id).text.splitlines()
    ]
    assert [line["custom_id"] for line in output] == ["good", "again"]
    alone = of_openai.chat.completions.create(
        model="tiny", messages=SAID, max_tokens=6, temperature=0
    )
    for line in output:
        assert line["response"]["body"]["choices"][0]["message"]["content"] == (
            alone.choices[0].message.content
        )
    assert done.error_file_id is not None
    (bad,) = of_openai.files.content(done.error_file_id).text.splitlines()
    assert json.loads(bad)["response"]["body"]["error"]["param"] == "nonsense"
    assert batch.id in [one.id for one in of_openai.batches.list()]
    assert of_openai.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        of_openai.files.retrieve(file.id)
    with pytest.raises(openai.BadRequestError, match="already"):
        of_openai.batches.cancel(batch.id)


# ---- OpenAI: tools over chat


def test_chat_tools(of_openai: openai.OpenAI) -> None:
    tool: Any = {
        "type": "function",
        "function": {"name": "w", "parameters": WEATHER, "strict": True},
    }
    asked: Any = {
        "model": "tiny",
        "messages": SAID,
        "tools": [tool],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "temperature": 0,
        "max_tokens": 256,
    }
    whole = of_openai.chat.completions.create(**asked).choices[0]
    assert whole.finish_reason == "tool_calls"
    (call,) = whole.message.tool_calls or []
    assert call.type == "function"
    assert json.loads(call.function.arguments)["city"] in ("Ulm", "Bern")
    with of_openai.chat.completions.stream(**asked) as stream:
        (folded,) = stream.get_final_completion().choices[0].message.tool_calls or []
    assert folded.function.arguments == call.function.arguments
    assert folded.id == call.id


def test_allowed_tools_are_those_that_are_called(of_openai: openai.OpenAI) -> None:
    both: Any = [{"name": name, "parameters": WEATHER} for name in ("w", "x")]
    functions: Any = [{"type": "function", "function": tool} for tool in both]
    flat: Any = [{"type": "function", "strict": True, **tool} for tool in both]
    # Random weights may think for as long as they are let: some of these call.
    one: Any = {"type": "function", "function": {"name": "x"}}
    choice: Any = {"mode": "required", "tools": [one]}
    names = []
    for seed in range(12):
        asked: Any = {"model": "tiny", "temperature": 1, "parallel_tool_calls": False}
        chat = of_openai.chat.completions.create(
            messages=SAID,
            tools=functions,
            tool_choice={"type": "allowed_tools", "allowed_tools": choice},
            max_tokens=128,
            seed=seed,
            **asked,
        )
        calls: Any = chat.choices[0].message.tool_calls
        response = of_openai.responses.create(
            input="Hello",
            tools=flat,
            tool_choice={
                "type": "allowed_tools",
                "mode": "required",
                "tools": [{"type": "function", "name": "x"}],
            },
            max_output_tokens=128,
            extra_body={"seed": seed},
            **asked,
        )
        found = [item.name for item in response.output if item.type == "function_call"]
        assert found == [call.function.name for call in calls or ()]
        names += found
    assert len(names) > 2
    assert set(names) == {"x"}
    allowed: Any = {"mode": "auto", "tools": [{"type": "function", "function": {"name": "y"}}]}
    with pytest.raises(openai.BadRequestError, match="'y' is none of the tools"):
        of_openai.chat.completions.create(
            model="tiny",
            messages=SAID,
            tools=functions,
            tool_choice={"type": "allowed_tools", "allowed_tools": allowed},
        )


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tool_choice": {"type": "function", "function": {"name": "w", "x": 1}}}, "function.x"),
        ({"stop": 5}, "stop"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "txt": ""}]}]}, "0.txt"),
        ({"logit_bias": {"a": 1}}, "logit_bias.a"),
    ],
)
def test_fields_are_named_as_the_client_wrote_them(
    of_openai: openai.OpenAI, body: dict[str, Any], param: str
) -> None:
    asked = {"model": "tiny", "messages": SAID} | body
    with pytest.raises(openai.BadRequestError) as refused:
        of_openai.post("/chat/completions", body=asked, cast_to=object)
    assert str(refused.value.param).endswith(param)
    assert str(refused.value.param).replace(".", "").replace("_", "").isalnum()


def test_a_refused_schema_says_whose_it_is_and_where(of_openai: openai.OpenAI) -> None:
    bad = {"type": "object", "properties": {"a": {"not": {}}}}
    tools: Any = [
        {"type": "function", "function": {"name": name, "parameters": schema}}
        for name, schema in (("w", WEATHER), ("x", bad))
    ]
    with pytest.raises(openai.BadRequestError) as refused:
        of_openai.chat.completions.create(model="tiny", messages=SAID, tools=tools)
    assert refused.value.param == "tools.x"
    assert "tools.x: #/properties/a/not: " in refused.value.message


def test_clients_retry(url: str) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=1) as client:
        assert [model.id for model in client.models.list()] == ["tiny", "alias"]


class Weather(BaseModel):
    model_config = ConfigDict(extra="forbid")

    city: Literal["Ulm", "Bern"]
    days: Literal[1, 2]


def test_chat_parses_into_models(of_openai: openai.OpenAI) -> None:
    made = of_openai.chat.completions.parse(
        model="tiny", messages=SAID, response_format=Weather, temperature=0, max_tokens=256
    )
    found = made.choices[0].message.parsed
    assert isinstance(found, Weather)
    assert found.city in ("Ulm", "Bern")


def test_responses_parse_into_models(of_openai: openai.OpenAI) -> None:
    made = of_openai.responses.parse(
        model="tiny", input="Hello", text_format=Weather, temperature=0, max_output_tokens=256
    )
    assert isinstance(made.output_parsed, Weather)


def test_openai_async(url: str) -> None:
    asked: Any = {"model": "tiny", "messages": SAID, "max_tokens": 8, "temperature": 0}

    async def main() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client:
            create = client.chat.completions.create

            async def streamed() -> str:
                pieces = await create(**asked, stream=True)
                return "".join([one.choices[0].delta.content or "" async for one in pieces])

            async def whole() -> str:
                return (await create(**asked)).choices[0].message.content or ""

            return await asyncio.gather(streamed(), whole(), streamed(), whole())

    assert len(set(asyncio.run(main()))) == 1


def test_ollama_async(url: str) -> None:
    asked: Any = {"model": "tiny", "messages": SAID, "options": {"seed": 1, "num_predict": 8}}

    async def main() -> tuple[str, str]:
        client = ollama.AsyncClient(host=url, headers={"Authorization": f"Bearer {KEY}"})
        whole = (await client.chat(**asked)).message.content or ""
        lines = await client.chat(**asked, stream=True)
        pieces = [line.message.content or "" async for line in lines]
        await client._client.aclose()
        return whole, "".join(pieces)

    whole, folded = asyncio.run(main())
    assert whole == folded


def test_clients_come_back_after_a_refusal(url: str, state: Path) -> None:
    """The limit of a key is one at once: who is second is told to wait, and is answered then. The
    first stands still in its answer, however fast the machine, until the second was refused.
    """
    asked: Any = {"model": "tiny", "prompt": "Hi", "temperature": 0}
    long = asked | {"max_tokens": 400, "extra_body": {"ignore_eos": True}}
    hold = state / "hold"
    hold.touch()
    statuses: list[int] = []

    def seen(response: httpx.Response) -> None:
        statuses.append(response.status_code)
        if statuses.count(429) == 2:
            held.close()
            hold.unlink(missing_ok=True)

    http = httpx.Client(event_hooks={"response": [seen]}, timeout=120)
    with openai.OpenAI(
        base_url=f"{url}/v1", api_key=SINGLE_KEY, max_retries=8, http_client=http
    ) as client:
        held = client.completions.create(**long, stream=True)
        next(held)
        with pytest.raises(openai.RateLimitError) as refused:
            client.with_options(max_retries=0).completions.create(**asked, max_tokens=1)
        assert int(refused.value.response.headers["retry-after"]) >= 1
        made = client.completions.create(**asked, max_tokens=1)
        assert made.usage is not None
        assert made.usage.completion_tokens == 1
    assert statuses[-1] == 200
    assert statuses.count(429) >= 2


@pytest.fixture(scope="module")
def node_modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with Node's package openai. RIDGELINE_TEST_NODE_MODULES: where it is already."""
    given = os.environ.get("RIDGELINE_TEST_NODE_MODULES", "")
    if shutil.which("node") is None:
        pytest.skip("needs node")
    if (Path(given) / "openai").is_dir():
        return Path(given)
    if shutil.which("npm") is None:
        pytest.skip("needs npm, or RIDGELINE_TEST_NODE_MODULES")
    folder = tmp_path_factory.mktemp("node")
    install = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder), "openai@6"]
    try:
        done = subprocess.run(install, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        pytest.skip("npm cannot install openai: it takes too long")
    if done.returncode:
        pytest.skip(f"npm cannot install openai: {done.stderr.strip()[-200:]}")
    return folder / "node_modules"


def test_openai_for_node(
    url: str, tmp_path: Path, node_modules: Path, of_openai: openai.OpenAI
) -> None:
    (tmp_path / "node_modules").symlink_to(node_modules)
    script = tmp_path / "ask.mjs"
    shutil.copy(Path(__file__).parent / "node_client.mjs", script)
    done = subprocess.run(
        ["node", str(script), url, KEY], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    alone = of_openai.chat.completions.create(
        model="tiny", messages=SAID, max_tokens=12, temperature=0, seed=1
    )
    text = alone.choices[0].message.content
    assert found["whole"] == found["streamed"] == found["helper"] == found["after"] == text
    assert found["models"] == ["tiny", "alias"]
    assert found["usage"] == found["streamedUsage"] == 12
    assert found["calls"]
    for name, arguments in found["calls"]:
        assert name == "weather"
        jsonschema.validate(arguments, WEATHER)
    jsonschema.validate(found["parsed"], WEATHER)
    assert found["completion"] == found["completionStreamed"]
    response = found["response"]
    assert response == found["responseStreamed"] == found["retrieved"] == found["behind"]
    assert found["queued"] == "queued"
    assert found["lastEvent"] in ("response.completed", "response.incomplete")
    assert found["file"] == ["b.jsonl", True]
    assert found["badField"] == ["BadRequestError", 400, "temperature"]
    assert found["unknownModel"] == ["NotFoundError", 404, "model"]
    assert found["wrongKey"] == ["AuthenticationError", 401, None]
