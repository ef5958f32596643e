"""What an operator waits for whose weights come from memory and not from caches.

It computes while it reads, so it takes the longer of the two. Kernels draw a share of the rate at
which memory is read by nothing but a loop, the same way: in one stream a thread that asks ahead,
or, of some formats, in several plain ones; and a most that they never come above, since only so
many of their requests are on the way at a time. Which of the two was seen depends on the moment in
which they were timed. Or they draw all, and a share of what takes shorter, computing or reading,
comes on top, since the longer does not hide it: by a row, a larger one of formats that take more
instructions a byte. Machines are of one kind or of the other. Knows neither operators nor machines.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import log
from operator import mul
from statistics import median
from typing import NamedTuple

from ridgeline.cost.device import ReadRates
from ridgeline.cost.kernel_terms import COLD_MARKS, Needs
from ridgeline.units import MIB

# A working set that caches hold: nothing waits. One of which they hold next to nothing.
HOT_BYTES, COLD_BYTES = 32 * MIB, 96 * MIB

# Bytes that are read in one stream, at each of `COLD_MARKS`, then in several.
Amounts = tuple[float, ...]
NO_AMOUNTS: Amounts = (0.0,) * (2 * len(COLD_MARKS))

# A kernel that draws less of the rate than this is held back by its own requests.
OWN_LIMIT = 0.92
# One that takes no longer than this, of what it takes out of caches, waits for nothing.
WAITS = 1.1
# No share is taken to be more: memory was slower while a loop read it.
MOST_SHARE = 1.3
# Of `COLD_MARKS`, those behind this one wait for memory too seldom to say what they draw of it.
LIMITED_MARKS = 1
# Shares of the shorter of computing and reading that may come on top, in turn: believed where what
# was timed is off by so much less than where kernels draw less.
LOST_SHARES = tuple(step / 20 for step in range(21))
LESS_OFF = 0.7
# What a cache of keys and values is read for computes about as long as it reads, as this mark's do.
CACHE, CACHE_MARK = "cache", 4


class Reads(NamedTuple):
    """num_bytes: of each of `Amounts`. lost: of the same, by what shares the shorter of computing
    and reading comes on top.
    """

    num_bytes: Amounts = NO_AMOUNTS
    lost: Amounts = NO_AMOUNTS

    def plus(self, count: float, other: Reads) -> Reads:
        return Reads(
            *(
                tuple(a + count * b for a, b in zip(mine, others, strict=True))
                for mine, others in zip(self, other, strict=True)
            )
        )


NOTHING_READ = Reads()


@dataclass(frozen=True, slots=True)
class Draw:
    """What kernels draw of one of `Amounts`. share: of the rate that a loop reads at. most: GB/s;
    None where they were never seen at it.
    """

    share: float = 1.0
    most: float | None = None

    def rate(self, read: float, missing: float) -> float:
        """GB/s. missing: the share of it that caches do not hold."""
        drawn = self.share * read
        return drawn if self.most is None else min(drawn, self.most / missing)


class ColdSample(NamedTuple):
    """An operator that read so many bytes, as packed, from memory: name says of which format and
    for how many rows (`kernel_terms.Needs.read`). hot: what it would take out of caches in that
    moment. read: GB/s at which its working set was read just then.
    """

    name: str
    num_bytes: float
    took: float
    hot: float
    read: ReadRates


def kind_of(name: str, streamed: Mapping[str, float]) -> int:
    """Which of `Amounts`. streamed: rows up to which a format is read in several streams."""
    if name == CACHE:  # it is read as weights are by a row
        return 0
    format_name, _, mark = name.rpartition("/weights@")
    several = int(mark) <= streamed.get(format_name, 0)
    return COLD_MARKS.index(int(mark)) + several * len(COLD_MARKS)


def packed_bytes(name: str, num_bytes: float, packed: Mapping[str, float]) -> float:
    """packed: bytes of a format's weights as kernels read them, for each as stored."""
    return num_bytes * packed.get(name.rpartition("/weights@")[0], 1.0)


def reads_of(
    needs: Needs,
    packed: Mapping[str, float],
    streamed: Mapping[str, float],
    lost: Mapping[str, float],
) -> Reads:
    """lost: shares of the shorter of computing and reading, by what is read."""
    if not needs.read:
        return NOTHING_READ
    num_bytes, shares = list(NO_AMOUNTS), list(NO_AMOUNTS)
    for name, stored in needs.read.items():
        at = kind_of(name, streamed)
        amount = packed_bytes(name, stored, packed)
        num_bytes[at] += amount
        shares[at] += amount * lost.get(name, 0.0)
    return Reads(tuple(num_bytes), tuple(shares))


