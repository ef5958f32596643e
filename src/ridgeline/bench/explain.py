"""Where a step's time goes on this machine, why, and which knob would move it.

The engine runs the step with its timers on; beside each operator stands what the machine's profile
had predicted, before the step was run. What is left of the time is a ledger that sums to the whole.
Knobs are not tried: the step is priced again with each of them turned. Prints nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from ridgeline.assemble import Assembled
from ridgeline.bench.latency import Plan, Report, run
from ridgeline.bench.sample import Case, Measured, OperatorSample
from ridgeline.bench.turned import OUTPUT, Knob, Turned, shapes_of, turn_knobs
from ridgeline.cost.device import Roofs
from ridgeline.cost.kernel_times import KernelTimes, OperatorPrediction, StepPrediction
from ridgeline.cost.kernels import KernelProfile
from ridgeline.cost.measure import Meter, ReadRoof, steady
from ridgeline.errors import RequestError
from ridgeline.step import StepShape

# A part of an operator's time from which on it is the reason that its roof is not reached.
TELLING_SHARE = 0.3
# An operator that comes so near its roof is bound by what its roof is made of.
NEAR_ROOF = 0.6
REPEAT = 3


@dataclass(frozen=True, slots=True)
class ExplainedOperator:
    """An operator over all its layers, in one step. Seconds are wall time and add up to the step.

    predicted: None where the step's shape was not priced. waiting, starting: parts of `seconds`,
    means over the threads. of_roof: least time / time. reason: why it takes longer than its roof.
    """

    name: str
    operator: str
    seconds: float
    predicted: float | None
    waiting: float
    starting: float
    binds: str
    of_roof: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class LedgerLine:
    """A part of a step's time; shares of a ledger's lines add up to 1."""

    name: str
    seconds: float
    share: float


@dataclass(frozen=True, slots=True)
class Explained:
    """A step, measured beside predicted.

    seconds, predicted, low, high: of one step (of a prompt, all its steps together); 80 % of steps
    were predicted between low and high. read: the memory's speed that it was predicted with, of
    just before; pace: that of all else, where 1 is the one at which kernels were timed. least: that
    nothing could beat. tokens: that it computes.
    """

    case: Case
    tokens: int
    seconds: float
    prediction: StepPrediction
    read: ReadRoof
    pace: float
    least: float
    binds: str
    mode: str
    profiled_at: str
    other_mode: bool
    operators: tuple[ExplainedOperator, ...]
    ledger: tuple[LedgerLine, ...]
    knobs: tuple[Turned, ...]


def plan_of(step: str, shape: StepShape) -> Plan:
    """What to run for a step as `parse_step` reads it. RequestError for several prompts at once."""
    if shape.new_tokens[0] > 1 or step.startswith("prefill"):
        if shape.num_sequences > 1:
            raise RequestError("--step", f"{step}: one prompt can be explained at a time")
        prompt = max(shape.new_tokens[0], 1)
        return Plan((prompt,), (), (1,), output=1, repeat=REPEAT, profile=True)
    context = max(shape.context_lens[0], 1)
    return Plan((), (context,), (shape.num_sequences,), OUTPUT, REPEAT, profile=True)


def explain(
    assembled: Assembled,
    plan: Plan,
    profile: KernelProfile,
    roofs: Roofs,
    knobs: Mapping[str, Knob],
    report: Report | None = None,
    meter: Meter | None = None,
) -> Explained:
    """Runs the plan's one case and takes it apart. Raises what `latency.run` does."""
    (case,) = plan.cases
    read = steady(assembled.read_roof)
    roofs = assembled.as_now(roofs, read)
    times = KernelTimes(assembled.bound_graph, assembled.precision, profile, roofs)
    shapes = shapes_of(case, assembled.max_tokens_per_step, plan.output)
    prediction = _sum([times.step(shape) for shape in shapes])
    (measured,) = run(assembled, plan, report, meter)
    threads = assembled.threads
    steps = len(shapes)
    seconds = measured.median_of(lambda s: s.seconds / s.num_steps) * steps
    operators = _operators(measured, prediction, threads, steps)
    kept = profile.barrier_nanoseconds
    barrier = measured.median_of(lambda s: s.moment.barrier_nanoseconds)
    return Explained(
        case=case,
        tokens=case.context if case.phase == "prefill" else case.batch,
        seconds=seconds,
        prediction=prediction,
        read=read,
        pace=1 / times.slower,
        least=measured.median_of(lambda s: s.least_seconds / s.num_steps) * steps,
        binds=measured.binds,
        mode=measured.mode,
        profiled_at=profile.measured_at,
        other_mode=not 0.5 < barrier / max(kept, 1e-9) < 2,
        operators=operators,
        ledger=_ledger(operators, seconds),
        knobs=turn_knobs(assembled, case, plan.output, times, roofs, knobs),
    )


