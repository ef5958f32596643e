"""How fast one engine computes prompts and tokens, each figure beside the limits of that moment.

Tokens go through the real engine: scheduler, executor, sampling; text does not. Every sample has
its roofs measured right before it (reading a working set of its size, the arithmetic peaks in use,
a barrier), since hosts change from one second to the next. Work is counted on the steps that were
really run, on the graph that ran them. Measures; prints nothing.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from ridgeline.assemble import Assembled
from ridgeline.bench.sample import Case, Measured, Moment, OperatorSample, Sample
from ridgeline.cost.count import LAYER
from ridgeline.cost.device import OWN_CACHE_BYTES, Device, Peak, Read, mode_name
from ridgeline.cost.measure import Meter, fastest, upper_quartile
from ridgeline.cost.time import Bound, StepBound, step_bound
from ridgeline.engine.engine import Engine
from ridgeline.engine.executor import Executor
from ridgeline.engine.request import Request
from ridgeline.errors import CapacityError, EngineError, RequestError
from ridgeline.step import (
    BlockGroup,
    Image,
    Masks,
    RowSampling,
    StepPlan,
    StepResult,
    StepShape,
    most_row_blocks,
)
from ridgeline.units import MIB

# Read at most this much beside a sample: bandwidth hardly changes beyond it.
LARGEST_FOOTPRINT = 512 * MIB
_ROUNDS, _PEAK_ROUNDS = 5, 9
# Tokens of each row behind which a case is warm; of a row that the executor learns from, at most.
_WARM_TOKENS, _LEARNED_TOKENS = 8, 64

Report = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure. output: tokens of each row that a decode sample times. repeat: samples of
    each case. profile: with the time of each operator.
    """

    prompts: tuple[int, ...] = (512, 2048)
    contexts: tuple[int, ...] = (32, 2048)
    batches: tuple[int, ...] = (1,)
    output: int = 64
    repeat: int = 5
    profile: bool = False

    @property
    def cases(self) -> tuple[Case, ...]:
        # Small batches first: the prefix cache keeps their prompts for the larger ones.
        prefill = [Case("prefill", 1, prompt) for prompt in dict.fromkeys(self.prompts)]
        decode = [
            Case("decode", batch, context)
            for context in dict.fromkeys(self.contexts)
            for batch in sorted(set(self.batches))
        ]
        return (*prefill, *decode)

    @property
    def max_batch(self) -> int:
        return max(self.batches, default=1) if self.contexts else 1

    @property
    def num_positions(self) -> int:
        """The longest row."""
        decode = [context + self.output + self.max_batch + 2 for context in self.contexts]
        return max([*(prompt + 1 for prompt in self.prompts), *decode], default=1)

    def check(self) -> None:
        """Raises RequestError naming the field that cannot be."""
        for name, values, fewest in (
            ("prompt", self.prompts, 1),
            ("context", self.contexts, 1),
            ("batch", self.batches, 1),
            ("output", (self.output,), 1),
            ("repeat", (self.repeat,), 1),
        ):
            for value in values:
                if not fewest <= value <= 1 << 20:
                    raise RequestError(name, f"{value} is not a whole number from 1 to {1 << 20}")
        if not self.cases:
            raise RequestError("prompt", "nothing to measure: no prompt and no context is given")


def run(
    assembled: Assembled,
    plan: Plan,
    report: Report | None = None,
    meter: Meter | None = None,
) -> list[Measured]:
    """Every case `plan.repeat` times, the cases taking turns; a first round warms and is dropped.

    Raises RequestError where the model's context is too short for a case or the backend has no
    timers for a profile, CapacityError where the KV cache is too small, EngineError where a step
    failed. meter: for tests; the assembled backend's own otherwise.
    """
    plan.check()
    if plan.profile and assembled.timers() is None:
        raise RequestError(
            "profile", "this backend keeps no time by operator; only the cpu backend does"
        )
    bench = _Bench(assembled, plan, meter or assembled.meter())
    for case in plan.cases:
        bench.check_fits(case)
    samples: dict[Case, list[Sample]] = {case: [] for case in plan.cases}
    total = (plan.repeat + 1) * len(samples)
    done = 0
    for turn in range(plan.repeat + 1):
        for case, taken in samples.items():
            if report is not None:
                report(str(case) if turn else f"{case} (warming up)", done, total)
            sample = bench.sample(case, warming=turn == 0)
            if turn:
                taken.append(sample)
            done += 1
    bench.close()
    if report is not None:
        report("done", total, total)
    return [Measured(case, tuple(taken)) for case, taken in samples.items()]


