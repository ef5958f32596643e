"""A profile of this machine's kernels: its synthetic operators timed, an engine's steps, a fit.

Takes some seconds. The engine's own part of a step, scheduling, the call and the booking,
is what is left of a step when its operators are taken off, on a graph of no model.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from statistics import median

import numpy as np

from ridgeline.assemble import TIMED_LIKE, packed_ratios, streamed_rows, synthetic_engine
from ridgeline.cost.device import Roofs
from ridgeline.cost.kernel_times import outside_terms
from ridgeline.cost.kernels import KernelProfile, fit, not_negative
from ridgeline.cost.measure import PACE, Meter, pace_now
from ridgeline.engine.request import Request
from ridgeline.step import RowSampling, StepShape

Report = Callable[[str, int, int], None]

_STEPS = 24


def profile_kernels(
    meter: Meter, roofs: Roofs, threads: int, report: Report = lambda *_: None
) -> KernelProfile | None:
    """None from a meter that times no kernels. roofs: of the same machine, measured just now."""
    if roofs.barrier(threads) is None:
        return None
    stages = 22
    done = 0

    def step(stage: str) -> None:
        nonlocal done
        report(stage, min(done, stages - 1), stages)
        done += 1

    steps = tuple(meter.kernels(threads, step))
    meter.close()
    if not steps:
        return None
    profile = fit(
        steps,
        isa=meter.isa,
        threads=threads,
        like=TIMED_LIKE,
        packed=packed_ratios(meter.isa),
        streamed=streamed_rows(meter.isa),
        measured_at=roofs.measured_at,
    )
    step("the engine's own part")
    outside = price_outside(meter.isa, threads)
    slower = profile.slower_at(pace_now(threads, partial(meter.arithmetic, PACE, threads)))
    meter.close()
    report("done", stages, stages)
    return replace(profile, outside={name: each / slower for name, each in outside.items()})


def price_outside(isa: str, threads: int) -> dict[str, float]:
    """Seconds of a step beside its operators: of any, for each row, for each token of a prompt."""
    samples: list[tuple[StepShape, float]] = []
    made, timers, reset = synthetic_engine(isa, threads)
    for rows, tokens in ((1, 4), (8, 4), (32, 4), (1, 512)):
        found: list[float] = []
        for turn in range(3 if tokens > 4 else 1):
            ids = [[(turn + row + i) % 64 for i in range(tokens)] for row in range(rows)]
            for row, token_ids in enumerate(ids):
                name = f"{rows}-{tokens}-{turn}-{row}"
                made.submit(_request(name, token_ids, 1 if tokens > 4 else _STEPS + 8))
            if tokens <= 4:
                while any(r.num_generated == 0 for r in made.state.requests.values()):
                    made.step()
            while made.has_work and len(found) < _STEPS:
                reset()
                begin = time.perf_counter()
                made.step()
                whole = time.perf_counter() - begin
                found.append(max(0.0, whole - 1e-9 * sum(t.nanoseconds for t in timers())))
            while made.has_work:
                made.step()
        shape = StepShape.prefill(tokens) if tokens > 4 else StepShape.decode(rows, tokens)
        samples.append((shape, median(found)))
    names = list(outside_terms(samples[0][0]))
    matrix = np.array([[outside_terms(shape)[n] / s for n in names] for shape, s in samples])
    return dict(zip(names, map(float, not_negative(matrix, np.ones(len(samples)))), strict=True))


def _request(name: str, token_ids: list[int], max_tokens: int) -> Request:
    return Request(
        id=name,
        token_ids=token_ids,
        num_prompt=len(token_ids),
        max_tokens=max_tokens,
        sampling=RowSampling(),
        stop_token_ids=frozenset(),
    )
