"""This machine as a replica to simulate: a model on its CPU, before a weight is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
    machine_meter,
)
from ridgeline.config import Settings
from ridgeline.cost.count import count_kv_bytes
from ridgeline.cost.device import Barrier, Device, Roofs
from ridgeline.cost.free_memory import available_bytes
from ridgeline.cost.kernel_times import KernelTimes, kernel_seconds
from ridgeline.cost.measure import PACE, pace_now, reads_now
from ridgeline.cost.sizes import plan_sizes
from ridgeline.cost.step_times import StepTimes, least_seconds
from ridgeline.engine.schedule.state import Limits
from ridgeline.model.graph.kv_format import KV_FORMATS
from ridgeline.model.graph.node import Graph
from ridgeline.model.opened import open_model
from ridgeline.model.passes.fuse import fuse
from ridgeline.model.passes.kv_format import with_kv_format
from ridgeline.model.passes.screen import with_screen
from ridgeline.model.weights.sources import Progress, parse_reference, resolve, silent
from ridgeline.plan.deployed import Knobs, ReplicaKind, empty_state
from ridgeline.plan.replica import Times
from ridgeline.step import BLOCK_TOKENS, StepShape

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


def roofs_now(settings: Settings) -> Roofs | None:
    """What was kept of this machine, with memory, pace and barrier as they are now: 1.5 s. For
    models that are not loaded; `Assembled.roofs_now` reads the weights themselves.
    """
    isa = machine_isa(settings)
    kept = kept_roofs(settings, isa)
    if kept is None or kept.barrier(settings.threads) is None:
        return kept
    meter, threads = machine_meter(isa), settings.threads
    pace = pace_now(threads, partial(meter.arithmetic, PACE, threads))
    barrier = Barrier(threads, min(meter.barrier(threads, 5)))
    return kept.as_now(reads_now(meter, threads, available_bytes()), pace, barrier)


def replica_here(
    model: str, settings: Settings, knobs: Knobs, options: Options, progress: Progress = silent
) -> ReplicaKind:
    """MODEL as `ridgeline run` would have it. Steps by what `ridgeline measure` timed of its
    kernels, or, where nothing was timed, the roofline's: then a bound, and said to be one.
    """
    knobs.check()
    kv_format_of(options)  # before a download
    opened = open_model(resolve(parse_reference(model), settings, progress))
    return engine_here(opened.name, opened.graph, settings, knobs, options).kind


@dataclass(frozen=True, slots=True)
class EngineHere:
    """weight_bytes, fixed_bytes: that the backend would allocate, of weights and of all but the
    cache; cache_bytes: of the cache. factor: half the width of the 80 % interval of a step of one
    answer; None where nothing was timed.
    """

    kind: ReplicaKind
    weight_bytes: int
    fixed_bytes: int
    cache_bytes: int
    factor: float | None

    @property
    def rows_at_once(self) -> int:
        return self.kind.make().rows_at_once


def engine_here(
    name: str,
    graph: Graph,
    settings: Settings,
    knobs: Knobs,
    options: Options,
    limits_of: Callable[[Graph, Settings], Device] = machine_device,
    roofs: Roofs | None = None,
) -> EngineHere:
    """A graph as this machine's engine would run it, with the settings' threads. limits_of: asked
    where nothing was timed. roofs: of this moment; None: those that were kept, so that the same
    question has the same answer. CapacityError where it does not fit.
    """
    knobs.check()
    options = replace(options, max_rows=knobs.max_rows, max_tokens_per_step=knobs.step_tokens)
    graph = with_screen(fuse(with_kv_format(graph, KV_FORMATS[kv_format_of(options)])))
    needs = cpu_needs(graph, options, settings)
    sizes = plan_sizes(
        graph,
        memory=options.memory,
        max_rows=options.max_rows,
        max_tokens_per_step=options.max_tokens_per_step,
        context_is_asked=False,
        rolling_bytes=CPU_PRECISION.rolling_bytes,
        available=available_bytes(),
        needs=needs,
    )
    isa = machine_isa(settings)
    is_kept = roofs is None
    roofs = kept_roofs(settings, isa) if roofs is None else roofs
    seconds = kernel_seconds(graph, CPU_PRECISION, kept_profile(settings, isa), roofs)
    note = "steps as `ridgeline measure` timed this machine's kernels"
    weight_bytes = sum(weight.num_bytes for weight in graph.weights)
    read = None if roofs is None else roofs.read(weight_bytes, settings.threads)
    if read is not None:
        moment = "kept" if is_kept else "of this moment"
        note += f", weights at {read.gigabytes_per_second:.0f} GB/s ({moment})"
    factor = None
    if isinstance(seconds, KernelTimes):
        if not is_kept:
            note += f", arithmetic at {100 / seconds.slower:.0f} % of when kernels were timed"
        one = seconds.step(StepShape.decode(1, 512))
        factor = one.high / one.seconds
    if seconds is None:
        seconds = least_seconds(graph, CPU_PRECISION, limits_of(graph, settings))
        note = "steps by this machine's roofline, the least possible times: run `ridgeline measure`"
    times: Times = seconds if isinstance(seconds, StepTimes) else AnyTimes(seconds)
    limits = Limits(
        sizes.max_rows,
        sizes.max_tokens_per_step,
        sizes.max_context,
        BLOCK_TOKENS,
        knobs.max_waiting,
        knobs.itl_target,
        options.itl_steps,
        options.rate_share,
        options.wave_seconds,
        is_recurrent=sizes.num_slots > 0,
    )
    per_token = count_kv_bytes(graph)
    width = sum(group.blocks for group in sizes.groups)
    kind = ReplicaKind(
        name=name,
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
    fixed = needs.weight_bytes + needs.arena_bytes + needs.shared_bytes
    return EngineHere(kind, needs.weight_bytes, fixed, sizes.memory, factor)
