"""What is made of samples: a profile of operators, and a record in JSON's types for each case."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from ridgeline.bench.sample import Measured, OperatorSample, Sample

# What binds an operator whose speed is told in bytes; the others are told in operations.
_BYTES = ("memory", "cache")


@dataclass(frozen=True, slots=True)
class ProfileRow:
    """An operator in the median of a case's samples, times for one step.

    achieved: GB/s where memory or cache binds it, 10^9 operations per second where arithmetic does;
    None where its work is not counted. roof: what it could be at most, in the same unit. of_roof:
    least time / time.
    """

    name: str
    operator: str
    calls: float
    seconds: float
    share: float
    barrier_seconds: float
    start_seconds: float
    binds: str
    achieved: float | None
    roof: float | None
    of_roof: float | None
    flops: float
    memory_bytes: float
    cache_bytes: float


@dataclass(frozen=True, slots=True)
class Profile:
    """Operators by time; idle: time outside them; both for one step."""

    rows: tuple[ProfileRow, ...]
    step_seconds: float
    idle_seconds: float
    barrier_seconds: float


def profile_of(measured: Measured) -> Profile | None:
    """None if no operators were timed."""
    samples = [sample for sample in measured.samples if sample.operators]
    if not samples:
        return None
    step = median(sample.seconds / sample.num_steps for sample in samples)
    by_name: dict[str, list[tuple[Sample, OperatorSample]]] = {}
    for sample in samples:
        for operator in sample.operators:
            by_name.setdefault(operator.name, []).append((sample, operator))
    rows = [_profile_row(pairs, step) for pairs in by_name.values()]
    return Profile(
        rows=tuple(sorted(rows, key=lambda row: -row.seconds)),
        step_seconds=step,
        idle_seconds=median(sample.idle_seconds / sample.num_steps for sample in samples),
        barrier_seconds=sum(row.barrier_seconds for row in rows),
    )


def _profile_row(pairs: list[tuple[Sample, OperatorSample]], step_seconds: float) -> ProfileRow:
    first, operator = pairs[0]
    seconds = median(op.seconds / sample.num_steps for sample, op in pairs)
    bound = operator.bound
    achieved = roof = of_roof = None
    binds, memory_bytes, cache_bytes, flops = "", 0.0, 0.0, 0.0
    if bound is not None and bound.seconds > 0:
        binds = bound.binds
        memory_bytes = bound.memory_bytes / first.num_steps
        cache_bytes = bound.cache_bytes / first.num_steps
        flops = operator.flops / first.num_steps
        least = median(
            op.bound.seconds / sample.num_steps for sample, op in pairs if op.bound is not None
        )
        if seconds > 0:
            amount = {"memory": memory_bytes, "cache": cache_bytes}.get(binds, flops)
            achieved, roof = amount / seconds / 1e9, amount / least / 1e9
            of_roof = least / seconds
    return ProfileRow(
        name=operator.name,
        operator=operator.operator,
        calls=operator.calls / first.num_steps,
        seconds=seconds,
        share=seconds / step_seconds,
        barrier_seconds=median(op.barrier_seconds / sample.num_steps for sample, op in pairs),
        start_seconds=median(op.start_seconds / sample.num_steps for sample, op in pairs),
        binds=binds,
        achieved=achieved,
        roof=roof,
        of_roof=of_roof,
        flops=flops,
        memory_bytes=memory_bytes,
        cache_bytes=cache_bytes,
    )


def record(measured: Measured) -> dict[str, object]:
    """A case in JSON's types. mbu, mfu and roof.share are fractions; every figure is the median of
    the samples, which follow one by one with the roofs that were measured beside them.
    """
    rates = measured.rates
    last = measured.samples[-1]
    profile = profile_of(measured)
    found: dict[str, object] = {
        "phase": measured.case.phase,
        "batch": measured.case.batch,
        "context": measured.case.context,
        "tokens_per_s": {"median": median(rates), "min": rates[0], "max": rates[-1]},
        "mbu": measured.median_of(lambda s: s.mbu),
        "mfu": measured.median_of(lambda s: s.mfu),
        "roof": {
            "binds": measured.binds,
            "tokens_per_s": measured.median_of(lambda s: s.num_tokens / s.least_seconds),
            "share": measured.median_of(lambda s: s.least_seconds / s.seconds),
            "read_gb_per_s": measured.median_of(lambda s: s.moment.read.gigabytes_per_second),
            "read_footprint_bytes": last.moment.read.footprint_bytes,
            "gop_per_s": _peaks(measured),
            "barrier_ns": measured.median_of(lambda s: s.moment.barrier_nanoseconds),
            "threads": last.moment.read.threads,
        },
        "mode": measured.mode,
        "samples": [_sample_fields(sample) for sample in measured.samples],
    }
    if profile is not None:
        found["profile"] = _profile_fields(profile)
    return found


def _peaks(measured: Measured) -> Mapping[str, float]:
    by_name: dict[str, list[float]] = {}
    for sample in measured.samples:
        for peak in sample.moment.peaks:
            by_name.setdefault(peak.arithmetic, []).append(peak.gigaoperations_per_second)
    return {name: median(values) for name, values in by_name.items()}


def _sample_fields(sample: Sample) -> dict[str, object]:
    return {
        "tokens_per_s": sample.tokens_per_second,
        "seconds": sample.seconds,
        "steps": sample.num_steps,
        "mbu": sample.mbu,
        "mfu": sample.mfu,
        "roof_share": sample.least_seconds / sample.seconds,
        "read_gb_per_s": sample.moment.read.gigabytes_per_second,
        "gop_per_s": {p.arithmetic: p.gigaoperations_per_second for p in sample.moment.peaks},
        "barrier_ns": sample.moment.barrier_nanoseconds,
        "cpu_share": sample.cpu_share,
        "mode": sample.mode,
    }


def _profile_fields(profile: Profile) -> dict[str, object]:
    return {
        "step_s": profile.step_seconds,
        "idle_s": profile.idle_seconds,
        "barrier_s": profile.barrier_seconds,
        "operators": [
            {
                "name": row.name,
                "operator": row.operator,
                "calls": row.calls,
                "seconds": row.seconds,
                "share": row.share,
                "barrier_s": row.barrier_seconds,
                "start_s": row.start_seconds,
                "binds": row.binds,
                "gb_per_s": None if row.binds not in _BYTES else row.achieved,
                "gop_per_s": None if row.binds in ("", *_BYTES) else row.achieved,
                "roof": row.roof,
                "of_roof": row.of_roof,
                "flops": row.flops,
                "memory_bytes": row.memory_bytes,
                "cache_bytes": row.cache_bytes,
            }
            for row in profile.rows
        ],
    }
