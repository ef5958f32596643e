"""The machine's roofs: measured in a few seconds, kept by the machine's identity, checked at use.

Hosts change under a program: a virtual machine's threads move between core complexes, and its
memory becomes half or twice as fast. So what is kept is for comparison and prediction; a figure
that is printed beside a roof has that roof read again, and says so when the two disagree. Does not
know how anything is measured: that is the `Meter`, of a backend or of a test.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import harmonic_mean, median
from time import sleep
from typing import Protocol

from ridgeline.cost.device import (
    OWN_CACHE_BYTES,
    Bandwidth,
    Barrier,
    Device,
    Peak,
    Read,
    ReadRates,
    Roofs,
    mode_name,
)
from ridgeline.cost.kept import entry_name, read_entries, write_entries
from ridgeline.cost.kernel_samples import TimedStep
from ridgeline.units import KIB, MIB

# Of what is measured and how; kept figures of another version are not used.
VERSION = 3

ARITHMETICS = ("int8", "bf16", "f32")

# Bytes for each thread, then bytes for all together.
OWN_FOOTPRINTS = (24 * KIB, 512 * KIB)
SHARED_FOOTPRINTS = tuple(m * MIB for m in (8, 32, 64, 96, 128, 256, 512))
# With fewer threads than the most, no more than this, and the largest: large ones take longest.
FEW_FOOTPRINT = 64 * MIB
COPY_FOOTPRINTS = (512 * KIB, 16 * MIB, 256 * MIB)
# Of the memory that is free, at most this share is taken to measure with.
MEMORY_SHARE = 0.25

CHECK_BYTES = 128 * MIB
# Where memory seems slow, it is read again so often, so many seconds apart.
LOOKS, REST_SECONDS = 3, 0.03
# What is looked at before a prediction of no loaded model.
NOW_FOOTPRINTS = (32 * MIB, 128 * MIB, 512 * MIB)
# The arithmetic whose speed of the moment kernels follow, whatever they multiply themselves: its
# loop is bound by instructions, as they are, where that of f32 waits for its own results.
PACE = "int8"
# Of so many rounds, a second or so: a host gives and takes a third of it within tenths of a second,
# which is noise to a step, and a quarter for minutes, which is not. In one go, since a core that
# has just slept is slower than one that works.
PACE_ROUNDS = 2400
# A round that took so many times what is usual was somebody else's.
PACE_DISTURBED = 1.6
# A read roof this far from the kept one, up or down, is another mode of the machine.
READ_TOLERANCE = 0.2
BARRIER_TOLERANCE = 2.0

Report = Callable[[str, int, int], None]


class Meter(Protocol):
    """Measures a machine; each figure is a list with one value a round, after a warm one."""

    @property
    def isa(self) -> str: ...
    @property
    def cache_bytes(self) -> int:
        """Of the last-level cache."""

    def identity(self) -> Mapping[str, str]:
        """What tells this machine from others."""

    def read(self, num_bytes: int, threads: int, rounds: int) -> Sequence[ReadRates]:
        """Of all threads together over a footprint of `num_bytes`."""

    def copy(self, num_bytes: int, threads: int, rounds: int) -> Sequence[float]:
        """GB/s, read and written bytes added, source and target being `num_bytes` together."""

    def arithmetic(self, name: str, threads: int, rounds: int) -> Sequence[float]:
        """10^9 operations per second."""

    def barrier(self, threads: int, rounds: int) -> Sequence[float]:
        """Nanoseconds."""

    def kernels(self, threads: int, report: Callable[[str], None]) -> Iterable[TimedStep]:
        """Steps of synthetic graphs, timed by operator (`cost/kernels.py`); none: it times none."""

    def close(self) -> None:
        """Gives back threads and memory."""


def silent(stage: str, done: int, total: int) -> None:
    """A `Report` for those who do not watch."""


def thread_counts(threads: int) -> tuple[int, ...]:
    """1, 2, 4, ... and `threads`: speeds between them are between theirs."""
    counts = [1]
    while counts[-1] * 2 < threads:
        counts.append(counts[-1] * 2)
    return tuple(dict.fromkeys((*counts, threads)))


def fastest(rounds: Sequence[ReadRates]) -> float:
    """The roof, GB/s: the median of rounds."""
    return median(rates.fastest for rates in rounds)


def upper_quartile(rates: Sequence[float]) -> float:
    """What a peak is taken as: rounds are short, and whatever else happens makes one slower."""
    return sorted(rates)[len(rates) * 3 // 4]


def measure(
    meter: Meter, threads: Sequence[int], available_bytes: int, report: Report = silent
) -> Roofs:
    """Every roof, with each number of threads. Raises MemoryError or OSError if the system refuses
    even little memory.

    available_bytes: memory that is free; larger footprints are left out where it is little.
    """
    largest = max(available_bytes * MEMORY_SHARE, 8 * MIB)
    shared = [size for size in SHARED_FOOTPRINTS if size <= largest]
    copied = [size for size in COPY_FOOTPRINTS if size <= largest]
    reads: list[Read] = []
    copies: list[Bandwidth] = []
    peaks: list[Peak] = []
    barriers: list[Barrier] = []
    few = [size for size in shared if size <= FEW_FOOTPRINT or size == shared[-1]]
    reading = len(shared) + (len(threads) - 1) * len(few)
    total = len(threads) * (2 + len(OWN_FOOTPRINTS) + len(copied) + 2) + reading
    done = 0

    def step(stage: str) -> None:
        nonlocal done
        report(stage, done, total)
        done += 1

    for count in threads:
        step(f"barrier, {count} threads")
        barriers.append(Barrier(count, min(meter.barrier(count, 15))))
        for name in ARITHMETICS:
            step(f"{name}, {count} threads")
            peaks.append(Peak(name, count, upper_quartile(meter.arithmetic(name, count, 15))))
        # The largest first: memory is taken once.
        of = shared if count == max(threads) else few
        sizes = [*reversed(of), *(size * count for size in OWN_FOOTPRINTS)]
        for size in sizes:
            step(f"read, {count} threads")
            rounds = 9 if size <= 32 * MIB else 5 if size <= 128 * MIB else 2
            reads.append(Read.of(size, count, meter.read(size, count, rounds)))
        for size in reversed(copied):
            step(f"copy, {count} threads")
            copies.append(Bandwidth(size, count, median(meter.copy(size, count, 5))))
    report("done", total, total)
    meter.close()
    return Roofs(
        machine=dict(meter.identity()),
        isa=meter.isa,
        cache_bytes=meter.cache_bytes,
        reads=tuple(sorted(reads, key=lambda r: (r.threads, r.footprint_bytes))),
        copies=tuple(sorted(copies, key=lambda r: (r.threads, r.footprint_bytes))),
        peaks=tuple(peaks),
        barriers=tuple(barriers),
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


# ---- what is kept


def load(cache_dir: Path, machine: Mapping[str, str], isa: str) -> Roofs | None:
    """What was kept of this machine; None if nothing was, or nothing that can be trusted."""
    fields = _entries(cache_dir).get(_key(machine, isa))
    return None if fields is None else _roofs(fields, machine, isa)


def store(cache_dir: Path, roofs: Roofs) -> bool:
    """Keeps them in place of what was kept of the same machine. False: the cache cannot be written,
    which is no error: the next one measures again.
    """
    known = _entries(cache_dir)
    known[_key(roofs.machine, roofs.isa)] = {
        "measured_at": roofs.measured_at,
        "cache_bytes": roofs.cache_bytes,
        "reads": [
            [r.footprint_bytes, r.threads, r.gigabytes_per_second, r.forward] for r in roofs.reads
        ],
        "copies": [[r.footprint_bytes, r.threads, r.gigabytes_per_second] for r in roofs.copies],
        "peaks": [[p.arithmetic, p.threads, p.gigaoperations_per_second] for p in roofs.peaks],
        "barriers": [[b.threads, b.nanoseconds] for b in roofs.barriers],
    }
    return write_entries(cache_dir / _FILE, known)


_FILE = "roofs.json"
_LARGEST_FILE = 1 << 20
_MOST_ROWS = 4096


def _entries(cache_dir: Path) -> dict[str, dict[str, object]]:
    return read_entries(cache_dir / _FILE, having="measured_at", largest=_LARGEST_FILE)


def _key(machine: Mapping[str, str], isa: str) -> str:
    return entry_name(machine, isa=isa, measurement=VERSION)


def _roofs(fields: Mapping[str, object], machine: Mapping[str, str], isa: str) -> Roofs | None:
    try:
        return Roofs(
            machine=dict(machine),
            isa=isa,
            cache_bytes=_count(fields["cache_bytes"], fewest=0),
            reads=tuple(_read(row) for row in _rows(fields["reads"])),
            copies=tuple(_bandwidth(row) for row in _rows(fields["copies"])),
            peaks=tuple(_peak(row) for row in _rows(fields["peaks"])),
            barriers=tuple(_barrier(row) for row in _rows(fields["barriers"])),
            measured_at=_text(fields["measured_at"]),
        )
    except (KeyError, TypeError, ValueError):
        return None


def _rows(value: object) -> list[list[object]]:
    if not isinstance(value, list) or len(value) > _MOST_ROWS:
        raise ValueError
    if not all(isinstance(row, list) for row in value):
        raise ValueError
    return value


def _bandwidth(row: list[object]) -> Bandwidth:
    size, threads, rate = row
    return Bandwidth(_count(size), _count(threads), _rate(rate))


def _read(row: list[object]) -> Read:
    size, threads, fastest, forward = row
    return Read(_count(size), _count(threads), _rate(fastest), _rate(forward))


def _peak(row: list[object]) -> Peak:
    name, threads, rate = row
    return Peak(_text(name), _count(threads), _rate(rate))


def _barrier(row: list[object]) -> Barrier:
    threads, nanoseconds = row
    return Barrier(_count(threads), _rate(nanoseconds))


def _count(value: object, fewest: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not fewest <= value < 2**63:
        raise ValueError
    return value


def _rate(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError
    if not math.isfinite(value) or not 0 < value < 1e15:
        raise ValueError
    return float(value)


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > 64 or not value.isprintable():
        raise ValueError
    return value


# ---- checked at use


@dataclass(frozen=True, slots=True)
class ReadRoof:
    """The read roof of a working set as it is now, beside the one that was kept, if one was."""

    now: Read
    kept: Read | None
    measured_at: str = ""

    @property
    def gigabytes_per_second(self) -> float:
        """The roof that holds now."""
        return self.now.gigabytes_per_second

    @property
    def other_mode(self) -> bool:
        """Whether the machine is in another mode than when it was measured."""
        return self.kept is not None and _apart(self.now, self.kept)

    @property
    def is_slow(self) -> bool:
        """Whether it is another mode in which memory is slower."""
        kept = self.kept
        return (
            self.other_mode
            and kept is not None
            and self.gigabytes_per_second < (kept.gigabytes_per_second)
        )


@dataclass(frozen=True, slots=True)
class Check:
    """A moment's look at the machine, beside what was kept."""

    read: ReadRoof
    barrier: Barrier
    kept_barrier: Barrier | None

    @property
    def mode(self) -> str:
        return mode_name(self.barrier.nanoseconds, self.barrier.threads)

    @property
    def kept_mode(self) -> str | None:
        kept = self.kept_barrier
        return None if kept is None else mode_name(kept.nanoseconds, kept.threads)

    @property
    def other_mode(self) -> bool:
        kept = self.kept_barrier
        if self.read.other_mode:
            return True
        if kept is None or self.mode == self.kept_mode:
            return False
        ratio = self.barrier.nanoseconds / kept.nanoseconds
        return not 1 / BARRIER_TOLERANCE < ratio < BARRIER_TOLERANCE


