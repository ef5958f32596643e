"""Prefill and decode speed of one request through the Python API, as a line of JSON.

    python benchmarks/latency.py MODEL [--threads 2] [--prefill 512] [--decode 128] [--depth 32]

    prefill    tokens/s: prompt tokens over the time until the first token is there
    decode     tokens/s: tokens after the first over the time after the first, `--depth` tokens
               of prompt before them

Each is measured once, after one warm-up with other token ids (a prefix cache gives no help). The
scheduler, sampling and detokenizing are in the figures.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import time

from ridgeline import LLM, SamplingParams
from ridgeline.config import read_settings

ORDINARY_IDS = (1000, 40000)  # no special tokens, and inside every model's vocabulary


def token_times(llm: LLM, num_prompt: int, num_output: int, seed: int) -> list[float]:
    """Seconds from the request to each of its output tokens."""
    generator = random.Random(seed)
    ids = [generator.randrange(*ORDINARY_IDS) for _ in range(num_prompt)]
    params = SamplingParams(temperature=0.0, max_tokens=num_output, ignore_eos=True)
    begin = time.perf_counter()
    return [
        time.perf_counter() - begin
        for delta in llm.stream({"prompt_token_ids": ids}, params)
        for _ in delta.token_ids
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Prefill and decode speed of one request.")
    parser.add_argument("model")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--prefill", type=int, default=512)
    parser.add_argument("--decode", type=int, default=128)
    parser.add_argument("--depth", type=int, default=32)
    arguments = parser.parse_args()
    settings = read_settings()
    if arguments.threads is not None:
        settings = dataclasses.replace(settings, threads=arguments.threads)
    llm = LLM(arguments.model, settings=settings)

    token_times(llm, arguments.prefill, 1, seed=1)
    prefill = token_times(llm, arguments.prefill, 1, seed=2)
    token_times(llm, arguments.depth, 8, seed=3)
    decode = token_times(llm, arguments.depth, arguments.decode + 1, seed=4)
    figures = {
        "prefill": arguments.prefill / prefill[0],
        "decode": arguments.decode / (decode[-1] - decode[0]),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
