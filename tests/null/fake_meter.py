"""A meter that measures nothing: its machine has the speeds that a test gives it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ridgeline.cost.device import ReadRates
from ridgeline.cost.kernel_samples import TimedStep


@dataclass
class FakeMeter:
    """read_rate falls by half beyond the cache; forward: the share of it that kernels' way of
    reading has; times counts what was asked.
    """

    read_rate: float = 40.0
    barrier_rate: float = 45.0
    isa: str = "avx512"
    cache_bytes: int = 32 << 20
    peaks: dict[str, float] = field(
        default_factory=lambda: {"int8": 2000.0, "bf16": 1000.0, "f32": 500.0}
    )
    largest: int = 0
    num_closed: int = 0
    num_reads: int = 0
    forward: float = 0.75

    def identity(self) -> dict[str, str]:
        return {"model name": "An abacus", "processors": "2"}

    def read(self, num_bytes: int, threads: int, rounds: int) -> list[ReadRates]:
        self.largest = max(self.largest, num_bytes)
        self.num_reads += 1
        rate = self.read_rate * (2 if num_bytes <= self.cache_bytes else 1)
        return [ReadRates(rate, self.forward * rate)] * rounds

    def copy(self, num_bytes: int, threads: int, rounds: int) -> list[float]:
        return [self.read_rate / 2] * rounds

    def arithmetic(self, name: str, threads: int, rounds: int) -> list[float]:
        return [self.peaks[name] * threads / 2] * rounds

    def barrier(self, threads: int, rounds: int) -> list[float]:
        return [1.0 if threads == 1 else self.barrier_rate] * rounds

    def kernels(self, threads: int, report: Callable[[str], None]) -> tuple[TimedStep, ...]:
        return ()

    def close(self) -> None:
        self.num_closed += 1
