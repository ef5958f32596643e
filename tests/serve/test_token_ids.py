"""`return_token_ids`: the ids of a prompt and of its answers, as vLLM has them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from tiny import TEMPLATE, tiny_core, within

from ridgeline.model.text.chat import ChatTemplate
from ridgeline.serve.core.core import Core

SAID: Any = [{"role": "user", "content": "Hi"}]
READ = "<user>Hi<assistant>"
ASKED: dict[str, Any] = {"model": "tiny", "max_tokens": 6, "temperature": 0.8, "seed": 3, "n": 2}
IDS = {"return_token_ids": True, "ignore_eos": True}


@pytest.fixture
def core() -> Iterator[Core]:
    core = tiny_core()
    yield core
    core.close()


def openai_of(client: httpx.AsyncClient) -> openai.AsyncOpenAI:
    given: Any = client
    return openai.AsyncOpenAI(
        base_url="http://localhost/v1", api_key="none", http_client=given, max_retries=0
    )


def folded(chunks: list[dict[str, Any]]) -> dict[int, list[int]]:
    """The ids of each choice, which come piece by piece."""
    found: dict[int, list[int]] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            found.setdefault(choice["index"], []).extend(choice.get("token_ids", ()))
    return found


async def ids_of(client: httpx.AsyncClient, prompt: str, add_special: bool = True) -> list[int]:
    body = {"prompt": prompt, "add_special_tokens": add_special}
    found: list[int] = (await client.post("/tokenize", json=body)).json()["tokens"]
    return found


async def written(client: httpx.AsyncClient, read: list[int]) -> list[list[int]]:
    """What `/generate` says of the same prompt, ids in and out."""
    body = {"token_ids": read, **ASKED, "ignore_eos": True}
    whole = (await client.post("/generate", json=body)).json()
    return [choice["token_ids"] for choice in whole["choices"]]


def test_completions_tell_ids(core: Core) -> None:
    prompts = ["Hello there", "z"]

    async def check(client: httpx.AsyncClient) -> None:
        api = openai_of(client)
        read = [await ids_of(client, prompt) for prompt in prompts]
        wanted = [ids for each in read for ids in await written(client, each)]
        asked = {**ASKED, "prompt": prompts}
        whole = (await api.completions.create(**asked, extra_body=IDS)).to_dict()
        choices: Any = whole["choices"]
        assert [choice["token_ids"] for choice in choices] == wanted
        assert [choice["prompt_token_ids"] for choice in choices] == [
            read[0],
            read[0],
            read[1],
            read[1],
        ]
        for more in ({}, {"logprobs": 1}, {"echo": True}):
            stream = await api.completions.create(**asked, **more, stream=True, extra_body=IDS)
            chunks: list[Any] = [chunk.to_dict() async for chunk in stream]
            assert list(map(folded(chunks).get, range(4))) == wanted
            heads = [one for c in chunks for one in c["choices"] if "prompt_token_ids" in one]
            told = {one["index"]: one["prompt_token_ids"] for one in heads}
            assert len(heads) == 4
            assert told == {index: read[index // 2] for index in range(4)}
            texts = dict.fromkeys(range(4), "")
            for chunk in chunks:
                for one in chunk["choices"]:
                    texts[one["index"]] += one["text"]
            echoed = [prompts[i // 2] if more.get("echo") else "" for i in range(4)]
            assert list(texts.values()) == [
                begun + choice["text"] for begun, choice in zip(echoed, choices, strict=True)
            ]
        plain: Any = (await api.completions.create(**asked)).to_dict()
        assert "token_ids" not in plain["choices"][0]

    within(core, check)


def test_chat_tells_ids(core: Core) -> None:
    async def check(client: httpx.AsyncClient) -> None:
        api = openai_of(client)
        read = await ids_of(client, READ, add_special=False)
        wanted = await written(client, read)
        asked = {**ASKED, "messages": SAID}
        whole: Any = (await api.chat.completions.create(**asked, extra_body=IDS)).to_dict()
        assert whole["prompt_token_ids"] == read
        assert [choice["token_ids"] for choice in whole["choices"]] == wanted
        stream = await api.chat.completions.create(**asked, stream=True, extra_body=IDS)
        chunks: list[Any] = [chunk.to_dict() async for chunk in stream]
        assert chunks[0]["prompt_token_ids"] == read
        assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
        assert not any("prompt_token_ids" in chunk for chunk in chunks[1:])
        assert [folded(chunks)[0], folded(chunks)[1]] == wanted
        plain = (await api.chat.completions.create(**asked)).to_dict()
        assert "prompt_token_ids" not in plain

    within(core, check)


def test_ids_of_reasoning_are_among_an_answers() -> None:
    """Whatever part of the answer they are of, and however the text is held back."""
    core = tiny_core()
    core.llm.prompts._template = ChatTemplate(
        TEMPLATE + "{% if enable_thinking is defined %}<think>{% endif %}{# </think> #}"
    )

    async def check(client: httpx.AsyncClient) -> None:
        wish = {"chat_template_kwargs": {"enable_thinking": True}, **IDS}
        asked = {**ASKED, "messages": SAID}
        api = openai_of(client)
        whole: Any = (await api.chat.completions.create(**asked, extra_body=wish)).to_dict()
        ids = whole["prompt_token_ids"]
        assert ids == await ids_of(client, READ + "<think>", add_special=False)
        assert [choice["token_ids"] for choice in whole["choices"]] == await written(client, ids)
        stream = await api.chat.completions.create(**asked, stream=True, extra_body=wish)
        chunks: list[Any] = [chunk.to_dict() async for chunk in stream]
        assert list(folded(chunks).values()) == [c["token_ids"] for c in whole["choices"]]

    within(core, check)
    core.close()


def test_a_prediction_is_a_hint(core: Core) -> None:
    async def check(client: httpx.AsyncClient) -> None:
        api = openai_of(client)
        asked = {**ASKED, "messages": SAID}
        plain = await api.chat.completions.create(**asked)
        for content in ("Hello", [{"type": "text", "text": "Hello"}]):
            hint: Any = {"type": "content", "content": content}
            made = await api.chat.completions.create(**asked, prediction=hint)
            assert [one.message for one in made.choices] == [one.message for one in plain.choices]
        with pytest.raises(openai.BadRequestError, match="prediction"):
            await api.chat.completions.create(**asked, extra_body={"prediction": {"type": "x"}})

    within(core, check)
