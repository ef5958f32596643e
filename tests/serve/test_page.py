"""The page at `/`: its files and their policy; and in headless Chromium, where there is one, that a
conversation streams and the live view moves.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
import websockets
from tiny import tiny_core, within

from gate import gate
from ridgeline.serve.app import build_app
from ridgeline.serve.page.routes import KINDS

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def test_files_are_whole_and_call_nobody_else() -> None:
    core = tiny_core()

    async def check(client: httpx.AsyncClient) -> None:
        index = await client.get("/")
        assert index.headers["content-type"] == KINDS["index.html"]
        policy = index.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        named = set(re.findall(r'(?:src|href)="/page/([^"]+)"', index.text))
        assert named == set(KINDS) - {"index.html"}
        assert not re.search(r"<script(?![^>]*src=)|<style| on[a-z]+=| style=", index.text)
        for name in named:
            file = await client.get(f"/page/{name}")
            assert file.headers["content-type"] == KINDS[name]
            elsewhere = re.findall(r"https?://[^\s\"')]+", file.text)
            assert set(elsewhere) <= {"http://www.w3.org/2000/svg"}
        for path in ("/page/nothing.js", "/page/..%2f__init__.py", "/page/routes.py"):
            assert (await client.get(path)).status_code == 404

    within(core, check)


def test_what_is_typed_has_a_name() -> None:
    core = tiny_core()

    async def check(client: httpx.AsyncClient) -> None:
        text = (await client.get("/")).text
        for name in re.findall(r'<(?:textarea|input) id="([^"]+)"', text):
            wrapped = re.search(rf'<label>[^<]*<input id="{name}"', text)
            assert wrapped or f'<label for="{name}">' in text, name
        script = (await client.get("/page/chat.js")).text
        live = (await client.get("/page/live.js")).text
        for name in re.findall(r'at\("([^"]+)"\)', script + live):
            assert f'id="{name}"' in text, name

    within(core, check)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_conversation_streams_and_the_live_view_moves(tmp_path: Path) -> None:
    with _served() as (port, free), _browser(tmp_path) as address:
        asyncio.run(asyncio.wait_for(_used(port, address, free), 300))


async def _used(port: int, address: str, free: threading.Event) -> None:
    async with websockets.connect(address, max_size=None) as socket_:
        number = 0

        async def call(method: str, **params: Any) -> Any:
            nonlocal number
            number += 1
            await socket_.send(json.dumps({"id": number, "method": method, "params": params}))
            while True:
                told = json.loads(await socket_.recv())
                if told.get("id") == number:
                    assert "error" not in told, told
                    return told["result"]

        async def value(expression: str) -> Any:
            found = await call("Runtime.evaluate", expression=expression, returnByValue=True)
            return found["result"].get("value")

        async def until(expression: str) -> None:
            deadline = asyncio.get_running_loop().time() + 120
            while not await value(expression):
                assert asyncio.get_running_loop().time() < deadline, expression
                await asyncio.sleep(0.05)

        await call("Page.enable")
        await call("Page.navigate", url=f"http://127.0.0.1:{port}/")
        await until("document.querySelector('#model')?.textContent === 'tiny'")
        assert await value("document.activeElement.id") == "prompt"
        out = "document.querySelectorAll('#numbers dd')[2]?.textContent"
        await until(f"{out} === '0'")
        await call("Input.insertText", text="hello")
        for kind, text in (("keyDown", "\r"), ("keyUp", "")):
            key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": text}
            await call("Input.dispatchKeyEvent", type=kind, **key)
        await until("document.querySelectorAll('.turn').length >= 2")
        # In pieces: there is text while the answer can still be stopped.
        await until(
            "!document.querySelector('#stop').disabled && "
            "document.querySelectorAll('.turn')[1].textContent.length > 'Model'.length"
        )
        free.set()
        await until("document.querySelector('#told').textContent.includes('tokens')")
        await until(f"{out} === '256'")
        assert await value("document.querySelectorAll('.turn.error').length") == 0
        await until("document.querySelectorAll('#steps .bar').length > 1")
        await until("document.querySelectorAll('#numbers dd').length === 8")
        free.clear()
        await call("Input.insertText", text="again")
        for kind, text in (("keyDown", "\r"), ("keyUp", "")):
            key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": text}
            await call("Input.dispatchKeyEvent", type=kind, **key)
        await until("!document.querySelector('#stop').disabled")
        escape = {"key": "Escape", "code": "Escape", "windowsVirtualKeyCode": 27}
        await call("Input.dispatchKeyEvent", type="keyDown", **escape)
        await until("document.querySelector('#stop').disabled")
        await until("document.querySelector('#told').textContent === 'stopped'")
        free.set()
        await _refused_and_lost(call, value, until)
        await call("Emulation.setDeviceMetricsOverride", width=360, height=740,
                   deviceScaleFactor=1, mobile=True)  # fmt: skip
        assert await value("document.documentElement.scrollWidth <= 360")
        assert await value("getComputedStyle(document.querySelector('main')).display") == "block"


async def _refused_and_lost(
    call: Callable[..., Awaitable[Any]],
    value: Callable[[str], Awaitable[Any]],
    until: Callable[[str], Awaitable[None]],
) -> None:
    # A value that is refused is so in words, though its field is folded away; the question is kept.
    await value("document.querySelector('#top_p').value = '5'")
    await call("Input.insertText", text="refused")
    await value("document.querySelector('#form').requestSubmit()")
    error = "document.querySelector('.turn:last-child .error')?.textContent"
    await until(f"{error}?.includes('top_p')")
    boxes = "[...document.querySelectorAll('.turn.assistant')].at(-1).textContent"
    assert await value(f"{boxes} !== 'Model'"), "an empty answer is shown"
    assert await value("document.querySelector('#prompt').value") == "refused"
    # Steps of 0.1 bind nobody.
    await value("document.querySelector('#top_p').value = '1'")
    await value("document.querySelector('#temperature').value = '0.75'")
    await value("document.querySelector('#max_tokens').value = '200'")
    await value("document.querySelector('#form').requestSubmit()")
    await until("document.querySelector('#told').textContent.includes('cut at')")
    # Who reads further up is left there.
    await value("document.querySelector('#form').style.minHeight = '60vh'")
    await value(
        "document.querySelector('#prompt').value = 'on'; "
        "document.querySelector('#form').requestSubmit(); "
        "document.querySelector('#log').scrollTop = 0"
    )
    await until("document.querySelector('#told').textContent.includes('cut at')")
    assert await value("document.querySelector('#log').scrollTop") == 0
    assert await value(
        "(log => log.scrollHeight > log.clientHeight + 80)(document.querySelector('#log'))"
    )
    # A key's colour lies beside its word.
    for name in ("used", "shared", "kept"):
        style = f"getComputedStyle(document.querySelector('.key.{name}')).backgroundColor"
        assert await value(style) == "rgba(0, 0, 0, 0)", name
    # A server that is gone.
    await call("Network.enable")
    away = {"offline": True, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    await call("Network.emulateNetworkConditions", **away)
    await value("document.querySelector('#prompt').value = 'hello?'")
    await value("document.querySelector('#form').requestSubmit()")
    await until(f"{error} === 'the server does not answer'")
    await until("document.querySelector('#state').textContent === 'no answer from the server'")
    await call("Network.emulateNetworkConditions", **(away | {"offline": False}))


@contextmanager
def _served() -> Iterator[tuple[int, threading.Event]]:
    core = tiny_core()
    free = gate(core.llm, 64)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    config = uvicorn.Config(build_app(core), log_config=None, ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: server.run(sockets=[listening]), daemon=True)
    thread.start()
    try:
        yield listening.getsockname()[1], free
    finally:
        free.set()
        server.should_exit = True
        thread.join(120)
        core.close()


@contextmanager
def _browser(folder: Path) -> Iterator[str]:
    """A page's debugging address."""
    assert CHROMIUM is not None
    words = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
    words += [f"--user-data-dir={folder}", "--disable-dev-shm-usage", "about:blank"]
    process = subprocess.Popen([CHROMIUM, *words], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if match := re.search(r"ws://127\.0\.0\.1:(\d+)/", line):
                break
        else:
            pytest.fail("Chromium is here and does not start")
        with urllib.request.urlopen(f"http://127.0.0.1:{match[1]}/json", timeout=120) as answer:
            pages = json.load(answer)
        yield next(one["webSocketDebuggerUrl"] for one in pages if one["type"] == "page")
    finally:
        process.terminate()
        process.wait(120)
        process.stderr.close()
