"""What an operator waits for whose weights come from memory and not from caches.

It computes while it reads, so it takes the longer of the two. Kernels draw a share of the rate at
which memory is read by nothing but a loop, the same way: in one stream a thread that asks ahead,
or, of some formats, in several plain ones; and a most that they never come above, since only so
many of their requests are on the way at a time. Which of the two was seen depends on the moment in
which they were timed. Knows neither operators nor machines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    """An operator that read `amounts`, of one kind, from memory. hot: what it would take out of
    caches in that moment. read: GB/s at which its working set was read just then.
    """

    amounts: Amounts
    took: float
    hot: float
    read: ReadRates


def amounts_of(needs: Needs, packed: Mapping[str, float], streamed: Mapping[str, float]) -> Amounts:
    """packed: bytes of a format's weights as kernels read them, for each as stored. streamed: rows
    up to which they read them in several streams.
    """
    if not needs.read:
        return NO_AMOUNTS
    amounts = list(NO_AMOUNTS)
    for name, num_bytes in needs.read.items():
        if name == "cache":  # it is read as weights are by a row
            amounts[0] += num_bytes
            continue
        format_name, _, mark = name.rpartition("/weights@")
        at = COLD_MARKS.index(int(mark))
        if int(mark) <= streamed.get(format_name, 0):
            at += len(COLD_MARKS)
        amounts[at] += num_bytes * packed.get(format_name, 1.0)
    return tuple(amounts)


def add(one: Amounts, count: float, other: Amounts) -> Amounts:
    return tuple(a + count * b for a, b in zip(one, other, strict=True))


def reading(amounts: Amounts, prices: Amounts) -> float:
    """Seconds that it takes to read them; prices: of each byte, as `prices_at` says."""
    total: float = sum(map(mul, amounts, prices))
    return total


def prices_at(draws: Sequence[Draw], footprint_bytes: float, read: ReadRates) -> Amounts:
    """Seconds a byte, of each of `Amounts`, in a working set that is read like that now; none is
    less than the fastest way of reading takes.
    """
    if footprint_bytes <= HOT_BYTES:
        return NO_AMOUNTS
    missing = min(log(footprint_bytes / HOT_BYTES) / log(COLD_BYTES / HOT_BYTES), 1.0)
    rates = (read.forward,) * len(COLD_MARKS) + (read.fastest,) * len(COLD_MARKS)
    return tuple(
        1e-9 / min(draw.rate(rate, missing), max(read))
        for draw, rate in zip(draws, rates, strict=True)
    )


def draws_of(samples: Sequence[ColdSample]) -> tuple[Draw, ...]:
    """Of each of `Amounts`, from operators that read nothing else and waited for it; what was not
    seen is as with the next number of rows, or as the other way of reading.
    """
    seen: dict[int, list[tuple[float, float]]] = {}
    for amounts, took, hot, read in samples:
        if took < WAITS * hot:
            continue
        kinds = [at for at, num_bytes in enumerate(amounts) if num_bytes > 0]
        if len(kinds) == 1:
            rate = read.forward if kinds[0] < len(COLD_MARKS) else read.fastest
            seen.setdefault(kinds[0], []).append((1e-9 * amounts[kinds[0]] / took, rate))
    known = {at: _draw(pairs) for at, pairs in seen.items()}
    return tuple(
        known[min(known, key=lambda other: abs(other - at))] if known else Draw()
        for at in range(len(NO_AMOUNTS))
    )


def _draw(pairs: Sequence[tuple[float, float]]) -> Draw:
    """From what was drawn at each rate, GB/s."""
    free = [drawn / rate for drawn, rate in pairs if drawn >= OWN_LIMIT * rate]
    held = [drawn for drawn, rate in pairs if drawn < OWN_LIMIT * rate]
    share = min(median(free), MOST_SHARE) if free else 1.0
    if not held:
        return Draw(share)
    # Some are held back by being short, which says nothing of those that are not.
    at_least = max((drawn for drawn, rate in pairs if drawn >= OWN_LIMIT * rate), default=0.0)
    return Draw(share, max(median(held), at_least))
