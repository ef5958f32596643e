"""What an operator takes longer whose weights come from memory and not from caches.

It is measured at a few working sets, since kernels leave the caches at another size than those who
read and do nothing else; taken straight between them, in the logarithm of the size; and scaled by
how fast memory is now, read as kernels read it: in one stream a thread that asks ahead, or, of some
formats, in several plain ones. Knows neither operators nor machines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log
from operator import mul

from ridgeline.cost.device import ReadRates
from ridgeline.cost.kernel_terms import COLD_MARKS, Needs
from ridgeline.units import MIB

# A working set that caches hold: nothing takes longer.
HOT_BYTES = 32 * MIB

# Bytes, then operators, each at the marks of `COLD_MARKS`: what reading takes longer of each.
Amounts = tuple[float, ...]
NO_AMOUNTS: Amounts = (0.0,) * (2 * len(COLD_MARKS))
# What is read in one stream, then what is read in several.
NOTHING_READ: Amounts = 2 * NO_AMOUNTS


@dataclass(frozen=True, slots=True)
class Cold:
    """Of a working set of `footprint_bytes`, as packed: read_rate: GB/s at which the same threads
    read it forward and do nothing else. more: seconds that a byte, and that an operator, takes
    longer than out of the caches, each with as many rows as `COLD_MARKS` has.
    """

    footprint_bytes: float
    read_rate: float
    more: Amounts


def amounts_of(needs: Needs, packed: Mapping[str, float], streamed: Mapping[str, float]) -> Amounts:
    """packed: bytes of a format's weights as kernels read them, for each as stored. streamed: rows
    up to which they read them in several streams.
    """
    if not needs.read:
        return NOTHING_READ
    num_marks = len(COLD_MARKS)
    amounts = list(NOTHING_READ)
    whole = sum(needs.read.values()) or 1.0
    for name, num_bytes in needs.read.items():
        if name == "cache":  # it is read as weights are by a row
            amounts[0] += num_bytes
            continue
        format_name, _, mark = name.rpartition("/weights@")
        at = COLD_MARKS.index(int(mark))
        if int(mark) <= streamed.get(format_name, 0):
            at += len(NO_AMOUNTS)
        amounts[at] += num_bytes * packed.get(format_name, 1.0)
        amounts[num_marks + at] += num_bytes / whole
    return tuple(amounts)


def add(one: Amounts, count: float, other: Amounts) -> Amounts:
    return tuple(a + count * b for a, b in zip(one, other, strict=True))


def longer(amounts: Amounts, more: Amounts) -> float:
    """Seconds; more: of each amount, as `more_at` says."""
    total: float = sum(map(mul, amounts, more))
    return total


def bytes_of(amounts: Amounts) -> float:
    """What is read, in whatever way."""
    num_marks, ways = len(COLD_MARKS), len(NO_AMOUNTS)
    return sum(amounts[:num_marks]) + sum(amounts[ways : ways + num_marks])


def more_at(
    cold: Sequence[Cold], footprint_bytes: float, read: ReadRates, hot_rate: float
) -> Amounts:
    """Seconds that each amount takes longer in a working set that is read like that now. What is
    read in several streams takes what one would take that is as fast as they are.

    cold: in order of size. hot_rate: GB/s of reading what caches hold, when it was measured.
    """
    kept, more = _between(cold, footprint_bytes, hot_rate)
    num_marks = len(COLD_MARKS)
    found: Amounts = ()
    for rate in (read.forward, read.fastest):
        slower = kept / rate
        beside = _beside(slower, hot_rate)
        of_bytes = (max(0.0, each * slower + beside) for each in more[:num_marks])
        found += (*of_bytes, *(each * slower for each in more[num_marks:]))
    return found


def as_usual(
    seconds: float, num_bytes: float, read_rate: float, usual: float, hot_rate: float
) -> float:
    """What an operator that reads so many bytes takes longer where its working set is read at
    `usual` GB/s, of one that took `seconds` longer while it was read at `read_rate`: `more_at` the
    other way round.
    """
    slower = usual / read_rate
    return (seconds - num_bytes * _beside(slower, hot_rate)) / slower


def _beside(slower: float, hot_rate: float) -> float:
    """Seconds a byte: what it takes in all grows with the time that it takes to be read."""
    return (slower - 1) / hot_rate * 1e-9


def _between(
    cold: Sequence[Cold], footprint_bytes: float, hot_rate: float
) -> tuple[float, Sequence[float]]:
    points = [Cold(HOT_BYTES, hot_rate, NO_AMOUNTS), *cold]
    if footprint_bytes <= HOT_BYTES:
        return hot_rate, NO_AMOUNTS
    for low, high in pairwise(points):
        if footprint_bytes <= high.footprint_bytes:
            span = log(high.footprint_bytes / low.footprint_bytes)
            share = log(footprint_bytes / low.footprint_bytes) / max(span, 1e-12)
            rate = low.read_rate * (high.read_rate / low.read_rate) ** share
            more = [a + share * (b - a) for a, b in zip(low.more, high.more, strict=True)]
            return rate, more
    return points[-1].read_rate, points[-1].more
