"""Images through OpenAI's chat: the same answer as the library's, and what is refused."""

from __future__ import annotations

import base64
from pathlib import Path

import httpx
import pytest
from tiny import tiny_core, within

from ridgeline import LLM, SamplingParams
from ridgeline.serve.core.core import Core, ServeOptions
from seeing import picture, seeing_model

ASKED = {"model": "tiny", "temperature": 0, "max_tokens": 4, "logprobs": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return seeing_model(tmp_path_factory.mktemp("seen") / "model")


def body(url: str) -> dict[str, object]:
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "w1 w2"}]
    return {**ASKED, "messages": [{"role": "user", "content": parts}]}


def url_of(image: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"


def test_a_chat_with_an_image_is_the_librarys(folder: Path) -> None:
    llm = LLM(str(folder), threads=1, max_tokens_per_step=32, max_rows=4)
    params = SamplingParams(temperature=0.0, max_tokens=4, logprobs=0)
    wanted = {}
    for seed in (1, 2):
        parts = [{"type": "image", "image": picture(seed)}, {"type": "text", "text": "w1 w2"}]
        (output,) = llm.chat([{"role": "user", "content": parts}], params)
        found = output.outputs[0].logprobs
        assert found is not None
        wanted[seed] = [pair.logprob for each in found for pair in each.values()]
    assert wanted[1] != wanted[2]
    core = Core(llm, ServeOptions(names=("tiny",)))

    async def check(client: httpx.AsyncClient) -> None:
        for seed in (1, 2, 1):
            reply = await client.post("/v1/chat/completions", json=body(url_of(picture(seed))))
            assert reply.status_code == 200, reply.text
            (choice,) = reply.json()["choices"]
            assert [t["logprob"] for t in choice["logprobs"]["content"]] == pytest.approx(
                wanted[seed], abs=1e-6
            )
        for url, message in (
            ("http://localhost/cat.png", "none is fetched"),
            ("data:image/png;base64,AAAA", "is none of PNG"),
        ):
            reply = await client.post("/v1/chat/completions", json=body(url))
            assert reply.status_code == 400
            assert message in reply.json()["error"]["message"]

    within(core, check)


def test_a_model_that_reads_text_refuses_images() -> None:
    async def check(client: httpx.AsyncClient) -> None:
        reply = await client.post("/v1/chat/completions", json=body(url_of(picture(1))))
        assert reply.status_code == 400
        assert "reads text, not images" in reply.json()["error"]["message"]

    within(tiny_core(), check)