def device_now(meter: Meter, footprint_bytes: int, threads: int, available_bytes: int) -> Device:
    """This machine's limits as they are now, for a working set of that size: the few figures of
    `measure` that a step's time needs, in some tenths of a second. Nothing is kept.
    """
    size = int(min(footprint_bytes, max(available_bytes * MEMORY_SHARE, 8 * MIB), 512 * MIB))
    size = max(size, 64 * KIB * threads)
    device = Device(
        name=f"this machine, {threads} threads, {meter.isa}",
        memory_bytes_per_second=1e9 * fastest(meter.read(size, threads, 5)),
        operations_per_second={
            name: 1e9 * upper_quartile(meter.arithmetic(name, threads, 9)) for name in ARITHMETICS
        },
        barrier_seconds=1e-9 * min(meter.barrier(threads, 5)),
        cache_bytes=float(meter.cache_bytes),
        cache_bytes_per_second=1e9 * fastest(meter.read(OWN_CACHE_BYTES * threads, threads, 5)),
    )
    meter.close()
    return device


def reads_now(meter: Meter, threads: int, available_bytes: int) -> tuple[Read, ...]:
    """How fast memory is read at this moment, of a few footprints, in three tenths of a second: for
    `Roofs.as_now`.
    """
    largest = max(available_bytes * MEMORY_SHARE, 8 * MIB)
    sizes = [size for size in NOW_FOOTPRINTS if size <= largest] or [8 * MIB]
    # The largest first: memory is taken once.
    reads = tuple(
        Read.of(size, threads, meter.read(size, threads, 2 if size > 128 * MIB else 5))
        for size in reversed(sizes)
    )
    meter.close()
    return reads