def _sum(steps: list[StepPrediction]) -> StepPrediction:
    if len(steps) == 1:
        return steps[0]
    found: dict[str, OperatorPrediction] = {}
    for step in steps:
        for each in step.operators:
            before = found.get(each.name)
            found[each.name] = each if before is None else before.plus(each)
    return StepPrediction(
        tuple(found.values()),
        sum(step.outside_seconds for step in steps),
        sum(step.seconds for step in steps),
        sum(step.low for step in steps),
        sum(step.high for step in steps),
    )


def _operators(
    measured: Measured, prediction: StepPrediction, threads: int, steps: int
) -> tuple[ExplainedOperator, ...]:
    """By time. Parts of several samples are each a median, then made to add up."""
    predicted = {each.name: each.seconds for each in prediction.operators}
    names = dict.fromkeys(o.name for s in measured.samples for o in s.operators)
    found = []
    for name in names:
        pairs = [
            (operator, steps / sample.num_steps)
            for sample in measured.samples
            for operator in sample.operators
            if operator.name == name
        ]
        seconds = median(o.seconds * scale for o, scale in pairs)
        if seconds == 0:
            continue
        waiting = median(o.barrier_seconds * scale for o, scale in pairs)
        starting = median(o.start_seconds * scale for o, scale in pairs)
        waiting, starting = min(waiting, seconds), min(starting, max(seconds - waiting, 0.0))
        first = pairs[0][0]
        least = [
            o.bound.seconds * scale for o, scale in pairs if o.bound is not None and o.bound.seconds
        ]
        of_roof = median(least) / seconds if least else None
        binds = first.bound.binds if first.bound is not None else ""
        found.append(
            ExplainedOperator(
                name=name,
                operator=first.operator,
                seconds=seconds,
                predicted=predicted.get(name),
                waiting=waiting,
                starting=starting,
                binds=binds,
                of_roof=of_roof,
                reason=_reason(first, seconds, waiting, starting, of_roof, binds, threads),
            )
        )
    return tuple(sorted(found, key=lambda each: -each.seconds))


def _reason(
    operator: OperatorSample,
    seconds: float,
    waiting: float,
    starting: float,
    of_roof: float | None,
    binds: str,
    threads: int,
) -> str:
    """Why it takes longer than its roof, by what takes most of the difference."""
    alone = (threads - 1) / threads
    if threads > 1 and waiting > 0.85 * alone * seconds:
        return "serial"
    if starting > TELLING_SHARE * seconds and starting >= waiting:
        return "launch"
    if waiting > TELLING_SHARE * seconds:
        return "barrier"
    if of_roof is None:
        return "compute-bound"
    if binds in ("memory", "cache"):
        return "memory-bound" if of_roof >= NEAR_ROOF else "instructions between reads"
    return "compute-bound" if of_roof >= NEAR_ROOF else "instructions beside products"


REASONS = {
    "serial": "one thread works, the others wait: too small, or nothing to part",
    "launch": "threads come late to it: their way out of a barrier, or out of sleep",
    "barrier": "threads wait for the last one: parts of unlike size, or a core that is shared",
    "memory-bound": "bytes come as fast as this machine reads them",
    "compute-bound": "arithmetic goes about as fast as this machine does it",
    "instructions between reads": "unpacking, sums and scales take longer than the bytes do",
    "instructions beside products": "unpacking, scales and sums beside the products that count",
}


def _ledger(operators: tuple[ExplainedOperator, ...], seconds: float) -> tuple[LedgerLine, ...]:
    """Work by kind of operator, then what is no work; in all, the step."""
    parts: dict[str, float] = {}
    waking = starting = waiting = 0.0
    for each in operators:
        kind = KINDS.get(each.operator, "other operators")
        work = max(0.0, each.seconds - each.waiting - each.starting)
        parts[kind] = parts.get(kind, 0.0) + work
        waiting += each.waiting
        if each.operator in FIRST:
            waking += each.starting
        else:
            starting += each.starting
    named = sorted(parts.items(), key=lambda item: -item[1])
    inside = sum(parts.values()) + waiting + waking + starting
    lines = [
        *named,
        ("waiting at barriers", waiting),
        ("on the way out of barriers", starting),
        ("waking the threads", waking),
        ("outside operators: scheduling, the call, booking", max(0.0, seconds - inside)),
    ]
    whole = sum(value for _, value in lines)
    return tuple(LedgerLine(name, value, value / whole) for name, value in lines)


# Operators that a step begins with: what they wait for is the threads' waking.
FIRST = ("embed",)
KINDS: dict[str, str] = {
    "linear": "linears",
    "gated_linear": "linears",
    "attention": "attention",
    "latent_attention": "attention",
    "experts": "experts",
    "sample": "sampling",
}