def moment_of(assembled: Assembled, meter: Meter, shape: StepShape) -> Moment:
    """The machine's limits now, for the working set and the arithmetics of a step like `shape`."""
    threads = assembled.threads
    work = assembled.work(shape)
    size = int(work.weight_bytes + work.kv_read_bytes)
    size = max(min(size, LARGEST_FOOTPRINT), 64 * 1024 * threads)
    read = Read.of(size, threads, meter.read(size, threads, _ROUNDS))
    cache = fastest(meter.read(OWN_CACHE_BYTES * threads, threads, _ROUNDS))
    peaks = tuple(
        Peak(name, threads, upper_quartile(meter.arithmetic(name, threads, _PEAK_ROUNDS)))
        for name in sorted(work.flops)
    )
    barrier = assembled.barrier_nanoseconds()
    if barrier is None:
        barrier = min(meter.barrier(threads, _ROUNDS))
    return Moment(
        read=read,
        peaks=peaks,
        barrier_nanoseconds=barrier,
        mode=mode_name(barrier, threads),
        device=Device(
            name="this machine",
            memory_bytes_per_second=1e9 * read.gigabytes_per_second,
            operations_per_second={
                peak.arithmetic: 1e9 * peak.gigaoperations_per_second for peak in peaks
            },
            barrier_seconds=1e-9 * barrier,
            cache_bytes=float(meter.cache_bytes),
            cache_bytes_per_second=1e9 * cache,
        ),
    )


