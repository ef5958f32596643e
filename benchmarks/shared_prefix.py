"""Time to first token with and without the prefix cache: requests that share a long prefix.

    python benchmarks/shared_prefix.py MODEL [--prefix 1500] [--requests 32] [--own 24] [--rounds 3]

    cold       the first request with the prefix: all of it is computed
    hit        the next ones, one after the other: their own tokens, and what a block cannot share
    burst      the same number at once, on a prefix that is cached: each waits for the others, too
    together   all at once on a prefix that nobody has computed yet

Each round has a prefix of its own. A line of JSON: medians in milliseconds, and shares of cold.
"""

from __future__ import annotations

import argparse
import json
import random
from statistics import median

from ridgeline import LLM, RequestOutput, SamplingParams

ORDINARY_IDS = (1000, 40000)  # no special tokens, and inside every model's vocabulary


def ids(generator: random.Random, count: int) -> list[int]:
    return [generator.randrange(*ORDINARY_IDS) for _ in range(count)]


def first_tokens(llm: LLM, prompts: list[list[int]]) -> list[float]:
    """Seconds to the first token of prompts that are submitted at once."""
    params = SamplingParams(temperature=0.0, max_tokens=2, ignore_eos=True, seed=1)
    outputs = llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], params)
    return [seconds(output) for output in outputs]


def seconds(output: RequestOutput) -> float:
    ttft = output.metrics.ttft_seconds
    assert ttft is not None
    return ttft


def main() -> None:
    parser = argparse.ArgumentParser(description="Time to first token beside the prefix cache.")
    parser.add_argument("model")
    parser.add_argument("--prefix", type=int, default=1500, help="tokens that all share")
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--own", type=int, default=24, help="tokens that each has besides")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    llm = LLM(arguments.model, max_rows=arguments.requests)
    generator = random.Random(1)
    first_tokens(llm, [ids(generator, 64)])  # warm-up
    times: dict[str, list[float]] = {"cold": [], "hit": [], "burst": [], "together": []}
    for _ in range(arguments.rounds):
        prefix = ids(generator, arguments.prefix)
        prompts = [prefix + ids(generator, arguments.own) for _ in range(arguments.requests)]
        times["cold"] += first_tokens(llm, prompts[:1])
        for prompt in prompts[1:]:
            times["hit"] += first_tokens(llm, [prompt])
        again = [prefix + ids(generator, arguments.own) for _ in range(arguments.requests)]
        times["burst"] += first_tokens(llm, again)
        prefix = ids(generator, arguments.prefix)
        fresh = [prefix + ids(generator, arguments.own) for _ in range(arguments.requests)]
        times["together"] += first_tokens(llm, fresh)
    middle = {name: median(values) for name, values in times.items()}
    figures = {
        "milliseconds": {name: round(1000 * value, 1) for name, value in middle.items()},
        "share_of_cold": {name: round(value / middle["cold"], 3) for name, value in middle.items()},
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
