"""What this machine will make of a load of requests: the scheduler that serves, on a virtual clock.

Steps take what the machine's profile says; text takes what the model's own tokenizer takes here and
now. Runs nothing of the model.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ridgeline.assemble import (
    Assembled,
    Options,
    assemble,
    cpu_needs,
    kept_profile,
    kept_roofs,
    machine_isa,
)
from ridgeline.config import Settings
from ridgeline.cost.kernel_times import KernelTimes
from ridgeline.cost.memory import Needs
from ridgeline.engine.request import Request
from ridgeline.engine.schedule.policies import POLICIES
from ridgeline.engine.schedule.state import SchedulerState
from ridgeline.errors import RidgelineError
from ridgeline.plan.one_engine import Simulation, simulate
from ridgeline.step import RowSampling, StepShape

_TEXT_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Served:
    """So many requests at once, each with a prompt of its own and an answer of that length."""

    requests: int
    prompt: int
    output: int


@dataclass(frozen=True, slots=True)
class Here:
    """A model on this machine, though no weight of it was read: made computes nothing. times: its
    steps by the machine's prices. needs: bytes that the cpu backend would allocate.
    """

    made: Assembled
    times: KernelTimes
    needs: Needs


def on_this_machine(model: str, settings: Settings, options: Options | None = None) -> Here:
    """Raises RidgelineError where the machine was not measured, and what `assemble` does."""
    options = replace(options or Options(), backend="null")
    settings = replace(settings, threads=options.threads or settings.threads)
    isa = machine_isa(settings)
    profile, roofs = kept_profile(settings, isa), kept_roofs(settings, isa)
    if profile is None or roofs is None:
        raise RidgelineError("this machine was not measured yet; `ridgeline measure` does")
    made = assemble(model, settings, options)
    times = KernelTimes(made.bound_graph, made.precision, profile, roofs)
    return Here(made, times, cpu_needs(made.bound_graph, options, made.settings))


@dataclass(frozen=True, slots=True)
class WithText:
    """Step times, and what is done with each token that a step gives a row."""

    times: KernelTimes
    token_seconds: float

    def __call__(self, shape: StepShape) -> float:
        return self.times(shape) + self.token_seconds * shape.num_sampled

    def decode_run(self, contexts: Sequence[int], count: int) -> NDArray[np.float64]:
        return self.times.decode_run(contexts, count) + self.token_seconds * len(contexts)


def predict_serving(assembled: Assembled, times: KernelTimes, load: Served) -> float:
    """Tokens of answers a second, from the first prompt to the last token."""
    found = simulate_load(assembled, times, load)
    return found.output_tokens / found.seconds


def simulate_load(assembled: Assembled, times: KernelTimes, load: Served) -> Simulation:
    draw = random.Random(7)
    requests = [
        Request(
            id=f"r{index}",
            token_ids=[draw.randrange(1 << 20) for _ in range(load.prompt)],
            num_prompt=load.prompt,
            max_tokens=load.output,
            sampling=RowSampling(),
            stop_token_ids=frozenset(),
        )
        for index in range(load.requests)
    ]
    executor = assembled.executor
    state = SchedulerState.empty(
        assembled.engine.state.limits,
        executor.num_blocks,
        POLICIES["fcfs"](),
        None,
        executor.groups,
        max(0, executor.num_slots - executor.max_rows),
        blocks_together=executor.blocks_together,
    )
    return simulate(requests, state, WithText(times, text_seconds(assembled)))


def text_seconds(assembled: Assembled) -> float:
    """Of a token of an answer: becoming text as it comes."""
    from ridgeline.model.text.detokenizer import Detokenizer

    tokenizer = assembled.tokenizer
    draw = random.Random(5)
    vocab = min(assembled.vocab_size, 40000)
    ids = [draw.randrange(min(1000, vocab // 2), vocab) for _ in range(_TEXT_TOKENS)]
    detokenizer = Detokenizer(tokenizer)
    begin = time.perf_counter()
    for token_id in ids:
        detokenizer.push(token_id)
    return (time.perf_counter() - begin) / _TEXT_TOKENS
