"""Transcriptions and translations over HTTP: OpenAI's client against a server in this process, what
is refused, and who goes away.
"""

from __future__ import annotations

import asyncio
import json
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import uvicorn

from ridgeline import LLM
from ridgeline.backends.cpu.executor import CpuExecutor
from ridgeline.engine.speech import write
from ridgeline.engine.speech.windows import TranscribeParams
from ridgeline.serve.app import build_app
from ridgeline.serve.core.core import Core, ServeOptions
from ridgeline.serve.core.keys import Keys
from tiny_speech import noise_wav, write_tiny_speech

KEY = "sk-test-of-speech"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_speech(tmp_path_factory.mktemp("speech"))


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    llm = LLM(str(folder), threads=1)
    core = Core(llm, ServeOptions(names=("tiny", "whisper-1"), keys=Keys.of([KEY])))
    config = uvicorn.Config(build_app(core), port=0, log_config=None, access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        thread.join(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()
    core.close()


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def llm(folder: Path) -> LLM:
    return LLM(str(folder), threads=1)


def test_each_form_is_what_the_python_api_gives(client: openai.OpenAI, llm: LLM) -> None:
    sound = noise_wav(2.3)
    (found,) = llm.transcribe(sound, TranscribeParams(language="en"))
    asked: dict[str, Any] = {"model": "whisper-1", "file": ("a.wav", sound), "language": "en"}
    create = client.audio.transcriptions.create
    assert create(**asked).text == found.text
    verbose = create(**asked, response_format="verbose_json", timestamp_granularities=["segment"])
    assert (verbose.text, verbose.language) == (found.text, "english")
    assert verbose.segments is not None
    assert [(s.start, s.end, s.text, s.tokens) for s in verbose.segments] == [
        (s.start, s.end, s.text, list(s.tokens)) for s in found.segments
    ]
    assert create(**asked, response_format="text") == write.to_text(found)
    assert create(**asked, response_format="srt") == write.to_srt(found)
    assert create(**asked, response_format="vtt") == write.to_vtt(found)


def test_translations_prompts_and_temperatures(client: openai.OpenAI, llm: LLM) -> None:
    sound = noise_wav(1.3, 5)
    how = TranscribeParams(task="translate", prompt="!#", temperature=0.5)
    (found,) = llm.transcribe(sound, how)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the client's, of its own method
        made = client.audio.translations.create(
            model="tiny", file=("a.wav", sound), prompt="!#", temperature=0.5
        )
    assert made.text == found.text


def test_many_at_once_are_each_alone(url: str, llm: LLM) -> None:
    sounds = [noise_wav(0.4 + 0.3 * i, i) for i in range(6)]

    async def all_of_them() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as many:
            made = await asyncio.gather(
                *(
                    many.audio.transcriptions.create(model="tiny", file=("a.wav", sound))
                    for sound in sounds
                )
            )
            return [one.text for one in made]

    assert asyncio.run(all_of_them()) == [found.text for found in llm.transcribe(sounds)]


def test_one_after_the_other_for_ever(folder: Path) -> None:
    core = Core(LLM(str(folder), threads=1), ServeOptions(names=("tiny",), max_queue=2))

    async def check() -> None:
        app = httpx.ASGITransport(build_app(core))  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=app, base_url="http://localhost") as client:
            for _ in range(4):
                sound = {"file": ("a.wav", noise_wav(0.3, 1))}
                answer = await client.post("/v1/audio/transcriptions", files=sound)
                assert answer.status_code == 200, answer.text

    asyncio.run(check())
    core.close()


@pytest.fixture
def call() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=120) as client:
        yield client


