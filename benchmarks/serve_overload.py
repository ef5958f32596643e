"""Ten times what the server can do, for a minute: what is accepted is right, the rest told at once.

    python benchmarks/serve_overload.py smollm2 --seconds 60

First the peak: as many requests as rows, again and again. Then Poisson arrivals at --times that
rate. Checked: each accepted answer is complete and has the text that it has alone; refusals are 429
with Retry-After and take under 50 ms, as they come to the client's system; how much later the
client, which waits for the same cores, reads them is told beside it, as is what client and server
have of the cores; goodput beside the peak; resident memory. Goodput and peak count alike: right
answers, each by the part of its pieces that came in those seconds, since what is in the rows when
they are over was begun in them, and nobody is served by the rows' emptying afterwards. Beside it,
as it was counted before: answers that ended in those seconds, of a peak with its emptying.

--asyncio asks as `serve_load.py` does, with a task for each caller: on a machine that serves and
asks at once, its 0.2 ms for each of those who are refused is the server's loss, too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import time
from collections.abc import Sequence
from typing import Any

from serve_client import (
    Crowd,
    Reply,
    machine_seconds,
    percentile,
    post,
    processor_seconds,
    prompts,
    request_of,
    resident_bytes,
    ridgeline,
    run,
    server,
)


def overload(port: int, pid: int, asked: argparse.Namespace) -> dict[str, Any]:
    base = {"max_tokens": asked.tokens, "temperature": 0, "ignore_eos": True, "stream": True}
    texts = prompts(None, 32)
    bodies = {text: base | {"prompt": text} for text in texts}
    alone, at_peak, peak_ended, cores_at_peak = run(_peak(port, pid, bodies, asked))
    peak = at_peak / asked.peak_seconds
    before = resident_bytes(pid)
    chance = random.Random(1)
    arrivals: list[tuple[float, str]] = []
    at = 0.0
    while at < asked.seconds:
        at += chance.expovariate(peak * asked.times)
        arrivals.append((at, chance.choice(texts)))
    began, had = time.perf_counter(), _had(pid)
    if asked.asyncio:
        answered = run(_callers(port, bodies, arrivals, began))
    else:
        requests = {text: request_of("/v1/completions", body) for text, body in bodies.items()}
        answered = Crowd(port).run([(at, requests[text]) for at, text in arrivals], began)
    cores = _shares(had, _had(pid), time.perf_counter() - began)
    replies = [(text, reply) for (_, text), reply in zip(arrivals, answered, strict=True)]
    accepted = [(text, one) for text, one in replies if one.status == 200]
    refused = [one for _, one in replies if one.status != 200]
    good = [one for text, one in accepted if one.done and one.text == alone[text]]
    until = began + asked.seconds
    in_time = sum(_part(one, until) for one in good)
    ended = sum(one.ended < until for one in good)
    waits = [1e3 * (one.first_byte - one.sent) for one in refused]
    late = [1e3 * one.read_late for one in refused]
    read = [sum(each) for each in zip(waits, late, strict=True)]
    return {
        "peak_req_s": round(peak, 2),
        "asked": len(replies),
        "accepted": len(accepted),
        "right_and_complete": len(good),
        "refused": len(refused),
        "not_429": sum(one.status != 429 for one in refused),
        "without_retry_after": sum(one.retry_after is None for one in refused),
        **{f"refusal_p{p}_ms": round(percentile(waits, p / 100), 1) for p in (50, 99, 100)},
        **{f"refusal_read_p{p}_ms": round(percentile(read, p / 100), 1) for p in (50, 99, 100)},
        **{f"client_late_p{p}_ms": round(percentile(late, p / 100), 1) for p in (50, 99, 100)},
        "goodput_share_of_peak": round(in_time / asked.seconds / peak, 3),
        "peak_ended_req_s": round(peak_ended, 2),
        "ended_share_of_peak_ended": round(ended / asked.seconds / peak_ended, 3),
        "cores_at_peak": cores_at_peak,
        "cores": cores,
        "rss_before_mb": before >> 20,
        "rss_after_mb": resident_bytes(pid) >> 20,
    }


async def _peak(
    port: int, pid: int, bodies: dict[str, dict[str, Any]], asked: argparse.Namespace
) -> tuple[dict[str, str], float, float, dict[str, float]]:
    """Each text's answer alone; with as many at once as rows, answers' worth that came in
    `peak_seconds`, answers a second until all had ended, and cores then.
    """
    alone = {
        text: (await post(port, "/v1/completions", body)).text for text, body in bodies.items()
    }
    replies: list[Reply] = []
    began, had = time.perf_counter(), _had(pid)
    until = began + asked.peak_seconds

    async def again() -> None:
        while time.perf_counter() < until:
            text = random.choice(list(bodies))
            reply = await post(port, "/v1/completions", bodies[text])
            if reply.done and reply.status == 200 and reply.text == alone[text]:
                replies.append(reply)

    await asyncio.gather(*(again() for _ in range(asked.rows)))
    seconds = time.perf_counter() - began
    in_time = sum(_part(one, until) for one in replies)
    return alone, in_time, len(replies) / seconds, _shares(had, _had(pid), seconds)


def _part(reply: Reply, until: float) -> float:
    """Of an answer what came until then, as a share of its pieces."""
    return sum(stamp < until for stamp in reply.stamps) / len(reply.stamps)


async def _callers(
    port: int,
    bodies: dict[str, dict[str, Any]],
    arrivals: Sequence[tuple[float, str]],
    began: float,
) -> list[Reply]:
    running = []
    for at, text in arrivals:
        await asyncio.sleep(max(0.0, began + at - time.perf_counter()))
        running.append(asyncio.create_task(post(port, "/v1/completions", bodies[text])))
    return list(await asyncio.gather(*running))


def _had(pid: int) -> dict[str, float]:
    """Processor seconds so far; what is left of all cores is others' work, or the kernel's."""
    threads = processor_seconds(pid)
    return {
        "client": sum(processor_seconds(os.getpid()).values()),
        "server": sum(threads.values()),
        "server_loop": next(iter(threads.values())),
        **machine_seconds(),
    }


def _shares(before: dict[str, float], after: dict[str, float], seconds: float) -> dict[str, float]:
    return {name: round((after[name] - before[name]) / seconds, 3) for name in before}


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
    parser.add_argument("--asyncio", action="store_true")
    asked = parser.parse_args()
    more = ("--max-rows", str(asked.rows), "--max-ttft", str(asked.max_ttft))
    with server(ridgeline(asked.model, asked.port, *more), asked.port) as pid:
        print(json.dumps(overload(asked.port, pid, asked), indent=1))


if __name__ == "__main__":
    main()
