"""Engines that are a process of their own for as long as their model is wanted.

Between its turns a process group is stopped (SIGSTOP), so that threads which spin while they wait
cost the others nothing.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Any

from side_by_side.cases import Case
from side_by_side.sample import tokens_per_second

START_SECONDS, ANSWER_SECONDS, END_SECONDS = 600, 600, 5
SLOTS = 8


class MissingError(Exception):
    """A contender that cannot be measured here, and why."""


class Group:
    """A process and all that it starts: a session of their own, stopped and woken together."""

    def __init__(
        self, command: Sequence[str], env: Mapping[str, str], log: Path, stdout: int = PIPE
    ) -> None:
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as errors:
            self.process = subprocess.Popen(
                command,
                stdin=PIPE,
                stdout=stdout,
                stderr=errors,
                env=env,
                start_new_session=True,
            )

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def close(self) -> None:
        """Asks it to end (the end of its input, SIGTERM), then makes it."""
        self.signal(signal.SIGCONT)
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(BrokenPipeError):
                if pipe is not None:
                    pipe.close()
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(END_SECONDS)
        self.signal(signal.SIGKILL)  # also what a worker that ended has left behind
        self.process.wait()

    def complaint(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace").strip()[-600:]


class Worker:
    """An engine's process that answers commands; see workers/protocol.py."""

    def __init__(self, name: str, command: Sequence[str], env: Mapping[str, str], log: Path):
        self.name = name
        self._group = Group(command, env, log)
        try:
            self.facts = self._answer(START_SECONDS)
        except BaseException:
            self.close()
            raise
        self.sleep()

    def _answer(self, seconds: float) -> dict[str, Any]:
        line = self._group.process.stdout
        assert line is not None
        ready, _, _ = select.select([line], [], [], seconds)
        text = line.readline() if ready else b""
        if not text:
            state = "ended" if ready else f"said nothing for {seconds:.0f} s"
            raise MissingError(f"{self.name} {state}; its log ends:\n{self._group.complaint()}")
        answer: dict[str, Any] = json.loads(text)
        return answer

    def ask(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to one command, while awake. Raises MissingError if the worker has ended."""
        assert self._group.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the missing answer tells
            self._group.process.stdin.write(json.dumps(command).encode() + b"\n")
            self._group.process.stdin.flush()
        return self._answer(ANSWER_SECONDS)

    @property
    def group(self) -> int | None:
        return self._group.process.pid

    def rate(self, case: Case, seed: str) -> float:
        def run(prompts: list[list[int]], outputs: list[int]) -> dict[str, Any]:
            return self.ask({"do": "run", "prompts": prompts, "outputs": outputs})

        return tokens_per_second(case, run, seed)

    def wake(self) -> None:
        self._group.signal(signal.SIGCONT)

    def sleep(self) -> None:
        self._group.signal(signal.SIGSTOP)

    def close(self) -> None:
        self._group.close()


class LlamaServer:
    """llama.cpp's HTTP server on loopback: 8 slots, prompt cache off, every request at once."""

    def __init__(
        self,
        name: str,
        server: Path,
        model: Path,
        threads: int,
        context: int,
        env: Mapping[str, str],
        log: Path,
    ) -> None:
        self.name = name
        self.facts: dict[str, Any] = {"version": "llama-server", "slots": SLOTS}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        count = str(threads)
        options = ["-m", str(model), "-t", count, "-tb", count, "-np", str(SLOTS), "-cb"]
        options += ["-c", str(SLOTS * context), "--host", "127.0.0.1", "--port", str(self._port)]
        self._group = Group([str(server), *options], env, log, stdout=DEVNULL)
        try:
            self._await()
        except BaseException:
            self.close()
            raise
        self.sleep()

    def _await(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._group.process.poll() is None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self._request("GET", "/health", None)[0] == 200:
                    return
            time.sleep(0.1)
        raise MissingError(f"{self.name} does not start; its log ends:\n{self._group.complaint()}")

    def _request(self, method: str, path: str, body: object) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=ANSWER_SECONDS)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    @property
    def group(self) -> int | None:
        return self._group.process.pid

    def rate(self, case: Case, seed: str) -> float:
        return tokens_per_second(case, self._run, seed)

    def _run(self, prompts: list[list[int]], outputs: list[int]) -> dict[str, Any]:
        def one(request: tuple[list[int], int]) -> int:
            prompt, tokens = request
            body = {"prompt": prompt, "n_predict": tokens, "ignore_eos": True, "temperature": 0.0}
            status, text = self._request("POST", "/completion", body | {"cache_prompt": False})
            if status != 200:
                raise MissingError(f"{self.name} answered {status}: {text[:300]!r}")
            return int(json.loads(text)["tokens_predicted"])

        with ThreadPoolExecutor(len(prompts)) as pool:
            begin = time.perf_counter()
            made = list(pool.map(one, zip(prompts, outputs, strict=True)))
            seconds = time.perf_counter() - begin
        assert made == outputs, (made, outputs)
        return {"seconds": seconds, "first_seconds": None}

    def wake(self) -> None:
        self._group.signal(signal.SIGCONT)

    def sleep(self) -> None:
        self._group.signal(signal.SIGSTOP)

    def close(self) -> None:
        self._group.close()
