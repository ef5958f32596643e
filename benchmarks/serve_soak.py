"""A server under mixed traffic, rude clients and pauses: does anything stay behind?

    python benchmarks/serve_soak.py smollm2 --seconds 1200

Streams and whole answers, several at once, deadlines, clients that hang up, bodies that are no
JSON, and SIGSTOP for a moment. At the end, and once a minute: blocks, requests, file handles and
resident memory. A status of 500 or above that is not 503 or 504 is a failure. The KV cache is small
(--memory), so that all of it is in use within a minute: a large one is touched bit by bit for as
long as there are new prompts to keep, and memory grows without a leak.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import time
from collections import Counter
from typing import Any

from serve_client import get, open_files, post, prompts, resident_bytes, ridgeline, run, server


async def soak(port: int, pid: int, asked: argparse.Namespace) -> dict[str, Any]:
    texts = prompts(None, 64)
    statuses: Counter[int] = Counter()
    refusals: Counter[str] = Counter()
    end = time.perf_counter() + asked.seconds
    chance = random.Random(2)

    async def client() -> None:
        while time.perf_counter() < end:
            body: Any = {"prompt": chance.choice(texts), "max_tokens": chance.randrange(1, 65)}
            body |= {"stream": chance.random() < 0.6, "n": chance.choice([1, 1, 1, 3])}
            path, hang_up = "/v1/completions", None
            what = chance.random()
            if what < 0.25:
                hang_up = chance.expovariate(5)
            elif what < 0.35:
                body["timeout_seconds"] = chance.uniform(0.01, 1)
            elif what < 0.45:
                body = chance.choice([b"{", b'{"prompt": 1}', b"[" * 10000, b'{"x": 1}'])
            elif what < 0.7:
                content = body.pop("prompt")
                path, body["messages"] = (
                    "/v1/chat/completions",
                    [{"role": "user", "content": content}],
                )
            try:
                reply = await post(port, path, body, hang_up)
                statuses[reply.status] += 1
                if reply.status == 429:
                    refusals[json.loads(reply.body)["error"]["message"].split(",")[0][:60]] += 1
                    await asyncio.sleep(min(reply.retry_after or 1.0, 5.0))
            except (OSError, asyncio.IncompleteReadError):
                statuses[-1] += 1

    async def pauses() -> None:
        while time.perf_counter() < end:
            await asyncio.sleep(chance.uniform(5, 15))
            os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(chance.uniform(0.1, 2))
            os.kill(pid, signal.SIGCONT)

    async def state() -> dict[str, Any]:
        health = json.loads((await get(port, "/health"))[1])
        kept = ("running", "waiting", "answering", "free_blocks", "num_blocks", "tasks")
        found = {name: health[name] for name in kept if name in health}
        return found | {"fds": open_files(pid), "rss_mb": resident_bytes(pid) >> 20}

    async def watch() -> None:
        while time.perf_counter() < end:
            await asyncio.sleep(min(60.0, asked.seconds / 4))
            print(json.dumps(await state()), flush=True)

    before = await state()
    await asyncio.gather(watch(), pauses(), *(client() for _ in range(asked.clients)))
    await asyncio.sleep(3)
    after = await state()
    faults = sum(n for status, n in statuses.items() if status >= 500 and status not in (503, 504))
    leaks = [
        name
        for name in ("running", "waiting", "answering", "free_blocks", "fds", "tasks")
        if before[name] != after[name]
        and not (name in ("fds", "tasks") and after[name] <= before[name] + 3)
    ]
    told = {str(status): count for status, count in sorted(statuses.items())}
    return {
        "before": before,
        "after": after,
        "statuses": told,
        "refusals": refusals.most_common(5),
        "faults": faults,
        "leaks": leaks,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("model")
    parser.add_argument("--seconds", type=float, default=1200)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--memory", type=int, default=256 << 20)
    parser.add_argument("--port", type=int, default=8193)
    asked = parser.parse_args()
    command = ridgeline(asked.model, asked.port, "--memory", str(asked.memory))
    with server(command, asked.port) as pid:
        found = run(soak(asked.port, pid, asked))
    print(json.dumps(found, indent=1))
    raise SystemExit(bool(found["faults"] or found["leaks"]))


if __name__ == "__main__":
    main()
