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

SHORT = {"model": "tiny", "temperature": 0}
ASKED = {"model": "tiny", "temperature": 0, "max_tokens": 4, "logprobs": True}


@pytest.fixture(scope="module", params=["gemma3", "qwen2_5_vl"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return seeing_model(tmp_path_factory.mktemp("seen") / "model", request.param)


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


def test_other_dialects_ask_the_same(folder: Path) -> None:
    core = Core(LLM(str(folder), threads=1, max_rows=4), ServeOptions(names=("tiny",)))
    data = base64.b64encode(picture(1)).decode()
    source = {"type": "base64", "media_type": "image/png", "data": data}
    text = {"type": "text", "text": "w1 w2"}

    def anthropic(source: dict[str, str]) -> dict[str, object]:
        content = [{"type": "image", "source": source}, text]
        return {**SHORT, "max_tokens": 4, "messages": [{"role": "user", "content": content}]}

    def responses(**image: str) -> dict[str, object]:
        content = [{"type": "input_image", "detail": "auto", **image}]
        content.append({"type": "input_text", "text": "w1 w2"})
        return {**SHORT, "max_output_tokens": 4, "input": [{"role": "user", "content": content}]}

    def ollama(**message: object) -> dict[str, object]:
        asked = {"role": "user", "content": "w1 w2", **message}
        options = {"temperature": 0, "num_predict": 4}
        return {"model": "tiny", "stream": False, "options": options, "messages": [asked]}

    async def check(client: httpx.AsyncClient) -> None:
        reply = (await client.post("/v1/chat/completions", json=body(url_of(picture(1))))).json()
        wanted = (reply["choices"][0]["message"]["content"], reply["usage"]["prompt_tokens"])
        said = (await client.post("/v1/messages", json=anthropic(source))).json()
        used = said["usage"]
        of_prompt = used["input_tokens"] + used.get("cache_read_input_tokens", 0)
        assert (said["content"][0]["text"], of_prompt) == wanted
        said = (await client.post("/api/chat", json=ollama(images=[data]))).json()
        assert (said["message"]["content"], said["prompt_eval_count"]) == wanted
        asked = {**ollama(), "prompt": "w1 w2", "images": [data]}
        del asked["messages"]
        said = (await client.post("/api/generate", json=asked)).json()
        assert (said["response"], said["prompt_eval_count"]) == wanted
        said = (
            await client.post("/v1/responses", json=responses(image_url=url_of(picture(1))))
        ).json()
        assert (said["output"][0]["content"][0]["text"], said["usage"]["input_tokens"]) == wanted
        further = {
            **SHORT,
            "max_output_tokens": 4,
            "input": "w3",
            "previous_response_id": said["id"],
        }
        after = (await client.post("/v1/responses", json=further)).json()
        assert after["usage"]["input_tokens"] > wanted[1]
        url = {"type": "url", "url": "http://localhost/cat.png"}
        for path, wrong in (
            ("/v1/messages", anthropic(url)),
            ("/api/chat", ollama(images=[3])),
            ("/v1/responses", responses(image_url="http://localhost/cat.png")),
            ("/v1/responses", responses(file_id="file-1")),
        ):
            assert (await client.post(path, json=wrong)).status_code == 400

    within(core, check)


def test_a_model_that_reads_text_refuses_images() -> None:
    async def check(client: httpx.AsyncClient) -> None:
        reply = await client.post("/v1/chat/completions", json=body(url_of(picture(1))))
        assert reply.status_code == 400
        assert "reads text, not images" in reply.json()["error"]["message"]

    within(tiny_core(), check)
