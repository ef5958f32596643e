"""Completions and chat completions over HTTP: what comes, what is refused, and who is the same."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from typing import Any

import httpx
import pytest
from tiny import chunks_of, tiny_core, within

from ridgeline.engine.request import SamplingParams
from ridgeline.model.text.fill import FillMarks
from ridgeline.serve.core.ask import Ask
from ridgeline.serve.core.core import Core
from ridgeline.serve.core.events import TextDelta
from ridgeline.serve.core.http import compact, sent
from ridgeline.serve.openai.chat_answer import ChatBuilder
from ridgeline.serve.openai.completion_answer import CompletionBuilder

PROMPTS = ["Hello there", "A second, somewhat longer prompt about nothing", "z", "Hello there!"]
SAMPLED = {"temperature": 0.9, "seed": 7, "max_tokens": 12, "ignore_eos": True}


@pytest.fixture
def core() -> Iterator[Core]:
    core = tiny_core()
    yield core
    core.close()


def flat(lists: Iterable[list[Any]]) -> list[Any]:
    return list(chain.from_iterable(lists))


async def texts(client: httpx.AsyncClient, **body: Any) -> list[str]:
    answer = await client.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    return [choice["text"] for choice in answer.json()["choices"]]


async def streamed_texts(client: httpx.AsyncClient, **body: Any) -> list[str]:
    answer = await client.post("/v1/completions", json=body | {"stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    found: dict[int, str] = {}
    for chunk in chunks_of(answer.text):
        for choice in chunk["choices"]:
            found[choice["index"]] = found.get(choice["index"], "") + choice["text"]
    return [found[index] for index in sorted(found)]


def test_streamed_whole_batched_alone_and_cached_are_the_same(core: Core) -> None:
    async def check(client: httpx.AsyncClient) -> None:
        alone = [(await texts(client, prompt=p, n=2, **SAMPLED)) for p in PROMPTS]
        assert await texts(client, prompt=PROMPTS, n=2, **SAMPLED) == flat(alone)
        assert await streamed_texts(client, prompt=PROMPTS, n=2, **SAMPLED) == flat(alone)
        again = [(await streamed_texts(client, prompt=p, n=2, **SAMPLED)) for p in PROMPTS]
        assert again == alone
        assert len(set(map(tuple, alone))) == 4

    within(core, check)


def test_chat_streamed_is_chat_whole(core: Core) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], "logprobs": True, "top_logprobs": 2}

    async def check(client: httpx.AsyncClient) -> None:
        whole = (await client.post("/v1/chat/completions", json=body | SAMPLED)).json()
        choice = whole["choices"][0]
        assert whole["usage"]["completion_tokens"] == 12
        assert len(choice["logprobs"]["content"]) == 12
        options = {"stream": True, "stream_options": {"include_usage": True}}
        answer = await client.post("/v1/chat/completions", json=body | SAMPLED | options)
        chunks = chunks_of(answer.text)
        assert chunks[-1]["usage"]["completion_tokens"] == 12
        deltas = [c["choices"][0] for c in chunks if c["choices"]]
        assert deltas[0]["delta"]["role"] == "assistant"
        said = "".join(d["delta"].get("content") or "" for d in deltas)
        assert said == choice["message"]["content"]
        logprobs = [one for d in deltas if d["logprobs"] for one in d["logprobs"]["content"]]
        assert logprobs == choice["logprobs"]["content"]
        assert deltas[-1]["finish_reason"] == choice["finish_reason"] == "length"

    within(core, check)


def test_a_gap_is_filled_by_a_model_that_has_marks(core: Core) -> None:
    """By completions and by Ollama's generate, as by its ids."""
    core.prompts.__dict__["fill_marks"] = FillMarks(1, 2, 3)
    gap = {"prompt": "def f(", "suffix": "):"}
    ids = [1, *core.prompts.tokenizer.encode("def f(", add_special=False), 2]
    ids += [*core.prompts.tokenizer.encode("):", add_special=False), 3]
    if core.prompts.tokenizer.add_bos:
        ids.insert(0, core.prompts.tokenizer.bos_id or 0)

    async def check(client: httpx.AsyncClient) -> None:
        asked = {"max_tokens": 6, "temperature": 0}
        between = await texts(client, prompt=ids, **asked)
        assert await texts(client, **gap, **asked) == between
        assert await streamed_texts(client, **gap, **asked) == between
        body = gap | {"model": "tiny", "stream": False}
        options = {"num_predict": 6, "temperature": 0}
        told = await client.post("/api/generate", json=body | {"options": options})
        assert told.json()["response"] == between[0]
        for more in ({"system": "x"}, {"raw": True}):
            refused = await client.post("/api/generate", json=body | more)
            assert refused.status_code == 400
            assert "has no place in" in refused.json()["error"]
        shown = await client.post("/api/show", json={"model": "tiny"})
        assert "insert" in shown.json()["capabilities"]

    within(core, check)


