"""This machine as a replica to simulate: a model on its CPU, before a weight is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ridgeline.assemble import (
    CPU_PRECISION,
    Options,
    cpu_needs,
    kept_profile,
    kept_roofs,
    kv_format_of,
    machine_device,
    machine_isa,
)
from ridgeline.config import Settings
from ridgeline.cost.count import count_kv_bytes
from ridgeline.cost.free_memory import available_bytes
from ridgeline.cost.kernel_times import kernel_seconds
from ridgeline.cost.sizes import BLOCK_TOKENS, plan_sizes
from ridgeline.cost.step_times import StepTimes, least_seconds
from ridgeline.engine.schedule.state import Limits
from ridgeline.model.graph.kv_format import KV_FORMATS
from ridgeline.model.opened import open_model
from ridgeline.model.passes.fuse import fuse
from ridgeline.model.passes.kv_format import with_kv_format
from ridgeline.model.weights.sources import Progress, parse_reference, resolve, silent
from ridgeline.plan.deployed import Knobs, ReplicaKind, empty_state
from ridgeline.plan.replica import Times
from ridgeline.step import StepShape

# Steps of answers that are priced; those between them are taken to lie on a line.
_GRAIN = 16


class AnyTimes:
    """`decode_run` for a function that only prices one step."""

    def __init__(self, seconds: Callable[[StepShape], float]) -> None:
        self._seconds = seconds

    def __call__(self, shape: StepShape) -> float:
        return self._seconds(shape)

    def decode_run(self, contexts: Sequence[int], count: int) -> NDArray[np.float64]:
        rows = len(contexts)
        marks = range(0, count + _GRAIN, _GRAIN)
        found = [
            self._seconds(StepShape((1,) * rows, tuple(c + mark for c in contexts), rows))
            for mark in marks
        ]
        return np.asarray(np.interp(np.arange(count), np.array(marks), np.array(found)))


def replica_here(
    model: str, settings: Settings, knobs: Knobs, options: Options, progress: Progress = silent
) -> ReplicaKind:
    """MODEL as `ridgeline run` would have it. Steps by what `ridgeline measure` timed of its
    kernels, or, where nothing was timed, the roofline's: then a bound, and said to be one.
    """
    knobs.check()
    options = replace(options, max_rows=knobs.max_rows, max_tokens_per_step=knobs.step_tokens)
    kv_format = kv_format_of(options)
    opened = open_model(resolve(parse_reference(model), settings, progress))
    graph = fuse(with_kv_format(opened.graph, KV_FORMATS[kv_format]))
    sizes = plan_sizes(
        graph,
        memory=options.memory,
        max_rows=options.max_rows,
        max_tokens_per_step=options.max_tokens_per_step,
        context_is_asked=False,
        rolling_bytes=CPU_PRECISION.rolling_bytes,
        available=available_bytes(),
        needs=cpu_needs(graph, options, settings),
    )
    isa = machine_isa(settings)
    seconds = kernel_seconds(
        graph, CPU_PRECISION, kept_profile(settings, isa), kept_roofs(settings, isa)
    )
    note = "steps as `ridgeline measure` timed this machine's kernels"
    if seconds is None:
        seconds = least_seconds(graph, CPU_PRECISION, machine_device(graph, settings))
        note = "steps by this machine's roofline, the least possible times: run `ridgeline measure`"
    times: Times = seconds if isinstance(seconds, StepTimes) else AnyTimes(seconds)
    limits = Limits(
        sizes.max_rows,
        sizes.max_tokens_per_step,
        sizes.max_context,
        BLOCK_TOKENS,
        knobs.max_waiting,
        knobs.itl_target,
        is_recurrent=sizes.num_slots > 0,
    )
    per_token = count_kv_bytes(graph)
    width = sum(group.blocks for group in sizes.groups)
    return ReplicaKind(
        name=opened.name,
        machine=f"this machine, {settings.threads} threads, {isa}",
        make=partial(
            empty_state,
            limits,
            sizes.num_blocks,
            knobs.policy,
            times,
            sizes.groups,
            max(0, sizes.num_slots - sizes.max_rows),
        ),
        times=times,
        knobs=replace(knobs, max_rows=sizes.max_rows, block_tokens=BLOCK_TOKENS),
        max_context=sizes.max_context,
        cache_tokens=sizes.num_blocks * BLOCK_TOKENS // max(1, width),
        kv_bytes_per_token=per_token.per_token,
        kv_bytes=lambda tokens: sum(per_token.held(tokens).values()),
        notes=(note,),
    )
