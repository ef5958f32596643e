"""What a latency benchmark finds: cases, their samples, and the machine's limits beside each.

MBU and MFU are defined in docs/kernels.md: bytes (ideal compute time) that the steps need, over
time and the measured roof. Does not know how anything was run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Literal

from ridgeline.cost.device import Bandwidth, Device, Peak
from ridgeline.cost.time import Bound

Phase = Literal["prefill", "decode"]

# A process that had less of its cores' time was not alone on them.
DISTURBED = 0.85


@dataclass(frozen=True, slots=True)
class Case:
    """prefill: one prompt of `context` tokens, up to its first token. decode: `batch` rows that
    have `context` tokens each when the clock starts.
    """

    phase: Phase
    batch: int
    context: int

    def __str__(self) -> str:
        if self.phase == "prefill":
            return f"prefill {self.context}"
        return f"decode {self.batch} @ {self.context}"


@dataclass(frozen=True, slots=True)
class Moment:
    """The machine's limits beside a sample."""

    read: Bandwidth
    peaks: tuple[Peak, ...]
    barrier_nanoseconds: float
    mode: str
    device: Device


@dataclass(frozen=True, slots=True)
class OperatorSample:
    """What one operator took in a sample, over all its layers and steps.

    name: with `*` for the layer. Parts of it, means over the threads: barrier_seconds: waiting for
    others; start_seconds: until a thread was at it.
    bound: the least time of its work on that moment's device; None where it is not in the graph
    (sampling).
    """

    name: str
    operator: str
    calls: int
    seconds: float
    barrier_seconds: float
    start_seconds: float
    bound: Bound | None
    flops: float


@dataclass(frozen=True, slots=True)
class Sample:
    """One timing. least_seconds: each operator as long as what binds it, one after the other.

    compute_seconds: the work's arithmetic at its own peaks; memory_seconds: its bytes at the read
    roof. cpu_share: of its cores' time, what the process had; the rest went to others, and the
    sample is slower for it. operators: empty unless they were asked for.
    """

    seconds: float
    num_tokens: int
    num_steps: int
    least_seconds: float
    compute_seconds: float
    memory_seconds: float
    binds: str
    cpu_share: float | None
    moment: Moment
    operators: tuple[OperatorSample, ...] = ()

    @property
    def mode(self) -> str:
        """The moment's mode; `busy` where others had the cores while the sample was taken."""
        disturbed = self.cpu_share is not None and self.cpu_share < DISTURBED
        return "busy" if disturbed else self.moment.mode

    @property
    def tokens_per_second(self) -> float:
        return self.num_tokens / self.seconds

    @property
    def mbu(self) -> float:
        """Bytes that the steps must move / time / read bandwidth."""
        return self.memory_seconds / self.seconds

    @property
    def mfu(self) -> float:
        """Ideal compute time / time, each arithmetic at its own peak."""
        return self.compute_seconds / self.seconds

    @property
    def idle_seconds(self) -> float:
        """Outside the operators: the scheduler, the call into the backend, its threads' start."""
        return self.seconds - sum(operator.seconds for operator in self.operators)


@dataclass(frozen=True, slots=True)
class Measured:
    """A case and its samples, in the order in which they were taken."""

    case: Case
    samples: tuple[Sample, ...]

    def median_of(self, value: Callable[[Sample], float]) -> float:
        return median(value(sample) for sample in self.samples)

    @property
    def rates(self) -> list[float]:
        """Tokens per second, ascending."""
        return sorted(sample.tokens_per_second for sample in self.samples)

    @property
    def binds(self) -> str:
        """What binds in most samples."""
        names = [sample.binds for sample in self.samples]
        return max(names, key=names.count)

    @property
    def mode(self) -> str:
        """The machine's mode, `mixed` if samples were taken in several."""
        modes = {sample.mode for sample in self.samples}
        return modes.pop() if len(modes) == 1 else "mixed"
