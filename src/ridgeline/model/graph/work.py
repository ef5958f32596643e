"""What a node asks of a machine, as numbers that add up: `Work`.

It stands in the graph's room, below `cost/`, because the cost rule is a rule of the operator. It
does not know how fast any machine is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

SUM_BYTES = 4.0  # of a number of a recurrent state that is a sum: float32


@dataclass(frozen=True, slots=True)
class Precision:
    """What a backend makes of the numbers that a graph leaves open.

    activation_bytes: per element between operators. rolling_bytes: per element of a convolution's
    last inputs; sums over a row are float32. compute: weight format name -> the arithmetic
    that multiplies it ("int8", "bf16", "f32", ...); attention: the same by the cache's format. A
    format that is not listed uses `default_compute`.
    """

    activation_bytes: float = 2.0
    rolling_bytes: float = 2.0
    default_compute: str = "bf16"
    compute: Mapping[str, str] = field(default_factory=dict)
    attention: Mapping[str, str] = field(default_factory=dict)

    def compute_of(self, format_name: str) -> str:
        return self.compute.get(format_name, self.default_compute)

    def attention_of(self, kv_format_name: str) -> str:
        return self.attention.get(kv_format_name, self.default_compute)


@dataclass(frozen=True, slots=True)
class Work:
    """FLOPs by arithmetic, bytes by kind, and launches; a multiply-add is 2 FLOPs (units.py).

    weight_bytes: weights read. kv_read_bytes, kv_write_bytes: cache and recurrent states.
    activation_bytes: values read and written. link_bytes: sent by each rank over the interconnect.
    launches: kernels started.
    """

    flops: Mapping[str, float] = field(default_factory=dict)
    weight_bytes: float = 0.0
    kv_read_bytes: float = 0.0
    kv_write_bytes: float = 0.0
    activation_bytes: float = 0.0
    link_bytes: float = 0.0
    launches: int = 1

    def __add__(self, other: Work) -> Work:
        flops = dict(self.flops)
        for arithmetic, count in other.flops.items():
            flops[arithmetic] = flops.get(arithmetic, 0.0) + count
        return Work(
            flops=flops,
            weight_bytes=self.weight_bytes + other.weight_bytes,
            kv_read_bytes=self.kv_read_bytes + other.kv_read_bytes,
            kv_write_bytes=self.kv_write_bytes + other.kv_write_bytes,
            activation_bytes=self.activation_bytes + other.activation_bytes,
            link_bytes=self.link_bytes + other.link_bytes,
            launches=self.launches + other.launches,
        )

    @property
    def total_flops(self) -> float:
        return sum(self.flops.values())

    @property
    def total_bytes(self) -> float:
        """Bytes through this machine's memory; the link is counted apart."""
        return self.weight_bytes + self.kv_read_bytes + self.kv_write_bytes + self.activation_bytes


NO_WORK = Work(launches=0)
