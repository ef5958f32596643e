"""What a simulated fleet is found to do: per request, between tokens, and over time.

Times to first token and of whole answers are kept as they are, gaps between tokens in bins half a
percent wide, levels (queue, running, cache) as means over equal parts of the time, whose width
doubles as the time goes on. Nothing here grows with the number of tokens or steps.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import ceil, inf, log

import numpy as np
from numpy.typing import NDArray

_LEAST_GAP = 1e-6
_BINS_PER_E = 200.0
_BINS = 5600  # up to e^28 times the least
_PARTS = 256


@dataclass(slots=True)
class Gaps:
    """Times from a token to the next, counted."""

    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(_BINS, np.int64))

    def add(self, seconds: float, count: int = 1) -> None:
        at = self.bin_of(seconds)
        self.counts[at] += count

    def add_all(self, seconds: NDArray[np.float64], count: int) -> None:
        """Each of `seconds`, `count` times."""
        low = self.bin_of(float(np.minimum.reduce(seconds)))
        high = self.bin_of(float(np.maximum.reduce(seconds)))
        if low == high:
            self.counts[low] += len(seconds) * count
            return
        logs = np.log(np.maximum(seconds / _LEAST_GAP, 1.0))
        bins = np.minimum(logs * _BINS_PER_E, _BINS - 1).astype(np.intp)
        low = int(np.minimum.reduce(bins))
        found = np.bincount(bins - low)
        self.counts[low : low + len(found)] += found * count

    @staticmethod
    def bin_of(seconds: float) -> int:
        if seconds <= _LEAST_GAP:
            return 0
        return min(_BINS - 1, int(log(seconds / _LEAST_GAP) * _BINS_PER_E))

    @property
    def total(self) -> int:
        return int(self.counts.sum())

    def percentile(self, share: float) -> float:
        """To half a percent; NaN of none."""
        total = self.total
        if not total:
            return float("nan")
        wanted = max(1, ceil(share * total))
        at = int(np.searchsorted(np.cumsum(self.counts), wanted))
        return float(_LEAST_GAP * np.exp((at + 0.5) / _BINS_PER_E))


@dataclass(slots=True)
class Levels:
    """Means over time of several levels, in `_PARTS` parts of `width` seconds each. sums: seconds x
    level, [level, part].
    """

    names: tuple[str, ...]
    width: float = 1.0
    sums: list[list[float]] = field(init=False)
    peaks: list[float] = field(init=False)

    def __post_init__(self) -> None:
        self.sums = [[0.0] * _PARTS for _ in self.names]
        self.peaks = [0.0] * len(self.names)

    def add(self, start: float, end: float, levels: Iterable[float]) -> None:
        """Each level was so high from start to end."""
        while end > _PARTS * self.width:
            half = _PARTS // 2
            self.sums = [
                [*map(sum, zip(s[::2], s[1::2], strict=True)), *[0.0] * half] for s in self.sums
            ]
            self.width *= 2
        first, last = int(start / self.width), min(int(end / self.width), _PARTS - 1)
        if first == last:
            seconds = end - start
            for sums, level in zip(self.sums, levels, strict=True):
                if level:
                    sums[first] += level * seconds
            return
        for sums, level in zip(self.sums, levels, strict=True):
            if not level:
                continue
            for part in range(first, last + 1):
                low, high = part * self.width, (part + 1) * self.width
                sums[part] += level * max(0.0, min(end, high) - max(start, low))

    def means(self, seconds: float) -> dict[str, list[float]]:
        """Until `seconds`, part by part."""
        parts = min(_PARTS, max(1, ceil(seconds / self.width)))
        widths = [min(self.width, seconds - part * self.width) for part in range(parts)]
        return {
            name: [s / w if w > 0 else 0.0 for s, w in zip(sums, widths, strict=False)]
            for name, sums in zip(self.names, self.sums, strict=True)
        }


@dataclass(frozen=True, slots=True)
class Slo:
    """Seconds that a request may take. ttft, e2e: from arrival to the first, to the last token.
    itl: its gaps between tokens on average (TPOT); itl99: 99 of 100 of them.
    """

    ttft: float = inf
    itl: float = inf
    itl99: float = inf
    e2e: float = inf


@dataclass(slots=True, eq=False)
class Ticket:
    """A request on its way through the fleet. first, last: moments of its first and latest token;
    gaps, late: of its tokens, and those longer than the SLO's itl. written: tokens that it had when
    a replica was lost and that are kept. replica: where it is, -1: nowhere.
    """

    index: int
    arrival: float
    num_prompt: int
    max_tokens: int
    replica: int = -1
    size: int = 0
    first: float = -1.0
    last: float = -1.0
    num_tokens: int = 0
    late: int = 0
    num_moves: int = 0
    ends_at_first: bool = False


@dataclass(slots=True)
class Tally:
    """Counts and columns; one value a finished request, in the order in which they finished. good:
    whether it met the SLO. tpot: of those with two tokens and more only.
    """

    slo: Slo = field(default_factory=Slo)
    arrivals: array[float] = field(default_factory=lambda: array("d"))
    ttft: array[float] = field(default_factory=lambda: array("d"))
    e2e: array[float] = field(default_factory=lambda: array("d"))
    tpot: array[float] = field(default_factory=lambda: array("d"))
    good: bytearray = field(default_factory=bytearray)
    num_good: int = 0
    num_finished: int = 0
    num_refused: int = 0
    num_expired: int = 0
    num_moved: int = 0
    num_lost_tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    num_transfers: int = 0
    transferred_bytes: float = 0.0
    transfer_seconds: float = 0.0
    gaps: Gaps = field(default_factory=Gaps)
    refusals: dict[str, int] = field(default_factory=dict)

    def tokens(self, tickets: Sequence[Ticket], now: float) -> None:
        """Each is given a token now; most of them had their last one at the same moment."""
        gaps, latest = self.gaps, self.slo.itl99
        before, alike, is_late = inf, 0, False
        for ticket in tickets:
            last = ticket.last
            if ticket.first < 0:
                ticket.first = now
            elif last >= 0:
                if last != before:
                    if alike:
                        gaps.add(now - before, alike)
                    before, alike, is_late = last, 0, now - last > latest
                alike += 1
                if is_late:
                    ticket.late += 1
            ticket.last = now
            ticket.num_tokens += 1
        if alike:
            gaps.add(now - before, alike)
        self.output_tokens += len(tickets)

    def alike(self, count: int, seconds: float) -> int:
        """So many others are given a token, each so long after its last: 1 if that is late."""
        if not count:
            return 0
        self.gaps.add(seconds, count)
        self.output_tokens += count
        return int(seconds > self.slo.itl99)

    def finish(self, ticket: Ticket, now: float) -> None:
        ttft, e2e = ticket.first - ticket.arrival, now - ticket.arrival
        self.num_finished += 1
        self.arrivals.append(ticket.arrival)
        self.ttft.append(ttft)
        self.e2e.append(e2e)
        gaps = ticket.num_tokens - 1
        tpot = 0.0
        if gaps:
            tpot = (now - ticket.first) / gaps
            self.tpot.append(tpot)
        slo = self.slo
        good = (
            ttft <= slo.ttft and e2e <= slo.e2e and tpot <= slo.itl and ticket.late <= 0.01 * gaps
        )
        self.good.append(good)
        self.num_good += good

    def refuse(self, why: str) -> None:
        self.num_refused += 1
        self.refusals[why] = self.refusals.get(why, 0) + 1


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest value that at least `share` (0 to 1) of them do not exceed; NaN of none."""
    ordered = sorted(values)
    if not ordered:
        return float("nan")
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]
