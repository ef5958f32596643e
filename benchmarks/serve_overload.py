"""Ten times what the server can do, for a minute: what is accepted is right, the rest told at once.

    python benchmarks/serve_overload.py smollm2 --seconds 60

First the peak: as many requests as rows, again and again. Then Poisson arrivals at --times that
rate. Checked: each accepted answer is complete and has the text that it has alone; refusals are 429
with Retry-After and take under 50 ms; goodput beside the peak: right answers that ended in those
seconds (what was let in is finished after them); resident memory.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from typing import Any

from serve_client import Reply, percentile, post, prompts, resident_bytes, ridgeline, run, server


async def overload(port: int, pid: int, asked: argparse.Namespace) -> dict[str, Any]:
    texts = prompts(None, 32)
    base = {"max_tokens": asked.tokens, "temperature": 0, "ignore_eos": True, "stream": True}

    async def ask(text: str) -> Reply:
        return await post(port, "/v1/completions", base | {"prompt": text})

    alone = {text: (await ask(text)).text for text in texts}
    began, finished = time.perf_counter(), 0

    async def again() -> None:
        nonlocal finished
        while time.perf_counter() < began + asked.peak_seconds:
            reply = await ask(random.choice(texts))
            finished += reply.done and reply.status == 200

    await asyncio.gather(*(again() for _ in range(asked.rows)))
    peak = finished / (time.perf_counter() - began)
    before = resident_bytes(pid)
    began = time.perf_counter()
    running: list[asyncio.Task[tuple[str, Reply]]] = []

    async def named(text: str) -> tuple[str, Reply]:
        return text, await ask(text)

    chance, at = random.Random(1), 0.0
    while at < asked.seconds:
        at += chance.expovariate(peak * asked.times)
        await asyncio.sleep(max(0.0, began + at - time.perf_counter()))
        running.append(asyncio.create_task(named(chance.choice(texts))))
    replies = await asyncio.gather(*running)
    accepted = [(text, one) for text, one in replies if one.status == 200]
    refused = [one for _, one in replies if one.status != 200]
    right = sum(one.done and one.text == alone[text] for text, one in accepted)
    in_time = sum(
        one.done and one.text == alone[text] and one.ended < began + asked.seconds
        for text, one in accepted
    )
    waits = [1e3 * (one.first_byte - one.sent) for one in refused]
    return {
        "peak_req_s": round(peak, 2),
        "asked": len(replies),
        "accepted": len(accepted),
        "right_and_complete": right,
        "refused": len(refused),
        "not_429": sum(one.status != 429 for one in refused),
        "without_retry_after": sum(one.retry_after is None for one in refused),
        **{f"refusal_p{p}_ms": round(percentile(waits, p / 100), 1) for p in (50, 99, 100)},
        "goodput_share_of_peak": round(in_time / asked.seconds / peak, 3),
        "rss_before_mb": before >> 20,
        "rss_after_mb": resident_bytes(pid) >> 20,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("model")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--peak-seconds", type=float, default=20)
    parser.add_argument("--times", type=float, default=10)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--max-ttft", type=float, default=5)
    parser.add_argument("--port", type=int, default=8192)
    asked = parser.parse_args()
    more = ("--max-rows", str(asked.rows), "--max-ttft", str(asked.max_ttft))
    with server(ridgeline(asked.model, asked.port, *more), asked.port) as pid:
        print(json.dumps(run(overload(asked.port, pid, asked)), indent=1))


if __name__ == "__main__":
    main()