def test_an_answer_that_is_begun_is_gone_on_with(core: Core) -> None:
    """The prompt is the head of an answer and its beginning, in OpenAI's and Anthropic's ways."""
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Once up"}]
    ids = core.prompts.tokenizer.encode("<user>Hi<assistant>Once up", add_special=False)

    async def check(client: httpx.AsyncClient) -> None:
        body = {"token_ids": ids, "max_tokens": 6, "temperature": 0}
        wanted = (await client.post("/generate", json=body)).json()["choices"][0]["text"]
        asked = {"messages": said, "max_tokens": 6, "temperature": 0}
        begun = {"continue_final_message": True, "add_generation_prompt": False}
        chat = (await client.post("/v1/chat/completions", json=asked | begun)).json()
        assert chat["choices"][0]["message"]["content"] == wanted
        assert chat["usage"]["prompt_tokens"] == len(ids)
        message = (await client.post("/v1/messages", json=asked | {"model": "tiny"})).json()
        assert "".join(block["text"] for block in message["content"]) == wanted
        whole = (await client.post("/v1/chat/completions", json=asked)).json()
        assert whole["usage"]["prompt_tokens"] > len(ids)
        for change, field in (
            ({"add_generation_prompt": True}, "add_generation_prompt"),
            ({"messages": said[:1]}, "continue_final_message"),
            ({"messages": said[1:]}, "continue_final_message"),
        ):
            refused = await client.post("/v1/chat/completions", json=asked | begun | change)
            assert refused.status_code == 400
            assert refused.json()["error"]["param"] == field

    within(core, check)


def test_reasoning_that_a_model_has_not_is_refused_in_the_clients_words(core: Core) -> None:
    said = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}
    thinking, effort = {"type": "enabled", "budget_tokens": 1024}, {"effort": "low"}

    async def check(client: httpx.AsyncClient) -> None:
        for path, body, field in (
            ("/v1/messages", {"max_tokens": 2000, "thinking": thinking}, "thinking"),
            ("/v1/messages", {"max_tokens": 9, "output_config": effort}, "output_config.effort"),
            ("/api/chat", {"think": True}, "think"),
            ("/v1/chat/completions", {"reasoning_effort": "low"}, "reasoning_effort"),
        ):
            refused = await client.post(path, json=said | body)
            assert refused.status_code == 400
            error = refused.json()["error"]
            assert (error if isinstance(error, str) else error["message"]).startswith(field)

    within(core, check)


def test_models_are_listed_as_anthropics_clients_read_them(core: Core) -> None:
    headers = {"anthropic-version": "2023-06-01"}

    async def check(client: httpx.AsyncClient) -> None:
        listed = (await client.get("/v1/models", headers=headers)).json()
        assert (listed["first_id"], listed["last_id"], listed["has_more"]) == (
            "tiny",
            "tiny",
            False,
        )
        one = (await client.get("/v1/models/tiny", headers=headers)).json()
        assert listed["data"] == [one]
        assert (one["type"], one["display_name"]) == ("model", "tiny")
        plain = (await client.get("/v1/models")).json()
        assert plain["data"][0]["object"] == "model"

    within(core, check)