class Prices(NamedTuple):
    """each: seconds a byte, of each of `Amounts`. missing: the share that caches do not hold."""

    each: Amounts = NO_AMOUNTS
    missing: float = 0.0

    def reading(self, reads: Reads) -> float:
        """Seconds that it takes to read them."""
        total: float = sum(map(mul, reads.num_bytes, self.each))
        return total

    def together(self, computing: float, reads: Reads) -> float:
        """Seconds of operators that compute so long and read so much beside it."""
        reading = self.reading(reads)
        if not reading:
            return computing
        lost: float = sum(map(mul, reads.lost, self.each)) / reading
        return max(computing, reading) + self.missing * lost * min(computing, reading)


FREE = Prices()


def prices_at(draws: Sequence[Draw], footprint_bytes: float, read: ReadRates) -> Prices:
    """In a working set that is read like that now; no way of reading is above the fastest."""
    if footprint_bytes <= HOT_BYTES:
        return FREE
    missing = min(log(footprint_bytes / HOT_BYTES) / log(COLD_BYTES / HOT_BYTES), 1.0)
    rates = (read.forward,) * len(COLD_MARKS) + (read.fastest,) * len(COLD_MARKS)
    each = (
        1e-9 / min(draw.rate(rate, missing), max(read))
        for draw, rate in zip(draws, rates, strict=True)
    )
    return Prices(tuple(each), missing)


def fit_reading(
    samples: Sequence[ColdSample], streamed: Mapping[str, float]
) -> tuple[tuple[Draw, ...], dict[str, float]]:
    """What kernels draw of each of `Amounts`, and what shares of the shorter of computing and
    reading come on top, by what is read: from operators that read one of them. What was not seen is
    drawn as with the next number of rows, or as in the other way of reading.
    """
    seen: dict[int, list[ColdSample]] = {}
    for sample in samples:
        seen.setdefault(kind_of(sample.name, streamed), []).append(sample)
    known: dict[int, Draw] = {}
    lost: dict[str, float] = {}
    for at in sorted(seen):
        limited = _limited(at, seen[at])
        if at % len(COLD_MARKS) > LIMITED_MARKS:
            limited = known.get(at - 1, Draw())
        known[at], shares = _explained(at, seen[at], limited)
        lost |= shares
    of_cache = [share for name, share in lost.items() if name.endswith(f"@{CACHE_MARK}")]
    if any(of_cache):
        lost[CACHE] = median(of_cache)
    draws = tuple(
        known[min(known, key=lambda other: abs(other - at))] if known else Draw()
        for at in range(len(NO_AMOUNTS))
    )
    return draws, lost


def _explained(
    at: int, samples: Sequence[ColdSample], limited: Draw
) -> tuple[Draw, dict[str, float]]:
    """The better of two explanations of why these took longer than a loop reads."""
    by_name: dict[str, list[ColdSample]] = {}
    for sample in samples:
        by_name.setdefault(sample.name, []).append(sample)
    # More rows compute for so long that it is alike of all formats, and better seen of all at once.
    by_a_row = at % len(COLD_MARKS) == 0
    shares = {name: _share(at, of if by_a_row else samples) for name, of in by_name.items()}
    if _off(at, samples, Draw(), shares) < LESS_OFF * _off(at, samples, limited, {}):
        return Draw(), shares
    return limited, {}


def _share(at: int, samples: Sequence[ColdSample]) -> float:
    """Of the shorter of computing and reading, under which they are off least."""
    return min(
        LOST_SHARES,
        key=lambda lost: _off(at, samples, Draw(), {sample.name: lost for sample in samples}),
    )


def _off(at: int, samples: Iterable[ColdSample], draw: Draw, lost: Mapping[str, float]) -> float:
    """What they are off by in the middle."""
    found = []
    for name, num_bytes, took, hot, read in samples:
        amounts = list(NO_AMOUNTS), list(NO_AMOUNTS)
        amounts[0][at], amounts[1][at] = num_bytes, num_bytes * lost.get(name, 0.0)
        price = prices_at((draw,) * len(NO_AMOUNTS), COLD_BYTES, read)
        told = price.together(hot, Reads(*map(tuple, amounts)))
        found.append(abs(log(told / took)))
    return median(found)


def _limited(at: int, samples: Sequence[ColdSample]) -> Draw:
    """From what was drawn at each rate, GB/s, by those that took longer than they compute."""
    pairs = [
        (1e-9 * num_bytes / took, read.forward if at < len(COLD_MARKS) else read.fastest)
        for _, num_bytes, took, hot, read in samples
        if took >= WAITS * hot
    ]
    if not pairs:
        return Draw()
    free = [drawn / rate for drawn, rate in pairs if drawn >= OWN_LIMIT * rate]
    held = [drawn for drawn, rate in pairs if drawn < OWN_LIMIT * rate]
    share = min(median(free), MOST_SHARE) if free else 1.0
    if not held:
        return Draw(share)
    # Some are held back by being short, which says nothing of those that are not.
    at_least = max((drawn for drawn, rate in pairs if drawn >= OWN_LIMIT * rate), default=0.0)
    return Draw(share, max(median(held), at_least))
