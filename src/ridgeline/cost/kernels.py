"""This machine's kernels as prices: found from synthetic operators, asked for a model's steps.

A profile has, for each term of `kernel_terms`, seconds a unit with weights that caches hold; and
what kernels draw of memory (`cold_weights`). Where threads have come to be further from each other,
a barrier tells what lines take longer from one to another. Operators of no profile are held to the
roofline and said to be. Every prediction has its error bar, from how far the profile is
off on what it was fitted on. Knows neither backends nor models.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, log, sqrt
from statistics import median
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ridgeline.cost.cold_weights import (
    ColdSample,
    Draw,
    Prices,
    Reads,
    fit_reading,
    packed_bytes,
    prices_at,
    reads_of,
)
from ridgeline.cost.device import BUSY_NANOSECONDS, Barrier, Peak, ReadRates
from ridgeline.cost.kernel_samples import TimedStep
from ridgeline.cost.kernel_terms import (
    COLD_MARKS,
    ROW_MARKS,
    Needs,
    Place,
    is_sampled,
    needs_of,
    places,
    sample_needs,
)
from ridgeline.model.formats import FORMATS
from ridgeline.model.graph.node import Graph

# Of what a fit is off, at least this much is taken: the machine itself is not the same twice.
LEAST_RESIDUAL = 0.02
# Of a barrier, what a line takes that a thread has from another's cache; several are on the way at
# a time. Found by norms, linears and attention of 8 to 32 rows while a host moved two cores from
# one cache to two and back: 30 and 300 ns a barrier (docs/log.md, twenty-third session).
LINE_SHARE = 0.09
# Of two timings of a linear the faster one counts, so that prices are of the nearer moments.
NEAREST = 0.25
# An 80 % interval of a normal error.
DEVIATIONS = 1.2816


class Parts(NamedTuple):
    """Of an operator or several: seconds out of the caches; lines that threads hand on; and what is
    read that may not be in caches.
    """

    hot: float
    handed: float
    read: Reads


@dataclass(frozen=True, slots=True)
class KernelProfile:
    """Prices of a machine's kernels with one instruction set and one number of threads.

    prices: seconds a unit of each term, with a working set that the caches hold, in a moment of
    that pace: 10^9 operations a second of `measure.PACE`. cold: what kernels draw of memory, of
    each of `cold_weights.Amounts`. packed: bytes of a format's weights as kernels read them, for
    each as stored; streamed: rows up to which they read them in several streams; lost: by what is
    read (`Needs.read`), the share of the shorter of computing and reading that the longer does not
    hide. residuals: of each group, the spread (relative) of fitted operators. read_rate: GB/s of
    reading forward what the caches hold. barrier_nanoseconds: a barrier, while threads were near
    each other. outside: seconds of a step that no operator has, by term (see `outside_terms`).
    """

    isa: str
    threads: int
    prices: Mapping[str, float]
    cold: tuple[Draw, ...]
    residuals: Mapping[str, float]
    read_rate: float
    barrier_nanoseconds: float
    pace: float
    packed: Mapping[str, float] = field(default_factory=dict)
    streamed: Mapping[str, float] = field(default_factory=dict)
    lost: Mapping[str, float] = field(default_factory=dict)
    outside: Mapping[str, float] = field(default_factory=dict)
    measured_at: str = ""

    def seconds(
        self, needs: Needs, price: Prices, slower: float = 1.0, each_line: float = 0.0
    ) -> float | None:
        """price: of reading, `prices_at`. slower: of `slower_at`. each_line: `line_seconds`. None
        where the profile has not all of the terms.
        """
        parts = self.split(needs)
        if parts is None:
            return None
        return price.together(slower * parts.hot + each_line * parts.handed, parts.read)

    def split(self, needs: Needs) -> Parts | None:
        hot = _priced(needs.terms, self.prices)
        if hot is None:
            return None
        read = reads_of(needs, self.packed, self.streamed, self.lost)
        return Parts(hot, needs.handed, read)

    def prices_at(self, footprint_bytes: float, read: ReadRates) -> Prices:
        """Of reading, in a working set that is now read like that."""
        return prices_at(self.cold, footprint_bytes, read)

    def line_seconds(self, barrier: Barrier | None) -> float:
        """What each line takes longer that threads hand on, where they wait so long at barriers:
        as long as cores are far from each other, no more where others have them.
        """
        if barrier is None:
            return 0.0
        longer = min(barrier.nanoseconds, BUSY_NANOSECONDS) - self.barrier_nanoseconds
        return LINE_SHARE * 1e-9 * max(longer, 0.0)

    def slower_at(self, pace: Peak | None) -> float:
        """Prices are multiplied by this in a moment of such a pace; 1 where it is of no known one,
        or of another number of threads.
        """
        if pace is None or pace.threads != self.threads:
            return 1.0
        return self.pace / pace.gigaoperations_per_second


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
    like: Mapping[str, str],
    packed: Mapping[str, float] | None = None,
    streamed: Mapping[str, float] | None = None,
    measured_at: str = "",
) -> KernelProfile:
    """Prices under which every operator's time is off, relatively, by least squares; none is below
    0. like: formats that cost what others do. Every step is brought to the pace that they had in
    the middle first.
    """
    steps = tuple(steps)
    packed, streamed = packed or {}, streamed or {}
    pace = median(step.pace for step in steps)
    hot: list[tuple[Needs, float]] = []
    cold: list[tuple[Needs, float, TimedStep]] = []
    rates: list[float] = []
    placed: dict[int, tuple[Graph, dict[str, Place]]] = {}
    for step in steps:
        # The graph is kept, so that its identity stays its own.
        _, known = placed.setdefault(id(step.graph), (step.graph, places(step.graph)))
        if step.cold_bytes:
            cold += [(needs, took, step) for needs, took in _samples(step, known)]
            continue
        hot += [(needs, took * step.pace / pace) for needs, took in _samples(step, known)]
        rates.append(step.read.forward)
    prices = _filled(_prices(hot))
    drawn: list[ColdSample] = []
    for needs, took, step in cold:
        known_price = _priced(needs.terms, prices)
        read = [(name, num_bytes) for name, num_bytes in needs.read.items() if num_bytes]
        if known_price is not None and len(read) == 1:
            name, num_bytes = read[0]
            num_bytes = packed_bytes(name, num_bytes, packed)
            hot_now = pace / step.pace * known_price
            drawn.append(ColdSample(name, num_bytes, took, hot_now, step.read))
    draws, lost = fit_reading(drawn, streamed)
    for new, old in like.items():
        for kind in ("linear", "gated", "head"):
            for name in [n for n in prices if n.startswith(f"{kind}/{old}@")]:
                prices[name.replace(f"/{old}@", f"/{new}@")] = prices[name]
    return KernelProfile(
        isa=isa,
        threads=threads,
        prices=prices,
        cold=draws,
        packed=packed,
        streamed=streamed,
        lost=_as_wide(lost, packed),
        residuals=_residuals(hot, prices),
        read_rate=median(rates),
        barrier_nanoseconds=float(
            np.quantile([step.barrier_nanoseconds for step in steps], NEAREST)
        ),
        pace=pace,
        measured_at=measured_at,
    )


def _as_wide(lost: Mapping[str, float], packed: Mapping[str, float]) -> dict[str, float]:
    """With those of formats that were not timed: as of the one that is nearest to as wide."""
    found = dict(lost)
    bits = {name: FORMATS[name].bits_per_weight * ratio for name, ratio in packed.items()}
    for mark in COLD_MARKS:
        timed = [name for name in bits if f"{name}/weights@{mark}" in lost]
        for name in bits if timed else ():
            nearest = min(timed, key=lambda other: abs(log(bits[other] / bits[name])))
            found[f"{name}/weights@{mark}"] = lost[f"{nearest}/weights@{mark}"]
    return found


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


def _filled(prices: dict[str, float]) -> dict[str, float]:
    """With prices at the row marks at which a format was not timed: straight between those at which
    it was, as `kernel_terms` takes a time to go between marks; beyond them, to the last one as
    other formats have it in the middle.
    """
    known: dict[str, dict[int, float]] = {}
    for name, price in prices.items():
        term, at, mark = name.rpartition("@")
        if at and term.startswith(("linear/", "gated/", "head/")):
            known.setdefault(term, {})[int(mark)] = price
    for term, timed in known.items():
        rows = sorted(timed)
        for count in ROW_MARKS:
            if rows[0] < count < rows[-1] and count not in timed:
                value = float(np.interp(count, rows, [timed[n] for n in rows]))
                prices[f"{term}@{count}"] = value
            elif count > rows[-1]:
                kind = term.partition("/")[0]
                ratios = [
                    of[count] / of[rows[-1]]
                    for other, of in known.items()
                    if other.partition("/")[0] == kind and of.get(rows[-1]) and count in of
                ]
                if ratios:
                    prices[f"{term}@{count}"] = timed[rows[-1]] * median(ratios)
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
