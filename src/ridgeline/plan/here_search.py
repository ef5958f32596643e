"""Which model, precision, KV format and threads serve a load on this machine.

Weights need not be there: a graph is built in each format, what it allocates is known from it, and
its steps take what `ridgeline measure` timed of this machine's kernels. Each way is held to the
load in the simulator, as `ridgeline serve` would run it; first roughly, then the fastest with care.
What a format loses in quality is not looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

from ridgeline.assemble import Options, machine_device
from ridgeline.config import Settings
from ridgeline.cost.device import Device, Roofs
from ridgeline.cost.precisions import KEPT
from ridgeline.errors import CapacityError, ModelError, RequestError, RidgelineError
from ridgeline.model.architectures import build
from ridgeline.model.formats import FORMATS, Format
from ridgeline.model.graph.node import Graph
from ridgeline.options import (
    SERVED_ITL_STEPS,
    SERVED_RATE_SHARE,
    SERVED_ROWS,
    SERVED_WAVE_SECONDS,
)
from ridgeline.plan.choice import MTOK, Seen
from ridgeline.plan.deployed import Knobs, ReplicaKind
from ridgeline.plan.fleet import Fleet, Outcome
from ridgeline.plan.here import EngineHere, engine_here, roofs_now
from ridgeline.plan.load import Lengths, Load, closed
from ridgeline.plan.simulate import simulate_fleet
from ridgeline.plan.tally import Slo
from ridgeline.plan.trial import Loads, seen_of
from ridgeline.step import StepShape

STORED = "stored"
# What people type -> how matrices are stored; embedding and output matrix then take 8 bits.
PRECISIONS = {"bf16": "BF16", "q8_0": "Q8_0", "q5_0": "Q5_0", "q4_1": "Q4_1", "q4_0": "Q4_0"}
KV = ("bf16", "f16", "int8")

_ROUGH_REQUESTS, _REQUESTS = 64, 300
_CAREFUL = 6
_HALVINGS = 5


@dataclass(frozen=True, slots=True)
class Model:
    """reference: what is typed to have it. stored: its graph as its file has it; None: there is
    only a configuration.
    """

    name: str
    reference: str
    config: Mapping[str, object]
    stored: Graph | None = None


@dataclass(frozen=True, slots=True)
class AskedHere:
    """See `Asked` of choice.py. percentile: of 100 requests, so many keep the SLO. watts: that the
    machine draws while it computes; usd_per_kwh; usd_per_hour: of the machine; None: not stated.
    threads: that are tried; chunks: new tokens of a step.
    """

    input_tokens: int
    output_tokens: int
    rate: float | None = None
    ttft: float | None = None
    itl: float | None = None
    gap: float | None = None
    percentile: float = 90.0
    precisions: tuple[str, ...] = (STORED, "q8_0", "q4_0")
    kv: tuple[str, ...] = KV
    threads: tuple[int, ...] = (1,)
    chunks: tuple[int, ...] = (512,)
    watts: float | None = None
    usd_per_kwh: float | None = None
    usd_per_hour: float | None = None

    def check(self) -> None:
        for option, value in (("--input", self.input_tokens), ("--output", self.output_tokens)):
            if not 1 <= value <= 1 << 22:
                raise RequestError(option, f"{value} is not 1 to {1 << 22} tokens")
        if self.rate is not None and not 0 < self.rate <= 1e6:
            raise RequestError(
                "--rate", f"{self.rate:g} requests a second: give one above 0, up to a million"
            )
        for option, names, known in (
            ("--precision", self.precisions, (STORED, *PRECISIONS)),
            ("--kv", self.kv, KV),
        ):
            for name in names:
                if name not in known:
                    raise RequestError(option, f"{name!r}; on this machine: {', '.join(known)}")
        for option, amount in (
            ("--watts", self.watts),
            ("--usd-per-kwh", self.usd_per_kwh),
            ("--usd-per-hour", self.usd_per_hour),
        ):
            if amount is not None and not 0 < amount < 1e9:
                raise RequestError(option, f"{amount:g}: give an amount above 0")
        if (self.usd_per_kwh is None) != (self.watts is None) and self.watts is None:
            raise RequestError("--usd-per-kwh", "say what the machine draws: --watts W")

    @property
    def slo(self) -> Slo:
        bounds = (self.ttft, self.itl, self.gap)
        ttft, itl, itl99 = (inf if bound is None else bound for bound in bounds)
        return Slo(ttft=ttft, itl=itl, itl99=itl99)


@dataclass(frozen=True, slots=True)
class HereChoice:
    """One way to serve on this machine. alone_ttft, alone_itl: seconds of a request that has the
    machine to itself. rate: requests/s that it was tried at; most_rate: that keep the SLO, 0: none.
    busy: of the time, in which it computes, at `rate`.
    """

    model: Model
    precision: str
    kv: str
    threads: int
    chunk: int
    engine: EngineHere
    alone_ttft: float
    alone_itl: float
    rate: float
    most_rate: float
    busy: float = 1.0
    seen: Seen | None = None

    @property
    def name(self) -> str:
        return f"{self.model.name} {self.precision}/{self.kv}"

    def joules_per_token(self, asked: AskedHere) -> float | None:
        if asked.watts is None or not self.rate:
            return None
        return asked.watts * self.busy / (self.rate * asked.output_tokens)

    def usd_per_mtok(self, asked: AskedHere) -> float | None:
        """Of output tokens: the machine's hours, and the power that it draws while it computes."""
        if not self.rate or (asked.usd_per_hour is None and asked.usd_per_kwh is None):
            return None
        hourly = asked.usd_per_hour or 0.0
        if asked.usd_per_kwh is not None and asked.watts is not None:
            hourly += asked.usd_per_kwh * asked.watts / 1000.0 * self.busy
        return hourly * MTOK / (3600.0 * self.rate * asked.output_tokens)