def test_a_files_name_is_known_without_its_ending() -> None:
    core = tiny_core(names=("small.gguf",))

    async def check(client: httpx.AsyncClient) -> None:
        for name, status in (("small.gguf", 200), ("small", 200), ("sma", 404)):
            body = {"model": name, "prompt": "a", "max_tokens": 1}
            assert (await client.post("/v1/completions", json=body)).status_code == status

    within(core, check)
    core.close()


def test_echo_alone_scores_a_prompt(core: Core) -> None:
    async def check(client: httpx.AsyncClient) -> None:
        body = {"prompt": ["Hello", "Hi"], "echo": True, "logprobs": 1, "max_tokens": 0}
        alone = (await client.post("/v1/completions", json=body)).json()
        assert [choice["text"] for choice in alone["choices"]] == ["Hello", "Hi"]
        assert {choice["finish_reason"] for choice in alone["choices"]} == {"length"}
        assert alone["usage"]["completion_tokens"] == 0
        with_one = (await client.post("/v1/completions", json=body | {"max_tokens": 1})).json()
        for less, more in zip(alone["choices"], with_one["choices"], strict=True):
            scores = more["logprobs"]["token_logprobs"]
            assert less["logprobs"]["token_logprobs"] == scores[: len(less["text"])]
            assert less["logprobs"]["tokens"] == list(less["text"])
        plain = {"prompt": "Hi", "echo": True, "max_tokens": 0, "stream": True}
        streamed = chunks_of((await client.post("/v1/completions", json=plain)).text)
        assert "".join(chunk["choices"][0]["text"] for chunk in streamed) == "Hi"
        refused = await client.post("/v1/completions", json={"prompt": "Hi", "max_tokens": 0})
        assert "0 needs echo" in refused.json()["error"]["message"]

    within(core, check)


def test_echo_gives_the_prompt_and_its_logprobs(core: Core) -> None:
    async def check(client: httpx.AsyncClient) -> None:
        body = {"prompt": "Hello", "echo": True, "logprobs": 1, "max_tokens": 2, "temperature": 0}
        answer = (await client.post("/v1/completions", json=body)).json()
        choice = answer["choices"][0]
        assert choice["text"].startswith("Hello")
        told = choice["logprobs"]
        assert "".join(told["tokens"]) == choice["text"]
        assert told["token_logprobs"][0] is None
        assert all(value < 0 for value in told["token_logprobs"][1:])
        assert told["text_offset"] == list(range(7))

    within(core, check)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": "a", "foo": 1}, "foo"),
        ({"prompt": "a", "temperature": -1}, "temperature"),
        ({"prompt": "a", "n": 129}, "n"),
        ({"prompt": ["a"] * 65, "n": 2}, "n"),
        ({"prompt": ["a"] * 257}, "prompt"),
        ({"prompt": "a", "best_of": 1000, "temperature": 1}, "best_of"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({"prompt": "a", "suffix": "b", "echo": True}, "echo"),
        ({"prompt": "a", "suffix": "b", "truncate_prompt_tokens": 3}, "truncate_prompt_tokens"),
        ({"prompt": "a", "logit_bias": {"x": 1}}, "logit_bias"),
        ({"prompt": [10**6]}, "prompt_token_ids"),
        ({"prompt": "a" * 2000}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({}, "prompt"),
    ],
)
def test_what_is_wrong_is_a_400_that_names_the_field(
    core: Core, body: dict[str, Any], param: str
) -> None:
    async def check(client: httpx.AsyncClient) -> None:
        answer = await client.post("/v1/completions", json=body)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["param"].split(".")[0] == param

    within(core, check)


def test_a_prompt_that_is_too_long_is_not_cut_unless_asked(core: Core) -> None:
    async def check(client: httpx.AsyncClient) -> None:
        prompt = "ab" * 700
        answer = await client.post("/v1/completions", json={"prompt": prompt, "max_tokens": 1})
        assert answer.json()["error"]["code"] == "context_length_exceeded"
        body = {"prompt": prompt, "max_tokens": 1, "truncate_prompt_tokens": 64}
        answer = await client.post("/v1/completions", json=body)
        assert answer.json()["usage"]["prompt_tokens"] == 64

    within(core, check)


