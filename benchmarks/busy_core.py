"""What a busy process beside the engine costs: python benchmarks/busy_core.py MODEL [--threads N]

Times a prompt of 512 tokens and the decode of 64 more (or --rows shorter prompts and their decode),
alone and with a process that spins on each core in turn, then on every core at once. A process that
spins on one of n cores takes half of it, so (n - 1/2) / n of the speed is a fair rest; a step that
waits for a thread without a core falls far below that. --sleep: it spins for a millisecond, then
sleeps for so many, as a server's loop does between two steps. Rounds go through all cases in turn;
medians.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from random import Random
from statistics import median

from ridgeline import LLM, SamplingParams

PROMPT, DECODED = 512, 64


SPIN = "while True: pass"
SPIN_AND_SLEEP = """
import sys, time
while True:
    end = time.perf_counter() + 1e-3
    while time.perf_counter() < end: pass
    time.sleep(float(sys.argv[1]) / 1e3)
"""


@contextmanager
def spinning(cores: Sequence[int], sleep: float | None) -> Iterator[None]:
    """A process on each of `cores` that does nothing but run, and sleep."""
    code = [SPIN] if sleep is None else [SPIN_AND_SLEEP, str(sleep)]
    processes = [subprocess.Popen([sys.executable, "-c", *code]) for _ in cores]
    try:
        for process, core in zip(processes, cores, strict=True):
            os.sched_setaffinity(process.pid, {core})
        time.sleep(0.2)
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def speeds(llm: LLM, seed: int, rows: int) -> tuple[float, float]:
    """Tokens a second of prompts that no cache knows, and of the decode after them."""
    random = Random(seed)
    length = PROMPT // rows
    prompts = [[random.randrange(100, 20000) for _ in range(length)] for _ in range(rows)]
    params = SamplingParams(temperature=0.0, max_tokens=DECODED + 1, ignore_eos=True)
    begin = time.monotonic()
    replies = llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], params)
    first = max(reply.metrics.first_token for reply in replies)
    decode = DECODED * rows / (max(reply.metrics.finished for reply in replies) - first)
    return length * rows / (first - begin), decode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--sleep", type=float, default=None, help="ms")
    arguments = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    cases: dict[str, list[int]] = {"alone": []}
    cases |= {f"beside a process on core {core}": [core] for core in cores}
    cases["beside one on every core"] = cores
    llm = LLM(arguments.model, threads=arguments.threads)
    seed = 0
    speeds(llm, seed, arguments.rows)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    for _ in range(arguments.rounds):
        for name, busy in cases.items():
            with spinning(busy, arguments.sleep):
                seed += 1
                found[name].append(speeds(llm, seed, arguments.rows))
    print("| | prefill 512, tok/s | of alone | decode, tok/s | of alone | fair |")
    print("| --- | --- | --- | --- | --- | --- |")
    alone = [median(each[i] for each in found["alone"]) for i in (0, 1)]
    for name, busy in cases.items():
        taken = 1 / 2 if arguments.sleep is None else 1 / (1 + arguments.sleep)
        fair = 1 - taken * len(busy) / len(cores)
        row = [median(each[i] for each in found[name]) for i in (0, 1)]
        shown = " | ".join(
            f"{speed:,.0f} | {speed / whole:.0%}" for speed, whole in zip(row, alone, strict=True)
        )
        print(f"| {name} | {shown} | {fair:.0%} |")


if __name__ == "__main__":
    main()