@dataclass(frozen=True, slots=True)
class FoundHere:
    """ranked: what keeps the SLO, the cheapest first, or, where nothing says what it costs, the one
    first that has the most to spare. lost: the others that were tried with care, the nearest first.
    left_out: why, of ways that cannot be.
    """

    ranked: tuple[HereChoice, ...]
    lost: tuple[HereChoice, ...]
    left_out: tuple[str, ...]
    num_tried: int


def search_here(
    models: Sequence[Model],
    settings: Settings,
    asked: AskedHere,
    loads: Loads,
    report: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> FoundHere:
    """CapacityError and RequestError say in one line why nothing is left to try."""
    asked.check()
    rough: list[HereChoice] = []
    left_out: dict[str, None] = {}
    ways = [
        (model, precision, kv, threads, chunk)
        for model in models
        for precision in asked.precisions
        for kv in asked.kv
        for threads in asked.threads
        for chunk in asked.chunks
    ]
    devices: dict[int, Device] = {}
    roofs: dict[int, Roofs | None] = {}

    def limits_of(graph: Graph, settings: Settings) -> Device:
        """Measured once: for the first graph's size, which is near enough for a bound."""
        if settings.threads not in devices:
            devices[settings.threads] = machine_device(graph, settings)
        return devices[settings.threads]

    for done, (model, precision, kv, threads, chunk) in enumerate(ways):
        report(f"{model.name} {precision}", done, len(ways))
        if precision == STORED and model.stored is None:
            continue
        try:
            graph = in_format(model, precision)
            knobs = Knobs(max_rows=SERVED_ROWS, step_tokens=chunk, itl_target=asked.gap)
            options = Options(
                kv_format=kv,
                itl_steps=SERVED_ITL_STEPS,
                rate_share=SERVED_RATE_SHARE,
                wave_seconds=SERVED_WAVE_SECONDS,
            )
            here = replace(settings, threads=threads)
            if threads not in roofs:
                roofs[threads] = roofs_now(here)
            of = roofs[threads]
            engine = engine_here(model.name, graph, here, knobs, options, limits_of, of)
        except (CapacityError, ModelError) as error:
            left_out[f"{model.name} {precision}/{kv}: {error}"] = None
            continue
        longest = asked.input_tokens + asked.output_tokens
        if longest > engine.kind.max_context:
            left_out[
                f"{model.name} {precision}/{kv}: room for {engine.kind.max_context} tokens of a "
                f"request, and {longest} are asked"
            ] = None
            continue
        rough.append(_roughly(model, precision, kv, threads, chunk, engine, asked))
    if not rough:
        whys = list(left_out) or ["there is nothing to try"]
        raise CapacityError(f"none of {len(ways)} ways fits; of the last, {whys[-1]}")
    rough.sort(key=lambda c: (_misses(c, asked), -c.most_rate))
    ranked: list[HereChoice] = []
    lost: list[HereChoice] = []
    for done, choice in enumerate(rough[:_CAREFUL]):
        report(f"{choice.name}: trials", done, min(_CAREFUL, len(rough)))
        found = _carefully(choice, asked, loads)
        kept = found.most_rate > 0 and (asked.rate is None or found.most_rate >= asked.rate)
        (ranked if kept else lost).append(found)
    ranked.sort(key=lambda c: _order(c, asked))
    lost.sort(key=lambda c: -(c.seen.within if c.seen else 0.0))
    return FoundHere(tuple(ranked), tuple(lost), tuple(left_out), len(rough))


def in_format(model: Model, precision: str) -> Graph:
    """Its graph with matrices in a format. ModelError where rows are no whole number of blocks."""
    if precision == STORED:
        assert model.stored is not None
        return model.stored
    small, wide = FORMATS[PRECISIONS[precision]], FORMATS["Q8_0"]

    def format_of(name: str) -> Format:
        if name.startswith(("embed.", "head.")) and small.name != "BF16":
            return wide
        return FORMATS["F32"] if KEPT.search(name) and "embed" not in name else small

    config = {k: v for k, v in model.config.items() if k != "quantization_config"}
    return build(config, format_of, where=model.name)


def _roughly(
    model: Model, precision: str, kv: str, threads: int, chunk: int, engine: EngineHere,
    asked: AskedHere,
) -> HereChoice:  # fmt: skip
    """most_rate: what it serves when the queue is never empty, whatever the SLO."""
    kind = engine.kind
    alone = 0.0
    for start in range(0, asked.input_tokens, chunk):
        alone += kind.times(StepShape((min(chunk, asked.input_tokens - start),), (start,), 1))
    context = asked.input_tokens + asked.output_tokens // 2
    step = kind.times(StepShape.decode(1, context))
    prompts, answers = (Lengths(n, n) for n in (asked.input_tokens, asked.output_tokens))
    full = _run(kind, closed(SERVED_ROWS, prompts, answers, _ROUGH_REQUESTS, seed=0), asked)
    rate = full.tally.num_finished / full.seconds if full.seconds else 0.0
    return HereChoice(
        model, precision, kv, threads, chunk, engine, alone, step, rate=rate, most_rate=rate
    )


def _carefully(choice: HereChoice, asked: AskedHere, loads: Loads) -> HereChoice:
    """The greatest rate that keeps the SLO, by halving; and what is seen at the rate asked for."""

    def at(rate: float) -> tuple[HereChoice, bool]:
        found = _run(choice.engine.kind, loads(rate, _REQUESTS), asked)
        seen = seen_of(found)
        busy = min(1.0, found.busy_seconds / found.seconds) if found.seconds else 1.0
        kept = seen is not None and not seen.grows and seen.within >= asked.percentile / 100.0
        return replace(choice, rate=rate, busy=busy, seen=seen), kept

    low, high = 0.0, 1.05 * choice.most_rate
    best = None
    if asked.rate is not None:
        best, kept = at(asked.rate)
        if not kept:
            return replace(best, most_rate=0.0)
        low, high = asked.rate, max(high, asked.rate)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        found, kept = at(middle)
        if kept:
            low = middle
        else:
            high = middle
        if asked.rate is None and (kept or best is None):
            best = found
    assert best is not None
    return replace(best, most_rate=low)


def _run(kind: ReplicaKind, load: Load, asked: AskedHere) -> Outcome:
    try:
        return simulate_fleet(Fleet(kind.make, kind.times), load, asked.slo)
    except RidgelineError as error:
        raise CapacityError(f"{kind.name}: {error}") from error


def _misses(choice: HereChoice, asked: AskedHere) -> bool:
    """Not even alone is a request fast enough."""
    return (asked.ttft is not None and choice.alone_ttft > asked.ttft) or (
        asked.itl is not None and choice.alone_itl > asked.itl
    )


def _order(choice: HereChoice, asked: AskedHere) -> tuple[float, float]:
    paid = choice.usd_per_mtok(asked)
    if paid is None:
        paid = choice.joules_per_token(asked)
    return (0.0 if paid is None else paid, -choice.most_rate)
