"""What a busy process beside the engine costs: python benchmarks/busy_core.py MODEL [--threads N]

Times a prompt of 512 tokens and the decode of 64 more, alone and with a process that spins on each
core in turn, then on every core at once. A process that spins on one of n cores takes half of it,
so (n - 1/2) / n of the speed is a fair rest; a step that waits for a thread without a core falls
far below that. Rounds go through all cases in turn; medians.
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


@contextmanager
def spinning(cores: Sequence[int]) -> Iterator[None]:
    """A process on each of `cores` that does nothing but run."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in cores]
    try:
        for process, core in zip(processes, cores, strict=True):
            os.sched_setaffinity(process.pid, {core})
        time.sleep(0.2)
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def speeds(llm: LLM, seed: int) -> tuple[float, float]:
    """Tokens a second of a prompt that no cache knows, and of the decode after it."""
    random = Random(seed)
    prompt = [random.randrange(100, 20000) for _ in range(PROMPT)]
    params = SamplingParams(temperature=0.0, max_tokens=DECODED + 1, ignore_eos=True)
    begin = time.monotonic()
    metrics = llm.generate({"prompt_token_ids": prompt}, params)[0].metrics
    decode = DECODED / (metrics.finished - metrics.first_token)
    return PROMPT / (metrics.first_token - begin), decode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    cases: dict[str, list[int]] = {"alone": []}
    cases |= {f"beside a process on core {core}": [core] for core in cores}
    cases["beside one on every core"] = cores
    llm = LLM(arguments.model, threads=arguments.threads)
    seed = 0
    speeds(llm, seed)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    for _ in range(arguments.rounds):
        for name, busy in cases.items():
            with spinning(busy):
                seed += 1
                found[name].append(speeds(llm, seed))
    print("| | prefill 512, tok/s | of alone | decode, tok/s | of alone | fair |")
    print("| --- | --- | --- | --- | --- | --- |")
    alone = [median(each[i] for each in found["alone"]) for i in (0, 1)]
    for name, busy in cases.items():
        fair = 1 - len(busy) / 2 / len(cores)
        row = [median(each[i] for each in found[name]) for i in (0, 1)]
        shown = " | ".join(
            f"{speed:,.0f} | {speed / whole:.0%}" for speed, whole in zip(row, alone, strict=True)
        )
        print(f"| {name} | {shown} | {fair:.0%} |")


if __name__ == "__main__":
    main()
