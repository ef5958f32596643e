"""`use_beam_search` over HTTP: the beams of `LLM.beam_search`, beside whatever else runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from tiny import chunks_of, hanging_up, slow_steps, tiny_core, tiny_llm, within

from ridgeline import LLM, BeamSearchParams
from ridgeline.serve.app import build_app
from ridgeline.serve.core.core import Core

PROMPTS = ["Hello there", "A second, somewhat longer prompt about nothing"]
SEARCH: dict[str, Any] = {"use_beam_search": True, "n": 3, "max_tokens": 8, "temperature": 0}


@pytest.fixture(scope="module")
def llm() -> LLM:
    return tiny_llm()


@pytest.fixture
def core() -> Iterator[Core]:
    core = tiny_core()
    yield core
    core.close()


def beams(llm: LLM, prompt: Any, width: int = 3, **options: Any) -> list[tuple[Any, ...]]:
    (found,) = llm.beam_search(prompt, BeamSearchParams(width, 8, **options))
    return [(one.text, list(one.token_ids), one.finish_reason) for one in found.sequences]


def told(choices: Any) -> list[tuple[Any, ...]]:
    return [
        (
            c["text"] if "text" in c else c["message"]["content"],
            c["token_ids"],
            c["finish_reason"],
        )
        for c in choices
    ]


async def posted(client: httpx.AsyncClient, path: str = "completions", **body: Any) -> Any:
    answer = await client.post(f"/v1/{path}", json=SEARCH | {"return_token_ids": True} | body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_completions_are_the_beams_of_the_library(core: Core, llm: LLM) -> None:
    """Alone, several prompts at once, and among others that draw."""

    async def check(client: httpx.AsyncClient) -> None:
        for change, options in (
            ({}, {}),
            ({"ignore_eos": True}, {"ignore_eos": True}),
            ({"length_penalty": -1.5}, {"length_penalty": -1.5}),
        ):
            wanted = [beams(llm, prompt, **options) for prompt in PROMPTS]
            alone = [await posted(client, prompt=prompt, **change) for prompt in PROMPTS]
            assert [told(one["choices"]) for one in alone] == wanted
            both = await posted(client, prompt=PROMPTS, **change)
            assert told(both["choices"]) == wanted[0] + wanted[1]
        (best,) = (await posted(client, prompt=PROMPTS[0], n=1, best_of=4))["choices"]
        assert told([best]) == beams(llm, PROMPTS[0], 4)[:1]
        drawn = {"use_beam_search": False, "n": 2, "temperature": 1, "max_tokens": 30}
        among = await asyncio.gather(
            posted(client, prompt=PROMPTS[1]),
            *(posted(client, prompt=PROMPTS[0], seed=i, **drawn) for i in range(6)),
        )
        assert told(among[0]["choices"]) == beams(llm, PROMPTS[1])
        usage = among[0]["usage"]
        assert usage["completion_tokens"] == sum(len(ids) for _, ids, _ in beams(llm, PROMPTS[1]))
        assert usage["prompt_tokens"] == len(among[0]["choices"][0]["prompt_token_ids"])

    within(core, check)


def test_chat_is_searched_whole_and_streamed(core: Core, llm: LLM) -> None:
    said: Any = [{"role": "user", "content": "Hi"}]
    ids = llm.tokenizer.encode("<user>Hi<assistant>", add_special=False)

    async def check(client: httpx.AsyncClient) -> None:
        wanted = beams(llm, {"prompt_token_ids": ids}, ignore_eos=True)
        given: Any = client
        api = openai.AsyncOpenAI(
            base_url="http://localhost/v1", api_key="none", http_client=given, max_retries=0
        )
        wish = {"use_beam_search": True, "return_token_ids": True, "ignore_eos": True}
        asked: Any = {"model": "tiny", "messages": said, "n": 3, "max_tokens": 8}
        whole: Any = (await api.chat.completions.create(**asked, extra_body=wish)).to_dict()
        assert told(whole["choices"]) == wanted
        body = SEARCH | {"messages": said, "stream": True, **wish}
        answer = await client.post("/v1/chat/completions", json=body)
        texts = dict.fromkeys(range(3), "")
        for chunk in chunks_of(answer.text):
            for choice in chunk["choices"]:
                texts[choice["index"]] += choice["delta"].get("content", "")
        assert list(texts.values()) == [text for text, _, _ in wanted]
        longest = SEARCH | {"messages": said, "max_tokens": None, "n": 2, "ignore_eos": True}
        filled = (await client.post("/v1/chat/completions", json=longest)).json()
        assert filled["usage"]["completion_tokens"] == 2 * (core.engine.max_context - len(ids))

    within(core, check)


def test_a_search_counts_as_its_answers_and_is_explained(core: Core) -> None:
    async def check(client: httpx.AsyncClient) -> None:
        answer = await posted(client, prompt=PROMPTS[0], ignore_eos=True)
        seconds = answer["usage"]["seconds"]
        assert 0 < seconds["decode_seconds"] < seconds["total_seconds"]
        explained = (await client.get(f"/explain/{answer['id']}")).json()
        for one in explained["answers"]:
            assert sum(phase["percent"] for phase in one["phases"]) == pytest.approx(100)
        book = core.engine.book
        assert book.ended == {"length": 3}
        assert (book.answer_tokens, book.answer_lengths.count, book.e2e.count) == (24, 3, 1)
        assert book.prompt_tokens == answer["usage"]["prompt_tokens"]

    within(core, check)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("completions", {"top_p": 0.5}, "top_p"),
        ("completions", {"temperature": 0.7}, "temperature"),
        ("completions", {"stop": ["a"]}, "stop"),
        ("completions", {"logprobs": 1}, "logprobs"),
        ("completions", {"logit_bias": {"1": 3}}, "logit_bias"),
        ("completions", {"response_format": {"type": "json_object"}}, "structured_outputs"),
        ("completions", {"best_of": 2}, "best_of"),
        ("completions", {"n": 200}, "n"),
        ("completions", {"best_of": 200}, "best_of"),
        ("completions", {"prompt": ["a"] * 100}, "n"),
        ("completions", {"length_penalty": 11}, "length_penalty"),
        ("completions", {"use_beam_search": False, "length_penalty": 1}, "length_penalty"),
        ("completions", {"max_tokens": 0, "echo": True}, "max_tokens"),
        ("completions", {"prompt": "a" * 5000}, "prompt"),
        ("chat/completions", {"n": 129}, "n"),
        (
            "chat/completions",
            {"tools": [{"type": "function", "function": {"name": "f"}}]},
            "tools",
        ),
    ],
)
def test_what_a_search_would_not_keep_to_is_refused(
    core: Core, path: str, body: dict[str, Any], param: str
) -> None:
    asked: dict[str, Any] = {"prompt": "a"}
    if path.startswith("chat"):
        asked = {"messages": [{"role": "user", "content": "a"}]}

    async def check(client: httpx.AsyncClient) -> None:
        for stream in (False, True):
            sent = SEARCH | asked | body | {"stream": stream}
            answer = await client.post(f"/v1/{path}", json=sent)
            assert answer.status_code == 400, answer.text
            assert answer.json()["error"]["param"] == param

    within(core, check)


def test_what_says_nothing_is_no_reason_to_refuse(core: Core, llm: LLM) -> None:
    """Clients that send every field as it is when it is left out."""
    idle = {"top_p": 1, "top_k": -1, "stop": [], "presence_penalty": 0, "seed": 1, "logit_bias": {}}

    async def check(client: httpx.AsyncClient) -> None:
        answer = await posted(client, prompt=PROMPTS[0], **idle | {"temperature": 1})
        assert told(answer["choices"]) == beams(llm, PROMPTS[0])

    within(core, check)


def test_who_hangs_up_or_is_late_frees_what_a_search_held(core: Core) -> None:
    slow_steps(core, 0.02)
    body = SEARCH | {"prompt": PROMPTS[1], "max_tokens": 200, "ignore_eos": True}

    async def check(client: httpx.AsyncClient) -> None:
        async with hanging_up(build_app(core), "/v1/completions", body):
            deadline = time.monotonic() + 60
            while core.engine.load.running < 3:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.005)
        late = await client.post("/v1/completions", json=body | {"timeout_seconds": 0.4})
        assert late.status_code == 504, late.text
        after = await posted(client, prompt=PROMPTS[0], max_tokens=2)
        assert len(after["choices"]) == 3
        assert core.engine.book.ended == {"abort": 1, "deadline": 1, "length": 3}

    within(core, check)


def test_a_server_that_ends_tells_who_waits_for_a_search() -> None:
    core = tiny_core()
    slow_steps(core, 0.02)

    async def run() -> None:
        search = core.engine.search(
            core.prompts.tokenize(PROMPTS[0]),
            BeamSearchParams(3, 200, ignore_eos=True),
            arrival=time.monotonic(),
            request_id="one",
        )
        waits = asyncio.create_task(search.some())
        while core.engine.load.running < 3:
            await asyncio.sleep(0.005)
        await asyncio.to_thread(core.close)
        with pytest.raises(Exception, match="the engine has stopped"):
            await waits

    asyncio.run(run())
    pool = core.llm.session.engine.state.pool
    assert pool.num_free == pool.num_blocks
