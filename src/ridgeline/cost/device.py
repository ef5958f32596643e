"""What a device can do at most: the limits that a step's time is held to.

A `Device` is a handful of numbers for one working set, whether they were measured on this machine
(`Roofs`, made by cost/measure.py) or come from a data sheet. Does not know graphs or backends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import exp, log
from statistics import median
from typing import NamedTuple

from ridgeline.units import KIB

# What surely lies in a core's own cache: values between operators move no faster.
OWN_CACHE_BYTES = 512 * KIB


@dataclass(frozen=True, slots=True)
class Device:
    """Limits in bytes and operations (a multiply-add is 2) per second, and seconds.

    memory_bytes_per_second: reading a working set of the step's size. operations_per_second: by
    arithmetic ("int8", "bf16", "f32"). barrier_seconds: from the end of one operator to the
    beginning of the next at least. cache_bytes: values of an operator that fit here stay on the
    chip; they are no memory traffic, and move at cache_bytes_per_second (None: in no time).
    link_bytes_per_second: to the other ranks; None: there are none.
    """

    name: str
    memory_bytes_per_second: float
    operations_per_second: Mapping[str, float]
    barrier_seconds: float = 0.0
    cache_bytes: float = 0.0
    cache_bytes_per_second: float | None = None
    link_bytes_per_second: float | None = None


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """GB/s (10^9 bytes) at which `threads` threads go over `footprint_bytes` again and again."""

    footprint_bytes: int
    threads: int
    gigabytes_per_second: float


class ReadRates(NamedTuple):
    """GB/s at which the same bytes are read. fastest: by the fastest way known, which is the roof.
    forward: in one stream a thread that asks ahead, which is how kernels read weights.
    """

    fastest: float
    forward: float


@dataclass(frozen=True, slots=True)
class Read(Bandwidth):
    """Of reading, by the fastest way. forward: GB/s in the way of kernels (`ReadRates`). The two
    are one where software asks for memory as well as hardware does, and change apart from each
    other where it does not (docs/kernels.md).
    """

    forward: float

    @property
    def rates(self) -> ReadRates:
        return ReadRates(self.gigabytes_per_second, self.forward)

    @staticmethod
    def of(footprint_bytes: int, threads: int, rounds: Sequence[ReadRates]) -> Read:
        """The medians."""
        fastest, forward = (median(rates) for rates in zip(*rounds, strict=True))
        return Read(footprint_bytes, threads, fastest, forward)


@dataclass(frozen=True, slots=True)
class Peak:
    """10^9 operations per second of one arithmetic when nothing but arithmetic holds it back."""

    arithmetic: str
    threads: int
    gigaoperations_per_second: float


@dataclass(frozen=True, slots=True)
class Barrier:
    """What it costs `threads` threads to wait for each other."""

    threads: int
    nanoseconds: float


@dataclass(frozen=True, slots=True)
class Roofs:
    """All that was measured on a machine, with the kernels of one instruction set.

    copies count a byte read and a byte written as 2 bytes. measured_at: UTC, ISO 8601. pace: of
    this moment (`as_now`), the arithmetic that kernels follow (`measure.pace_now`); never kept.
    """

    machine: Mapping[str, str]
    isa: str
    cache_bytes: int
    reads: tuple[Read, ...] = ()
    copies: tuple[Bandwidth, ...] = ()
    peaks: tuple[Peak, ...] = ()
    barriers: tuple[Barrier, ...] = ()
    measured_at: str = ""
    pace: Peak | None = None

    def read(self, footprint_bytes: float, threads: int) -> Read | None:
        """The figure that bounds a working set of that size with this number of threads, between
        those measured: logarithmically in both; beyond them, the outermost. None without any.
        """
        having = sorted((r for r in self.reads if r.threads == threads), key=_size)
        if not having:
            return None
        size = min(max(footprint_bytes, _size(having[0])), _size(having[-1]))
        below = [r for r in having if _size(r) <= size][-1]
        above = next(r for r in having if _size(r) >= size)
        share = 0.0
        if above != below:
            share = log(size / _size(below)) / log(_size(above) / _size(below))
        fastest, forward = (
            low * (high / low) ** share
            for low, high in (
                (below.gigabytes_per_second, above.gigabytes_per_second),
                (below.forward, above.forward),
            )
        )
        return Read(int(footprint_bytes), threads, fastest, forward)

    def as_now(
        self, reads: Sequence[Read], pace: Peak | None = None, barrier: Barrier | None = None
    ) -> Roofs:
        """These roofs with the memory, the pace and the barrier of this moment. reads: a few, of
        one number of threads, just measured: what was kept is slower or faster by as much as they
        are, between them straight in the logarithm of the size, each way of reading by itself; what
        a core's own cache holds is as it was, and so are peaks, which bound what can be.
        """
        barriers = self.barriers
        if barrier is not None:
            others = (each for each in barriers if each.threads != barrier.threads)
            barriers = (*others, barrier)
        fastest, forward = [], []
        for now in sorted(reads, key=_size):
            kept = self.read(now.footprint_bytes, now.threads)
            if kept is not None:
                at = log(_size(now))
                fastest.append((at, log(now.gigabytes_per_second / kept.gigabytes_per_second)))
                forward.append((at, log(now.forward / kept.forward)))
        if not fastest:
            return replace(self, pace=pace, barriers=barriers)
        threads = reads[0].threads

        def now_of(kept: Read) -> Read:
            if kept.threads != threads or _size(kept) <= OWN_CACHE_BYTES * threads:
                return kept
            at = log(_size(kept))
            return replace(
                kept,
                gigabytes_per_second=kept.gigabytes_per_second * exp(_between(fastest, at)),
                forward=kept.forward * exp(_between(forward, at)),
            )

        reads_now = tuple(map(now_of, self.reads))
        return replace(self, reads=reads_now, pace=pace, barriers=barriers)

    def peak(self, arithmetic: str, threads: int) -> Peak | None:
        for peak in self.peaks:
            if (peak.arithmetic, peak.threads) == (arithmetic, threads):
                return peak
        return None

    def barrier(self, threads: int) -> Barrier | None:
        return next((b for b in self.barriers if b.threads == threads), None)

    def device(self, footprint_bytes: float, threads: int) -> Device | None:
        """The limits for a working set of that size; None where some of them were not measured."""
        read, barrier = self.read(footprint_bytes, threads), self.barrier(threads)
        cache = self.read(OWN_CACHE_BYTES * threads, threads)
        peaks = {
            peak.arithmetic: 1e9 * peak.gigaoperations_per_second
            for peak in self.peaks
            if peak.threads == threads
        }
        if read is None or cache is None or barrier is None or not peaks:
            return None
        return Device(
            name=f"{self.machine.get('model name') or 'CPU'}, {threads} threads, {self.isa}",
            memory_bytes_per_second=1e9 * read.gigabytes_per_second,
            operations_per_second=peaks,
            barrier_seconds=1e-9 * barrier.nanoseconds,
            cache_bytes=float(self.cache_bytes),
            cache_bytes_per_second=1e9 * cache.gigabytes_per_second,
        )


# Two threads whose barrier takes longer than FAR do not share a last-level cache: on the hosts that
# were seen, 37-76 ns within one core complex, 200-260 ns across two. Beyond BUSY, a thread waits
# for a core and not for the other thread.
FAR_NANOSECONDS = 130.0
BUSY_NANOSECONDS = 1000.0


def mode_name(barrier_nanoseconds: float, threads: int) -> str:
    """`near`: threads meet within one last-level cache; `far`: across two, where reading is faster
    and sharing slower; `busy`: something else has their cores; `alone`: there is one thread.
    """
    if threads < 2:
        return "alone"
    rounds = max(1, (threads - 1).bit_length())
    if barrier_nanoseconds >= BUSY_NANOSECONDS * rounds:
        return "busy"
    return "near" if barrier_nanoseconds < FAR_NANOSECONDS * rounds else "far"


def _between(points: Sequence[tuple[float, float]], x: float) -> float:
    """Straight between points in order; beyond them as at the outermost."""
    if x <= points[0][0]:
        return points[0][1]
    for (left, low), (right, high) in pairwise(points):
        if x <= right:
            return low + (high - low) * (x - left) / max(right - left, 1e-12)
    return points[-1][1]


def _size(bandwidth: Bandwidth) -> int:
    return bandwidth.footprint_bytes
