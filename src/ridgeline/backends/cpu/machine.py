"""This machine: who it is, and a meter for what it can do at most."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from pathlib import Path

from ridgeline.backends.cpu import _native
from ridgeline.cost.device import ReadRates
from ridgeline.cost.free_memory import available_bytes
from ridgeline.cost.kernel_samples import TimedStep

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


def identity() -> dict[str, str]:
    """CPU model, core count and cache size; empty values where Linux does not say."""
    facts = {"machine": platform.machine(), "model name": "", "cpu family": "", "model": ""}
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return facts
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in facts and not facts[name.strip()]:
            facts[name.strip()] = value.strip()
    facts["processors"] = str(sum(line.startswith("processor") for line in lines))
    facts["last-level cache"] = str(last_level_cache_bytes())
    return facts


def last_level_cache_bytes() -> int:
    """Of the last-level cache that the first core reaches; 0 where Linux does not say."""
    sizes = [0]
    for path in _CACHES.glob("index*/size"):
        try:
            text = path.read_text(encoding="ascii").strip()
            sizes.append(int(text.rstrip("KMG")) * _UNITS.get(text[-1:], 1))
        except (OSError, ValueError):
            continue
    return max(sizes)


class CpuMeter:
    """See `cost.measure.Meter`. Owns threads and memory of its own, until `close`."""

    def __init__(self, isa: str) -> None:
        self.isa = isa
        self.cache_bytes = last_level_cache_bytes()
        self._meter: _native.RoofMeter | None = None
        self._threads = 0

    def identity(self) -> dict[str, str]:
        return identity()

    def read(self, num_bytes: int, threads: int, rounds: int) -> list[ReadRates]:
        return [ReadRates(*rates) for rates in self._with(threads).read(num_bytes, rounds)]

    def copy(self, num_bytes: int, threads: int, rounds: int) -> list[float]:
        return self._with(threads).copy(num_bytes, rounds)

    def arithmetic(self, name: str, threads: int, rounds: int) -> list[float]:
        return self._with(threads).arithmetic(name, rounds)

    def barrier(self, threads: int, rounds: int) -> list[float]:
        return self._with(threads).barrier(rounds)

    def kernels(self, threads: int, report: Callable[[str], None]) -> Iterator[TimedStep]:
        from ridgeline.backends.cpu.synthetic import LARGE_BYTES, time_kernels

        large = min(LARGE_BYTES, available_bytes() // 4)
        return time_kernels(self.isa, threads, large, report)

    def close(self) -> None:
        self._meter = None

    def _with(self, threads: int) -> _native.RoofMeter:
        if self._meter is None or self._threads != threads:
            self._meter = None  # its memory goes before the next one's comes
            self._meter = _native.RoofMeter(self.isa, threads)
            self._threads = threads
        return self._meter