def test_a_lenient_server_never_leaves_out_a_form() -> None:
    """Older clients of vLLM say guided_json: what they would get without it is no JSON."""
    core = tiny_core(lenient=True)

    async def check(client: httpx.AsyncClient) -> None:
        for field, value in (("guided_json", {}), ("guided_regex", "a"), ("grammar", "root ::= a")):
            answer = await client.post("/v1/completions", json={"prompt": "x", field: value})
            assert answer.status_code == 400
            assert answer.json()["error"]["param"] == field
            assert "structured_outputs" in answer.json()["error"]["message"]
        options = {"num_predict": 2, "num_gpu": 1, "num_batch": 512}
        asked = {"model": "tiny", "prompt": "x", "raw": True, "stream": False, "options": options}
        made = (await client.post("/api/generate", json=asked)).json()
        assert made["ignored_fields"] == ["options.num_batch", "options.num_gpu"]
        assert made["eval_count"] == 2

    within(core, check)


def test_paths_of_other_models_say_what_this_one_does() -> None:
    core = tiny_core()

    async def check(client: httpx.AsyncClient) -> None:
        answer = await client.post("/v1/embeddings", json={"input": "x"})
        assert answer.status_code == 404
        assert "--task embed" in answer.json()["error"]["message"]
        answer = await client.post("/v1/chat/completion", json={})
        assert "no such path" in answer.json()["error"]["message"]

    within(core, check)


def test_lenient_lists_what_it_left_out() -> None:
    core = tiny_core(lenient=True)

    async def check(client: httpx.AsyncClient) -> None:
        body = {"prompt": "a", "max_tokens": 1, "foo": 1, "stream_options": {"bar": 2}}
        answer = await client.post("/v1/completions", json=body)
        assert sorted(answer.json()["ignored_fields"]) == ["foo", "stream_options.bar"]

    within(core, check)
    core.close()


def test_tokens_in_and_out(core: Core) -> None:
    async def check(client: httpx.AsyncClient) -> None:
        tokens = (await client.post("/tokenize", json={"prompt": "Hi!"})).json()["tokens"]
        back = await client.post("/detokenize", json={"tokens": tokens})
        assert back.json() == {"prompt": "Hi!", "content": "Hi!"}
        messages = [{"role": "user", "content": "Hi"}]
        text = (await client.post("/apply-template", json={"messages": messages})).json()
        assert text == {"prompt": "<user>Hi<assistant>"}
        body = {"token_ids": tokens, "max_tokens": 4, "temperature": 0, "ignore_eos": True}
        whole = (await client.post("/generate", json=body)).json()
        ids = whole["choices"][0]["token_ids"]
        assert len(ids) == 4
        answer = await client.post("/generate", json=body | {"stream": True})
        pieces = [c for c in chunks_of(answer.text) if "token_ids" in c]
        assert flat(piece["token_ids"] for piece in pieces) == ids
        assert await texts(client, prompt=tokens, max_tokens=4, temperature=0, ignore_eos=True) == [
            whole["choices"][0]["text"]
        ]

    within(core, check)


def test_models_and_other_names() -> None:
    core = tiny_core(names=("tiny", "gpt-x"))

    async def check(client: httpx.AsyncClient) -> None:
        listed = (await client.get("/v1/models")).json()["data"]
        assert [one["id"] for one in listed] == ["tiny", "gpt-x"]
        assert (await client.get("/v1/models/gpt-x")).json()["max_model_len"] == 1024
        answer = await client.post("/v1/completions", json={"model": "other", "prompt": "a"})
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "model_not_found"

    within(core, check)
    core.close()


def test_what_a_stream_does_not_carry_is_refused_by_name(core: Core) -> None:
    bodies: dict[str, dict[str, Any]] = {
        "/v1/completions": {"prompt": "Hi"},
        "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}]},
        "/generate": {"token_ids": [1, 2]},
    }

    async def check(client: httpx.AsyncClient) -> None:
        for path, body in bodies.items():
            asked = body | {"max_tokens": 2, "stream": True}
            refused = [(asked | {"prompt_logprobs": 1}, "prompt_logprobs")]
            if path != "/generate":
                for option in ("continuous_usage_stats", "include_obfuscation"):
                    options = {"stream_options": {option: True}}
                    refused.append((asked | options, f"stream_options.{option}"))
            for given, field in refused:
                answer = await client.post(path, json=given)
                assert answer.status_code == 400
                assert answer.json()["error"]["param"] == field

    within(core, check)