def test_what_is_refused(url: str, call: httpx.Client) -> None:
    sound = noise_wav(0.2)
    for fields, status, param, reason in (
        ({"file": sound, "beam": "5"}, 400, "beam", "not a field that is known"),
        ({}, 400, "file", "is missing"),
        ({"file": b"ID3 music"}, 400, "file", "is MP3; only WAV is read"),
        ({"file": sound[:-5]}, 400, "file", "is cut short"),
        ({"file": sound, "model": "other"}, 404, "model", "is not here"),
        ({"file": sound, "response_format": "xml"}, 400, "response_format", "'xml'"),
        ({"file": sound, "temperature": "hot"}, 400, "temperature", "'hot'"),
        ({"file": sound, "temperature": "nan"}, 400, "temperature", "'nan'"),
        ({"file": sound, "language": "xx"}, 400, "language", "'xx'"),
        ({"file": sound, "stream": "true"}, 400, "stream", "can only be false"),
        (
            {"file": sound, "timestamp_granularities[]": "word"},
            400,
            "timestamp_granularities",
            "there is: segment",
        ),
        (
            {"file": sound, "timestamp_granularities[]": "segment"},
            400,
            "timestamp_granularities",
            "verbose_json",
        ),
    ):
        files = {"file": fields["file"]} if "file" in fields else {"none": b""}
        data = {k: v for k, v in fields.items() if isinstance(v, str)}
        if not data and "file" not in fields:
            files = {"file": b""}  # a part without a file's name is no file
        answer = call.post(
            f"{url}/v1/audio/transcriptions",
            files={k: (None if not v else "a.wav", v) for k, v in files.items()},
            data=data,
            headers={"authorization": f"Bearer {KEY}"},
        )
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (status, param), error
        assert reason in error["message"]
    post = f"{url}/v1/audio/translations"
    headers = {"authorization": f"Bearer {KEY}"}
    language = call.post(post, files={"file": sound}, data={"language": "de"}, headers=headers)
    assert language.status_code == 400, "translations go into English"
    assert language.json()["error"]["param"] == "language"
    assert call.post(post, json={"file": "a"}, headers=headers).status_code == 400
    broken = {"content-type": "multipart/form-data; boundary=x", **headers}
    assert call.post(post, content=b"--x\r\nbroken", headers=broken).status_code == 400
    assert call.post(post, files={"file": sound}).status_code == 401


def test_only_what_the_model_does_is_served(url: str, call: httpx.Client) -> None:
    headers = {"authorization": f"Bearer {KEY}"}
    chat = {"messages": [{"role": "user", "content": "hi"}]}
    assert call.post(f"{url}/v1/chat/completions", json=chat, headers=headers).status_code == 404
    models = call.get(f"{url}/v1/models", headers=headers).json()["data"]
    assert [model["id"] for model in models] == ["tiny", "whisper-1"]
    document = call.get(f"{url}/openapi.json", headers=headers).json()
    assert "/v1/audio/transcriptions" in document["paths"]
    assert "/v1/completions" not in document["paths"]
    assert call.get(f"{url}/readyz").status_code == 200


def test_who_goes_away_frees_the_row(url: str, llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """The encoder waits until the client has gone."""
    sound, begun, gone = noise_wav(60.0, 3), threading.Event(), threading.Event()
    encode = CpuExecutor.encode

    def waiting(*given: Any, **named: Any) -> Any:
        begun.set()
        assert gone.wait(120)
        return encode(*given, **named)

    monkeypatch.setattr(CpuExecutor, "encode", waiting)

    async def go_away() -> None:
        async with httpx.AsyncClient(timeout=120) as client:
            asking = client.post(
                f"{url}/v1/audio/transcriptions",
                files={"file": ("a.wav", sound)},
                headers={"authorization": f"Bearer {KEY}"},
            )
            task = asyncio.create_task(asking)
            assert await asyncio.to_thread(begun.wait, 120)
            task.cancel()
            await asyncio.wait([task])

    asyncio.run(go_away())
    gone.set()
    short = noise_wav(0.5, 4)
    answer = httpx.post(
        f"{url}/v1/audio/transcriptions",
        files={"file": ("a.wav", short)},
        headers={"authorization": f"Bearer {KEY}"},
        timeout=120,
    )
    assert json.loads(answer.text)["text"] == llm.transcribe(short)[0].text
