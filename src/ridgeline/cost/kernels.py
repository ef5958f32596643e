"""This machine's kernels as prices: found from synthetic operators, asked for a model's steps.

A profile has, for each term of `kernel_terms`, seconds a unit with weights that caches hold; and
how much of the time that memory takes more than caches is not hidden. Operators of no profile are
held to the roofline and said to be. Every prediction has its error bar, from how far the profile is
off on what it was fitted on. Knows neither backends nor models.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, log, sqrt
from statistics import median

import numpy as np
import numpy.typing as npt

from ridgeline.cost.kernel_samples import TimedStep
from ridgeline.cost.kernel_terms import Needs, Place, is_sampled, needs_of, places, sample_needs
from ridgeline.model.graph.node import Graph

# Of what a fit is off, at least this much is taken: the machine itself is not the same twice.
LEAST_RESIDUAL = 0.02
# An 80 % interval of a normal error.
DEVIATIONS = 1.2816


@dataclass(frozen=True, slots=True)
class KernelProfile:
    """Prices of a machine's kernels with one instruction set and one number of threads.

    prices: seconds a unit of each term, with a working set that the caches hold. reading: how much
    of the time that memory takes more than caches is not hidden, by how many rows are computed
    meanwhile, of formats that were timed so and of all. packed: bytes of a format's weights as
    kernels read them, for each as stored. residuals: of each group, the spread (relative) of fitted
    operators. read_rate, barrier_nanoseconds: GB/s of reading what the caches hold, and a barrier,
    meanwhile. outside: seconds of a step that no operator has, by term (see `outside_terms`).
    """

    isa: str
    threads: int
    prices: Mapping[str, float]
    reading: Mapping[str, float]
    residuals: Mapping[str, float]
    read_rate: float
    barrier_nanoseconds: float
    packed: Mapping[str, float] = field(default_factory=dict)
    outside: Mapping[str, float] = field(default_factory=dict)
    measured_at: str = ""

    def seconds(self, needs: Needs, read_rate: float) -> float | None:
        """read_rate: GB/s at which the step's working set is read. None where the profile has not
        all of the terms.
        """
        parts = self.split(needs)
        return None if parts is None else parts[0] + self.more_seconds(read_rate) * parts[1]

    def split(self, needs: Needs) -> tuple[float, float] | None:
        """Seconds out of the caches, and bytes whose way from memory nothing hides."""
        hot = _priced(needs.terms, self.prices)
        if hot is None:
            return None
        unhidden = 0.0
        for name, num_bytes in needs.read.items():
            format_name, _, kind = name.rpartition("/")
            packed = self.packed.get(format_name, 1.0)
            factor = self.reading.get(name, self.reading.get(kind, 1.0))
            unhidden += factor * packed * num_bytes
        return hot, unhidden

    def more_seconds(self, read_rate: float) -> float:
        """Of a byte, what a working set that is read at this rate (GB/s) takes longer."""
        return max(0.0, 1 / read_rate - 1 / self.read_rate) * 1e-9


def _priced(terms: Mapping[str, float], prices: Mapping[str, float]) -> float | None:
    total = 0.0
    for name, amount in terms.items():
        price = prices.get(name)
        if price is None:
            return None
        total += amount * price
    return total


def fit(
    steps: Iterable[TimedStep],
    *,
    isa: str,
    threads: int,
    rates: tuple[float, float],
    barrier_nanoseconds: float,
    like: Mapping[str, str],
    packed: Mapping[str, float] | None = None,
    measured_at: str = "",
) -> KernelProfile:
    """Prices under which every operator's time is off, relatively, by least squares; none is below
    0. rates: GB/s of reading what the caches hold, and what they do not. like: formats that cost
    what others do.
    """
    hot: list[tuple[Needs, float]] = []
    cold: list[tuple[Needs, float]] = []
    placed: dict[int, tuple[Graph, dict[str, Place]]] = {}
    for step in steps:
        # The graph is kept, so that its identity stays its own.
        _, known = placed.setdefault(id(step.graph), (step.graph, places(step.graph)))
        (cold if step.cold else hot).extend(_samples(step, known))
    prices = _prices(hot)
    reading = _reading(cold, prices, rates, packed or {})
    for new, old in like.items():
        for name in [n for n in reading if n.startswith(f"{old}/")]:
            reading[name.replace(f"{old}/", f"{new}/")] = reading[name]
        for kind in ("linear", "gated", "head"):
            for name in [n for n in prices if n.startswith(f"{kind}/{old}@")]:
                prices[name.replace(f"/{old}@", f"/{new}@")] = prices[name]
    return KernelProfile(
        isa=isa,
        threads=threads,
        prices=prices,
        reading=reading,
        packed=packed or {},
        residuals=_residuals(hot, prices),
        read_rate=rates[0],
        barrier_nanoseconds=barrier_nanoseconds,
        measured_at=measured_at,
    )


def _reading(
    cold: Sequence[tuple[Needs, float]],
    prices: Mapping[str, float],
    rates: tuple[float, float],
    packed: Mapping[str, float],
) -> dict[str, float]:
    """Of each number of rows, the part of the longer way from memory that is not hidden: what all
    operators took longer, together.
    """
    more = max(1e-3, 1 / rates[1] - 1 / rates[0]) * 1e-9
    longer: dict[str, float] = {}
    read: dict[str, float] = {}
    for needs, seconds in cold:
        hot = _priced(needs.terms, prices)
        if hot is None or len(needs.read) != 1:
            continue
        ((name, num_bytes),) = needs.read.items()
        format_name, _, kind = name.rpartition("/")
        for key in (name, kind):
            longer[key] = longer.get(key, 0.0) + seconds - hot
            read[key] = read.get(key, 0.0) + num_bytes * packed.get(format_name, 1.0)
    factors = {kind: max(0.0, longer[kind] / (read[kind] * more)) for kind in longer}
    # A cache is read as weights are by a row.
    return {**factors, "cache": factors.get("weights@1", 1.0)}


def _samples(step: TimedStep, known: Mapping[str, Place]) -> list[tuple[Needs, float]]:
    found: list[tuple[Needs, float]] = []
    vocab = step.graph.outputs[0].shape[-1]
    assert isinstance(vocab, int)
    nodes = {node.name: node for node in step.graph.nodes}
    every = step.shape.num_sampled == step.shape.num_tokens
    for name, seconds in step.seconds.items():
        # What comes once behind many rows stands in the shadow of what they do to caches.
        if not every and (name == "sample" or is_sampled(nodes[name])):
            continue
        if name == "sample":
            needs = sample_needs(step.shape.num_sampled, vocab, step.threads)
        else:
            place = known.get(name, Place())
            needs = needs_of(nodes[name], place, step.shape, step.threads)
        if needs is not None and seconds > 0:
            found.append((needs, seconds))
    return found


def _prices(samples: Sequence[tuple[Needs, float]]) -> dict[str, float]:
    """Terms that share no sample are priced apart: small problems, solved one by one."""
    prices: dict[str, float] = {}
    for part in _parts(samples):
        names = sorted({name for needs, _ in part for name in needs.terms})
        column = {name: i for i, name in enumerate(names)}
        matrix = np.zeros((len(part), len(names)))
        for row, (needs, seconds) in enumerate(part):
            for name, amount in needs.terms.items():
                matrix[row, column[name]] = amount / seconds
        solved = not_negative(matrix, np.ones(len(part)))
        prices.update(zip(names, map(float, solved), strict=True))
    return prices


def _parts(samples: Sequence[tuple[Needs, float]]) -> list[list[tuple[Needs, float]]]:
    """Samples, parted so that no two parts have a term in common."""
    root: dict[str, str] = {}

    def find(name: str) -> str:
        while root.setdefault(name, name) != name:
            root[name] = root[root[name]]
            name = root[name]
        return name

    for needs, _ in samples:
        first, *others = needs.terms
        for other in others:
            root[find(other)] = find(first)
    parts: dict[str, list[tuple[Needs, float]]] = {}
    for sample in samples:
        parts.setdefault(find(next(iter(sample[0].terms))), []).append(sample)
    return list(parts.values())


def not_negative(
    matrix: npt.NDArray[np.float64], goal: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Least squares with nothing below 0 (Lawson and Hanson, 1974)."""
    scale = np.abs(matrix).max(axis=0)
    scale[scale == 0] = 1
    scaled = matrix / scale
    num = scaled.shape[1]
    solution, used = np.zeros(num), np.zeros(num, bool)
    for _ in range(6 * num):
        gradient = scaled.T @ (goal - scaled @ solution)
        gradient[used] = -np.inf
        best = int(np.argmax(gradient))
        if used.all() or gradient[best] <= 1e-9:
            break
        used[best] = True
        while True:
            trial = np.zeros(num)
            trial[used] = np.linalg.lstsq(scaled[:, used], goal, rcond=None)[0]
            if trial[used].min(initial=0.0) >= -1e-12:
                solution = np.maximum(trial, 0)
                break
            falling = used & (trial <= 0)
            steps = solution[falling] / np.maximum(solution[falling] - trial[falling], 1e-300)
            solution = solution + steps.min() * (trial - solution)
            used &= solution > 1e-12
    found: npt.NDArray[np.float64] = solution / scale
    return found


def _residuals(
    samples: Sequence[tuple[Needs, float]], prices: Mapping[str, float]
) -> dict[str, float]:
    """Of each group, what a price is off by in the middle: robust against single bad timings."""
    off: dict[str, list[float]] = {}
    for needs, seconds in samples:
        priced = _priced(needs.terms, prices)
        if priced:
            off.setdefault(needs.group, []).append(abs(log(priced / seconds)))
    return {group: 1.4826 * median(values) for group, values in off.items()}


def interval(
    seconds: float, by_group: Mapping[str, float], residuals: Mapping[str, float]
) -> tuple[float, float]:
    """80 % of steps are within. Groups are off apart from each other; operators of one together."""
    total = sum(by_group.values()) or 1.0
    spread = sqrt(
        sum(
            (share / total * max(residuals.get(group, 0.5), LEAST_RESIDUAL)) ** 2
            for group, share in by_group.items()
        )
        + LEAST_RESIDUAL**2
    )
    return seconds * exp(-DEVIATIONS * spread), seconds * exp(DEVIATIONS * spread)