def test_a_chunk_written_in_parts_is_the_chunk() -> None:
    """What is written once for a stream and what is new in a chunk are the JSON of both."""
    for text in ("x", 'say "\u2028"\n\\ \U0001f600', "\x00\x7f"):
        event = TextDelta(1, text)
        chat = ChatBuilder("chatcmpl-1", 'a "name"', 2, False)
        plain = ChatBuilder("chatcmpl-1", 'a "name"', 2, False)
        plain._head["created"] = chat._head["created"]
        assert chat.said(event) == "".join(sent(compact(chunk)) for chunk in plain.take(event))
        assert chat._texts == plain._texts
        of_text, other = (
            CompletionBuilder("cmpl-1", "m", 2, ["", ""], None, chr) for _ in range(2)
        )
        other._head["created"] = of_text._head["created"]
        chunks = other.take(1, event)
        assert of_text.said((1, event)) == "".join(sent(compact(chunk)) for chunk in chunks)
        assert of_text._texts == other._texts


def test_pieces_that_wait_for_a_slow_reader_come_as_one(core: Core) -> None:
    ask = Ask("Hi", SamplingParams(max_tokens=20, temperature=0, ignore_eos=True))
    ids = replace(ask, sampling=replace(ask.sampling, logprobs=0))

    async def check(_client: httpx.AsyncClient) -> None:
        found = []
        for asked in (ask, ids):
            pieces = []
            steps = core.engine.load.num_steps + 20
            async for batch in core.answer(asked):
                if not pieces:
                    while core.engine.load.num_steps < steps:
                        await asyncio.sleep(0.002)
                pieces += [event for event in batch if isinstance(event, TextDelta)]
            found.append(pieces)
        few, many = found
        assert len(few) < 6 < len(many)
        assert "".join(one.text for one in few) == "".join(one.text for one in many)
        assert sum((one.token_ids for one in few), ()) == sum((one.token_ids for one in many), ())

    within(core, check)


def test_logprobs_of_prompts_are_told(core: Core) -> None:
    async def check(client: httpx.AsyncClient) -> None:
        asked = {"max_tokens": 1, "prompt_logprobs": 1, "temperature": 0}
        ids = [72, 105, 33]
        plain = (await client.post("/generate", json=asked | {"token_ids": ids})).json()
        told = plain["prompt_logprobs"]
        assert told[0] is None
        assert [next(iter(one)) for one in told[1:]] == ["105", "33"]
        assert all(next(iter(one.values()))["logprob"] <= 0 for one in told[1:])
        of_text = (await client.post("/v1/completions", json=asked | {"prompt": ids})).json()
        assert of_text["choices"][0]["prompt_logprobs"] == told
        messages = [{"role": "user", "content": "Hi"}]
        chat = await client.post("/v1/chat/completions", json=asked | {"messages": messages})
        told = chat.json()["prompt_logprobs"]
        assert len(told) == chat.json()["usage"]["prompt_tokens"]

    within(core, check)


def test_ollamas_chat_goes_on_with_a_last_message_of_the_assistants(core: Core) -> None:
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Well, "}]
    options = {"temperature": 0, "num_predict": 8}

    async def check(client: httpx.AsyncClient) -> None:
        body = {"model": "tiny", "messages": said, "options": options, "stream": False}
        answer = (await client.post("/api/chat", json=body)).json()
        plain = {"prompt": "<user>Hi<assistant>Well, ", "temperature": 0, "max_tokens": 8}
        whole = (await client.post("/v1/completions", json=plain)).json()
        assert answer["message"]["content"] == whole["choices"][0]["text"]
        assert answer["prompt_eval_count"] == whole["usage"]["prompt_tokens"]

    within(core, check)
