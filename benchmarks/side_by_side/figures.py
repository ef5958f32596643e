"""What is said of samples: medians, spreads, ratios, and whether a bar is met. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from side_by_side.cases import BEST_OF, OURS, Case


@dataclass(frozen=True, slots=True)
class Machine:
    """Its limits just before a sample, as Ridgeline measures them; None: not measured.

    read_gbps: reading a working set of the case's size, all threads; gops: 10^9 operations/s by
    arithmetic; barrier_ns: the threads' meeting. mode: the host's, "near" or "far" (see
    docs/kernels.md), "" if unknown.
    """

    read_gbps: float | None = None
    barrier_ns: float | None = None
    mode: str = ""
    gops: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sample:
    """One contender's turn in one round: tokens/s, and the machine before it.

    foreign: part of the machine's time, 0..1, that others took meanwhile. share: of the roof, 0..1,
    of ours; None of peers.
    """

    contender: str
    round: int
    tokens_per_second: float
    machine: Machine
    foreign: float
    share: float | None = None


@dataclass(frozen=True, slots=True)
class Spread:
    median: float
    low: float
    high: float
    count: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """One bar and what was measured. contender: who stands for the peer (a best-of has one).

    ratio: of the medians, which decides; paired: median of each round's ratio. None: not measured.
    by_mode: ratio of the medians of the samples that were taken in one mode of the host.
    """

    case: Case
    peer: str
    contender: str | None
    required: float
    ratio: float | None
    paired: float | None
    by_mode: Mapping[str, float] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        return None if self.ratio is None else self.ratio >= self.required


@dataclass(frozen=True, slots=True)
class Measured:
    """A case with its samples. left_out: contender to why it has none, or none after the first."""

    case: Case
    samples: tuple[Sample, ...]
    left_out: Mapping[str, str]

    def rates(self, contender: str, mode: str | None = None) -> dict[int, float]:
        """Tokens per second by round; mode: only while the host was in it."""
        return {
            sample.round: sample.tokens_per_second
            for sample in self.samples
            if sample.contender == contender and mode in (None, sample.machine.mode)
        }

    @property
    def modes(self) -> tuple[str, ...]:
        return tuple(sorted({sample.machine.mode for sample in self.samples} - {""}))

    def spread(self, contender: str) -> Spread | None:
        return spread(list(self.rates(contender).values()))

    @property
    def contenders(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(sample.contender for sample in self.samples))

    @property
    def share(self) -> Spread | None:
        return spread([s.share for s in self.samples if s.share is not None])

    @property
    def share_met(self) -> bool | None:
        if self.share is None or self.case.roof_share is None:
            return None
        return self.share.median >= self.case.roof_share


def spread(values: Sequence[float]) -> Spread | None:
    if not values:
        return None
    return Spread(median(values), min(values), max(values), len(values))


def verdicts(measured: Measured) -> list[Verdict]:
    """One per bar of the case, in its order."""
    ours = measured.rates(OURS)
    found = []
    for bar in measured.case.bars:
        members = BEST_OF.get(bar.peer, (bar.peer,))
        rates = {name: measured.rates(name) for name in members if measured.rates(name)}
        ratio = paired = contender = None
        by_mode = {}
        if ours and rates:
            contender = max(rates, key=lambda name: median(rates[name].values()))
            theirs = rates[contender]
            ratio = median(ours.values()) / median(theirs.values())
            both = ours.keys() & theirs.keys()
            paired = median(ours[n] / theirs[n] for n in both) if both else None
            for mode in measured.modes:
                mine, its = measured.rates(OURS, mode), measured.rates(contender, mode)
                if mine and its:
                    by_mode[mode] = median(mine.values()) / median(its.values())
        verdict = Verdict(measured.case, bar.peer, contender, bar.ratio, ratio, paired, by_mode)
        found.append(verdict)
    return found


def hopeless(case: Case, rates: Mapping[str, float], share: float = 0.8) -> dict[str, str]:
    """Of formats that only a best-of bar asks for, those that a first sample puts below `share` of
    the best: they will not be it, and need not be measured again.
    """
    found = {}
    named = {bar.peer for bar in case.bars}
    for bar in case.bars:
        known = {name: rates[name] for name in BEST_OF.get(bar.peer, ()) if name in rates}
        best = max(known.values(), default=0.0)
        for name, rate in known.items():
            if rate < share * best and name not in named:
                found[name] = f"{rate:,.0f} tok/s at first, the best format has {best:,.0f}"
    return found