def pace_now(threads: int, rates: Callable[[int], Sequence[float]]) -> Peak:
    """The pace of this moment, in a second: for `Roofs.as_now`. rates: 10^9 operations a
    second of `PACE` in each of so many rounds.
    """
    return Peak(PACE, threads, pace_of(rates(PACE_ROUNDS)))


def pace_of(rates: Sequence[float]) -> float:
    """Of a moment that has fast and slow rounds, as whatever takes longer than a round has them:
    by the mean of their times.
    """
    usual = median(rates)
    return harmonic_mean([rate for rate in rates if rate * PACE_DISTURBED >= usual])


def read_roof(
    kept: Roofs | None,
    num_bytes: int,
    threads: int,
    read: Callable[[int], Sequence[ReadRates]],
    reached: float = 0.0,
) -> ReadRoof:
    """The read roof of a working set of `num_bytes` now, by a few rounds of `read(rounds)`.

    reached: GB/s that a program has just come to. Where that is more, somebody else used the
    machine during those rounds: they are repeated, and the highest figure is the roof.
    """
    now = Read.of(num_bytes, threads, read(5 if num_bytes < 256 * MIB else 2))
    if now.gigabytes_per_second <= reached:
        rates = [ReadRates(now.gigabytes_per_second, now.forward), *read(9)]
        now = Read(num_bytes, threads, *(max(way) for way in zip(*rates, strict=True)))
    before = None if kept is None else kept.read(num_bytes, threads)
    at = "" if kept is None else kept.measured_at
    return ReadRoof(now, before, at)


def steady(look: Callable[[], ReadRoof]) -> ReadRoof:
    """What `look` finds, again where it is far below what was kept: a machine that has become slow
    still is a moment later, one whose threads shared a core is not.
    """
    found = look()
    for _ in range(LOOKS):
        if not found.is_slow:
            break
        sleep(REST_SECONDS)
        again = look()
        if again.gigabytes_per_second > found.gigabytes_per_second:
            found = again
    return found


def check(meter: Meter, kept: Roofs | None, threads: int, available_bytes: int) -> Check:
    """Looks at the machine for some tens of milliseconds."""
    size = int(min(CHECK_BYTES, max(available_bytes * MEMORY_SHARE, 8 * MIB)))
    read = read_roof(kept, size, threads, lambda rounds: meter.read(size, threads, rounds))
    barrier = Barrier(threads, min(meter.barrier(threads, 15)))
    meter.close()
    return Check(read, barrier, None if kept is None else kept.barrier(threads))


def _apart(now: Bandwidth, kept: Bandwidth) -> bool:
    ratio = now.gigabytes_per_second / kept.gigabytes_per_second
    return not 1 / (1 + READ_TOLERANCE) < ratio < 1 + READ_TOLERANCE
