"""Penalties on the last tokens alone, as vLLM's, Ollama's and llama.cpp's clients ask for them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from tiny import tiny_core, within

from ridgeline.serve.core.core import Core

READ = "ab" * 50
GREEDY = {"temperature": 0, "max_tokens": 24, "ignore_eos": True}
STRONG = {"repetition_penalty": 5.0}


@pytest.fixture
def core() -> Iterator[Core]:
    core = tiny_core()
    yield core
    core.close()


async def text(client: httpx.AsyncClient, **more: Any) -> str:
    answer = await client.post("/v1/completions", json={"prompt": READ, **GREEDY, **more})
    assert answer.status_code == 200, answer.text
    found: str = answer.json()["choices"][0]["text"]
    return found


def test_a_window_of_any_api_is_the_engines(core: Core) -> None:
    async def check(client: httpx.AsyncClient) -> None:
        plain, strong = await text(client), await text(client, **STRONG)
        by_size = {n: await text(client, **STRONG, penalty_last_n=n) for n in (-1, 0, 2, 64, 500)}
        assert by_size[0] == plain
        assert by_size[-1] == by_size[500] == strong
        assert len({plain, strong, by_size[2]}) == 3
        for last, wanted in ((None, 64), (2, 2), (0, 0), (-1, -1)):
            said = {} if last is None else {"repeat_last_n": last}
            options = {"repeat_penalty": 5.0, "temperature": 0, "num_predict": 24, **said}
            asked = {"model": "tiny", "prompt": READ, "raw": True, "stream": False}
            made = await client.post("/api/generate", json=asked | {"options": options})
            of_ollama = made.json()["response"]
            body = {"repeat_penalty": 5.0, "temperature": 0, "n_predict": 24, "ignore_eos": True}
            told = (await client.post("/completion", json={"prompt": READ, **body, **said})).json()
            assert told["content"] == by_size[wanted]
            assert told["generation_settings"]["repeat_last_n"] == wanted
            assert by_size[wanted].startswith(of_ollama)  # it may end itself
            assert of_ollama or by_size[wanted] == ""

    within(core, check)
