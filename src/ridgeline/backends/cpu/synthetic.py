"""This machine's kernels, timed by themselves: graphs of no model, with random weights.

Each operator runs in the real executor beside others, as it does in a model, and is told by the
executor's own timers. Sizes are of no known model. What is timed here is turned into a profile by
`cost/kernels.py`; this file knows no cost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import harmonic_mean, median
from time import perf_counter, process_time, sleep

import numpy as np
import numpy.typing as npt

from ridgeline.backends.cpu import _native
from ridgeline.backends.cpu.executor import CpuExecutor
from ridgeline.backends.cpu.program import ProgramLimits, predict_memory
from ridgeline.backends.cpu.synthetic_graphs import (
    COMMON_FORMATS,
    VOCAB,
    attention_graph,
    large_graph,
    linear_graph,
    small_graph,
)
from ridgeline.cost.device import ReadRates
from ridgeline.cost.kernel_samples import TimedStep
from ridgeline.model.formats import quantize
from ridgeline.model.graph.node import Graph, Weight
from ridgeline.step import PlanRow, RowSampling, StepPlan, StepShape
from ridgeline.units import MIB

# Formats that are packed alike are timed once: Q4_K is as Q4_1, Q5_K as Q5_1 (linear_layout.h).
LINEAR_FORMATS = (
    "Q4_0",
    "Q4_1",
    "Q5_0",
    "Q5_1",
    "Q6_K",
    "Q8_0",
    "Q2_K",
    "Q3_K",
    "IQ4_NL",
    "MXFP4",
    "BF16",
    "F16",
    "F32",
)
# Rows of a step: where kernels change their ways, and between.
ROWS = (1, 2, 4, 8, 16, 32, 64, 256, 512)
AGAIN_ROWS = (1, 4, 16)
# Of formats that are rare, the others being between them.
FEW_ROWS = (1, 16, 64, 256)
# With weights that no cache holds; a few times. Beyond, arithmetic hides reading.
COLD_ROWS = {1: 4, 4: 4, 16: 2, 64: 2}
# Above what a virtual machine has of caches, however much they are said to hold. Timed now and then
# between all else: memory's speed may change meanwhile, and kernels draw all of a slow one.
LARGE_BYTES, COLD_TURNS = 240 * MIB, 3
CONTEXTS = (31, 255, 511, 1023)
KV_FORMAT_NAMES = ("bf16", "f16", "int8")

# After a disturbed run.
REST_SECONDS = 0.003
# Runs that are judged together take so long at least: the system books a thread's time by ticks of
# up to 4 ms, so that of one short run it says nothing.
BURST_SECONDS = 0.012
# Of the cores' time in a burst; less, and somebody else had some of it, or the threads one core.
LEAST_CPU_SHARE = 0.75
# What runs take more than their operators' medians, at most; more is others' doing.
MOST_SLOWER = 1.2
# Of a graph's weights, beside each burst.
READ_ROUNDS = 2
# Of arithmetic, a millisecond each, before and behind each burst.
PACE_ROUNDS = 2
# Of a graph's runs; a machine that is never free is measured as it is.
MOST_RETRIES = 12
# Two timings of a step that differ by more are not believed, so many turns long.
AGREEMENT, MOST_TURNS = 0.15, 1

# Of the logarithm of norms' gains.
_GAINS_SPREAD = 1.25

_MAX_ROWS, _MAX_TOKENS = 64, 512
_BLOCK = 16

Report = Callable[[str], None]


def time_kernels(
    isa: str, threads: int, large_bytes: int = LARGE_BYTES, report: Report = lambda _: None
) -> Iterator[TimedStep]:
    """Every step that a profile is fitted on, one after the other. large_bytes: of weights that no
    cache holds, at most.
    """
    large = _Large(isa, threads, large_bytes)
    for turn in range(COLD_TURNS):
        report("weights in memory")
        yield from large.steps()
        if turn == 0:
            yield from _time_formats(isa, threads, report)
        if turn == 1:
            for name in KV_FORMAT_NAMES:
                report(f"attention over {name}")
                yield from _time_attention(name, isa, threads)
            report("small operators")
            yield from _time_small(isa, threads)


def _time_formats(isa: str, threads: int, report: Report) -> Iterator[TimedStep]:
    """Short steps of common formats twice, seconds apart, and again where the two disagree: what
    disturbs one format does not last so long.
    """
    best: dict[tuple[str, StepShape], TimedStep] = {}
    common: dict[str, _Timer] = {}
    for name in LINEAR_FORMATS:
        report(f"kernels of {name}")
        timer = _Timer(linear_graph(name), isa, threads, _MAX_ROWS)
        if name in COMMON_FORMATS:
            common[name] = timer
        for step in _time_linears(timer, ROWS if name in common else FEW_ROWS, threads):
            best[name, step.shape] = step
    unsure = list(common)
    for _ in range(1 + MOST_TURNS):
        names, unsure = unsure, []
        for name in names:
            report(f"kernels of {name}, again")
            for step in _time_linears(common[name], AGAIN_ROWS, threads):
                before = best[name, step.shape]
                if not 1 / (1 + AGREEMENT) < step.total / before.total < 1 + AGREEMENT:
                    unsure.append(name)
                best[name, step.shape] = before.better(step)
        unsure = list(dict.fromkeys(unsure))
        if not unsure:
            break
    yield from best.values()


class RandomWeights:
    """A few random rows again and again: kernels are not faster for it. Vectors, the gains of
    norms, are as unlike each other as models' are: of a row that makes logits, a quarter to two
    fifths of the groups have a second term, and rows beside each other mostly the same ones.
    """

    def __init__(self) -> None:
        self._bytes: dict[tuple[str, int], npt.NDArray[np.uint8]] = {}

    def raw(self, weight: Weight) -> npt.NDArray[np.uint8]:
        key = (weight.format.name, weight.shape[-1])
        known = self._bytes.get(key)
        if known is None:
            numbers = np.random.default_rng(7).standard_normal((32, weight.shape[-1]))
            known = quantize((numbers * weight.shape[-1] ** -0.5), key[0]).reshape(-1)
        if known.size < weight.num_bytes:
            known = np.resize(known, weight.num_bytes)
        self._bytes[key] = known
        return known[: weight.num_bytes]

    def float32(self, weight: Weight) -> npt.NDArray[np.float32]:
        rng = np.random.default_rng(11)
        gains: npt.NDArray[np.float32] = np.exp(_GAINS_SPREAD * rng.standard_normal(weight.shape))
        return gains.astype(np.float32)

    def entry(self, weight: Weight, index: int) -> npt.NDArray[np.uint8]:
        raise AssertionError("no synthetic graph has experts")

    def release(self, weight: Weight, index: int | None = None) -> None:
        pass


def packed_ratios(isa: str) -> dict[str, float]:
    """Of each format, bytes of weights as they are packed for each byte as stored."""
    found = {}
    for name in _native.packed_formats():
        graph = linear_graph(name)
        limits = ProgramLimits(isa, 1, 1, max_rows=1, max_tokens=1, max_sampled=1)
        vectors = sum(4 * w.num_elements for w in graph.weights if len(w.shape) == 1)
        matrices = sum(w.num_bytes for w in graph.weights if w.name.endswith(".w"))
        found[name] = (predict_memory(graph, limits)["weights"] - vectors) / matrices
    return found


def streamed_rows(isa: str) -> dict[str, float]:
    """Of each format that has any, rows up to which it is read in several plain streams, and not in
    one that asks ahead.
    """
    found = {name: _native.streamed_rows(name, isa) for name in sorted(_native.packed_formats())}
    return {name: float(rows) for name, rows in found.items() if rows}


def engine_executor(isa: str, threads: int) -> CpuExecutor:
    """Of a graph whose tokens can be answers, for who times an engine."""
    return CpuExecutor(
        attention_graph("bf16"),
        RandomWeights(),
        num_blocks=32 * 8,
        max_rows=32,
        max_tokens_per_step=_MAX_TOKENS,
        threads=threads,
        isa=isa,
    )


# ---- steps


class _Timer:
    """Owns an executor, and runs a step until its operators' medians mean something."""

    def __init__(
        self, graph: Graph, isa: str, threads: int, num_blocks: int, cold_bytes: float = 0.0
    ) -> None:
        self.graph, self._retries, self._cold = graph, MOST_RETRIES, cold_bytes
        self._rates: list[ReadRates] = []
        self.executor = CpuExecutor(
            graph,
            RandomWeights(),
            num_blocks=num_blocks,
            max_rows=_MAX_ROWS,
            max_tokens_per_step=_MAX_TOKENS,
            max_logits_per_step=_MAX_ROWS,
            threads=threads,
            isa=isa,
        )

    def open(self, row: int, num_tokens: int) -> None:
        ids = [(7 * row + i) % VOCAB for i in range(num_tokens)]
        self.executor.open_row(row, ids, RowSampling())

    def close(self, rows: int) -> None:
        for row in range(rows):
            self.executor.close_row(row)

    def step(
        self,
        plan: StepPlan,
        repeat: int,
        *,
        sampling: bool = False,
        threads: int,
    ) -> TimedStep:
        """Medians over `repeat` runs or more, after a first one that is not counted; together they
        take what a run takes on average, for a model's steps have their slow operators, too. Bursts
        in which others had the cores are done once more. Beside each burst stands the pace that
        all of it follows but what comes from memory: bursts are brought to that of them all.
        """
        seen: dict[str, list[float]] = {}
        again = StepPlan(tuple(row._replace(new_blocks=()) for row in plan.rows))
        self._run(plan, sampling)
        counted, whole = 0, 0.0
        rates, paces, barriers = self._read_rates(), [self._pace()], [self._barrier()]
        while counted < repeat:
            burst: list[tuple[str, float]] = []
            runs = 0
            clock, cpu = perf_counter(), process_time()
            while (took := perf_counter() - clock) < BURST_SECONDS:
                self.executor.reset_timers()
                self._run(again, sampling)
                burst += [(t.name, 1e-9 * t.nanoseconds) for t in self.executor.timers() if t.calls]
                runs += 1
            if (process_time() - cpu) / took / threads < LEAST_CPU_SHARE and self._retries > 0:
                self._retries -= 1
                sleep(2 * REST_SECONDS)  # the system moves threads that share a core
                paces.append(self._pace())
                continue
            counted += runs
            paces.append(self._pace())
            barriers.append(self._barrier())
            pace = 1.0 if self._cold else harmonic_mean(paces[-2:])
            whole += sum(value * pace for _, value in burst)
            for name, value in burst:
                seen.setdefault(name, []).append(value * pace)
            if self._cold:
                rates += self._read_rates()
        pace = median(paces)
        medians = {name: median(values) for name, values in seen.items()}
        usual = max(1.0, min(MOST_SLOWER, whole / counted / sum(medians.values())))
        usual /= 1.0 if self._cold else pace
        seconds = {name: value * usual for name, value in medians.items()}
        read = ReadRates(*(median(way) for way in zip(*rates, strict=True)))
        waits = median(barriers)
        return TimedStep(self.graph, plan.shape, threads, self._cold, seconds, read, pace, waits)

    def _read_rates(self) -> list[ReadRates]:
        """Of a graph that caches hold, once: it is no other a moment later."""
        if self._cold or not self._rates:
            self._rates = self.executor.read_bandwidth(READ_ROUNDS)
        return list(self._rates)

    def _barrier(self) -> float:
        return self.executor.barrier_nanoseconds()

    def _pace(self) -> float:
        return harmonic_mean(self.executor.pace(PACE_ROUNDS))

    def _run(self, plan: StepPlan, sampling: bool) -> None:
        if not sampling:
            self.executor.forward(plan)
            return
        self.executor.submit(plan)
        self.executor.collect()
        for row in plan.rows:
            self.executor.truncate(row.row, row.num_context + row.num_new)


