"""How to run a model: what a caller may choose, and what is checked first."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ridgeline.errors import RequestError

# Options that are positive whole numbers.
COUNTS = ("context_length", "memory", "max_rows", "max_tokens_per_step", "max_waiting", "threads")
ALWAYS = ("max_rows", "max_tokens_per_step")


# `itl_steps` of a server to which nobody says a pace: a step with a prompt takes so many times a
# step of answers in every row at most. With 1.5, 2 and 4 a burst has the same tokens a second;
# gaps are shortest with 1.5 (docs/log.md, "The server under load").
SERVED_ITL_STEPS = 1.5
# Rows of a server to which nobody says how many, and its `rate_share`: what is lost of tokens a
# second buys gaps about half as long, and answers end one by one, not all late.
SERVED_ROWS = 64
SERVED_RATE_SHARE = 0.9
# Its `wave_seconds`: nobody's first token waits for others' prompts any longer.
SERVED_WAVE_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Options:
    """How to run a model; None: chosen from the model and the machine.

    backend: "cpu", "reference" (NumPy, slow, the definition) or "null" (no arithmetic).
    context_length: tokens of a prompt and its answer. memory: bytes of the KV cache. kv_format: how
    keys and values are kept, "bf16", "f16" or "int8"; "f32" in the reference backend. max_rows:
    requests that run at once. max_tokens_per_step: new tokens that a step computes at most. policy:
    who goes first, "fcfs", "priority" or "fair". max_waiting: requests that may wait; one more is
    refused as Overloaded, with the time when to come back; None: any number. itl_target: seconds
    between the tokens of an answer that prompts must leave: beside answers that are being written,
    a step has as much of a prompt as fits that time; itl_steps: the same, as so many times what a
    step takes that writes in every row. rate_share: no more requests run at once than it takes to
    write this part of the tokens a second that max_rows would write, by prediction.
    wave_seconds: many prompts that come beside few answers are read before any of theirs begins, if
    that takes no longer than so by prediction; None: each answer begins at once. expert_counts:
    outputs say how often each expert of a mixture was chosen. forced_spans: tokens to which a
    grammar leaves no other come without a step for each, the same answer for fewer steps. threads,
    isa: of the CPU backend, over `Settings`. record: a file to which everything that the engine is
    told and does is written, for `ridgeline replay`; token ids, no text. task: "generate", "embed"
    or "classify". pooling: of an encoder, "mean" or "cls", over its files'. positions: "dropped"
    leaves rotations out (DroPE).
    """

    backend: str = "cpu"
    context_length: int | None = None
    memory: int | None = None
    kv_format: str | None = None
    max_rows: int = 64
    max_tokens_per_step: int = 512
    policy: str = "fcfs"
    max_waiting: int | None = None
    itl_target: float | None = None
    itl_steps: float | None = None
    rate_share: float | None = None
    wave_seconds: float | None = None
    expert_counts: bool = False
    forced_spans: bool = True
    threads: int | None = None
    isa: str | None = None
    record: str | Path | None = None
    task: str | None = None
    pooling: str | None = None
    positions: str = "kept"


# Threads that wait for each other take turns on a core: 1,000 load a small model in 25 s.
THREADS_A_CORE = 16


def check_threads(threads: int) -> None:
    """RequestError where cores have more of them than could ever help."""
    cores = len(os.sched_getaffinity(0))
    if threads > THREADS_A_CORE * cores:
        raise RequestError(
            "threads",
            f"{threads} on the {cores} cores that this process may use; {cores} are as fast as it "
            f"goes, {THREADS_A_CORE * cores} the most",
        )


def check_numbers(options: Options) -> None:
    """RequestError names an option whose value means nothing."""
    for name in COUNTS:
        value = getattr(options, name)
        if value is None and name not in ALWAYS:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise RequestError(name, f"{value!r} is not a positive whole number")
    for name in ("itl_steps", "rate_share", "wave_seconds"):
        if not isinstance(getattr(options, name), int | float | None):
            raise RequestError(name, f"{getattr(options, name)!r} is not a number")
    if not isinstance(options.record, str | Path | None):
        raise RequestError("record", "must be a path")
    target = options.itl_target
    if target is not None and not (isinstance(target, int | float) and 0 < target < 3600):
        raise RequestError("itl_target", f"{target!r} is not a number of seconds above 0")