class _Recorder:
    """An executor that notes the steps that it hands on: their shapes, and the seconds and CPU
    seconds of this process that they took.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.reset()

    def reset(self) -> None:
        self.shapes: list[StepShape] = []
        self.seconds = 0.0
        self.cpu_seconds = 0.0

    @property
    def block_tokens(self) -> int:
        return self._executor.block_tokens

    @property
    def num_blocks(self) -> int:
        return self._executor.num_blocks

    @property
    def groups(self) -> tuple[BlockGroup, ...]:
        return self._executor.groups

    @property
    def blocks_together(self) -> int:
        return self._executor.blocks_together

    @property
    def steps_together(self) -> int:
        return self._executor.steps_together

    @property
    def max_rows(self) -> int:
        return self._executor.max_rows

    @property
    def vocab_size(self) -> int:
        return self._executor.vocab_size

    @property
    def num_slots(self) -> int:
        return self._executor.num_slots

    def open_row(self, row: int, token_ids: Sequence[int], sampling: RowSampling) -> None:
        self._executor.open_row(row, token_ids, sampling)

    def give_images(self, row: int, images: Sequence[Image]) -> None:
        self._executor.give_images(row, images)

    def append_tokens(self, row: int, token_ids: Sequence[int]) -> None:
        self._executor.append_tokens(row, token_ids)

    def close_row(self, row: int) -> None:
        self._executor.close_row(row)

    def submit(self, plan: StepPlan, masks: Masks | None = None) -> None:
        self.shapes.append(plan.shape)
        self.seconds -= time.perf_counter()
        self.cpu_seconds -= time.process_time()
        if masks is None:
            self._executor.submit(plan)
        else:
            self._executor.submit(plan, masks)

    def collect(self) -> StepResult:
        result = self._executor.collect()
        self.cpu_seconds += time.process_time()
        self.seconds += time.perf_counter()
        return result

    def run_on(
        self, plan: StepPlan, steps: int, ends: Sequence[int]
    ) -> Sequence[tuple[StepResult, float]]:
        self.seconds -= time.perf_counter()
        self.cpu_seconds -= time.process_time()
        ran = self._executor.run_on(plan, steps, ends)
        self.cpu_seconds += time.process_time()
        self.seconds += time.perf_counter()
        self.shapes += [_further(plan.shape, step) for step in range(len(ran))]
        return ran

    def forward(self, plan: StepPlan) -> npt.NDArray[np.float32]:
        return self._executor.forward(plan)


def _further(shape: StepShape, tokens: int) -> StepShape:
    """The rows of a step, so many tokens later."""
    return replace(shape, context_lens=tuple(context + tokens for context in shape.context_lens))


@dataclass(slots=True)
class _Bench:
    """Owns an engine over the assembled executor, and what was already counted."""

    assembled: Assembled
    plan: Plan
    meter: Meter
    recorder: _Recorder = field(init=False)
    engine: Engine = field(init=False)
    num_requests: int = 0

    def __post_init__(self) -> None:
        limits = self.assembled.engine.state.limits
        self.recorder = _Recorder(self.assembled.executor)
        self.engine = Engine(
            self.recorder,
            max_context=limits.max_context,
            max_tokens_per_step=limits.max_tokens_per_step,
        )

    def check_fits(self, case: Case) -> None:
        longest = self._longest(case)
        limits = self.engine.state.limits
        if longest > limits.max_context:
            name = "prompt" if case.phase == "prefill" else "context"
            raise RequestError(
                name,
                f"{case} needs {longest} positions with the tokens that are generated; there are "
                f"{limits.max_context}",
            )
        if case.batch > limits.max_rows:
            raise CapacityError(f"{case} needs {case.batch} rows; there are {limits.max_rows}")
        row_blocks = most_row_blocks(
            self.recorder.groups, longest, limits.block_tokens, limits.most_unbooked_tokens
        )
        if case.batch * row_blocks > self.recorder.num_blocks:
            raise CapacityError(
                f"{case} needs {case.batch * row_blocks} KV blocks and "
                f"{self.recorder.num_blocks} fit; lower --batch or --context"
            )

    def sample(self, case: Case, warming: bool = False) -> Sample:
        shapes = self._prepare(case)
        if warming and case.phase == "decode":
            self._learn(case)
        moment = moment_of(self.assembled, self.meter, shapes[0])
        if case.phase == "prefill":
            seconds, ran = self._prefill(case)
        else:
            output = self.plan.output
            seconds, ran = self._decode(case, min(output, _WARM_TOKENS) if warming else output)
        return self._judged(case, seconds, ran, moment, self.plan.profile and not warming)

    def close(self) -> None:
        """The rows that it opened are free for who uses the executor next."""
        closed = self.engine.state.closed
        while closed:
            self.recorder.close_row(closed.pop(0))

    # ---- running

    def _prepare(self, case: Case) -> list[StepShape]:
        """The steps that will be run, as far as it is known before; a decode's prompts computed."""
        if case.phase == "prefill":
            return [StepShape.prefill(case.context)]
        for row in range(case.batch):
            self._submit(self._kept_prompt(case.context, row), 1)
            self._drain()
        return [StepShape.decode(case.batch, case.context)]

    def _prefill(self, case: Case) -> tuple[float, list[StepShape]]:
        prompt = self._fresh_prompt(case.context)
        self._start_clocks()
        begin = time.perf_counter()
        self._submit(prompt, 1)
        self._drain()
        return time.perf_counter() - begin, self.recorder.shapes

    def _decode(self, case: Case, output: int) -> tuple[float, list[StepShape]]:
        """All rows first get one token, from prompts that the prefix cache has; then the clock."""
        slack = case.batch + 1
        requests = [
            self._submit(self._kept_prompt(case.context, row), output + slack)
            for row in range(case.batch)
        ]
        while any(request.num_generated == 0 for request in requests):
            self._step()
        self._start_clocks()
        begin = time.perf_counter()
        first = requests[0].num_generated
        while (left := first + output - requests[0].num_generated) > 0:
            self._step(min(left, self.recorder.steps_together))
        seconds = time.perf_counter() - begin
        shapes = self.recorder.shapes
        for request in requests:
            self.engine.abort(request.id)
        if any(shape.new_tokens != (1,) * case.batch for shape in shapes):
            raise EngineError(f"{case}: a step that should decode every row did something else")
        return seconds, shapes

    def _learn(self, case: Case) -> None:
        """What an executor learns from an engine's first tokens is no part of a sample."""
        output = min(self.plan.output, _WARM_TOKENS)
        for _ in range(_LEARNED_TOKENS // output):
            if not self.assembled.learns_from(case.batch):
                return
            self._decode(case, output)

    def _step(self, most: int = 1) -> None:
        """As `LLM.generate` has them: see `Engine.step`."""
        for event in self.engine.step(most):
            if event.error is not None:
                raise event.error

    def _drain(self) -> None:
        while self.engine.has_work:
            self._step()

    def _submit(self, token_ids: list[int], max_tokens: int) -> Request:
        self.num_requests += 1
        request = Request(
            id=f"bench-{self.num_requests}",
            token_ids=token_ids,
            num_prompt=len(token_ids),
            max_tokens=max_tokens,
            sampling=RowSampling(),
            stop_token_ids=frozenset(),
        )
        self.engine.submit(request)
        return request

    def _start_clocks(self) -> None:
        self.recorder.reset()
        self.assembled.reset_timers()

    def _fresh_prompt(self, num_tokens: int) -> list[int]:
        """Ids that no prompt before began with: the prefix cache gives no help."""
        return self._ids(num_tokens, f"fresh {self.num_requests}")

    def _kept_prompt(self, num_tokens: int, row: int) -> list[int]:
        return self._ids(num_tokens, f"kept {row}")

    def _ids(self, num_tokens: int, seed: str) -> list[int]:
        """Ordinary ids: the first ones of a vocabulary are bytes and control tokens."""
        vocab_size = self.recorder.vocab_size
        draw = random.Random(seed)
        first = min(1000, vocab_size // 4)
        return [draw.randrange(first, vocab_size) for _ in range(num_tokens)]

    def _longest(self, case: Case) -> int:
        if case.phase == "prefill":
            return case.context + 1
        return case.context + self.plan.output + case.batch + 1

    # ---- judging

    def _judged(
        self, case: Case, seconds: float, shapes: list[StepShape], moment: Moment, profile: bool
    ) -> Sample:
        steps = self._bounds(case, shapes, moment.device)
        binds: dict[str, float] = {}
        for step, count in steps:
            for row in step.rows:
                share = count * row.bound.seconds
                binds[row.bound.binds] = binds.get(row.bound.binds, 0.0) + share
        return Sample(
            seconds=seconds,
            num_tokens=case.context if case.phase == "prefill" else case.batch * len(shapes),
            num_steps=len(shapes),
            least_seconds=sum(count * step.seconds for step, count in steps),
            compute_seconds=sum(count * step.compute_seconds for step, count in steps),
            memory_seconds=sum(count * step.memory_seconds for step, count in steps),
            binds=max(binds, key=lambda name: binds[name]),
            cpu_share=self._cpu_share(),
            moment=moment,
            operators=self._operators(steps) if profile else (),
        )

    def _cpu_share(self) -> float | None:
        """Of the cores' time during the steps, what this process had; None for a few milliseconds,
        in which the start of the threads is most of it, and where no thread pool computes.
        """
        recorder = self.recorder
        if recorder.seconds < 0.02 or self.assembled.barrier_nanoseconds() is None:
            return None
        return min(1.0, recorder.cpu_seconds / (recorder.seconds * self.assembled.threads))

    def _bounds(
        self, case: Case, shapes: list[StepShape], device: Device
    ) -> list[tuple[StepBound, int]]:
        """The least time of each kind of step, and how many there were. Decode steps are priced as
        the middle one: their work is linear in the context.
        """
        if case.phase == "decode":
            counted = [(shapes[len(shapes) // 2], len(shapes))]
        else:
            counted = [(shape, 1) for shape in shapes]
        graph, precision = self.assembled.bound_graph, self.assembled.precision
        return [(step_bound(graph, shape, precision, device), n) for shape, n in counted]

    def _operators(self, steps: list[tuple[StepBound, int]]) -> tuple[OperatorSample, ...]:
        """The timers of the sample, by name without layer, beside the work of the same name."""
        bounds: dict[str, Bound] = {}
        flops: dict[str, float] = {}
        for step, count in steps:
            for row in step.rows:
                name, bound = row.row.name, row.bound.times(count)
                bounds[name] = bounds[name] + bound if name in bounds else bound
                flops[name] = flops.get(name, 0.0) + count * row.row.work.total_flops
        found: dict[str, OperatorSample] = {}
        for timer in self.assembled.timers() or ():
            name = LAYER.sub("layers.*.", timer.name)
            before = found.get(name)
            found[name] = OperatorSample(
                name=name,
                operator=timer.type,
                calls=timer.calls + (before.calls if before else 0),
                seconds=1e-9 * timer.nanoseconds + (before.seconds if before else 0.0),
                barrier_seconds=1e-9 * timer.barrier_nanoseconds
                + (before.barrier_seconds if before else 0.0),
                start_seconds=1e-9 * timer.start_nanoseconds
                + (before.start_seconds if before else 0.0),
                bound=bounds.get(name),
                flops=flops.get(name, 0.0),
            )
        return tuple(found.values())