def _time_linears(timer: _Timer, marks: Sequence[int], threads: int) -> Iterator[TimedStep]:
    for rows in marks:
        repeat = 4 if rows <= 64 else 2
        if rows <= _MAX_ROWS:
            for row in range(rows):
                timer.open(row, 1)
            plan = StepPlan(tuple(PlanRow(row, 1, 0, 1, (row,)) for row in range(rows)))
        else:
            timer.open(0, rows)
            plan = StepPlan((PlanRow(0, rows, 0, 1, tuple(range(rows // _BLOCK))),))
        yield timer.step(plan, repeat, threads=threads)
        timer.close(len(plan.rows))


class _Large:
    """Weights that no cache holds."""

    def __init__(self, isa: str, threads: int, num_bytes: int) -> None:
        graph, packed = large_graph(num_bytes), packed_ratios(isa)
        held = sum(w.num_bytes * packed.get(w.format.name, 1.0) for w in graph.weights)
        self._timer, self._threads = _Timer(graph, isa, threads, _MAX_ROWS, held), threads

    def steps(self) -> Iterator[TimedStep]:
        for rows, repeat in COLD_ROWS.items():
            for row in range(rows):
                self._timer.open(row, 1)
            plan = StepPlan(tuple(PlanRow(row, 1, 0, 1, (row,)) for row in range(rows)))
            yield self._timer.step(plan, repeat, threads=self._threads)
            self._timer.close(rows)


def _time_attention(name: str, isa: str, threads: int) -> Iterator[TimedStep]:
    # Caches in other formats are the same graph's with other kernels: fewer steps say enough.
    usual = name == KV_FORMAT_NAMES[0]
    contexts = CONTEXTS if usual else CONTEXTS[:3]
    rows, length, longest = 16 if usual else 8, 96, max(contexts) + 1
    row_blocks, first_blocks = length // _BLOCK, -(-longest // _BLOCK)
    timer = _Timer(attention_graph(name), isa, threads, first_blocks + rows * row_blocks)
    repeat = 6 if usual else 4
    timer.open(0, longest)
    done = 0
    for num_new in (32, 96, 384, 512):
        if done >= longest:
            break
        blocks = tuple(range(done // _BLOCK, (done + num_new) // _BLOCK))
        plan = StepPlan((PlanRow(0, num_new, done, 1, blocks),))
        yield timer.step(plan, 2 if usual else 1, threads=threads)
        done += num_new
    # A row keeps what is before a step's context, so contexts go down.
    for context in reversed(contexts):
        plan = StepPlan((PlanRow(0, 1, context, 1),))
        yield timer.step(plan, repeat, threads=threads)
    for row in range(1, rows + 1):
        timer.open(row, length)
        first = first_blocks + (row - 1) * row_blocks
        plan = StepPlan((PlanRow(row, length, 0, 1, tuple(range(first, first + row_blocks))),))
        timer.executor.forward(plan)
    for context in (length - 1, 31):
        for count in (2, 4, 8, 16) if usual else (2, 8):
            plan = StepPlan(tuple(PlanRow(row, 1, context, 1) for row in range(1, count + 1)))
            yield timer.step(plan, repeat, threads=threads)


def _time_small(isa: str, threads: int) -> Iterator[TimedStep]:
    timer = _Timer(small_graph(), isa, threads, _MAX_ROWS + _MAX_TOKENS // _BLOCK)
    for rows in (1, 4, 16, 64):
        for row in range(rows):
            timer.open(row, 1)
        plan = StepPlan(tuple(PlanRow(row, 1, 0, 1, (row,)) for row in range(rows)))
        yield timer.step(plan, 7, sampling=True, threads=threads)
        timer.close(rows)
    for tokens in (64, 512):
        timer.open(0, tokens)
        blocks = tuple(range(tokens // _BLOCK))
        yield timer.step(StepPlan((PlanRow(0, tokens, 0, 1, blocks),)), 3, threads=threads)
        timer.close(1)
